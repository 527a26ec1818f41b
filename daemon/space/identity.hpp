// Who an address space belongs to, as far as is known, and how its log lines begin. Must never be
// used to decide a right but by the uid, which came from the socket.
#pragma once

#include <fmt/format.h>
#include <sys/types.h>

#include <atomic>
#include <utility>

#include "daemon/kernel/log_budget.hpp"
#include "daemon/kernel/units.hpp"

namespace faultline::space {

// A fork child's pid is known once it has raised a fault or connected: the kernel's fork event does
// not tell it.
struct Owner {
  pid_t pid = 0;  // 0: not known yet
  pid_t parent = 0;
  uid_t uid = 0;
};

class Identity {
 public:
  Identity(SpaceId id, Owner owner)
      : id_(id), parent_(owner.parent), uid_(owner.uid), pid_(owner.pid) {}

  [[nodiscard]] SpaceId id() const { return id_; }
  [[nodiscard]] uid_t uid() const { return uid_; }
  [[nodiscard]] pid_t pid() const { return pid_.load(std::memory_order_relaxed); }
  void set_pid(pid_t pid) { pid_.store(pid, std::memory_order_relaxed); }
  [[nodiscard]] Owner owner() const { return {pid(), parent_, uid_}; }

  // At the error level, within the budget of its user: a client can cause every such line at will.
  template <typename... Arguments>
  void log(fmt::format_string<Arguments...> format, Arguments&&... arguments) const {
    log_about({}, format, std::forward<Arguments>(arguments)...);
  }
  // The same of a line that is about more than the space.
  template <typename... Arguments>
  void log_about(log::About about, fmt::format_string<Arguments...> format,
                 Arguments&&... arguments) const {
    about.uid = uid_;
    about.pid = pid();
    about.space = id_.value();
    kernel::log_budget_of(uid_).log(log::Level::error, about, "space {} (pid {}): {}", id_.value(),
                                    pid(),
                                    fmt::format(format, std::forward<Arguments>(arguments)...));
  }

 private:
  const SpaceId id_;
  const pid_t parent_;
  const uid_t uid_;
  std::atomic<pid_t> pid_;
};

}  // namespace faultline::space
