// Whether the thread of a mailbox still goes round its loop: it is asked now and then, by a letter,
// and has answered when the letter was read. Must never take what a client does to a thread for the
// thread's own failure: held_up_by_client() tells the two apart.
//
// The asker is one thread. Ordering: the answer, asked_at_ = 0, is released by the thread that
// reads the letter and acquired by the asker; nothing else is handed over.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "daemon/kernel/mailbox.hpp"

namespace faultline::kernel {

class Pulse : public std::enable_shared_from_this<Pulse> {
 public:
  using Clock = std::chrono::steady_clock;

  // name: of the thread, for the log.
  Pulse(std::shared_ptr<Mailbox> mailbox, std::string name)
      : mailbox_(std::move(mailbox)), name_(std::move(name)) {}
  // On the thread, before it reads its first letter.
  void begin();

  // --- by the asker

  // Asks, unless an answer is still due. A closed box has nobody left to answer for.
  void ask(Clock::time_point now);
  // How long an answer has been due; nothing where none is.
  [[nodiscard]] std::optional<Clock::duration> overdue(Clock::time_point now) const;
  // Whether the thread sleeps in what a client can make last: an ioctl(2), because those that
  // workers call wait for the memory map of a client; or a page fault, because memory that is
  // shared with a client has no pages while the client punches a hole into it, which it can do
  // slowly; or any other sleep that is not to be interrupted, as for the lock of a client's memfd.
  // Anything else that keeps the thread from its letters is our own.
  [[nodiscard]] bool held_up_by_client() const;
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] pid_t thread() const { return thread_.load(std::memory_order_relaxed); }

 private:
  const std::shared_ptr<Mailbox> mailbox_;
  const std::string name_;
  std::atomic<pid_t> thread_{0};
  std::atomic<Clock::rep> asked_at_{0};  // 0: no answer is due
};

// A worker's, and whom it serves.
struct WatchedThread {
  std::shared_ptr<Pulse> pulse;
  uid_t uid = 0;
};

}  // namespace faultline::kernel
