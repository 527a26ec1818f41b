// Threads that wait for words, for tests: what each was told, and when it waits. Must never take
// "asleep" for "queued": a thread sleeps while it asks the daemon, too.
#pragma once

#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/system/harness.hpp"
#include "tests/unit/slower.hpp"

namespace faultline::testing {

// Whether a thread sleeps in the kernel.
inline bool asleep(pid_t process, pid_t thread) {
  std::ifstream stat("/proc/" + std::to_string(process) + "/task/" + std::to_string(thread) +
                     "/stat");
  std::string line;
  std::getline(stat, line);
  const auto after_name = line.rfind(')');
  return after_name != std::string::npos && line.substr(after_name + 2, 1) == "S";
}

// This process is killed when it is not over by then: what a wait that does not end comes to.
inline void die_if_this_lasts(time_t seconds = 8 * kSlower) {
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGKILL;
  timer_t timer{};
  const itimerspec time{{0, 0}, {seconds, 0}};
  if (::timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 ||
      ::timer_settime(timer, 0, &time, nullptr) != 0) {
    ADD_FAILURE() << "timer_create: " << std::strerror(errno);
  }
}

// A thread that waits, and what it was told.
class Waiter {
 public:
  explicit Waiter(const void* word, std::uint64_t expected = 0, std::uint32_t flags = 0,
                  std::uint32_t bitset = FL_WAIT_ANY)
      : thread_([this, word, expected, flags, bitset] {
          run([&] { return fl_wait_bitset(word, expected, nullptr, flags, bitset); });
        }) {}
  explicit Waiter(std::vector<fl_waiter> words)
      : thread_([this, words = std::move(words)] {
          run([&] {
            return fl_waitv(words.data(), static_cast<unsigned>(words.size()), nullptr, 0);
          });
        }) {}
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  ~Waiter() {
    if (thread_.joinable()) (void)result();
  }

  // Until it waits and has nothing more to ask the daemon for: asleep, several times in a row,
  // without having run in between. False where it does not come to that.
  [[nodiscard]] bool queued() const {
    return eventually([&] {
      if (tid_ == 0 || ended_) return false;
      const std::string before = switches();
      if (!asleep(::getpid(), tid_)) return false;
      ::usleep(2000);  // longer than an answer of the daemon takes
      return asleep(::getpid(), tid_) && switches() == before;
    });
  }
  [[nodiscard]] bool ended() const { return ended_; }
  // Within a few seconds; fails the test where there is none, and does not return then.
  int result() {
    if (!eventually([&] { return ended_.load(); })) {
      ADD_FAILURE() << "a wait does not end";
      std::fflush(stdout);
      std::_Exit(1);  // it cannot be waited for
    }
    thread_.join();
    return result_;
  }

 private:
  template <typename Wait>
  void run(Wait wait) {
    tid_ = ::gettid();
    result_ = wait();
    ended_ = true;
  }
  // How often it was switched away from.
  [[nodiscard]] std::string switches() const {
    std::ifstream status("/proc/self/task/" + std::to_string(tid_) + "/status");
    std::string all;
    for (std::string line; std::getline(status, line);) {
      if (line.find("ctxt_switches") != std::string::npos) all += line;
    }
    return all;
  }

  std::atomic<pid_t> tid_{0};
  int result_ = 1;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

}  // namespace faultline::testing
