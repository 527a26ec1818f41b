// futex(2) on a word of this process. Must never be given a word that another process waits on: the
// calls are private to the process.
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

}  // namespace faultline::kernel
