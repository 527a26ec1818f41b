// Every result of the waiting calls, for every kind of mapping, in processes with one thread and
// with several. Must never take one kind's answer for another's: each test runs for each.
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/single_threaded.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <memory>
#include <string>
#include <thread>

#include "tests/system/harness.hpp"
#include "tests/system/waiters.hpp"

namespace faultline::testing {
namespace {

struct Kind {
  const char* name;
  std::uint32_t flags;
  bool broken = false;  // this process has written to the page
  [[nodiscard]] bool shared() const { return (flags & FL_MAP_SHARED) != 0; }
  [[nodiscard]] bool writable() const { return (flags & FL_MAP_WRITE) != 0; }
  // Whether waiting must not make the page this process's own.
  [[nodiscard]] bool clean() const { return !shared() && !broken; }
};
constexpr std::array kKinds{
    Kind{"Shared", FL_MAP_SHARED | FL_MAP_WRITE},
    Kind{"SharedReadOnly", FL_MAP_SHARED},
    Kind{"PrivateClean", FL_MAP_PRIVATE | FL_MAP_WRITE},
    Kind{"PrivateBroken", FL_MAP_PRIVATE | FL_MAP_WRITE, true},
    Kind{"PrivateReadOnly", FL_MAP_PRIVATE},
    Kind{"ByPageClean", FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE},
    Kind{"ByPageBroken", FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE, true},
};
enum class Threads : std::uint8_t { alone, with_others };

constexpr std::size_t kBytes = 4 * kPage;
constexpr std::uint32_t kValue = 0x04030201;

// One mapping of the kind in a process of its own. The word at the beginning of each page, and the
// next one, hold kValue.
class Scene {
 public:
  Scene(const std::string& socket, const Kind& kind)
      : client(connect(socket)),
        object(create(client, kBytes)),
        kind_(kind),
        writer_(map(object, kBytes, FL_MAP_SHARED | FL_MAP_WRITE)),
        memory(map(object, kBytes, kind.flags)) {
    for (std::size_t page = 0; page < kBytes; page += kPage) {
      store(page, kValue);
      store(page + 4, kValue);
    }
    for (std::size_t page = 0; kind.broken && page < kBytes; page += kPage) {
      memory[page + 2048] = std::byte{1};
    }
  }
  // Through the object, where the page is its.
  void store(std::size_t offset, std::uint32_t value) const {
    std::atomic_ref(*reinterpret_cast<std::uint32_t*>(writer_.data() + offset)).store(value);
  }
  [[nodiscard]] const std::byte* at(std::size_t offset) const { return memory.data() + offset; }
  [[nodiscard]] std::uint64_t copied() const {
    return stats_of(client, at(kBytes - 1)).pages_copied;
  }

  Client client;
  Object object;

 private:
  const Kind& kind_;
  std::span<std::byte> writer_;

