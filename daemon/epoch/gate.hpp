// A reference gate: counts who uses a thing, and lets its owner close it and wait until nobody
// does. Must never have its count and its closed bit in two words: between them a wake-up gets
// lost.
//
// Life of a gated thing:
//   1. It is published open. A reader finds it inside a Section and takes a reference; that may
//      outlast the Section.
//   2. Its owner publishes a world without it, then closes the gate: a reader that found the thing
//      before is refused, and finds the new world if it looks again.
//   3. Whoever gives the last reference back wakes the owner, who waits in wait_drained().
//   4. The owner retires the thing. put() ends within a Section, so that the word on which it wakes
//      the owner is still there.
//
// Locking: none. The orderings are argued in docs/epoch.md.
#pragma once

#include <atomic>
#include <cassert>
#include <cstdint>

#include "daemon/kernel/futex.hpp"

namespace faultline::epoch {

// How a gate sleeps. Tests give it another one, whose steps they order.
struct GateSleep {
  static constexpr void step() noexcept {}  // before every access to the word
  static void wait(kernel::FutexWord& word, std::uint32_t expected) noexcept {
    kernel::futex_wait(word, expected);
  }
  static void wake_all(kernel::FutexWord& word) noexcept { kernel::futex_wake_all(word); }
};

template <typename Sleep>
class BasicGate {
 public:
  BasicGate() = default;
  BasicGate(const BasicGate&) = delete;
  BasicGate& operator=(const BasicGate&) = delete;
  ~BasicGate() = default;

  // Takes a reference; false once closed. Any thread that keeps the gate's memory alive: inside a
  // Section, or by a reference that it holds. Never blocks.
  [[nodiscard]] bool try_get() noexcept {
    Sleep::step();
    std::uint32_t word = word_.load(std::memory_order_relaxed);
    do {
      if ((word & kClosed) != 0) return false;
      assert(word + 1 < kClosed && "two billion references: somebody does not give them back");
      Sleep::step();
    } while (!word_.compare_exchange_weak(word, word + 1, std::memory_order_acquire,
                                          std::memory_order_relaxed));
    return true;
  }

  // Gives a reference back. Any thread, inside a Section of the domain that frees the gate's owner:
  // the owner may go on, and retire, as soon as the count is 0, before the wake-up is done. Never
  // blocks.
  void put() noexcept {
    Sleep::step();
    const std::uint32_t before = word_.fetch_sub(1, std::memory_order_release);
    assert((before & ~kClosed) != 0 && "a reference given back that nobody held");
    if (before != (kClosed | 1)) return;
    Sleep::step();
    Sleep::wake_all(word_);
  }

  // No reference is given from here on. Any thread; closing again changes nothing. Never blocks.
  void close() noexcept {
    Sleep::step();
    word_.fetch_or(kClosed, std::memory_order_acq_rel);
  }

  // Blocks until nobody holds a reference. After close(), and not inside a Section of that domain,
  // which would hold everybody's callbacks back meanwhile.
  void wait_drained() noexcept {
    for (;;) {
      Sleep::step();
      const std::uint32_t word = word_.load(std::memory_order_acquire);
      assert((word & kClosed) != 0 && "an open gate need never drain");
      if (word == kClosed) return;
      Sleep::step();
      Sleep::wait(word_, word);
    }
  }

  [[nodiscard]] bool closed() const noexcept {
    return (word_.load(std::memory_order_acquire) & kClosed) != 0;
  }
  // As it was some time ago: for reports and tests.
  [[nodiscard]] std::uint32_t references() const noexcept {
    return word_.load(std::memory_order_relaxed) & ~kClosed;
  }

 private:
  static constexpr std::uint32_t kClosed = std::uint32_t{1} << 31;

  kernel::FutexWord word_{0};
};

using Gate = BasicGate<GateSleep>;

}  // namespace faultline::epoch
