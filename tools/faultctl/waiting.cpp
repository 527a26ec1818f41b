#include "tools/faultctl/waiting.hpp"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "tools/faultctl/failure.hpp"

namespace faultline::ctl {

namespace {

// NOLINTBEGIN(cppcoreguidelines-avoid-non-const-global-variables): all that a handler can reach
volatile std::sig_atomic_t asked_to_end = 0;
volatile std::sig_atomic_t anything_noted = 0;
std::array<volatile std::sig_atomic_t, NSIG> noted{};
// NOLINTEND(cppcoreguidelines-avoid-non-const-global-variables)

void ask_to_end(int) {
  asked_to_end = 1;
}

void note_signal(int signal) {
  noted[static_cast<std::size_t>(signal)] = 1;
  anything_noted = 1;
}

timespec left_until(Waiting::Clock::time_point deadline) {
  const auto left = std::max(deadline - Waiting::Clock::now(), Waiting::Clock::duration(0));
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
  return {seconds.count(), (left - seconds).count()};
}

}  // namespace

Waiting::Waiting(std::initializer_list<int> also_end) {
  (void)::signal(SIGPIPE, SIG_IGN);
  (void)::pthread_sigmask(SIG_BLOCK, nullptr, &before_);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) let_in(signal, ask_to_end);
  for (const int signal : also_end) let_in(signal, ask_to_end);
}

void Waiting::note(int signal) {
  let_in(signal, note_signal);
}

void Waiting::let_in(int signal, void (*handler)(int)) {
  struct sigaction action {};
  if (::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) return;
  action = {};
  action.sa_handler = handler;
  (void)::sigaction(signal, &action, nullptr);
  sigset_t one{};
  ::sigemptyset(&one);
  ::sigaddset(&one, signal);
  (void)::pthread_sigmask(SIG_BLOCK, &one, nullptr);
}

bool Waiting::take_noted(int signal) {
  const auto at = static_cast<std::size_t>(signal);
  const bool came = noted[at] != 0;
  noted[at] = 0;
  return came;
}

Waiting::Outcome Waiting::until(std::span<pollfd> files,
                                std::optional<Clock::time_point> deadline) const {
  for (;;) {
    const timespec left = deadline ? left_until(*deadline) : timespec{};
    const int ready = ::ppoll(files.data(), files.size(), deadline ? &left : nullptr, &before_);
    const int error = errno;
    if (asked_to_end != 0) return Outcome::ended;
    if (anything_noted != 0) {
      anything_noted = 0;
      return Outcome::noted;
    }
    if (ready > 0) return Outcome::ready;
    if (ready == 0) return Outcome::timed_out;
    if (error != EINTR) throw Refused(error, "waiting for events");
  }
}

bool Waiting::for_any(std::span<pollfd> files) const {
  for (;;) {
    const Outcome outcome = until(files, std::nullopt);
    if (outcome != Outcome::noted) return outcome == Outcome::ready;
  }
}

void Waiting::stop_by(int signal) const {
  struct sigaction ours {};
  struct sigaction by_itself {};
  by_itself.sa_handler = SIG_DFL;
  (void)::sigaction(signal, &by_itself, &ours);
  (void)::raise(signal);
  // Delivered here, before this returns.
  sigset_t one{};
  ::sigemptyset(&one);
  ::sigaddset(&one, signal);
  (void)::pthread_sigmask(SIG_UNBLOCK, &one, nullptr);
  (void)::pthread_sigmask(SIG_BLOCK, &one, nullptr);
  (void)::sigaction(signal, &ours, nullptr);
}

}  // namespace faultline::ctl
