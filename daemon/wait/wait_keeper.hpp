// Whoever keeps waits for clients, as those see it that tell it what became of one: the kernel's
// completions, and UnqueuedWaits. Must never be waited for by what it calls itself.
#pragma once

#include <cstdint>
#include <functional>

namespace faultline::wait {

class BrokeredWait;
struct Client;

class WaitKeeper {
 public:
  WaitKeeper() = default;
  WaitKeeper(const WaitKeeper&) = delete;
  WaitKeeper& operator=(const WaitKeeper&) = delete;
  virtual ~WaitKeeper() = default;

  // Runs it on the keeper's thread; false once that has ended. Thread-safe.
  virtual bool post(std::function<void()> letter) = 0;

  // --- on the keeper's thread

  // The kernel's queue has it no more.
  virtual void left(BrokeredWait& wait, int result) = 0;
  // Its outcome has been put into its client's io_uring, or could not be.
  virtual void delivered(BrokeredWait& wait, int result) = 0;
  virtual void woken_unqueued(BrokeredWait& wait) = 0;
  // The kernel can have the wait now; id: its number.
  virtual void page_came(const Client& client, std::uint32_t id) = 0;
  // Hands the kernel what was queued since the last time.
  virtual void submit() = 0;
};

}  // namespace faultline::wait
