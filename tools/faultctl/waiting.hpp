// Waits for files, and for signals, which are let in at no other time: none comes between a look at
// what a handler has written down and the wait. Must never take a signal that whoever started this
// had ignored, as nohup(1) wants it.
#pragma once

#include <poll.h>

#include <chrono>
#include <csignal>
#include <initializer_list>
#include <optional>
#include <span>

namespace faultline::ctl {

class Waiting {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Outcome { ready, timed_out, noted, ended };

  // SIGINT, SIGTERM and SIGHUP ask for an end, and so do these. SIGPIPE is ignored from here on.
  explicit Waiting(std::initializer_list<int> also_end = {});
  // Written down from here on, see take_noted().
  void note(int signal);
  // Whether it came since the last question.
  [[nodiscard]] static bool take_noted(int signal);

  // Until one of them is ready, or in a state that no wait changes; until then, where that is
  // given. noted: a signal that is written down came, or was there.
  [[nodiscard]] Outcome until(std::span<pollfd> files,
                              std::optional<Clock::time_point> deadline) const;
  // Without noting anything. False: it is time to end.
  [[nodiscard]] bool for_any(std::span<pollfd> files) const;

  // Stops this process as the signal does by itself, and returns when it goes on.
  void stop_by(int signal) const;

 private:
  void let_in(int signal, void (*handler)(int));
  sigset_t before_{};
};

}  // namespace faultline::ctl
