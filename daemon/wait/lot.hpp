// The slots at which the kernel queues those who wait for words in private memory of one user's
// processes; faultline/wire/lot.hpp has the protocol. Must never give a slot a new use while
// somebody may still be about to queue at it or to wake it.
//
// Life of a slot:
//   free -> used      take(), with a generation that it did not have before
//   used -> given up  move_on() or give_up(): another generation, and whoever queues there is
//   moved, to
//                     the slot that stands in for it, or to where nobody wakes anybody
//   given up -> free  when kRest others were given up after it. A client that looked a slot up and
//                     was held up for so long may then wake somebody who waits for another word of
//                     the same user's: a wake too many, which futex(2) allows.
//
// Locking: none; its owner holds a lock (WaitTable).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>

#include "daemon/kernel/futex.hpp"
#include "daemon/kernel/published_memory.hpp"
#include "faultline/wire/lot.hpp"

namespace faultline::wait {

using SlotIndex = detail::Number<struct SlotIndexTag>;

// How far a change of a word's place is, for tests that drive those who wait and wake against it.
enum class BreakStep : std::uint8_t {
  recorded,  // the page has another identity
  left,      // the word's slot is in no group but its own
  closed,    // the slot has another generation
  requeued,  // who queued at it queues at the slot that stands in for it
  named,     // that one is the word's slot, in the group of the page's new identity
};

class Lot {
 public:
  static constexpr std::size_t kRest = 65'536;

  struct Options {
    std::function<void(BreakStep)> hook;  // closed, requeued
  };
  // Errors: ENOMEM, EMFILE.
  static Result<Lot> create() { return create(Options{}); }
  static Result<Lot> create(Options options);

  // To be sent; it stays this object's.
  [[nodiscard]] int fd() const { return memory_.fd(); }

  // Nothing where all are in use.
  std::optional<SlotIndex> take();
  // Whoever queues at it queues at the other from then on. Returns how many those were.
  int move_on(SlotIndex from, SlotIndex to);
  // Whoever queues at it has to be told otherwise.
  void give_up(SlotIndex slot);

  [[nodiscard]] std::uint32_t generation(SlotIndex slot) const;
  [[nodiscard]] const kernel::FutexWord& word(SlotIndex slot) const { return at(slot).wake; }
  // Links the slots into one group; each leaves the one that it was in, of which rest is what is
  // left.
  void link(std::span<const SlotIndex> group) const;
  void unlink(SlotIndex leaving, std::span<const SlotIndex> rest) const;
  // As move_on, of a slot in a group, in which the other takes its place: in one step for who reads
  // the group, and then wakes, by any slot of it. Returns how many moved.
  int replace(std::span<const SlotIndex> group, SlotIndex from, SlotIndex to);

 private:
  Lot(kernel::PublishedMemory memory, Options options)
      : options_(std::move(options)), memory_(std::move(memory)) {}
  [[nodiscard]] wire::LotSlot& at(SlotIndex slot) const;
  void close(SlotIndex slot);
  // Who reads a group with one of these slots in it reads it again, until as many are released as
  // were held.
  void hold(std::span<const SlotIndex> slots) const;
  void release(std::span<const SlotIndex> slots) const;
  void chain(std::span<const SlotIndex> group) const;
  void reached(BreakStep step) const {
    if (options_.hook) options_.hook(step);
  }

  Options options_;
  kernel::PublishedMemory memory_;
  std::uint64_t never_used_ = 2;  // 0 is none, 1 is where nobody wakes anybody
  std::deque<SlotIndex> resting_;
};

}  // namespace faultline::wait
