#include "libclient/pin_runs.hpp"

namespace faultline::client {

std::uint64_t PinRuns::frame_at(std::uintptr_t address) const {
  const IndexedPiece* const piece = index_.find(address);
  if (piece == nullptr || piece->frames == nullptr) return FL_PIN_FRAME_UNKNOWN;
  const std::uint64_t page = piece->pages_of(address, address + 1).first;
  if (!piece->frames->covers(page, 1)) return FL_PIN_FRAME_UNKNOWN;
  // One that was discarded just now has no number: the pin ends.
  const std::uint64_t number = piece->frames->entry(page) & wire::kFrameNumber;
  return number == 0 ? FL_PIN_FRAME_UNKNOWN : number;
}

bool PinRuns::known(std::uintptr_t address, std::uint64_t first, std::uint64_t pages) const {
  const IndexedPiece* const piece = index_.find(address);
  if (piece == nullptr || piece->shared) return true;  // the object's
  return piece->frames != nullptr && piece->frames->covers(first, pages);
}

void PinRuns::add(const wire::PinSlot& slot) {
  const std::uint64_t pages = slot.count.load(std::memory_order_relaxed);
  const std::uint64_t page = slot.bytes.load(std::memory_order_relaxed) / pages;
  const std::uint64_t first = slot.first.load(std::memory_order_relaxed);
  const std::uintptr_t address = slot.address.load(std::memory_order_relaxed);
  fl_pin_run run{.address = reinterpret_cast<void*>(address),
                 .length = pages * page,
                 .object_id = slot.object.load(std::memory_order_relaxed),
                 .offset = first * page,
                 .frame = 0};
  const bool own = (slot.flags.load(std::memory_order_relaxed) & wire::kPinOwn) != 0;
  if (!own && !known(address, first, pages)) run.frame = FL_PIN_FRAME_UNKNOWN;
  if (!own) return put(run);
  run.length = page;
  for (std::uint64_t i = 0; i < pages; ++i) {
    run.address = reinterpret_cast<void*>(address + i * page);
    run.offset = (first + i) * page;
    run.frame = frame_at(address + i * page);
    put(run);
  }
}

void PinRuns::put(const fl_pin_run& run) {
  const bool numbered = run.frame != 0 && run.frame != FL_PIN_FRAME_UNKNOWN;
  const bool alike = numbered ? last_.frame != 0 && last_.frame != FL_PIN_FRAME_UNKNOWN &&
                                    last_.frame + last_.length / run.length == run.frame
                              : last_.frame == run.frame;
  const bool follows = count_ > 0 && alike && last_.object_id == run.object_id &&
                       last_.offset + last_.length == run.offset;
  if (follows) {
    last_.length += run.length;
  } else {
    last_ = run;
    ++count_;
  }
  if (count_ <= most_) runs_[count_ - 1] = last_;
}

}  // namespace faultline::client
