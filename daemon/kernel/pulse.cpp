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
  const std::string task = "/proc/self/task/" + std::to_string(thread());
  // proc(5): the number of the system call that the thread sleeps in, -1 where it is a page fault,
  // or "running".
  long number = 0;
  std::ifstream call(task + "/syscall");
  if (call >> number && (number == SYS_ioctl || number == -1)) return true;
  // A page fault within another call, such as a futex(2) that wakes somebody, has that call's
  // number; so has the wait for a file's lock. Both are slept in uninterruptibly, which a wait for
  // ourselves is not.
  std::string text;
  std::ifstream stat(task + "/stat");
  std::getline(stat, text);
  const auto name_end = text.rfind(") ");
  return name_end != std::string::npos && text.substr(name_end + 2, 1) == "D";
}

}  // namespace faultline::kernel
