#include "libclient/helped_pin.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "libclient/pin_steps.hpp"
#include "libclient/place.hpp"

namespace faultline::client {

using wire::PinFallback;

namespace {

std::shared_ptr<Connection> connection_for(MapRange range) {
  auto connection = connection_of(range.start);
  if (connection) return connection;
  throw Failure(EFAULT, "pinning " + words_of(range) + ", which are not all mapped by fl_map");
}

// What the books say of a range.
struct Found {
  PinLedger* ledger = nullptr;
  bool copies = false;                // a part of it is private
  std::uintptr_t without_frames = 0;  // in a private mapping whose frames are not open
  std::int64_t price = 0;             // bytes, of whole pages
};

// Throws Failure: EFAULT, EACCES, EXDEV. Nothing where the books have changed meanwhile.
std::optional<Found> look_up(MapRange range, std::uint32_t flags) {
  PieceIndex::make_current();
  const Reading reading;
  const PieceIndex* const index = PieceIndex::current(reading);
  if (index == nullptr) return std::nullopt;
  Found found;
  for (std::uintptr_t at = range.start; at < range.end();) {
    const IndexedPiece* const piece = index->find(at);
    if (piece == nullptr) {
      throw Failure(EFAULT, "pinning " + words_of(range) + ", which are not all mapped by fl_map");
    }
    if ((flags & FL_PIN_WRITE) != 0 && !piece->writable) {
      throw Failure(EACCES,
                    "pinning " + words_of(range) + " for writing, where a part is read-only");
    }
    if (at != range.start && piece->ledger != found.ledger) {
      throw Failure(EXDEV, "pinning " + words_of(range) + ", which two daemons serve");
    }
    found.ledger = piece->ledger;
    found.copies = found.copies || !piece->shared;
    if (!piece->shared && piece->frames == nullptr) found.without_frames = at;
    const std::uintptr_t end = std::min(piece->end, range.end());
    found.price += static_cast<std::int64_t>(piece->pages_of(at, end).bytes());
    at = piece->end;
  }
  return found;
}

// Writes to private pages without a change: the daemon may have lifted their protection, but it is
// a write that has the kernel copy them. False: another thread has unmapped them meanwhile, or made
// them read-only. Throws Failure.
bool copy_own(MapRange pages) {
  int result = 0;
  do {
    result = ::madvise(reinterpret_cast<void*>(pages.start), pages.length, MADV_POPULATE_WRITE);
  } while (result != 0 && (errno == EINTR || errno == EAGAIN));
  if (result == 0) return true;
  if (errno == EINVAL || errno == ENOMEM) return false;
  // What would raise SIGBUS.
  throw Failure(EIO, "copying " + words_of(pages) + " to pin them");
}

// The first run of pages in the range that may or may not be this process's own, and that it can
// write to; of no length where there is none.
MapRange unsure_run(MapRange range) {
  PieceIndex::make_current();
  const Reading reading;
  const PieceIndex* const index = PieceIndex::current(reading);
  MapRange run;
  for (std::uintptr_t at = range.start; index != nullptr && at < range.end();) {
    const IndexedPiece* const piece = index->find(at);
    if (piece == nullptr) break;
    const std::uintptr_t end = std::min(piece->end, range.end());
    const auto [first, count, shift] = piece->pages_of(at, end);
    at = end;
    if (!piece->writable || piece->frames == nullptr) continue;
    if (!piece->frames->covers(first, count)) continue;
    for (std::uint64_t page = first; page < first + count; ++page) {
      const std::uint64_t entry = piece->frames->entry(page);
      const bool unsure = entry != 0 && !FrameView::sure(entry);
      if (unsure && run.length == 0) run.start = piece->start + (page << shift) - piece->offset;
      if (unsure) run.length += std::size_t{1} << shift;
      if (!unsure && run.length != 0) return run;
    }
    if (run.length != 0) return run;
  }
  return run;
}

}  // namespace

MapRange whole_pages(MapRange range) {
  constexpr std::uintptr_t kInPage = 0xfff;
  const std::uintptr_t start = range.start & ~kInPage;
  return {start, ((range.end() + kInPage) & ~kInPage) - start};
}

HelpedPin::HelpedPin(MapRange range, std::uint32_t flags)
    : range_(range),
      flags_(flags),
      connection_(connection_for(range)),
      ledger_(connection_->pin_ledger()),
      parts_(range, flags, pinned_) {}

void HelpedPin::publish() {
  for (int attempt = 0; attempt < kMostAttempts; ++attempt) {
    ledger_.attach();
    wait_for_others();
    const auto found = look_up(range_, flags_);
    if (!found) continue;
    copies_ = found->copies;
    if (found->without_frames != 0 && !refused_frames_) {
      open_frames(found->without_frames);
      continue;  // the books have changed
    }
    const auto why = publish_now();
    if (!why) return;
    if (why == PinFallback::budget) get_budget(found->price);
    if (parts_.out_of_slots()) {
      throw Failure(EUSERS, "pinning in more than " + std::to_string(wire::kPinSlots) + " parts");
    }
  }
  give_up();
}

void HelpedPin::wait_for_others() const {
  if ((flags_ & FL_PIN_NOWAIT) == 0) return wait_for_changes();
  if (changes_under_way.load() == 0) return;
  throw Failure(EAGAIN,
                "pinning " + words_of(range_) + " without waiting for a change of mappings");
}

std::optional<PinFallback> HelpedPin::publish_now() {
  const Reading reading;
  const PieceIndex* const index = PieceIndex::current(reading);
  if (index == nullptr) return PinFallback::not_known;
  reached(PinStep::found);
  return parts_.publish(*index);
}

std::optional<PinFallback> HelpedPin::check() {
  PieceIndex::make_current();
  const Reading reading;
  const PieceIndex* const index = PieceIndex::current(reading);
  if (index == nullptr) return PinFallback::not_known;
  if (const auto why = parts_.check(*index)) return why;
  if (!index->still_current()) return PinFallback::not_known;
  return std::nullopt;
}

void HelpedPin::bring_pages() {
  reached(PinStep::asking);
  ask_to_pin(whole_pages(range_), for_writing() ? wire::kPinForWriting : 0);
  brought();
}

void HelpedPin::ask_to_pin(MapRange pages, std::uint16_t flags) {
  wire::Submission request;
  request.op = wire::ChannelOp::pin;
  request.address = pages.start;
  request.expected = pages.length;
  request.flags = flags;
  const Channel::Answer answer = connection_->channel()->ask(request);
  if (answer.result == 0) return;
  if (answer.result == -ECANCELED) {
    throw Failure(EFAULT, "pinning " + words_of(range_) + ", which were unmapped meanwhile");
  }
  if (answer.result == -EFAULT && answer.values[0] == 0) {
    // In a child of whose fork it was not told.
    throw Failure(EFAULT, "pinning " + words_of(range_) + ", where the daemon knows of no mapping");
  }
  throw Failure(-answer.result, "pinning " + words_of(range_) + words_of_failed(answer.values[0]));
}

void HelpedPin::brought() {
  if (copies_ && for_writing()) make_own(whole_pages(range_));
  // What is pinned for reading is not copied; what may be this process's own already is settled.
  for (int attempt = 0; copies_ && !for_writing() && attempt < kMostAttempts; ++attempt) {
    const MapRange run = unsure_run(range_);
    if (run.length == 0) break;
    make_own(run);
  }
  parts_.set_brought();
  reached(PinStep::brought);
}

void HelpedPin::make_own(MapRange pages) {
  // Where it cannot be, the look at what is mapped that follows says why.
  if (copy_own(pages)) ask_to_pin(pages, wire::kPinWritten);
}

void HelpedPin::open_frames(std::uintptr_t address) {
  try {
    refused_frames_ = !connection_->open_frames(address);
  } catch (const Failure& failure) {
    if (failure.code() == EPIPE) throw;
    refused_frames_ = true;
  }
}

void HelpedPin::get_budget(std::int64_t price) {
  const std::int64_t missing = ledger_.fill_budget(my_pins, price);
  if (missing == 0) return;
  connection_->grant_pins(static_cast<std::uint64_t>(missing));
  (void)ledger_.fill_budget(my_pins, price);
}

void HelpedPin::give_up() const {
  throw Failure(EBUSY, "pinning " + words_of(range_) + ", which others change all the time");
}

}  // namespace faultline::client
