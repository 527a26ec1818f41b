// faultline/sync.hpp between processes: exclusion, time-outs, and that nobody who waits is
// forgotten.
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "tests/system/sync_stage.hpp"
#include "tests/unit/seed.hpp"

namespace faultline::testing {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int kProcesses = 4;

// Children that all run body(i) end with 0.
void run_in_each(int processes, const std::function<int(int)>& body) {
  std::vector<Child> children;
  for (int i = 0; i < processes; ++i) {
    children.emplace_back([&body, i] { return body(i); });
  }
  for (Child& child : children) EXPECT_TRUE(end_of(child).exited(0));
}

// Binds this process to the n-th of its processors, where it has as many.
void run_on_processor(int n) {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  if (::sched_getaffinity(0, sizeof(mine), &mine) != 0 || CPU_COUNT(&mine) <= n) return;
  for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mine) || n-- != 0) continue;
    CPU_ZERO(&mine);
    CPU_SET(cpu, &mine);
    ::sched_setaffinity(0, sizeof(mine), &mine);
    return;
  }
}

// --- the mutex

using SyncMutex = SyncTest;

// What is not atomic is counted right by four processes, each through a mapping of its own.
TEST_F(SyncMutex, LetsOneProcessInAtATime) {
  struct Shared {
    mutex lock;
    volatile std::uint64_t counter;
    volatile int inside;
  };
  constexpr std::uint64_t kTimes = 50'000;
  const Object object = create(client_, kPage);
  const auto here = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  run_in_each(kProcesses, [&](int) {
    auto& shared =
        *reinterpret_cast<Shared*>(map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE).data());
    for (std::uint64_t i = 0; i < kTimes; ++i) {
      const std::lock_guard lock(shared.lock);
      if (shared.inside != 0) return 1;
      shared.inside = 1;
      shared.counter = shared.counter + 1;
      shared.inside = 0;
    }
    return 0;
  });
  EXPECT_EQ(reinterpret_cast<Shared*>(here.data())->counter, kProcesses * kTimes);
}

struct Quiet {
  Mutex mutex;
  Semaphore semaphore;
  EventCount event;
  ConditionVariable condition;
};

void use_uncontended(Quiet& quiet) {
  for (int i = 0; i < 1000; ++i) {
    quiet.mutex.lock();
    quiet.condition.notify_all();
    quiet.mutex.unlock();
    if (quiet.mutex.try_lock_for(1h)) quiet.mutex.unlock();
    quiet.semaphore.release(2);
    quiet.semaphore.acquire();
    (void)quiet.semaphore.try_acquire_for(1h);
    quiet.event.notify_one();
    (void)quiet.event.prepare_wait();
    quiet.event.cancel_wait();
    quiet.event.notify_all();
  }
}

// Where nobody waits there is nothing to ask of the library.
TEST_F(SyncMutex, UncontendedNeitherWaitsNorWakes) {
  auto& quiet = share<Quiet>();
  use_uncontended(quiet);
  EXPECT_EQ(Staged::waits, 0);
  EXPECT_EQ(Staged::wakes, 0);
}

#if !defined(__SANITIZE_THREAD__) && \
    !defined(__SANITIZE_ADDRESS__)  // which make calls of their own
// Nor of the kernel: a process that dies of any system call but its exit goes on.
TEST_F(SyncMutex, UncontendedMakesNoSystemCall) {
  auto& quiet = share<Quiet>();
  const auto behind_bars = [&](const std::function<void()>& body) {
    return in_child([&] {
      use_uncontended(quiet);  // the thread's list is made, the page is there
      ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
      body();
      return static_cast<int>(::syscall(SYS_exit, 0));  // exit_group(2) is one too many
    });
  };
  EXPECT_TRUE(behind_bars([&] { use_uncontended(quiet); }).exited(0));
  EXPECT_TRUE(behind_bars([&] {
                (void)quiet.event.prepare_wait();
                quiet.event.notify_one();
              }).killed_by(SIGKILL))
      << "a wake is a system call, and would have been noticed";
}
#endif

