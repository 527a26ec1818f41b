// futex(2) and its relatives, as the kernel has them. Must never interpret a result: 0 or more, or
// a negative errno, is what the kernel said.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace faultline::client::futex {

inline constexpr std::uint32_t kAnyBit = FUTEX_BITSET_MATCH_ANY;

inline long result_of(long result) {
  return result < 0 ? -errno : result;
}

// time: as the operation has it.
inline long wait(const void* word, int operation, std::uint32_t expected, const timespec* time,
                 std::uint32_t bitset = kAnyBit) {
  return result_of(::syscall(SYS_futex, word, operation, expected, time, nullptr, bitset));
}
inline long wake(const void* word, int count, std::uint32_t bitset = kAnyBit) {
  const int operation = bitset == kAnyBit ? FUTEX_WAKE : FUTEX_WAKE_BITSET;
  return result_of(::syscall(SYS_futex, word, operation, count, nullptr, nullptr, bitset));
}
// Of operations whose fourth argument is a second count. third: what the operation makes of it.
inline long two(const void* word, int operation, std::uint32_t first, std::uint32_t second,
                const void* other, std::uint32_t third) {
  return result_of(::syscall(SYS_futex, word, operation, first, std::size_t{second}, other, third));
}

// until: absolute, of the clock.
inline long wait_any(const futex_waitv* waiters, unsigned count, const timespec* until,
                     clockid_t clock) {
  return result_of(::syscall(SYS_futex_waitv, waiters, count, 0, until, clock));
}

}  // namespace faultline::client::futex
