// How many threads of a client fault by turns, told from the faults that are read. Must never cost
// a fault more than a store: they are counted once for every kWindow faults.
//
// Locking: its owner's; threads() is lock-free.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>

namespace faultline::space {

class Crowd {
 public:
  static constexpr std::size_t kWindow = 16;

  void add(pid_t thread) {
    window_.at(next_++) = thread;
    if (next_ < kWindow) return;
    next_ = 0;
    std::sort(window_.begin(), window_.end());
    const auto distinct = std::unique(window_.begin(), window_.end()) - window_.begin();
    threads_.store(static_cast<unsigned>(distinct), std::memory_order_relaxed);
  }

  // Among the last full window; at most kWindow, 0 before there was one.
  [[nodiscard]] unsigned threads() const { return threads_.load(std::memory_order_relaxed); }

 private:
  std::array<pid_t, kWindow> window_{};
  std::size_t next_ = 0;
  std::atomic<unsigned> threads_{0};
};

}  // namespace faultline::space