// Each wait for a lock that another holds ends when its time is over, not before, by either clock;
// a time that never comes waits for the lock.
TEST_F(SyncMutex, WaitsAsLongAsItIsTold) {
  auto& mutex = share<Mutex>();
  Gate held;
  Gate release;
  Child owner([&] {
    mutex.lock();
    held.open();
    (void)release.pass();
    mutex.unlock();
    return 0;
  });
  ASSERT_TRUE(held.pass());
  EXPECT_FALSE(mutex.try_lock());
  EXPECT_FALSE(mutex.try_lock_for(-1s));
  EXPECT_FALSE(mutex.try_lock_until(std::chrono::system_clock::time_point{}));
  EXPECT_FALSE(mutex.try_lock_until(Clock::time_point::min()));
  const auto start = Clock::now();
  EXPECT_FALSE(mutex.try_lock_for(20ms));
  EXPECT_GE(Clock::now() - start, 20ms);
  const auto at = std::chrono::system_clock::now() + 20ms;
  EXPECT_FALSE(mutex.try_lock_until(at));
  EXPECT_GE(std::chrono::system_clock::now(), at);
  std::thread later([&] {
    EXPECT_TRUE(eventually([&] { return Staged::waits > 4; }));
    release.open();
  });
  Staged::waits = 4;
  EXPECT_TRUE(mutex.try_lock_for(std::chrono::hours::max()));
  later.join();
  mutex.unlock();
  EXPECT_TRUE(mutex.try_lock_until(Clock::time_point::min())) << "it is free";
  mutex.unlock();
  EXPECT_TRUE(mutex.try_lock_until(std::chrono::system_clock::time_point::max()));
  mutex.unlock();
  EXPECT_TRUE(end_of(owner).exited(0));
}

// std::scoped_lock takes two in either order without a deadlock, std::unique_lock gives them back.
TEST_F(SyncMutex, WorksWithTheWrappersOfTheStandardLibrary) {
  struct Shared {
    mutex first;
    mutex second;
    volatile int counter;
  };
  auto& shared = share<Shared>();
  constexpr int kTimes = 5'000;
  run_in_each(kProcesses, [&](int i) {
    auto& one = i % 2 == 0 ? shared.first : shared.second;
    auto& other = i % 2 == 0 ? shared.second : shared.first;
    for (int times = 0; times < kTimes; ++times) {
      const std::scoped_lock both(one, other);
      shared.counter = shared.counter + 1;
    }
    return 0;
  });
  EXPECT_EQ(shared.counter, kProcesses * kTimes);
  std::unique_lock lock(shared.first, 10ms);
  EXPECT_TRUE(lock.owns_lock());
  const std::unique_lock again(shared.second, std::try_to_lock);
  EXPECT_TRUE(again.owns_lock());
  lock.unlock();
  EXPECT_TRUE(lock.try_lock_until(Clock::now()));
}

void expect_error(int code, const std::function<void()>& body) {
  try {
    body();
    ADD_FAILURE() << "not refused, expected: " << std::generic_category().message(code);
  } catch (const error& error) {
    EXPECT_EQ(error.code().value(), code) << error.what();
    EXPECT_NE(std::string(error.what()), "");
  }
}

// What a mutex refuses is said by an errno, and leaves it as it was.
TEST_F(SyncMutex, RefusesWhatItsOwnerOrNobodyMayDo) {
  auto& mutex = share<Mutex>();
  expect_error(EPERM, [&] { mutex.unlock(); });
  mutex.lock();
  expect_error(EDEADLK, [&] { mutex.lock(); });
  expect_error(EINVAL, [&] { mutex.make_consistent(); });
  std::thread([&] {
    expect_error(EPERM, [&] { mutex.unlock(); });
    EXPECT_FALSE(mutex.try_lock());
  }).join();
  EXPECT_TRUE(in_child([&] {
                expect_error(EPERM, [&] { mutex.unlock(); });  // its parent's
                EXPECT_FALSE(mutex.try_lock());
                return 0;
              }).exited(0));
  mutex.unlock();
  EXPECT_TRUE(mutex.try_lock());
  mutex.unlock();
}

// A thread's list is of FL_ROBUST_MAX locks. They may be given back in any order.
TEST_F(SyncMutex, OneThreadHoldsAsManyAsItsListHasRoomFor) {
  auto& mutexes = share<std::array<Mutex, FL_ROBUST_MAX + 1>>();
  for (int round = 0; round < 3; ++round) {
    for (std::size_t i = 0; i < FL_ROBUST_MAX; ++i) mutexes.at(i).lock();
    expect_error(ENOLCK, [&] { mutexes.back().lock(); });
    expect_error(ENOLCK, [&] { (void)mutexes.back().try_lock(); });
    for (std::size_t i = 0; i < FL_ROBUST_MAX; ++i) mutexes.at(i * 7 % FL_ROBUST_MAX).unlock();
    EXPECT_EQ(fl_robust_self.list->count, 0U);
  }
  EXPECT_TRUE(mutexes.back().try_lock());
  mutexes.back().unlock();
}

