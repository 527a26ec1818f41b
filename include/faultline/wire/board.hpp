// What the daemon publishes of each object, for its clients to read and nobody but the daemon to
// write. Must only be read by atomic loads.
//
//   [0, kWaitCounts * 4)   how many address spaces may have somebody waiting, a 32-bit number for
//                          each of kWaitCounts buckets of words
//   [kBoardStates, ...)    the page table: an entry for each page, a byte each
//
// An entry is a state (kStateMask) and two marks. Only a page that is resident is all there; a page
// that is pinned stays so (faultline/wire/ledger.hpp).
//
// Counts, of an object whose wakes need not reach the kernel: all waits for its words are the
// daemon's. It counts a wait, then has every processor that runs a client pass a barrier
// (membarrier(2), MEMBARRIER_CMD_GLOBAL_EXPEDITED), and only then has the kernel look at the word's
// value and queue the wait. A waker stores, and then reads the count, without a fence between the
// two. Where it reads 0 it read before that barrier, which made its earlier store visible: the
// kernel finds the new value, and nobody waits. Clients register for those barriers when they
// connect; fork children inherit that.
#pragma once

#include <cstddef>
#include <cstdint>

namespace faultline::wire {

inline constexpr std::size_t kWaitCounts = 1024;
// Set in a count, and never taken out: the kernel has moved waits to a word of the bucket that the
// daemon does not keep, or keeps for another process, and so does not count there.
inline constexpr std::uint32_t kCountedForGood = 1U << 31;
inline constexpr std::size_t kBoardStates = kWaitCounts * sizeof(std::uint32_t);

inline constexpr std::uint8_t kStateMask = 0x07;
// Of a page that is in memory, with all of its content.
inline constexpr std::uint8_t kStateResident = 2;
// Something may have been stored to the page since its file supplied it.
inline constexpr std::uint8_t kPageDirty = 0x40;
// The page was asked for since the mark was last taken out.
inline constexpr std::uint8_t kPageReferenced = 0x80;

// The bucket of the word at an offset in the object, bytes: words of one cache line share one.
constexpr std::size_t wait_bucket(std::uint64_t offset) {
  return (offset >> 6) % kWaitCounts;
}

}  // namespace faultline::wire
