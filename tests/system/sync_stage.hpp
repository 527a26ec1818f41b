// What tests of faultline/sync.hpp share: a platform that counts the calls and stops at each step,
// and memory that processes share. Must never let a test hang: a child that does not end in time is
// killed, and that fails the test.
#pragma once

#include <atomic>
#include <fstream>
#include <functional>
#include <string>
#include <utility>

#include "faultline/sync.hpp"
#include "tests/system/harness.hpp"

namespace faultline::testing {

using sync::stage;

struct Staged {
  // This process's.
  // NOLINTBEGIN(cppcoreguidelines-avoid-non-const-global-variables): a platform has no object
  static inline std::atomic<int> waits{0};
  static inline std::atomic<int> wakes{0};
  static inline std::function<void(stage)> on_stage;
  // NOLINTEND(cppcoreguidelines-avoid-non-const-global-variables)

  static int wait(const sync::word& at, std::uint32_t expected,
                  const sync::deadline& until) noexcept {
    ++waits;
    return sync::library::wait(at, expected, until);
  }
  static void wake(const sync::word& at, int count) noexcept {
    ++wakes;
    sync::library::wake(at, count);
  }
  static void reached(stage stage) {
    if (on_stage) on_stage(stage);
  }
};

using Mutex = basic_mutex<Staged>;
using ConditionVariable = basic_condition_variable<Staged>;
using Semaphore = basic_semaphore<Staged>;
using EventCount = basic_event_count<Staged>;

// Longer than anything here takes on a slow machine, shorter than a test may.
inline constexpr std::chrono::seconds kPatience{30};

// From now on this process kills itself at the step, when it gets there for the n-th time.
inline void die_at(stage where, int n = 1) {
  Staged::on_stage = [where, left = n](stage stage) mutable {
    if (stage == where && --left == 0) ::raise(SIGKILL);
  };
}
// At the step, where it gets there first, it opens `reached`, and goes on when `go_on` is open.
inline void stop_at(stage where, const Gate& reached, const Gate& go_on) {
  Staged::on_stage = [where, &reached, &go_on, stopped = false](stage stage) mutable {
    if (stage != where || std::exchange(stopped, true)) return;
    reached.open();
    (void)go_on.pass();
  };
}

// The first word of a primitive, as others see it.
template <typename T>
std::uint32_t word_of(T& primitive) {
  return std::atomic_ref(reinterpret_cast<std::uint32_t&>(primitive)).load();
}
template <typename T>
bool has_waiters(T& primitive) {
  return (word_of(primitive) & FL_ROBUST_WAITERS) != 0;
}

// Whether the process's only thread sleeps in futex(2) or futex_waitv(2).
inline bool sleeps(const Child& child) {
  std::string call;
  std::getline(std::ifstream("/proc/" + std::to_string(child.pid()) + "/syscall"), call);
  return call.rfind("202 ", 0) == 0 || call.rfind("449 ", 0) == 0;
}
inline bool eventually_sleeps(const Child& child) {
  return eventually([&] { return sleeps(child); }, kPatience);
}

// Its outcome; killed where it does not end.
inline Outcome end_of(Child& child) {
  const bool ended = eventually(
      [&] {
        siginfo_t info{};
        return ::waitid(P_PID, static_cast<id_t>(child.pid()), &info,
                        WEXITED | WNOHANG | WNOWAIT) == 0 &&
               info.si_pid != 0;
      },
      kPatience);
  EXPECT_TRUE(ended) << "a process hangs";
  if (!ended) child.kill(SIGKILL);
  return child.wait();
}

class SyncTest : public SystemTest {
 protected:
  void SetUp() override {
    SystemTest::SetUp();
    Staged::waits = 0;
    Staged::wakes = 0;
  }
  // Zero-filled memory that this process shares with its children. flags: of the object.
  template <typename T>
  T& share(std::uint32_t flags = 0) {
    const std::size_t bytes = (sizeof(T) + kPage - 1) / kPage * kPage;
    const Object object = create(client_, bytes, nullptr, 0600, flags);
    return *reinterpret_cast<T*>(map(object, bytes, FL_MAP_SHARED | FL_MAP_WRITE).data());
  }
};

}  // namespace faultline::testing