// --- nobody who waits is forgotten: a wake that is lost ends in a process that hangs

class Dice {
 public:
  Dice(std::uint64_t seed, int process) : engine_(seed * 64 + static_cast<unsigned>(process)) {}
  unsigned below(unsigned end) { return static_cast<unsigned>(engine_() % end); }
  // A little time goes by, or none.
  void dawdle() {
    if (below(4) != 0) return;
    for (unsigned i = below(2000); i > 0; --i) sync::pause();
    if (below(16) == 0) std::this_thread::yield();
  }

 private:
  std::mt19937_64 engine_;
};

// In objects whose wakes always go to the kernel, and in those where they do if somebody waits.
class SyncWakes : public SyncTest, public ::testing::WithParamInterface<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Object, SyncWakes, ::testing::Values(0, FL_COUNTED_WAITS),
                         [](const auto& tested) {
                           return tested.param == 0 ? "Plain" : "Counted";
                         });

// Four processes contend, sleep and give up at random; whoever sleeps is woken in the end.
TEST_P(SyncWakes, WhoeverSleepsForAMutexWhileOthersGiveUp) {
  struct Shared {
    Mutex lock;
    volatile std::uint64_t counter;
    std::atomic<std::uint64_t> locked;
    std::atomic<int> waits;
  };
  auto& shared = share<Shared>(GetParam());
  const std::uint64_t seed = announce_seed();
  run_in_each(kProcesses, [&](int process) {
    Dice dice(seed, process);
    for (int i = 0; i < 5'000; ++i) {
      if (dice.below(3) == 0) {
        if (!shared.lock.try_lock_for(std::chrono::microseconds(dice.below(100)))) continue;
      } else {
        shared.lock.lock();
      }
      shared.counter = shared.counter + 1;
      ++shared.locked;
      dice.dawdle();
      shared.lock.unlock();
      dice.dawdle();
    }
    shared.waits += Staged::waits;
    return 0;
  });
  EXPECT_GT(shared.waits, 0) << "they never met";
  EXPECT_EQ(shared.counter, shared.locked);
  EXPECT_EQ(word_of(shared.lock) & ~FL_ROBUST_WAITERS, 0U);
}

// Units go to and fro between those who make them and those who use them up, singly and several at
// once. As many are acquired as were released, by processes that wait, look or give up, and all
// wake.
TEST_P(SyncWakes, WhoeverSleepsForAUnit) {
  struct Shared {
    Semaphore units;
    Semaphore room;
    std::atomic<unsigned> acquired;
    std::atomic<int> waits;
  };
  auto& shared = share<Shared>(GetParam());
  const std::uint64_t seed = announce_seed();
  constexpr unsigned kEach = 10'000;
  constexpr unsigned kAtOnce = 3;
  shared.room.release(kProcesses * (kAtOnce - 1) + 1);  // less, and all may wait for the last
  run_in_each(2 * kProcesses, [&](int process) {
    Dice dice(seed, process);
    const bool makes = process % 2 == 0;
    Semaphore& from = makes ? shared.room : shared.units;
    Semaphore& to = makes ? shared.units : shared.room;
    for (unsigned left = kEach; left > 0;) {
      const unsigned units = makes ? std::min(left, 1 + dice.below(kAtOnce)) : 1;
      for (unsigned got = 0; got < units;) {
        if (dice.below(3) != 0) {
          from.acquire();
        } else if (!from.try_acquire_for(std::chrono::microseconds(dice.below(100)))) {
          continue;
        }
        ++got;
      }
      if (!makes) shared.acquired += units;
      to.release(units);
      left -= units;
      dice.dawdle();
    }
    shared.waits += Staged::waits;
    return 0;
  });
  EXPECT_GT(shared.waits, 0) << "they never met";
  EXPECT_EQ(shared.acquired, kProcesses * kEach);
  EXPECT_FALSE(shared.units.try_acquire());
}

