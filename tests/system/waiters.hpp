// Threads that wait for words, for tests: what each was told, and when it waits. Must never take
// "asleep" for "queued": a thread sleeps while it asks the daemon, too.
#pragma once

#include <linux/futex.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "libclient/failure.hpp"
#include "libclient/slot_wait.hpp"
#include "libclient/thread_records.hpp"
#include "tests/system/harness.hpp"
#include "tests/unit/slower.hpp"

namespace faultline::testing {

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

  // Until it waits, in the kernel's queue or in the daemon's. False where it does not come to that.
  [[nodiscard]] bool queued() const {
    return eventually([&] {
      const wire::ThreadRecord* const record = record_;
      if (record == nullptr || ended_) return false;
      const std::uint32_t waiting = record->waiting;
      if (waiting == 0) return false;
      // It says what it waits for before it asks, or sleeps.
      if (!asleep()) return false;
      if ((waiting & wire::kWaitingAsked) != 0) {
        // The daemon carries requests out in their order.
        wire::Submission asked;
        asked.op = wire::ChannelOp::resolve;
        asked.address = record->words[0];
        try {
          (void)client::channel_for(asked.address)->ask(asked);
        } catch (const client::Failure&) {
          return false;  // its memory goes at this moment
        }
        // Told that it is queued, it looks at the value, and sleeps again.
        const auto sleep = asleep();
        const bool of_answer =
            sleep && sleep->word == reinterpret_cast<std::uintptr_t>(&record->answered);
        if (!sleep || (of_answer && sleep->value != record->answered)) return false;
      }
      return record->waiting == waiting;
    });
  }
  [[nodiscard]] bool ended() const { return ended_; }
  // 0: it does not run yet.
  [[nodiscard]] pid_t tid() const { return tid_; }
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
    record_ = client::my_record().record;
    result_ = wait();
    ended_ = true;
  }
  struct Sleep {
    std::uint64_t word = 0;
    std::uint32_t value = 0;  // that it was found to have
  };
  // In the kernel, and for what: futex(2) and proc_pid_syscall(5). Locks, of which a thread may
  // wait for some on its way, are private futexes.
  [[nodiscard]] std::optional<Sleep> asleep() const {
    std::ifstream file("/proc/self/task/" + std::to_string(tid_) + "/syscall");
    long call = -1;
    std::array<std::uint64_t, 3> given{};
    if (!(file >> call >> std::hex >> given[0] >> given[1] >> given[2])) return std::nullopt;
    if (call == SYS_futex && (given[1] & FUTEX_PRIVATE_FLAG) == 0) {
      return Sleep{given[0], static_cast<std::uint32_t>(given[2])};
    }
    if (call != SYS_futex_waitv) return std::nullopt;
    // The thread may be gone from there by now.
    futex_waitv first{};
    const iovec here{&first, sizeof(first)};
    const iovec there{reinterpret_cast<void*>(given[0]), sizeof(first)};
    if (::process_vm_readv(::getpid(), &here, 1, &there, 1, 0) != sizeof(first)) {
      return std::nullopt;
    }
    return Sleep{first.uaddr, static_cast<std::uint32_t>(first.val)};
  }

  std::atomic<pid_t> tid_{0};
  std::atomic<const wire::ThreadRecord*> record_{nullptr};
  int result_ = 1;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

}  // namespace faultline::testing
