// futex(2), on words of this process, and on words of memory that it shares with others. The calls
// of the two kinds must never be mixed on one word: the kernel keeps them in different queues.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>

namespace faultline::kernel {

using FutexWord = std::atomic<std::uint32_t>;

// Sleeps while the word holds `expected`. Returns when woken, when the word differs, after the
// time-out, after a signal, or for no reason: the caller looks at its condition again.
void futex_wait(FutexWord& word, std::uint32_t expected,
                std::optional<std::chrono::nanoseconds> timeout = std::nullopt) noexcept;

// Wakes all who sleep on the word. Looks at its address alone, never at what is there.
void futex_wake_all(FutexWord& word) noexcept;

// --- words in memory that is shared with other processes

inline constexpr std::uint32_t kEveryBit = 0xffffffff;

// Wakes at most count of those who sleep on the word with a bit of mask. Returns how many; -EFAULT
// where the word's page is no longer there.
int futex_wake_shared(const FutexWord& word, int count, std::uint32_t mask = kEveryBit) noexcept;

// Wakes at most wake of those who sleep on the word, and lets at most move more sleep on another.
// Returns how many were woken or moved, or a negative errno as futex_wake_shared.
int futex_requeue_shared(const FutexWord& from, int wake, int move, const FutexWord& to) noexcept;

}  // namespace faultline::kernel