using SyncSemaphore = SyncTest;

// Constructed with a count, it has that; more than it can count is refused and changes nothing.
TEST_F(SyncSemaphore, CountsToItsMaximumAndNotBeyond) {
  auto& semaphore = *new (&share<Semaphore>()) Semaphore(2);
  EXPECT_TRUE(semaphore.try_acquire());
  EXPECT_TRUE(semaphore.try_acquire_until(Clock::time_point::min()));
  EXPECT_FALSE(semaphore.try_acquire());
  const auto start = Clock::now();
  EXPECT_FALSE(semaphore.try_acquire_for(20ms));
  EXPECT_GE(Clock::now() - start, 20ms);
  EXPECT_FALSE(semaphore.try_acquire_until(std::chrono::system_clock::now()));
  semaphore.release(Semaphore::max());
  expect_error(EOVERFLOW, [&] { semaphore.release(); });
  expect_error(EOVERFLOW, [&] { semaphore.release(~0U); });
  semaphore.acquire();
  semaphore.release();
  expect_error(EOVERFLOW, [&] { semaphore.release(1); });
}

using SyncEventCount = SyncTest;

// Two processes pass a ball to and fro with nothing but an atomic and an event count a direction.
// What else each writes before it keeps the ball in its processor's store buffer for a while: a
// notifier that looked for waiters before its ball is seen would miss one.
TEST_F(SyncEventCount, NoNotificationPassesAWaiterBy) {
  struct alignas(64) Line {
    std::atomic<int> value;
  };
  struct Shared {
    std::array<EventCount, 2> event;
    Line ball;
    std::array<Line, 16> load;
  };
  auto& shared = share<Shared>();
  const std::uint64_t seed = announce_seed();
  constexpr int kPasses = 100'000;
  run_in_each(2, [&](int me) {
    run_on_processor(me);
    Dice dice(seed, me);
    EventCount& mine = shared.event.at(static_cast<std::size_t>(me));
    EventCount& others = shared.event.at(static_cast<std::size_t>(1 - me));
    const auto here = [&] { return shared.ball.value.load(std::memory_order_relaxed) % 2 == me; };
    for (int i = 0; i < kPasses; ++i) {
      while (!here()) {
        const auto key = mine.prepare_wait();
        if (here()) {
          mine.cancel_wait();
        } else {
          mine.wait(key);
        }
      }
      for (unsigned wait = dice.below(100); wait > 0; --wait) sync::pause();
      for (Line& line : shared.load) line.value.store(i, std::memory_order_relaxed);
      shared.ball.value.store(2 * i + me + 1, std::memory_order_relaxed);
      if (i % 2 == 0) {
        others.notify_one();
      } else {
        others.notify_all();
      }
    }
    return 0;
  });
  EXPECT_EQ(shared.ball.value, 2 * kPasses);
}

// One notification ends one wait, and all of them all; a wait ends with its time, too.
TEST_F(SyncEventCount, NotifiesAsManyAsItIsTold) {
  struct Shared {
    EventCount event;
    std::atomic<int> back;
  };
  auto& shared = share<Shared>();
  std::vector<Child> waiters;
  for (int i = 0; i < 3; ++i) {
    waiters.emplace_back([&] {
      shared.event.wait(shared.event.prepare_wait());
      ++shared.back;
      return 0;
    });
  }
  for (const Child& waiter : waiters) ASSERT_TRUE(eventually_sleeps(waiter));
  shared.event.notify_one();
  EXPECT_TRUE(eventually([&] { return shared.back == 1; }));
  EXPECT_FALSE(shared.event.wait_for(shared.event.prepare_wait(), 20ms));
  EXPECT_EQ(shared.back, 1);
  shared.event.notify_all();
  for (Child& waiter : waiters) EXPECT_TRUE(end_of(waiter).exited(0));
  EXPECT_EQ(Staged::wakes, 2);
  shared.event.notify_all();
  EXPECT_EQ(Staged::wakes, 2) << "nobody waits any more";
  const auto key = shared.event.prepare_wait();
  std::thread([&] { shared.event.notify_one(); }).join();
  EXPECT_TRUE(shared.event.wait_until(key, std::chrono::system_clock::now())) << "notified before";
}

using SyncConditionVariable = SyncTest;

