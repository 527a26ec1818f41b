// What the daemon publishes of each object, for its clients to read and nobody but the daemon to
// write. Must only be read by atomic loads.
//
//   [0, kWaitCounts * 4)   how many address spaces may have somebody waiting, a 32-bit number for
//                          each of kWaitCounts buckets of words
//   [kBoardStates, ...)    the state of each page, a byte each
//
// Counts, of an object whose wakes need not reach the kernel: who is about to wait has the daemon
// count it, and the daemon then has every processor that runs a client pass a barrier
// (membarrier(2), MEMBARRIER_CMD_GLOBAL_EXPEDITED), before the word's value is looked at. So a
// waker that stores, and then reads a count of 0, without a fence between the two, stored before
// that barrier: the waiter sees its value. Clients register for those barriers when they connect.
#pragma once

#include <cstddef>
#include <cstdint>

namespace faultline::wire {

inline constexpr std::size_t kWaitCounts = 1024;
inline constexpr std::size_t kBoardStates = kWaitCounts * sizeof(std::uint32_t);

// Of a page that is in memory, with all of its content.
inline constexpr std::uint8_t kStateResident = 2;

// The bucket of the word at an offset in the object, bytes: words of one cache line share one.
constexpr std::size_t wait_bucket(std::uint64_t offset) {
  return (offset >> 6) % kWaitCounts;
}

}  // namespace faultline::wire
