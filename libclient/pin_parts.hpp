// A pin while it is made: what is published of it in the ledger, a slot for each piece of a mapping
// that it lies in. Must never leave a slot behind that nobody has: what is not kept is withdrawn.
//
// The order, which is that of faultline/wire/ledger.hpp: publish(), then check(), on which alone a
// pin can be given out. Where check() finds a page that is not there, the pin stays published while
// somebody brings it, and is checked again.
#pragma once

#include <cstdint>
#include <optional>

#include "faultline/pin.h"
#include "faultline/wire/ledger.hpp"
#include "libclient/mapping_book.hpp"
#include "libclient/piece_index.hpp"
#include "libclient/pin_ledger.hpp"
#include "libclient/pin_steps.hpp"

namespace faultline::client {

class PinParts {
 public:
  // pinned: written to while it is made, and whole once it is kept. Until then it is none.
  PinParts(MapRange range, std::uint32_t flags, fl_pinned& pinned)
      : range_(range), flags_(flags), pinned_(pinned) {
    pinned_.parts = 0;
  }
  PinParts(const PinParts&) = delete;
  PinParts& operator=(const PinParts&) = delete;
  ~PinParts() {
    if (!kept_ && pinned_.parts != 0) withdraw();
  }

  // The range lies in one piece, a shared one: publishes it, and checks it.
  [[nodiscard, gnu::always_inline]] std::optional<wire::PinFallback> publish_and_check(
      const IndexedPiece& piece) {
    const auto pages = piece.pages_of(range_.start, range_.end());
    if (const auto why = add(piece, pages, false)) return why;
    reached(PinStep::published);
    if (piece.object->all_resident(pages.first, pages.count)) return std::nullopt;
    return wire::PinFallback::absent;
  }
  // Nothing: it is. Otherwise why not: nothing is published then.
  [[nodiscard]] std::optional<wire::PinFallback> publish(const PieceIndex& index);
  // Whether what is published is all there, and is still what the range shows. Nothing: it is.
  // absent: the rest is as it should be. not_known: it must be published anew.
  [[nodiscard]] std::optional<wire::PinFallback> check(const PieceIndex& index) const;
  void withdraw() noexcept;
  // That is why publish() failed.
  [[nodiscard]] bool out_of_slots() const { return out_of_slots_; }
  // The daemon has brought the pages since they were published.
  void set_brought() { brought_ = true; }

  // The pin is the caller's.
  void keep() noexcept { kept_ = true; }

 private:
  [[nodiscard]] std::optional<wire::PinFallback> add(const IndexedPiece& piece,
                                                     const IndexedPiece::Pages& pages, bool own);
  // The same of any piece, in as many slots as there are runs of pages of its own and the object's.
  [[nodiscard]] std::optional<wire::PinFallback> add_runs(const IndexedPiece& piece,
                                                          IndexedPiece::Pages pages);
  // Of pages that a piece shows: whether they are there.
  [[nodiscard]] std::optional<wire::PinFallback> check_pages(const IndexedPiece& piece,
                                                             std::uint64_t first,
                                                             std::uint64_t count, bool own) const;

  // Of pages that are to be this process's own, and of pages that are to be the object's.
  [[nodiscard]] std::optional<wire::PinFallback> check_own(const FrameView& frames,
                                                           std::uint64_t first,
                                                           std::uint64_t count) const;
  [[nodiscard]] std::optional<wire::PinFallback> check_objects(const IndexedPiece& piece,
                                                               std::uint64_t first,
                                                               std::uint64_t count) const;