// A small queue between processes: what is put in is taken out, once, and nobody sleeps for ever.
TEST_F(SyncConditionVariable, WakesTheReadersAndWritersOfAQueue) {
  struct Shared {
    Mutex lock;
    ConditionVariable filled;
    ConditionVariable emptied;
    int count;
    std::uint64_t put;
    std::uint64_t taken;
  };
  constexpr int kRoom = 3;
  constexpr int kEach = 5'000;
  auto& shared = share<Shared>();
  const std::uint64_t seed = announce_seed();
  run_in_each(2 * kProcesses, [&](int process) {
    Dice dice(seed, process);
    for (int i = 0; i < kEach; ++i) {
      std::unique_lock lock(shared.lock);
      if (process % 2 == 0) {
        shared.emptied.wait(lock, [&] { return shared.count < kRoom; });
        ++shared.count;
        shared.put += static_cast<std::uint64_t>(i);
        if (dice.below(2) == 0) lock.unlock();
        shared.filled.notify_one();
      } else {
        while (!shared.filled.wait_for(lock, std::chrono::milliseconds(1 + dice.below(1000)),
                                       [&] { return shared.count > 0; })) {
        }
        --shared.count;
        shared.taken += static_cast<std::uint64_t>(i);
        if (dice.below(2) == 0) lock.unlock();
        shared.emptied.notify_one();
      }
      dice.dawdle();
    }
    return 0;
  });
  EXPECT_EQ(shared.put, shared.taken);
  EXPECT_EQ(shared.count, 0);
}

// Rounds that all must have seen before the next begins: each notification reaches all who wait.
TEST_F(SyncConditionVariable, ReachesAllWhoWait) {
  struct Shared {
    Mutex lock;
    ConditionVariable turned;
    int arrived;
    int round;
  };
  auto& shared = share<Shared>();
  const std::uint64_t seed = announce_seed();
  constexpr int kRounds = 3'000;
  run_in_each(kProcesses, [&](int process) {
    Dice dice(seed, process);
    for (int round = 0; round < kRounds; ++round) {
      dice.dawdle();
      std::unique_lock lock(shared.lock);
      if (++shared.arrived == kProcesses) {
        shared.arrived = 0;
        ++shared.round;
        shared.turned.notify_all();
      } else {
        while (shared.round == round) shared.turned.wait(lock);
      }
      if (shared.round != round + 1) return 1;
    }
    return 0;
  });
  EXPECT_EQ(shared.round, kRounds);
}

// A notification that comes when the mutex is free already and the waiter does not sleep yet.
TEST_F(SyncConditionVariable, NotifiedBeforeItSleepsDoesNotSleep) {
  struct Shared {
    Mutex lock;
    ConditionVariable condition;
    bool holds;
  };
  auto& shared = share<Shared>();
  Gate unlocked;
  Gate go_on;
  Child waiter([&] {
    std::unique_lock lock(shared.lock);
    stop_at(stage::notified, unlocked, go_on);
    shared.condition.wait(lock, [&] { return shared.holds; });
    return 0;
  });
  ASSERT_TRUE(unlocked.pass());
  {
    const std::lock_guard lock(shared.lock);
    shared.holds = true;
  }
  shared.condition.notify_one();
  go_on.open();
  EXPECT_TRUE(end_of(waiter).exited(0));
}

// Its waits end with their time, by either clock, and own the lock again.
TEST_F(SyncConditionVariable, WaitsAsLongAsItIsTold) {
  struct Shared {
    Mutex lock;
    ConditionVariable condition;
  };
  auto& shared = share<Shared>();
  std::unique_lock lock(shared.lock);
  const auto start = Clock::now();
  EXPECT_EQ(shared.condition.wait_for(lock, 20ms), std::cv_status::timeout);
  EXPECT_GE(Clock::now() - start, 20ms);
  EXPECT_TRUE(lock.owns_lock());
  EXPECT_EQ(shared.condition.wait_until(lock, std::chrono::system_clock::now()),
            std::cv_status::timeout);
  EXPECT_FALSE(shared.condition.wait_until(lock, Clock::now() + 20ms, [] { return false; }));
  EXPECT_TRUE(shared.condition.wait_for(lock, std::chrono::hours::max(), [] { return true; }));
  lock.unlock();
  EXPECT_TRUE(shared.lock.try_lock()) << "and gave it back";
  shared.lock.unlock();
}

}  // namespace
}  // namespace faultline::testing
