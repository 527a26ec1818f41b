// Keeps clients from filling the log: so many lines a second, and what is left out is counted. For
// every line that a client can cause at will. Must never lose the count.
//
// Locking: the mutex guards all of it; leaf lock, not held while a line is written.
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>

#include "daemon/kernel/log.hpp"

namespace faultline::kernel {

class LogBudget {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr unsigned kLinesASecond = 5;

  explicit LogBudget(unsigned lines_a_second = kLinesASecond) : lines_a_second_(lines_a_second) {}

  // Writes the line, or counts it. The next one that is written comes after a line with the count.
  template <typename... Arguments>
  void log(log::Level level, const log::About& about, fmt::format_string<Arguments...> format,
           Arguments&&... arguments) {
    const auto left_out = spend(Clock::now());
    if (!left_out) return;
    if (*left_out > 0) {
      log::write(level, about, "{} more lines like the next were left out",
                 fmt::make_format_args(*left_out));
    }
    log::write(level, about, format, fmt::make_format_args(arguments...));
  }

  // Nothing where this line must not be written; else how many were not, since the last that was.
  std::optional<std::uint64_t> spend(Clock::time_point now) {
    const std::lock_guard lock(mutex_);
    if (now - second_ >= std::chrono::seconds(1)) {
      second_ = now;
      written_ = 0;
    }
    if (written_ == lines_a_second_) {
      ++left_out_;
      return std::nullopt;
    }
    ++written_;
    return std::exchange(left_out_, 0);
  }

 private:
  std::mutex mutex_;
  const unsigned lines_a_second_;
  Clock::time_point second_;  // when the one that counts now began
  unsigned written_ = 0;
  std::uint64_t left_out_ = 0;
};

// The budget of a user's clients. What one user does must not keep the others from the log: a few
// budgets for all users bound what all of them write together, and need no end.
inline LogBudget& log_budget_of(uid_t uid) {
  static std::array<LogBudget, 16> budgets;
  return budgets.at(uid % budgets.size());
}

}  // namespace faultline::kernel
