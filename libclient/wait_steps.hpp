// Where a thread is between looking a word up and what it does then, for tests that change the
// memory at that moment. Must never be asked on the way of counted wakes or of shared words, nor
// have anything to call but in a test.
#pragma once

#include <atomic>
#include <cstdint>

namespace faultline::client {

enum class WaitStep : std::uint8_t {
  before_wait,  // the words' places are known, the kernel is asked next
  before_wake,  // the queues to wake are known
  after_wake,   // whether they are still those is looked at next
};

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): a test's
inline constinit std::atomic<void (*)(WaitStep)> wait_step_hook{nullptr};

inline void reached(WaitStep step) {
  if (auto* const hook = wait_step_hook.load(std::memory_order_relaxed); hook != nullptr) {
    hook(step);
  }
}

}  // namespace faultline::client
