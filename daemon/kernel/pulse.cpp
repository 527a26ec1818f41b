#include "daemon/kernel/pulse.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <string>

namespace faultline::kernel {

void Pulse::begin() {
  thread_.store(::gettid(), std::memory_order_relaxed);
}

void Pulse::ask(Clock::time_point now) {
  if (asked_at_.load(std::memory_order_acquire) != 0) return;
  asked_at_.store(now.time_since_epoch().count(), std::memory_order_relaxed);
  // A letter that nobody reads any more must not keep this, and by it its own box.
  const bool posted = mailbox_->post([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->asked_at_.store(0, std::memory_order_release);
  });
  if (!posted) asked_at_.store(0, std::memory_order_relaxed);
}

std::optional<Pulse::Clock::duration> Pulse::overdue(Clock::time_point now) const {
  const Clock::rep asked_at = asked_at_.load(std::memory_order_acquire);
  if (asked_at == 0) return std::nullopt;
  return now.time_since_epoch() - Clock::duration(asked_at);
}

bool Pulse::held_up_by_client() const {
  // proc(5): the number of the system call that the thread is in, or "running".
  std::ifstream in("/proc/self/task/" + std::to_string(thread()) + "/syscall");
  long number = -1;
  return in >> number && number == SYS_ioctl;
}

}  // namespace faultline::kernel
