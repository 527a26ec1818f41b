// Where a thread is between the steps of a pin, for tests that change the memory at that moment.
// Must never have anything to call but in a test.
#pragma once

#include <atomic>
#include <cstdint>

namespace faultline::client {

enum class PinStep : std::uint8_t {
  found,      // the mapping is known, and allows it
  published,  // the ledger holds the pages; they are looked at next
  checked,    // they were all there; whether the mappings have stayed is looked at next
  asking,     // they were not: the daemon is asked next
  brought,    // the daemon has answered
};

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): a test's
inline constinit std::atomic<void (*)(PinStep)> pin_step_hook{nullptr};

inline void reached(PinStep step) {
  if (auto* const hook = pin_step_hook.load(std::memory_order_relaxed); hook != nullptr) {
    hook(step);
  }
}

}  // namespace faultline::client