  MapRange range_;
  std::uint32_t flags_;
  bool brought_ = false;
  bool out_of_slots_ = false;
  bool kept_ = false;
  fl_pinned& pinned_;
  std::uint32_t last_ = 0;
};

// Calls visit(slot index, slot) for each part; what is visited may be freed.
template <typename Visit>
void each_part(const PinLedger& ledger, std::uint32_t first, std::uint32_t parts, Visit visit) {
  std::uint32_t at = first;
  for (std::uint32_t i = 0; i < parts; ++i) {
    wire::PinSlot& slot = ledger.slot(at);
    const std::uint32_t next = slot.next.load(std::memory_order_relaxed);
    visit(at, slot);
    at = next;
  }
}

// A call costs a tenth of a pin.
[[gnu::always_inline]] inline std::optional<wire::PinFallback> PinParts::add(
    const IndexedPiece& piece, const IndexedPiece::Pages& pages, bool own) {
  PinShare& share = my_pins;
  const bool write = (flags_ & FL_PIN_WRITE) != 0;
  const bool ours = piece.ledger_number != 0 && share.number == piece.ledger_number &&
                    (pinned_.parts == 0 || pinned_.ledger == share.number);
  // Access comes first, then the pages, as in the kernel's gup_fast().
  if (!ours || (write && !piece.writable)) return wire::PinFallback::not_known;

  const std::uint64_t bytes = pages.bytes();
  if (!share.pay(static_cast<std::int64_t>(bytes))) return wire::PinFallback::budget;
  const std::uint32_t number = share.ledger->take_slot(share);
  out_of_slots_ = number == wire::kPinSlots;
  if (out_of_slots_) {
    share.ledger->refund(share, static_cast<std::int64_t>(bytes));
    return wire::PinFallback::not_known;
  }

  wire::PinSlot& slot = share.slots[number];
  // First of all: who reads any of what follows, and then finds the old number, is told so.
  const std::uint32_t use = slot.use.load(std::memory_order_relaxed) + 1;
  slot.use.store(use, std::memory_order_relaxed);
  const std::uintptr_t address = piece.start + ((pages.first << pages.shift) - piece.offset);
  slot.first.store(pages.first, std::memory_order_release);
  slot.count.store(pages.count, std::memory_order_release);
  slot.address.store(address, std::memory_order_release);
  slot.since.store(share.clock->load(std::memory_order_relaxed), std::memory_order_release);
  slot.bytes.store(bytes, std::memory_order_relaxed);
  slot.flags.store((write ? wire::kPinWrite : 0) | (own ? wire::kPinOwn : 0),
                   std::memory_order_release);
  // The pages are held from here on. No fence: whoever is to see this has this processor pass one,
  // between its own change and its look here; the compiler must not do what follows first.
  slot.object.store(piece.object->id(), std::memory_order_release);
  std::atomic_signal_fence(std::memory_order_seq_cst);

  // Field by field: a copy of the whole would wait for each of these stores.
  if (pinned_.parts == 0) {
    pinned_.address = reinterpret_cast<void*>(address);
    pinned_.length = 0;
    pinned_.ledger = share.number;
    pinned_.first = number;
    pinned_.use = use;
    pinned_.flags = flags_;
  } else {
    share.slots[last_].next.store(number, std::memory_order_relaxed);
  }
  last_ = number;
  ++pinned_.parts;
  pinned_.length += bytes;
  return std::nullopt;
}

// Whether a pin's first slot is still its own: where it was ended before, the slot may be
// another's.
[[nodiscard]] inline bool is_pinned(const wire::PinSlot& slot, const fl_pinned& pinned) {
  return slot.use.load(std::memory_order_relaxed) == pinned.use &&
         slot.object.load(std::memory_order_relaxed) != 0;
}
int end_parts(PinShare& share, const fl_pinned& pinned) noexcept;
// Ends a pin of the ledger that the calling thread has a share of: fl_unpin's error, or 0. Within a
// Reading.
[[gnu::always_inline]] inline int end_pin(PinShare& share, const fl_pinned& pinned) noexcept {
  if (pinned.parts != 1) return end_parts(share, pinned);
  wire::PinSlot& slot = share.slots[pinned.first % wire::kPinSlots];
  if (!is_pinned(slot, pinned)) return -EINVAL;
  const int state = -judged(share.verdicts[pinned.first % wire::kPinSlots], pinned.use);
  // What was done with the pages comes before whatever becomes of them from here on.
  slot.object.store(0, std::memory_order_release);
  share.ledger->give_slot(share, pinned.first);
  share.ledger->refund(share, static_cast<std::int64_t>(pinned.length));
  return state;
}
// The same of any ledger.
int end_any_pin(const fl_pinned& pinned) noexcept;
// As fl_pin_state. runs: at most `most`; returns how many there are.
int state_of(const PinLedger& ledger, const fl_pinned& pinned) noexcept;

}  // namespace faultline::client
