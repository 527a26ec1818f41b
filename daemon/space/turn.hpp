// Who may read an address space's userfaultfd and change the space: one thread at a time. Must
// never let a thread leave while there is something that nobody will look at.
//
// States of the word, and who changes them:
//   free           nobody has it
//   taken          one thread has it
//   taken|asked    and another came to look at what is readable, and left: the holder looks again
//                  (who looks again by itself need not ask, try_begin_unasked)
//   taken|awaited  and another sleeps until it is free, with something of its own to do
//
// No wake-up is lost. What makes somebody come (a readable userfaultfd) is there before it comes.
// It finds the word free, and has the turn; or it sets asked, by the same read-modify-write that
// saw taken. The holder leaves by a compare-exchange that cannot succeed over asked, so it looks
// again after that; acquire on its side pairs with release on the other's, which makes it see why
// it was asked. The same holds for awaited, and the futex behind atomic wait.
#pragma once

#include <atomic>
#include <cstdint>

namespace faultline::space {

class Turn {
 public:
  // False: another thread has it, and looks once more before it leaves.
  bool try_begin() noexcept {
    std::uint32_t seen = word_.load(std::memory_order_relaxed);
    for (;;) {
      const std::uint32_t wanted = (seen & kTaken) != 0 ? seen | kAsked : kTaken;
      if (word_.compare_exchange_weak(seen, wanted, std::memory_order_acq_rel,
                                      std::memory_order_relaxed)) {
        return (seen & kTaken) == 0;
      }
    }
  }

  // The same for a thread that looks again soon whatever happens: nobody need look for it.
  bool try_begin_unasked() noexcept {
    std::uint32_t free = 0;
    return word_.load(std::memory_order_relaxed) == 0 &&
           word_.compare_exchange_strong(free, kTaken, std::memory_order_acquire,
                                         std::memory_order_relaxed);
  }

  // Blocks while another thread has it.
  void begin() noexcept {
    std::uint32_t seen = word_.load(std::memory_order_relaxed);
    for (;;) {
      const bool taken = (seen & kTaken) != 0;
      const std::uint32_t wanted = taken ? seen | kAwaited : kTaken;
      if (!word_.compare_exchange_weak(seen, wanted, std::memory_order_acq_rel,
                                       std::memory_order_relaxed)) {
        continue;
      }
      if (!taken) return;
      word_.wait(wanted, std::memory_order_relaxed);
      seen = word_.load(std::memory_order_relaxed);
    }
  }

  // False: it goes on, and the caller looks again, because another thread asked.
  bool try_end() noexcept {
    std::uint32_t seen = word_.load(std::memory_order_relaxed);
    for (;;) {
      const bool asked = (seen & kAsked) != 0;
      const std::uint32_t wanted = asked ? seen & ~kAsked : 0;
      if (!word_.compare_exchange_weak(seen, wanted, std::memory_order_acq_rel,
                                       std::memory_order_relaxed)) {
        continue;
      }
      if (asked) return false;
      if ((seen & kAwaited) != 0) word_.notify_all();
      return true;
    }
  }

 private:
  static constexpr std::uint32_t kTaken = 1;
  static constexpr std::uint32_t kAsked = 2;
  static constexpr std::uint32_t kAwaited = 4;

  std::atomic<std::uint32_t> word_{0};
};

}  // namespace faultline::space