 public:
  std::span<std::byte> memory;
};

class WaitErrors : public SystemTest,
                   public ::testing::WithParamInterface<std::tuple<Kind, Threads>> {
 protected:
  [[nodiscard]] static const Kind& kind() { return std::get<Kind>(GetParam()); }
  [[nodiscard]] static bool with_others() {
    return std::get<Threads>(GetParam()) == Threads::with_others;
  }
  // Runs it in a new process, which has one thread or two.
  void scene(const std::function<void(Scene&)>& body) {
    const Outcome outcome = in_child([&] {
      die_if_this_lasts();
      std::atomic<bool> over{false};
      std::thread other;
      if (with_others()) {
        sigset_t all;
        sigfillset(&all);
        sigset_t before;
        ::pthread_sigmask(SIG_SETMASK, &all, &before);
        other = std::thread([&] { over.wait(false); });
        ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
      } else {
        __libc_single_threaded = 1;  // this libc does not see what a fork leaves behind
      }
      {
        Scene set(daemon_.socket(), kind());
        const std::uint64_t before = set.copied();
        body(set);
        if (kind().clean()) {
          EXPECT_EQ(set.copied(), before) << "a wait has copied a page";
        }
      }
      over = true;
      over.notify_all();
      if (other.joinable()) other.join();
      return ::testing::Test::HasFailure() ? 1 : 0;
    });
    EXPECT_TRUE(outcome.exited(0)) << outcome;
  }
};

std::string name_of(const ::testing::TestParamInfo<std::tuple<Kind, Threads>>& info) {
  return std::string(std::get<Kind>(info.param).name) +
         (std::get<Threads>(info.param) == Threads::alone ? "Alone" : "WithOthers");
}
INSTANTIATE_TEST_SUITE_P(Kinds, WaitErrors,
                         ::testing::Combine(::testing::ValuesIn(kKinds),
                                            ::testing::Values(Threads::alone,
                                                              Threads::with_others)),
                         name_of);

std::int64_t now(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}
timespec from_now(clockid_t clock, std::int64_t nanoseconds) {
  const std::int64_t then = now(clock) + nanoseconds;
  return {then / 1'000'000'000, then % 1'000'000'000};
}
constexpr std::int64_t kMillisecond = 1'000'000;

// A word of another value is not waited for, whatever its size and the time-out.
TEST_P(WaitErrors, OfAnotherValueIsEagain) {
  scene([](Scene& set) {
    const timespec ages{100, 0};
    for (const timespec* timeout : {static_cast<const timespec*>(nullptr), &ages}) {
      EXPECT_EQ(fl_wait(set.at(0), kValue + 1, timeout, 0), -EAGAIN);
      EXPECT_EQ(fl_wait(set.at(0), 2, timeout, FL_WAIT_U8), -EAGAIN);
      EXPECT_EQ(fl_wait(set.at(1), 1, timeout, FL_WAIT_U8), -EAGAIN);
      EXPECT_EQ(fl_wait(set.at(2), 0x0201, timeout, FL_WAIT_U16), -EAGAIN);
      EXPECT_EQ(fl_wait(set.at(0), kValue, timeout, FL_WAIT_U64), -EAGAIN);
      EXPECT_EQ(fl_wait_bitset(set.at(0), kValue + 1, timeout, 0, 1), -EAGAIN);
      const fl_waiter both[] = {{set.at(0), kValue, 0, 0}, {set.at(4), kValue + 1, 0, 0}};
      EXPECT_EQ(fl_waitv(both, 2, timeout, 0), -EAGAIN);
    }
  });
}

// Words of every size, at every place in their four bytes, are compared alone.
TEST_P(WaitErrors, ComparesEverySizeAtEveryPlace) {
  scene([](Scene& set) {
    const timespec soon{0, kMillisecond};
    for (const std::size_t page : {std::size_t{0}, kPage}) {
      for (unsigned byte = 0; byte < 4; ++byte) {
        EXPECT_EQ(fl_wait(set.at(page + byte), byte + 1, &soon, FL_WAIT_U8), -ETIMEDOUT) << byte;
        EXPECT_EQ(fl_wait(set.at(page + byte), byte + 2, &soon, FL_WAIT_U8), -EAGAIN) << byte;
        // What is above the size is not looked at.
        EXPECT_EQ(fl_wait(set.at(page + byte), 0x700 + byte + 1, &soon, FL_WAIT_U8), -ETIMEDOUT);
      }
      EXPECT_EQ(fl_wait(set.at(page), 0x0201, &soon, FL_WAIT_U16), -ETIMEDOUT);
      EXPECT_EQ(fl_wait(set.at(page + 2), 0x0403, &soon, FL_WAIT_U16), -ETIMEDOUT);
      EXPECT_EQ(fl_wait(set.at(page + 2), 0x0503, &soon, FL_WAIT_U16), -EAGAIN);
      EXPECT_EQ(fl_wait(set.at(page), 0x0403020104030201, &soon, FL_WAIT_U64), -ETIMEDOUT);
      EXPECT_EQ(fl_wait(set.at(page), 0x1403020104030201, &soon, FL_WAIT_U64), -EAGAIN);
      EXPECT_EQ(fl_wait(set.at(page), 0x0403020104030202, &soon, FL_WAIT_U64), -EAGAIN);
    }
    // The last word of the mapping, behind which there is nothing to look at.
    EXPECT_EQ(fl_wait(set.at(kBytes - 1), 0, &soon, FL_WAIT_U8), -ETIMEDOUT);
    EXPECT_EQ(fl_wait(set.at(kBytes - 1), 1, &soon, FL_WAIT_U8), -EAGAIN);
    EXPECT_EQ(fl_wait(set.at(kBytes - 2), 0, &soon, FL_WAIT_U16), -ETIMEDOUT);
    EXPECT_EQ(fl_wait(set.at(kBytes - 4), 0, &soon, 0), -ETIMEDOUT);
    EXPECT_EQ(fl_wait(set.at(kBytes - 8), 0, &soon, FL_WAIT_U64), -ETIMEDOUT);
  });
}

// A wait of the right value ends when its time is over, and not before.
TEST_P(WaitErrors, EndsInTime) {
  scene([](Scene& set) {
    constexpr std::int64_t kLong = 20 * kMillisecond;
    const auto expect_lasting = [&](const char* what, const std::function<int()>& wait) {
      const std::int64_t begin = now(CLOCK_MONOTONIC);
      EXPECT_EQ(wait(), -ETIMEDOUT) << what;
      const std::int64_t took = now(CLOCK_MONOTONIC) - begin;
      EXPECT_GE(took, kLong - kMillisecond) << what;
      EXPECT_LT(took, 50 * kLong) << what;
    };
    expect_lasting("relative", [&] {
      const timespec time{0, kLong};
      return fl_wait(set.at(0), kValue, &time, 0);
    });
    expect_lasting("relative, some bits", [&] {
      const timespec time{0, kLong};
      return fl_wait_bitset(set.at(0), kValue, &time, 0, 4);
    });
    expect_lasting("absolute", [&] {
      const timespec time = from_now(CLOCK_MONOTONIC, kLong);
      return fl_wait(set.at(0), kValue, &time, FL_WAIT_ABSOLUTE);
    });
    expect_lasting("realtime", [&] {
      const timespec time = from_now(CLOCK_REALTIME, kLong);
      return fl_wait(set.at(0), kValue, &time, FL_WAIT_REALTIME);
    });
    expect_lasting("realtime, some bits, 8 bits", [&] {
      const timespec time = from_now(CLOCK_REALTIME, kLong);
      return fl_wait_bitset(set.at(0), 1, &time, FL_WAIT_U8 | FL_WAIT_REALTIME, 4);
    });
    const fl_waiter both[] = {{set.at(0), kValue, 0, 0}, {set.at(kPage), 1, FL_WAIT_U8, 0}};
    expect_lasting("of two, relative", [&] {
      const timespec time{0, kLong};
      return fl_waitv(both, 2, &time, 0);
    });
    expect_lasting("of two, absolute", [&] {
      const timespec time = from_now(CLOCK_MONOTONIC, kLong);
      return fl_waitv(both, 2, &time, FL_WAIT_ABSOLUTE);
    });
    expect_lasting("of two, realtime", [&] {
      const timespec time = from_now(CLOCK_REALTIME, kLong);
      return fl_waitv(both, 2, &time, FL_WAIT_REALTIME);
    });
  });
}

// No time, and time that has passed, are over at once; the value is looked at all the same.
TEST_P(WaitErrors, OfNoTimeIsOverAtOnce) {
  scene([](Scene& set) {
    const timespec none{0, 0};
    const timespec past{1, 0};
    const std::int64_t begin = now(CLOCK_MONOTONIC);
    for (const std::uint32_t flags : {0U, FL_WAIT_U8}) {
      const std::uint64_t value = flags == 0 ? kValue : 1;
      EXPECT_EQ(fl_wait(set.at(0), value, &none, flags), -ETIMEDOUT);
      EXPECT_EQ(fl_wait(set.at(0), value + 1, &none, flags), -EAGAIN);
      EXPECT_EQ(fl_wait_bitset(set.at(0), value, &none, flags, 8), -ETIMEDOUT);
      for (const std::uint32_t clock : {FL_WAIT_ABSOLUTE, FL_WAIT_REALTIME}) {
        EXPECT_EQ(fl_wait(set.at(0), value, &none, flags | clock), -ETIMEDOUT);
        EXPECT_EQ(fl_wait(set.at(0), value, &past, flags | clock), -ETIMEDOUT);
        EXPECT_EQ(fl_wait(set.at(0), value + 1, &past, flags | clock), -EAGAIN);
      }
    }
    const fl_waiter one{set.at(0), kValue, 0, 0};
    EXPECT_EQ(fl_waitv(&one, 1, &none, 0), -ETIMEDOUT);
    EXPECT_EQ(fl_waitv(&one, 1, &past, FL_WAIT_ABSOLUTE), -ETIMEDOUT);
    EXPECT_LT(now(CLOCK_MONOTONIC) - begin, 1000 * kMillisecond);
  });
}

// A time-out that is none is refused before the value is looked at, in whatever kind of memory.
TEST_P(WaitErrors, BadTimesAreRefusedFirst) {
  scene([](Scene& set) {
    const auto* const nowhere = reinterpret_cast<const timespec*>(8);
    const fl_waiter other{set.at(0), kValue + 1, 0, 0};
    for (const std::uint32_t clock : {0U, FL_WAIT_ABSOLUTE, FL_WAIT_REALTIME}) {
      for (const timespec& bad : {timespec{0, 1'000'000'000}, timespec{-1, 0}, timespec{0, -1}}) {
        EXPECT_EQ(fl_wait(set.at(0), kValue + 1, &bad, clock), -EINVAL);
        EXPECT_EQ(fl_wait(set.at(0), 7, &bad, clock | FL_WAIT_U8), -EINVAL);
        EXPECT_EQ(fl_wait(set.at(0), 7, &bad, clock | FL_WAIT_U64), -EINVAL);
        EXPECT_EQ(fl_wait_bitset(set.at(0), kValue + 1, &bad, clock, 2), -EINVAL);
        EXPECT_EQ(fl_waitv(&other, 1, &bad, clock), -EINVAL);
      }
      EXPECT_EQ(fl_wait(set.at(0), kValue + 1, nowhere, clock), -EFAULT);
      EXPECT_EQ(fl_wait_bitset(set.at(0), kValue + 1, nowhere, clock, 2), -EFAULT);
      EXPECT_EQ(fl_waitv(&other, 1, nowhere, clock), -EFAULT);
    }
    const timespec largest{std::numeric_limits<time_t>::max(), 999'999'999};
    EXPECT_EQ(fl_wait(set.at(0), kValue + 1, &largest, 0), -EAGAIN);
    EXPECT_EQ(fl_wait(set.at(0), kValue + 1, &largest, FL_WAIT_ABSOLUTE), -EAGAIN);
  });
}

// What makes no sense is refused.
TEST_P(WaitErrors, NonsenseIsEinval) {
  scene([](Scene& set) {
    EXPECT_EQ(fl_wait(set.at(1), 0, nullptr, 0), -EINVAL);
    EXPECT_EQ(fl_wait(set.at(2), 0, nullptr, 0), -EINVAL);
    EXPECT_EQ(fl_wait(set.at(1), 0, nullptr, FL_WAIT_U16), -EINVAL);
    EXPECT_EQ(fl_wait(set.at(4), 0, nullptr, FL_WAIT_U64), -EINVAL);
    EXPECT_EQ(fl_wait(set.at(0), 0, nullptr, FL_WAIT_ABSOLUTE | FL_WAIT_REALTIME), -EINVAL);
    EXPECT_EQ(fl_wait(set.at(0), 0, nullptr, 1U << 4), -EINVAL);
    EXPECT_EQ(fl_wait(set.at(0), 0, nullptr, 1U << 31), -EINVAL);
    EXPECT_EQ(fl_wait_bitset(set.at(0), 0, nullptr, 0, 0), -EINVAL);
    EXPECT_EQ(fl_wake_bitset(set.at(0), 1, 0), -EINVAL);
    EXPECT_EQ(fl_wake(set.at(0), -1), -EINVAL);
    EXPECT_EQ(fl_wake_bitset(set.at(0), -1, 1), -EINVAL);
    for (const auto& [wake, move] : {std::pair{-1, 0}, std::pair{0, -1}}) {
      EXPECT_EQ(fl_requeue(set.at(0), wake, move, set.at(4)), -EINVAL);
      EXPECT_EQ(fl_cmp_requeue(set.at(0), kValue, wake, move, set.at(4)), -EINVAL);
      EXPECT_EQ(fl_wake_op(set.at(0), wake, set.memory.data() + 4, move, 0), -EINVAL);
    }
    EXPECT_EQ(fl_requeue(set.at(2), 1, 1, set.at(4)), -EINVAL);
    EXPECT_EQ(fl_requeue(set.at(0), 1, 1, set.at(6)), -EINVAL);
    EXPECT_EQ(fl_wake_op(set.at(0), 1, set.memory.data() + 6, 1, 0), -EINVAL);

    std::array<fl_waiter, FL_WAITV_MAX + 1> many{};
    many.fill({set.at(0), kValue, 0, 0});
    const timespec none{0, 0};
    EXPECT_EQ(fl_waitv(many.data(), 0, &none, 0), -EINVAL);
    EXPECT_EQ(fl_waitv(many.data(), FL_WAITV_MAX + 1, &none, 0), -EINVAL);
    EXPECT_EQ(fl_waitv(nullptr, 1, &none, 0), -EINVAL);
    EXPECT_EQ(fl_waitv(many.data(), FL_WAITV_MAX, &none, 0), -ETIMEDOUT);
    EXPECT_EQ(fl_waitv(many.data(), 1, &none, FL_WAIT_U8), -EINVAL);
    EXPECT_EQ(fl_waitv(many.data(), 1, &none, 1U << 4), -EINVAL);
    EXPECT_EQ(fl_waitv(many.data(), 1, &none, FL_WAIT_ABSOLUTE | FL_WAIT_REALTIME), -EINVAL);
    for (const fl_waiter& bad :
         {fl_waiter{set.at(0), kValue, FL_WAIT_ABSOLUTE, 0}, fl_waiter{set.at(0), kValue, 0, 1},
          fl_waiter{set.at(2), kValue, 0, 0}}) {
      EXPECT_EQ(fl_waitv(&bad, 1, &none, 0), -EINVAL);
    }
  });
}

// Nobody is woken where nobody waits, and the page stays what it was.
TEST_P(WaitErrors, WakesNobodyWhereNobodyWaits) {
  scene([](Scene& set) {
    EXPECT_EQ(fl_wake(set.at(0), 0), 0);
    EXPECT_EQ(fl_wake(set.at(0), 1), 0);
    EXPECT_EQ(fl_wake(set.at(1), INT32_MAX), 0);
    EXPECT_EQ(fl_wake_bitset(set.at(0), INT32_MAX, 1), 0);
    EXPECT_EQ(fl_requeue(set.at(0), 1, 1, set.at(4)), 0);
    EXPECT_EQ(fl_cmp_requeue(set.at(0), kValue, 1, 1, set.at(4)), 0);
    EXPECT_EQ(fl_cmp_requeue(set.at(0), kValue + 1, 1, 1, set.at(4)), -EAGAIN);
  });
}

// Memory that no fl_map made is refused, by every call, whether anything is mapped there or not.
TEST_P(WaitErrors, OfForeignMemoryIsEfault) {
  scene([](Scene& set) {
    alignas(8) std::array<std::uint32_t, 4> own{};
    const timespec none{0, 0};
    void* const hole = ::mmap(nullptr, kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (void* const bad : {static_cast<void*>(own.data()), static_cast<void*>(nullptr), hole}) {
      EXPECT_EQ(fl_wait(bad, 0, &none, 0), -EFAULT);
      EXPECT_EQ(fl_wait(bad, 0, &none, FL_WAIT_U8), -EFAULT);
      EXPECT_EQ(fl_wait_bitset(bad, 0, &none, 0, 1), -EFAULT);
      EXPECT_EQ(fl_wake(bad, 1), -EFAULT);
      EXPECT_EQ(fl_wake(bad, 0), -EFAULT);
      const fl_waiter both[] = {{set.at(0), kValue, 0, 0}, {bad, 0, 0, 0}};
      EXPECT_EQ(fl_waitv(both, 2, &none, 0), -EFAULT);
      const fl_waiter other_way[] = {both[1], both[0]};
      EXPECT_EQ(fl_waitv(other_way, 2, &none, 0), -EFAULT);
      EXPECT_EQ(fl_requeue(bad, 1, 1, set.at(0)), -EFAULT);
      EXPECT_EQ(fl_requeue(set.at(0), 1, 1, bad), -EFAULT);
      EXPECT_EQ(fl_cmp_requeue(bad, 0, 1, 1, set.at(0)), -EFAULT);
      EXPECT_EQ(fl_cmp_requeue(set.at(0), kValue, 1, 1, bad), -EFAULT);
      EXPECT_EQ(fl_wake_op(set.at(0), 1, bad, 1, 0), -EFAULT);
    }
    ::munmap(hole, kPage);
  });
}

volatile sig_atomic_t handled = 0;
void count_signal(int) {
  handled = handled + 1;
}
void count_and_stop_restarting(int) {
  handled = handled + 1;
  struct sigaction no_restart {};
  no_restart.sa_handler = &count_signal;
  if (handled == 3) ::sigaction(SIGALRM, &no_restart, nullptr);
}
void signals_from(std::int64_t first_us, std::int64_t every_us) {
  const itimerval timer{{0, every_us}, {0, first_us}};
  ::setitimer(ITIMER_REAL, &timer, nullptr);
}

// A signal's handler ends a wait, unless it restarts what it interrupts. With a time-out a
// restarted wait may end so all the same, or goes on until the same time, not longer.
TEST_P(WaitErrors, SignalsInterrupt) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP()
      << "SKIPPED: ThreadSanitizer runs a handler when the call that it interrupts is over";
#endif
  scene([](Scene& set) {
    struct sigaction action {};
    const timespec ages{20, 0};
    const fl_waiter both[] = {{set.at(0), kValue, 0, 0}, {set.at(kPage), kValue, 0, 0}};
    const std::array<std::function<int(const timespec*)>, 4> waits{
        [&](const timespec* time) { return fl_wait(set.at(0), kValue, time, 0); },
        [&](const timespec* time) { return fl_wait(set.at(1), 2, time, FL_WAIT_U8); },
        [&](const timespec* time) { return fl_wait_bitset(set.at(0), kValue, time, 0, 2); },
        [&](const timespec* time) { return fl_waitv(both, 2, time, 0); },
    };
    for (std::size_t i = 0; i < waits.size(); ++i) {
      action.sa_handler = &count_signal;
      for (const timespec* time : {static_cast<const timespec*>(nullptr), &ages}) {
        action.sa_flags = 0;
        ::sigaction(SIGALRM, &action, nullptr);
        handled = 0;
        signals_from(10'000, 10'000);
        EXPECT_EQ(waits.at(i)(time), -EINTR) << i;
        signals_from(0, 0);
        EXPECT_GE(handled, 1) << i;
      }
      // The third handler that restarts has the fourth not do so.
      action.sa_handler = &count_and_stop_restarting;
      action.sa_flags = SA_RESTART;
      ::sigaction(SIGALRM, &action, nullptr);
      handled = 0;
      signals_from(10'000, 10'000);
      EXPECT_EQ(waits.at(i)(nullptr), -EINTR) << i;
      signals_from(0, 0);
      EXPECT_GE(handled, 4) << i << ": a wait without time-out goes on";

      action.sa_handler = &count_signal;
      action.sa_flags = SA_RESTART;
      ::sigaction(SIGALRM, &action, nullptr);
      handled = 0;
      signals_from(10'000, 0);
      const timespec time{0, 200 * kMillisecond};
      const std::int64_t begin = now(CLOCK_MONOTONIC);
      const int ended = waits.at(i)(&time);
      const bool in_time = now(CLOCK_MONOTONIC) - begin >= time.tv_nsec;
      EXPECT_EQ(handled, 1) << i;
      if (kind().shared() && !with_others() && i != 1 && i != 3) {
        EXPECT_EQ(ended, -EINTR) << i << ": with a time-out it ends, as futex(2)";
      } else {
        EXPECT_TRUE(ended == -EINTR || (ended == -ETIMEDOUT && in_time)) << i << ": " << ended;
      }
    }
  });
}

// Time-outs are as exact as the kernel's, to within a millisecond: by turns, the lower quartiles,
// as whatever else runs makes some rounds of each later.
TEST_P(WaitErrors, TimesAreTheKernels) {
  scene([](Scene& set) {
    constexpr std::size_t kRounds = 13;
    constexpr timespec kTime{0, 3 * kMillisecond};
    const auto lateness = [&](const std::function<int()>& wait) {
      const std::int64_t begin = now(CLOCK_MONOTONIC);
      EXPECT_EQ(wait(), -ETIMEDOUT);
      return now(CLOCK_MONOTONIC) - begin - kTime.tv_nsec;
    };
    const std::uint32_t own = 0;
    const auto kernel = [&] {
      const long ended = ::syscall(SYS_futex, &own, FUTEX_WAIT_PRIVATE, 0, &kTime, nullptr, 0);
      return ended == 0 ? 0 : -errno;
    };
    const auto asynchronous = [&] {
      fl_async_wait wait{};
      wait.struct_size = sizeof(wait);
      wait.address = set.at(0);
      wait.expected = kValue;
      wait.timeout = &kTime;
      wait.bitset = FL_WAIT_ANY;
      fl_completion outcome{};
      EXPECT_EQ(fl_wait_async(&wait, nullptr), 0);
      EXPECT_EQ(fl_completions(set.client, &outcome, 1, nullptr), 1);
      return outcome.result;
    };
    const std::array<std::function<int()>, 3> ours{
        [&] { return fl_wait(set.at(0), kValue, &kTime, 0); },
        [&] { return fl_wait_bitset(set.at(1), 2, &kTime, FL_WAIT_U8, 4); }, asynchronous};
    for (std::size_t which = 0; which < ours.size(); ++which) {
      std::array<std::int64_t, kRounds> kernels{};
      std::array<std::int64_t, kRounds> mine{};
      for (std::size_t i = 0; i < kRounds; ++i) {
        kernels.at(i) = lateness(kernel);
        mine.at(i) = lateness(ours.at(which));
      }
      std::ranges::sort(kernels);
      std::ranges::sort(mine);
      EXPECT_GE(mine.front(), 0) << which << ": too early";
      EXPECT_LT(mine[kRounds / 4] - kernels[kRounds / 4], kSlower * kMillisecond) << which;
    }
  });
}

// The operation's effect on a word, and whether its old value compares, by their definition.
struct Changed {
  std::uint32_t value;
  bool compares;
};
Changed expected_of(unsigned op, unsigned compare, int argument, int compared, bool shift,
                    std::uint32_t old) {
  const std::uint32_t by = shift ? 1U << (argument & 31) : static_cast<std::uint32_t>(argument);
  const std::array<std::uint32_t, 5> values{by, old + by, old | by, old & ~by, old ^ by};
  const auto was = static_cast<std::int32_t>(old);
  const std::array<bool, 6> compares{was == compared, was != compared,
                                     was<compared, was <= compared, was> compared, was >= compared};
  return {values.at(op), compares.at(compare)};
}

// Every operation of fl_wake_op changes its word as the kernel does, and wakes at its word where
// the old value compares.
TEST_P(WaitErrors, WakeOpDoesEveryOperation) {
  if (kind().clean()) {
    return;  // it writes: the page is broken from then on
  }
  scene([](Scene& set) {
    auto* const target = reinterpret_cast<std::uint32_t*>(set.memory.data() + kPage + 64);
    if (!kind().writable()) {
      EXPECT_EQ(fl_wake_op(set.at(0), 1, target, 1, FUTEX_OP(FUTEX_OP_SET, 1, 0, 0)), -EFAULT);
      return;
    }
    const timespec none{0, 0};
    for (unsigned op = 0; op < 5; ++op) {
      for (unsigned compare = 0; compare < 6; ++compare) {
        for (const bool shift : {false, true}) {
          for (const int argument : {0, 5, -1, -2048, 2047}) {
            if (shift && (argument < 0 || argument > 31)) continue;
            for (const std::uint32_t old : {0U, 7U, 0xffffffffU, 0x80000000U}) {
              const int compared = old == 7 ? 7 : -1;
              std::atomic_ref(*target).store(old);
              const std::uint32_t encoded = FUTEX_OP((op | (shift ? FUTEX_OP_OPARG_SHIFT : 0U)),
                                                     argument & 0xfff, compare, compared & 0xfff);
              EXPECT_EQ(fl_wake_op(set.at(0), 1, target, 1, encoded), 0);
              const Changed right = expected_of(op, compare, argument, compared, shift, old);
              EXPECT_EQ(std::atomic_ref(*target).load(), right.value)
                  << op << " " << argument << " " << shift << " " << old;
            }
          }
        }
      }
    }
    std::atomic_ref(*target).store(5);
    EXPECT_EQ(fl_wake_op(set.at(0), 1, target, 1, FUTEX_OP(5, 1, 0, 0)), -ENOSYS);
    EXPECT_EQ(std::atomic_ref(*target).load(), 5U);
    EXPECT_EQ(fl_wake_op(set.at(0), 1, target, 1, FUTEX_OP(0, 1, 6, 0)), -ENOSYS);
    EXPECT_EQ(fl_wait(target, 6, &none, 0), -EAGAIN);
  });
}

// A target that cannot be written to is EFAULT, as with futex(2).
TEST_P(WaitErrors, WakeOpOfReadOnlyMemoryIsEfault) {
  scene([](Scene& set) {
    ASSERT_EQ(::mprotect(set.memory.data() + kPage, kPage, PROT_READ), 0);
    EXPECT_EQ(fl_wake_op(set.at(0), 1, set.memory.data() + kPage, 1,
                         FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_EQ, 0)),
              -EFAULT);
  });
}

// Priority inheritance is the kernel's business on shared words, and nobody's elsewhere.
TEST_P(WaitErrors, PriorityInheritanceIsForSharedWords) {
  scene([](Scene& set) {
    std::byte* const word = set.memory.data() + 64;
    if (!kind().shared()) {
      EXPECT_EQ(fl_lock_pi(word, nullptr), -ENOSYS);
      EXPECT_EQ(fl_trylock_pi(word), -ENOSYS);
      EXPECT_EQ(fl_unlock_pi(word), -ENOSYS);
      return;
    }
    if (!kind().writable()) {
      EXPECT_EQ(fl_lock_pi(word, nullptr), -EFAULT);
      return;
    }
    EXPECT_EQ(fl_lock_pi(word, nullptr), 0);
    EXPECT_EQ(fl_trylock_pi(word), -EDEADLK);
    EXPECT_TRUE(in_child([&] {
                  const timespec soon = from_now(CLOCK_REALTIME, 20 * kMillisecond);
                  if (fl_trylock_pi(word) != -EAGAIN) return 2;
                  if (fl_unlock_pi(word) != -EPERM) return 3;
                  return fl_lock_pi(word, &soon) == -ETIMEDOUT ? 0 : 4;
                }).exited(0));
    EXPECT_EQ(fl_unlock_pi(word), 0);
    EXPECT_EQ(fl_trylock_pi(word), 0);
    EXPECT_EQ(fl_unlock_pi(word), 0);
  });
}

// --- with other threads that wait

class WaitResults : public WaitErrors {};
INSTANTIATE_TEST_SUITE_P(Kinds, WaitResults,
                         ::testing::Combine(::testing::ValuesIn(kKinds),
                                            ::testing::Values(Threads::with_others)),
                         name_of);

// Wakes come in the order of the waits, as many as were asked for, 0 of them nobody.
TEST_P(WaitResults, WakesTheFirstFirst) {
  scene([](Scene& set) {
    std::vector<std::unique_ptr<Waiter>> waiters;
    for (int i = 0; i < 4; ++i) {
      waiters.push_back(std::make_unique<Waiter>(set.at(0), kValue));
      ASSERT_TRUE(waiters.back()->queued());
    }
    EXPECT_EQ(fl_wake(set.at(0), 0), 0);
    EXPECT_EQ(fl_wake(set.at(4), 1), 0) << "the next word";
    EXPECT_EQ(fl_wake(set.at(kPage), 1), 0) << "the next page";
    EXPECT_EQ(fl_wake(set.at(0), 1), 1);
    EXPECT_EQ(waiters[0]->result(), 0);
    EXPECT_FALSE(waiters[1]->ended());
    EXPECT_EQ(fl_wake(set.at(0), 2), 2);
    EXPECT_EQ(waiters[1]->result(), 0);
    EXPECT_EQ(waiters[2]->result(), 0);
    EXPECT_FALSE(waiters[3]->ended());
    EXPECT_EQ(fl_wake(set.at(0), INT32_MAX), 1);
    EXPECT_EQ(waiters[3]->result(), 0);
    EXPECT_EQ(fl_wake(set.at(0), 1), 0);
  });
}

// Only who has a bit in common is woken.
TEST_P(WaitResults, BitsetsTellWhoIsWoken) {
  scene([](Scene& set) {
    Waiter first(set.at(0), kValue, 0, 0b0011);
    ASSERT_TRUE(first.queued());
    Waiter second(set.at(0), kValue, 0, 0b1100);
    ASSERT_TRUE(second.queued());
    EXPECT_EQ(fl_wake_bitset(set.at(0), 8, 0b10000), 0);
    EXPECT_EQ(fl_wake_bitset(set.at(0), 8, 0b0100), 1);
    EXPECT_EQ(second.result(), 0);
    EXPECT_FALSE(first.ended());
    EXPECT_EQ(fl_wake(set.at(0), 8), 1);
    EXPECT_EQ(first.result(), 0);
  });
}

// Bytes of one word are words of their own: a wake at one is not swallowed by who waits for
// another.
TEST_P(WaitResults, BytesOfAWordAreWordsOfTheirOwn) {
  scene([](Scene& set) {
    std::vector<std::unique_ptr<Waiter>> waiters;
    for (unsigned byte = 0; byte < 4; ++byte) {
      waiters.push_back(std::make_unique<Waiter>(set.at(byte), byte + 1, FL_WAIT_U8));
      ASSERT_TRUE(waiters.back()->queued());
    }
    for (const unsigned byte : {2U, 1U, 3U, 0U}) {
      EXPECT_EQ(fl_wake(set.at(byte), 1), 1) << byte;
      EXPECT_EQ(waiters[byte]->result(), 0) << byte;
    }
  });
}

// Requeueing wakes some, lets others wait elsewhere, and counts both.
TEST_P(WaitResults, RequeueCountsWokenAndMoved) {
  scene([](Scene& set) {
    const auto run = [&](const std::function<int(int, int)>& requeue) {
      std::vector<std::unique_ptr<Waiter>> waiters;
      for (int i = 0; i < 4; ++i) {
        waiters.push_back(std::make_unique<Waiter>(set.at(0), kValue));
        ASSERT_TRUE(waiters.back()->queued());
      }
      EXPECT_EQ(requeue(1, 2), 3);
      EXPECT_EQ(waiters[0]->result(), 0);
      EXPECT_EQ(requeue(0, 0), 0);
      EXPECT_FALSE(waiters[1]->ended());
      EXPECT_EQ(fl_wake(set.at(kPage), 8), 2);
      EXPECT_EQ(waiters[1]->result(), 0);
      EXPECT_EQ(waiters[2]->result(), 0);
      EXPECT_FALSE(waiters[3]->ended());
      EXPECT_EQ(fl_wake(set.at(0), 8), 1);
      EXPECT_EQ(waiters[3]->result(), 0);
    };
    run([&](int wake, int move) { return fl_requeue(set.at(0), wake, move, set.at(kPage)); });
    run([&](int wake, int move) {
      EXPECT_EQ(fl_cmp_requeue(set.at(0), kValue + 1, wake, move, set.at(kPage)), -EAGAIN);
      return fl_cmp_requeue(set.at(0), kValue, wake, move, set.at(kPage));
    });
  });
}

// fl_wake_op wakes at its word always, at its target where that compared, and nobody for a count of
// 0.
TEST_P(WaitResults, WakeOpWakesAtBothWords) {
  if (!kind().writable() || kind().clean()) return;
  scene([](Scene& set) {
    auto* const target = reinterpret_cast<std::uint32_t*>(set.memory.data() + kPage + 64);
    const std::uint32_t add_if_0 = FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_EQ, 0);
    std::atomic_ref(*target).store(0);
    Waiter at_word(set.at(0), kValue);
    Waiter at_target(target, 0);
    ASSERT_TRUE(at_word.queued() && at_target.queued());
    EXPECT_EQ(fl_wake_op(set.at(0), 0, target, 0, add_if_0), 0) << "a count of 0";
    EXPECT_FALSE(at_word.ended() || at_target.ended());
    EXPECT_EQ(fl_wake_op(set.at(0), 8, target, 8, add_if_0), 1) << "it was 1 before";
    EXPECT_EQ(at_word.result(), 0);
    EXPECT_FALSE(at_target.ended());
    std::atomic_ref(*target).store(0);
    Waiter again(set.at(0), kValue);
    ASSERT_TRUE(again.queued());
    EXPECT_EQ(fl_wake_op(set.at(0), 8, target, 8, add_if_0), 2);
    EXPECT_EQ(again.result(), 0);
    EXPECT_EQ(at_target.result(), 0);
  });
}

// Memory that goes ends the waits inside: each way to wait, and only those inside.
TEST_P(WaitResults, UnmappingEndsEveryWayToWait) {
  scene([](Scene& set) {
    Waiter plain(set.at(0), kValue);
    Waiter some_bits(set.at(0), kValue, 0, 4);
    Waiter byte(set.at(1), 2, FL_WAIT_U8);
    Waiter wide(set.at(8), 0, FL_WAIT_U64);
    Waiter either({{set.at(kPage), kValue, 0, 0}, {set.at(16), 0, 0, 0}});
    Waiter stays(set.at(kPage), kValue);
    for (Waiter* waiter : {&plain, &some_bits, &byte, &wide, &either, &stays}) {
      ASSERT_TRUE(waiter->queued());
    }
    EXPECT_EQ(fl_unmap(set.client, set.memory.data(), kPage), 0);
    for (Waiter* waiter : {&plain, &some_bits, &byte, &wide, &either}) {
      EXPECT_EQ(waiter->result(), -EFAULT);
    }
    EXPECT_EQ(fl_wake(set.at(kPage), 8), 1);
    EXPECT_EQ(stays.result(), 0);
    EXPECT_EQ(fl_wait(set.at(0), kValue, nullptr, 0), -EFAULT);
    EXPECT_EQ(fl_wake(set.at(0), 1), -EFAULT);
  });
}

// A discarded private page ends the waits for its words; a clean one's go on, and a shared one's.
TEST_P(WaitResults, DiscardEndsWaitsOfPrivatePagesAlone) {
  scene([](Scene& set) {
    Waiter plain(set.at(0), kValue);
    Waiter some_bits(set.at(0), kValue, 0, 4);
    Waiter either({{set.at(2 * kPage), kValue, 0, 0}, {set.at(4), kValue, 0, 0}});
    Waiter stays(set.at(kPage), kValue);
    for (Waiter* waiter : {&plain, &some_bits, &either, &stays}) ASSERT_TRUE(waiter->queued());
    EXPECT_EQ(fl_discard(set.client, set.memory.data(), kPage, FL_DISCARD_COPIES), 0);
    if (kind().broken) {
      for (Waiter* waiter : {&plain, &some_bits, &either}) EXPECT_EQ(waiter->result(), -ECANCELED);
    } else {
      EXPECT_EQ(fl_wake(set.at(0), 8), 2);
      EXPECT_EQ(fl_wake(set.at(4), 8), 1);
      EXPECT_EQ(plain.result(), 0);
      EXPECT_EQ(some_bits.result(), 0);
      EXPECT_EQ(either.result(), 1);
    }
    EXPECT_FALSE(stays.ended());
    EXPECT_EQ(fl_wake(set.at(kPage), 8), 1);
    EXPECT_EQ(stays.result(), 0);
  });
}

// fl_waitv says which of its words was woken, and waits for the others no more.
TEST_P(WaitResults, AnyOfSeveralSaysWhich) {
  scene([](Scene& set) {
    for (const std::size_t which : {std::size_t{0}, std::size_t{1}, std::size_t{2}}) {
      const std::array offsets{std::size_t{0}, kPage + 4, 2 * kPage};
      Waiter waiter({{set.at(offsets[0]), kValue, 0, 0},
                     {set.at(offsets[1]), kValue, 0, 0},
                     {set.at(offsets[2]), 1, FL_WAIT_U8, 0}});
      ASSERT_TRUE(waiter.queued());
      EXPECT_EQ(fl_wake(set.at(offsets.at(which)), 1), 1);
      EXPECT_EQ(waiter.result(), static_cast<int>(which));
      for (const std::size_t offset : offsets) {
        EXPECT_TRUE(eventually([&] { return fl_wake(set.at(offset), 1) == 0; }));
      }
    }
  });
}

// As many words as there may be.
TEST_P(WaitResults, WaitsForAsManyWordsAsThereMayBe) {
  scene([](Scene& set) {
    std::vector<fl_waiter> words;
    for (std::size_t i = 0; i < FL_WAITV_MAX; ++i) words.push_back({set.at(64 + 8 * i), 0, 0, 0});
    for (const std::size_t which : {std::size_t{0}, std::size_t{77}, words.size() - 1}) {
      Waiter waiter(words);
      ASSERT_TRUE(waiter.queued());
      EXPECT_EQ(fl_wake(words[which].address, 1), 1);
      EXPECT_EQ(waiter.result(), static_cast<int>(which));
    }
  });
}

}  // namespace
}  // namespace faultline::testing
