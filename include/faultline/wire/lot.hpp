// The lot: words of the daemon's, which clients can read, for the kernel to queue those at who wait
// for words in private memory. A kernel's futex queue belongs to the word in memory that it is
// asked with, and a private word is in other memory after a break, at another address after
// mremap(2), and another word in a fork child although it is one. So each word that is waited for
// in an address space has a slot here, and it is the slot that is waited at and woken. Must only be
// read by atomic loads.
//
// To wait: the kernel is asked to wait (futex_waitv(2)) for as long as the slot's wake word holds
// the generation that the slot was found with, and the word itself the value expected. To wake:
// FUTEX_WAKE at the wake words of the slot and of all others of its group. Then the generation and
// the group's version are looked at again: where one has changed, the waiters may have moved, and
// the rest of the wake is done once more, from the beginning.
//
// A slot that is given up, because its word is gone or waited for elsewhere now, first gets another
// generation, so that nobody queues there any more; then those who queue there are moved
// (FUTEX_REQUEUE) to the slot that stands in for it.
//
// A group: the slots of the address spaces that share a page's identity, of one word, in a ring by
// next. A slot's version is even while its group does not change, and odd while it does: from
// before the first is linked anew, or moved away from, until all of it is done.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace faultline::wire {

struct LotSlot {
  std::atomic<std::uint32_t> wake;  // the generation
  std::atomic<std::uint32_t> next;  // of the group; itself where it is alone
  std::atomic<std::uint32_t> version;
  std::uint32_t reserved;
};
static_assert(sizeof(LotSlot) == 16);
// 0 is none.
inline constexpr std::uint32_t kLotSlots = 1U << 20;

// Where a word is waited for.
enum class WordPlace : std::uint8_t {
  word = 0,    // at the word itself: it is an object's
  slot = 1,    // at slot values[1] of the generation values[2]
  object = 2,  // at the object's word, as long as that slot is of that generation
};

// Besides, in values[0]: the page is in no memory, and only the daemon can tell the word's value
// without changing that.
inline constexpr std::uint64_t kAway = 1U << 8;

}  // namespace faultline::wire
