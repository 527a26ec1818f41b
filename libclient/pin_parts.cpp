#include "libclient/pin_parts.hpp"

#include <algorithm>
#include <utility>

namespace faultline::client {

using wire::PinFallback;

std::optional<PinFallback> PinParts::publish(const PieceIndex& index) {
  for (std::uintptr_t at = range_.start; at < range_.end();) {
    const IndexedPiece* const piece = index.find(at);
    std::optional<PinFallback> why = PinFallback::not_known;
    if (piece != nullptr) {
      const std::uintptr_t end = std::min(range_.end(), piece->end);
      why = add_runs(*piece, piece->pages_of(at, end));
      at = end;
    }
    if (why) {
      withdraw();
      return why;
    }
  }
  return std::nullopt;
}

std::optional<PinFallback> PinParts::add_runs(const IndexedPiece& piece,
                                              IndexedPiece::Pages pages) {
  if (piece.shared) return add(piece, pages, false);
  // What is pinned for writing is to be the process's own. What is not, is what it is now.
  const bool write = (flags_ & FL_PIN_WRITE) != 0;
  const bool known = piece.frames != nullptr && piece.frames->covers(pages.first, pages.count);
  if (write || !known) return add(piece, pages, write);
  while (pages.count > 0) {
    const std::uint64_t alike = piece.frames->run(pages.first, pages.count);
    const bool own = FrameView::sure(piece.frames->entry(pages.first));
    if (const auto why = add(piece, {pages.first, alike, pages.shift}, own)) return why;
    pages.first += alike;
    pages.count -= alike;
  }
  return std::nullopt;
}

std::optional<PinFallback> PinParts::check_pages(const IndexedPiece& piece, std::uint64_t first,
                                                 std::uint64_t count, bool own) const {
  if (!piece.shared && (piece.frames == nullptr || !piece.frames->covers(first, count))) {
    // What each page is cannot be known; what the daemon did just now is.
    if (brought_) return std::nullopt;
    return PinFallback::not_own;
  }
  return own ? check_own(*piece.frames, first, count) : check_objects(piece, first, count);
}

std::optional<PinFallback> PinParts::check_own(const FrameView& frames, std::uint64_t first,
                                               std::uint64_t count) const {
  const bool write = (flags_ & FL_PIN_WRITE) != 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t entry = frames.entry(first + i);
    if (entry == 0 && !write) return PinFallback::not_known;
    if (write ? !FrameView::kept(entry) : !FrameView::sure(entry)) return PinFallback::not_own;
  }
  return std::nullopt;
}

std::optional<PinFallback> PinParts::check_objects(const IndexedPiece& piece, std::uint64_t first,
                                                   std::uint64_t count) const {
  for (std::uint64_t i = 0; !piece.shared && i < count; ++i) {
    const std::uint64_t entry = piece.frames->entry(first + i);
    if (FrameView::sure(entry)) return PinFallback::not_known;
    // One that cannot be written to now may be either; then the object's is held for it.
    if (entry != 0 && (piece.writable || !brought_)) return PinFallback::not_own;
  }
  if (piece.object->all_resident(first, count)) return std::nullopt;
  return PinFallback::absent;
}

std::optional<PinFallback> PinParts::check(const PieceIndex& index) const {
  std::optional<PinFallback> why;
  std::uintptr_t at = range_.start;
  if (my_pins.number != pinned_.ledger) return PinFallback::not_known;
  each_part(*my_pins.ledger, pinned_.first, pinned_.parts,
            [&](std::uint32_t number, const wire::PinSlot& slot) {
              if (why == PinFallback::not_known) return;
              const IndexedPiece* const piece = index.find(at);
              const std::uint64_t first = slot.first.load(std::memory_order_relaxed);
              const std::uintptr_t end = slot.address.load(std::memory_order_relaxed) +
                                         slot.bytes.load(std::memory_order_relaxed);
              // A pin that was published for long may have ended already.
              const int ended =
                  judged(my_pins.verdicts[number], slot.use.load(std::memory_order_relaxed));
              const bool write = (flags_ & FL_PIN_WRITE) != 0;
              const bool own = (slot.flags.load(std::memory_order_relaxed) & wire::kPinOwn) != 0;
              // Of a shared mapping nothing is this process's own; of a private one, what it pins
              // for writing. Another mapping may have come there since.
              const bool same =
                  ended == 0 && piece != nullptr && piece->end >= std::min(end, range_.end()) &&
                  piece->object->id() == slot.object.load(std::memory_order_relaxed) &&
                  piece->offset_of(at) >> piece->object->page_shift() == first &&
                  (piece->writable || !write) && (piece->shared ? !own : own || !write);
              const auto missing =
                  same ? check_pages(*piece, first, slot.count.load(std::memory_order_relaxed), own)
                       : PinFallback::not_known;
              if (missing) why = missing;
              at = end;
            });
  return why;
}

void PinParts::withdraw() noexcept {
  brought_ = false;
  if (pinned_.parts == 0) return;
  const Reading reading;
  if (my_pins.number == pinned_.ledger && my_pins.ledger->number() == pinned_.ledger) {
    (void)end_pin(my_pins, pinned_);
  } else {
    (void)end_any_pin(pinned_);
  }
  pinned_.parts = 0;
}

int state_of(const PinLedger& ledger, const fl_pinned& pinned) noexcept {
  if (pinned.parts == 0 || pinned.first >= wire::kPinSlots) return -EINVAL;
  if (!is_pinned(ledger.slot(pinned.first), pinned)) return -EINVAL;
  int error = 0;
  each_part(ledger, pinned.first, pinned.parts, [&](std::uint32_t at, const wire::PinSlot& slot) {
    if (error == 0) {
      error = -judged(ledger.verdict(at), slot.use.load(std::memory_order_relaxed));
    }
  });
  return error;
}

int end_parts(PinShare& share, const fl_pinned& pinned) noexcept {
  PinLedger& ledger = *share.ledger;
  const int state = state_of(ledger, pinned);
  if (state == -EINVAL) return state;
  std::int64_t bytes = 0;
  each_part(ledger, pinned.first, pinned.parts, [&](std::uint32_t at, wire::PinSlot& slot) {
    bytes += static_cast<std::int64_t>(slot.bytes.load(std::memory_order_relaxed));
    slot.object.store(0, std::memory_order_release);
    ledger.give_slot(share, at);
  });
  ledger.refund(share, bytes);
  return state;
}

int end_any_pin(const fl_pinned& pinned) noexcept {
  return PinLedger::with(pinned.ledger, [&](PinLedger& ledger) {
    const int state = state_of(ledger, pinned);
    if (state == -EINVAL) return state;
    each_part(ledger, pinned.first, pinned.parts, [&](std::uint32_t at, wire::PinSlot& slot) {
      slot.object.store(0, std::memory_order_release);
      ledger.give_to_all(at, static_cast<std::int64_t>(slot.bytes.load(std::memory_order_relaxed)));
    });
    return state;
  });
}

}  // namespace faultline::client
