// Waits in the kernel's queues that need no thread, for tests: one is queued, or refused, when
// begin() returns. Must never leave one behind.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

#include "daemon/kernel/ring.hpp"

namespace faultline::testing {

class KernelWait final : public kernel::RingOperation {
 public:
  void on_complete(int result) override { result_ = result; }
  // Nothing while it is in a queue; 0 woken; -EAGAIN the word had another value; -ECANCELED. As
  // KernelWaits::look() last found it.
  [[nodiscard]] std::optional<int> result() const { return result_; }
  [[nodiscard]] bool queued() const { return !result_.has_value(); }
  [[nodiscard]] bool woken() const { return result_ == 0; }

 private:
  std::optional<int> result_;
};

// Of one thread.
class KernelWaits {
 public:
  KernelWaits() {
    auto ring = kernel::Ring::create(64);
    if (!ring) {
      ADD_FAILURE() << ring.error().message();
      return;
    }
    ring_ = std::move(*ring);
    EXPECT_TRUE(ring_->own());
  }
  KernelWaits(const KernelWaits&) = delete;
  KernelWaits& operator=(const KernelWaits&) = delete;
  ~KernelWaits() { forget(); }

  KernelWait& begin(const kernel::FutexWord& word, std::uint32_t expected,
                    std::uint32_t mask = kernel::kEveryBit) {
    KernelWait& wait = *waits_.emplace_back(std::make_unique<KernelWait>());
    ring_->futex_wait(wait, word, expected, mask);
    look();
    return wait;
  }
  // Finds out which were woken.
  void look() { ring_->poll(); }
  void cancel(KernelWait& wait) {
    ring_->cancel(wait);
    while (wait.in_flight()) EXPECT_TRUE(ring_->wait());
  }
  // Ends all that there are.
  void forget() {
    for (const auto& wait : waits_) cancel(*wait);
    waits_.clear();
  }

 private:
  std::unique_ptr<kernel::Ring> ring_;
  std::vector<std::unique_ptr<KernelWait>> waits_;
};

}  // namespace faultline::testing
