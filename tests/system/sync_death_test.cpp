// faultline/sync.hpp when processes die: at each step of a lock, an unlock, a wait and a
// notification, and at random moments. Whoever lives goes on, and learns of it where it matters.
#include <signal.h>
#include <unistd.h>

#include <array>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "tests/system/sync_stage.hpp"
#include "tests/unit/seed.hpp"

namespace faultline::testing {
namespace {

// What happens between the stage where a process stops and its death.
enum class Meanwhile : std::uint8_t { nothing, a_third_locks };

class SyncDeath : public SyncTest {
 protected:
  void SetUp() override {
    SyncTest::SetUp();
    mutex_ = &share<Mutex>();
  }

  // Waits for the lock and tells by its exit code how it was got; 2 if it is inconsistent
  // otherwise than lock() said.
  Child locker() {
    return Child([this] {
      const bool died = mutex_->lock() == lock_result::owner_died;
      if (mutex_->inconsistent() != died) return 2;
      if (died) mutex_->make_consistent();
      mutex_->unlock();
      return died ? kFromTheDead : kAsUsual;
    });
  }
  static constexpr int kAsUsual = 10;
  static constexpr int kFromTheDead = 11;

  // A process dies at the step of a lock and an unlock that nobody contends.
  void die_at_stage(stage stage) {
    EXPECT_TRUE(in_child([&] {
                  die_at(stage);
                  mutex_->lock();
                  mutex_->unlock();
                  return 0;
                }).killed_by(SIGKILL));
  }
  void expect_next(int how) {
    Child next = locker();
    EXPECT_TRUE(end_of(next).exited(how));
    Child last = locker();
    EXPECT_TRUE(end_of(last).exited(kAsUsual));
  }

  // A process stops at the step, where it owes a wake to others who sleep, and is killed there.
  // They get the lock one after the other, also where a third, who knows of no waiters, owned it
  // when the death was noticed.
  void kill_who_owes(Child& who, const Gate& stopped, Meanwhile meanwhile) {
    ASSERT_TRUE(stopped.pass());
    if (meanwhile == Meanwhile::a_third_locks) {
      ASSERT_EQ(mutex_->lock(), lock_result::locked);
      ASSERT_FALSE(has_waiters(*mutex_));
    }
    who.kill(SIGKILL);
    who.wait();
    if (meanwhile == Meanwhile::a_third_locks) {
      EXPECT_TRUE(eventually([this] { return has_waiters(*mutex_); }, kPatience))
          << "who sleeps was never woken to say so";
      mutex_->unlock();
    }
  }

  Mutex* mutex_ = nullptr;
};

TEST_F(SyncDeath, BeforeTheLockIsTakenLeavesItFree) {
  die_at_stage(stage::listed);
  expect_next(kAsUsual);
}

TEST_F(SyncDeath, RightAfterTheLockIsTakenHandsItOver) {
  die_at_stage(stage::taken);
  expect_next(kFromTheDead);
}

TEST_F(SyncDeath, RightAfterTheUnlockLeavesItFree) {
  die_at_stage(stage::notified);
  expect_next(kAsUsual);
}

// The one who sleeps for it gets the lock of a process that is killed with it.
TEST_F(SyncDeath, WhileHoldingHandsTheLockToWhoWaits) {
  Gate held;
  Child owner([&] {
    mutex_->lock();
    held.open();
    return ::pause();
  });
  ASSERT_TRUE(held.pass());
  Child waiter = locker();
  ASSERT_TRUE(eventually_sleeps(waiter));
  owner.kill(SIGKILL);
  EXPECT_TRUE(end_of(waiter).exited(kFromTheDead));
  expect_next(kAsUsual);
}

// One death after the other: each heir of an inconsistent lock learns of it.
TEST_F(SyncDeath, AnHeirMayDieToo) {
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(in_child([&] {
                  const bool died = mutex_->lock() == lock_result::owner_died;
                  if (died != (i > 0)) return 1;
                  return ::raise(SIGKILL);
                }).killed_by(SIGKILL));
  }
  expect_next(kFromTheDead);
}

class SyncDeathOwing : public SyncDeath, public ::testing::WithParamInterface<Meanwhile> {};
INSTANTIATE_TEST_SUITE_P(Meanwhile, SyncDeathOwing,
                         ::testing::Values(Meanwhile::nothing, Meanwhile::a_third_locks),
                         [](const auto& tested) {
                           return tested.param == Meanwhile::nothing ? "Nothing" : "AThirdLocks";
                         });

// An unlocker dies between giving up the lock and waking.
TEST_P(SyncDeathOwing, BetweenUnlockAndWakeStillWakes) {
  Gate held;
  Gate unlock;
  Gate stopped;
  const Gate never;
  Child owner([&] {
    mutex_->lock();
    held.open();
    (void)unlock.pass();
    stop_at(stage::released, stopped, never);
    mutex_->unlock();
    return 0;
  });
  ASSERT_TRUE(held.pass());
  Child first = locker();
  ASSERT_TRUE(eventually_sleeps(first));
  Child second = locker();
  ASSERT_TRUE(eventually_sleeps(second));
  unlock.open();
  kill_who_owes(owner, stopped, GetParam());
  EXPECT_TRUE(end_of(first).exited(kAsUsual));
  EXPECT_TRUE(end_of(second).exited(kAsUsual));
}

// A waiter dies with the wake that it was given.
TEST_P(SyncDeathOwing, WokenAndDyingPassesTheWakeOn) {
  Gate stopped;
  const Gate never;
  mutex_->lock();
  Child first([&] {
    stop_at(stage::awake, stopped, never);
    mutex_->lock();
    return 0;
  });
  ASSERT_TRUE(eventually_sleeps(first));
  Child second = locker();
  ASSERT_TRUE(eventually_sleeps(second));
  mutex_->unlock();
  kill_who_owes(first, stopped, GetParam());
  EXPECT_TRUE(end_of(second).exited(kAsUsual));
}

// A waiter that dies before it sleeps, or asleep, leaves nothing behind.
TEST_F(SyncDeath, OfAWaiterTakesNothingFromOthers) {
  mutex_->lock();
  EXPECT_TRUE(in_child([&] {
                die_at(stage::sleeping);
                mutex_->lock();
                return 0;
              }).killed_by(SIGKILL));
  Child asleep = locker();
  ASSERT_TRUE(eventually_sleeps(asleep));
  Child other = locker();
  ASSERT_TRUE(eventually_sleeps(other));
  asleep.kill(SIGKILL);
  asleep.wait();
  mutex_->unlock();
  EXPECT_TRUE(end_of(other).exited(kAsUsual));
}

// A thread that ends with a lock is as dead as a process, for its own process and for others.
TEST_F(SyncDeath, OfAThreadHandsItsLocksOver) {
  auto& other = share<Mutex>();
  std::thread([&] {
    mutex_->lock();
    other.lock();
  }).join();
  EXPECT_EQ(other.lock(), lock_result::owner_died);
  EXPECT_TRUE(other.inconsistent());
  other.make_consistent();
  EXPECT_FALSE(other.inconsistent());
  other.unlock();
  expect_next(kFromTheDead);
}

// What executes another program has nothing any more, no locks either.
TEST_F(SyncDeath, ExecutingAnotherProgramHandsItsLocksOver) {
  Child executes([&] {
    mutex_->lock();
    return ::execlp("sleep", "sleep", "60", nullptr);
  });
  ASSERT_TRUE(
      eventually([&] { return (word_of(*mutex_) & FL_ROBUST_OWNER_DIED) != 0; }, kPatience));
  expect_next(kFromTheDead);
}

// The wrappers drop what lock() says; the mutex itself still tells.
TEST_F(SyncDeath, IsToldToWhoUsesAWrapper) {
  die_at_stage(stage::taken);
  {
    const std::unique_lock lock(*mutex_);
    EXPECT_TRUE(mutex_->inconsistent());
    mutex_->make_consistent();
  }
  const std::scoped_lock lock(*mutex_);
  EXPECT_FALSE(mutex_->inconsistent());
}

// Looking and waiting for a while find the dead's lock as lock() does.
TEST_F(SyncDeath, IsFoundByThoseWhoTry) {
  die_at_stage(stage::taken);
  EXPECT_TRUE(eventually([&] { return mutex_->try_lock(); }, kPatience));
  EXPECT_TRUE(mutex_->inconsistent());
  mutex_->make_consistent();
  mutex_->unlock();
  die_at_stage(stage::taken);
  EXPECT_TRUE(mutex_->try_lock_for(kPatience));
  EXPECT_TRUE(mutex_->inconsistent());
  mutex_->make_consistent();
  mutex_->unlock();
}

int errno_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const error& error) {
    return error.code().value();
  }
  return 0;
}

// Given back inconsistent, it is nobody's any more: who waits, tries or comes later is told.
TEST_F(SyncDeath, UnrepairedMakesTheLockUnrecoverable) {
  die_at_stage(stage::taken);
  ASSERT_EQ(mutex_->lock(), lock_result::owner_died);
  std::vector<Child> waiters;
  for (int i = 0; i < 3; ++i) {
    waiters.emplace_back([&] { return errno_of([&] { mutex_->lock(); }); });
    ASSERT_TRUE(eventually_sleeps(waiters.back()));
  }
  mutex_->unlock();
  for (Child& waiter : waiters) EXPECT_TRUE(end_of(waiter).exited(ENOTRECOVERABLE));
  EXPECT_EQ(errno_of([&] { mutex_->lock(); }), ENOTRECOVERABLE);
  EXPECT_EQ(errno_of([&] { (void)mutex_->try_lock(); }), ENOTRECOVERABLE);
  EXPECT_EQ(errno_of([&] { (void)mutex_->try_lock_for(kPatience); }), ENOTRECOVERABLE);
  EXPECT_EQ(fl_robust_self.list->count, 0U);
}

// So they are where whoever made it so dies before having told anybody.
TEST_F(SyncDeath, BetweenGivingUpTheLockForEverAndWakingTellsAll) {
  die_at_stage(stage::taken);
  Gate held;
  Gate unlock;
  Child owner([&] {
    mutex_->lock();
    held.open();
    (void)unlock.pass();
    die_at(stage::released);
    mutex_->unlock();
    return 0;
  });
  ASSERT_TRUE(held.pass());
  std::vector<Child> waiters;
  for (int i = 0; i < 3; ++i) {
    waiters.emplace_back([&] { return errno_of([&] { mutex_->lock(); }); });
    ASSERT_TRUE(eventually_sleeps(waiters.back()));
  }
  unlock.open();
  EXPECT_TRUE(end_of(owner).killed_by(SIGKILL));
  for (Child& waiter : waiters) EXPECT_TRUE(end_of(waiter).exited(ENOTRECOVERABLE));
}

// --- the others

// A releaser that dies between adding and waking: those who sleep get all that was added.
TEST_F(SyncDeath, BetweenReleaseAndWakeLeavesNobodyAsleep) {
  auto& semaphore = share<Semaphore>();
  std::vector<Child> waiters;
  for (int i = 0; i < 3; ++i) {
    waiters.emplace_back([&] {
      semaphore.acquire();
      return 0;
    });
    ASSERT_TRUE(eventually_sleeps(waiters.back()));
  }
  EXPECT_TRUE(in_child([&] {
                die_at(stage::released);
                semaphore.release(3);
                return 0;
              }).killed_by(SIGKILL));
  for (Child& waiter : waiters) EXPECT_TRUE(end_of(waiter).exited(0));
}

// Two processes sleep; the one that is woken for a unit dies before it has it, and the other gets
// it, though nobody releases any more.
TEST_F(SyncDeath, WokenForAUnitAndDyingPassesItOn) {
  auto& semaphore = share<Semaphore>();
  Child first([&] {
    die_at(stage::awake);
    semaphore.acquire();
    return 0;
  });
  ASSERT_TRUE(eventually_sleeps(first));
  Child second([&] {
    semaphore.acquire();
    return 0;
  });
  ASSERT_TRUE(eventually_sleeps(second));
  semaphore.release();
  EXPECT_TRUE(end_of(first).killed_by(SIGKILL));
  EXPECT_TRUE(end_of(second).exited(0));
}

// Who is notified and dies of it leaves the notification to the next; so does who notifies and
// dies before waking.
TEST_F(SyncDeath, NotifiedOrNotifyingAndDyingReachesAnother) {
  for (const bool waiter_dies : {true, false}) {
    auto& event = share<EventCount>();
    std::vector<Child> waiters;
    for (int i = 0; i < 2; ++i) {
      waiters.emplace_back([&] {
        if (waiter_dies && i == 0) die_at(stage::awake);
        event.wait(event.prepare_wait());
        return 0;
      });
      ASSERT_TRUE(eventually_sleeps(waiters.back()));
    }
    if (waiter_dies) {
      event.notify_one();
      EXPECT_TRUE(end_of(waiters[0]).killed_by(SIGKILL));
    } else {
      EXPECT_TRUE(in_child([&] {
                    die_at(stage::released);
                    event.notify_one();
                    return 0;
                  }).killed_by(SIGKILL));
      EXPECT_TRUE(end_of(waiters[0]).exited(0));
      event.notify_one();  // and it goes on working
    }
    EXPECT_TRUE(end_of(waiters[1]).exited(0));
  }
}

// A waiter that was notified and dies as it waits for the mutex leaves what there is to another.
TEST_F(SyncDeath, NotifiedAndDyingBeforeItHasTheMutexReachesAnother) {
  struct Shared {
    Mutex lock;
    ConditionVariable filled;
    int items;
  };
  auto& shared = share<Shared>();
  std::vector<Child> waiters;
  for (int i = 0; i < 2; ++i) {
    waiters.emplace_back([&] {
      std::unique_lock lock(shared.lock);
      shared.filled.wait(lock, [&] { return shared.items > 0; });
      --shared.items;
      return 0;
    });
    ASSERT_TRUE(eventually_sleeps(waiters.back()));
  }
  {
    const std::lock_guard lock(shared.lock);
    shared.items = 1;
    shared.filled.notify_one();
    ASSERT_TRUE(eventually([&] { return has_waiters(shared.lock); }, kPatience));
    waiters[0].kill(SIGKILL);
    EXPECT_TRUE(end_of(waiters[0]).killed_by(SIGKILL));
  }
  EXPECT_TRUE(end_of(waiters[1]).exited(0));
  EXPECT_EQ(shared.items, 0);
}

// --- at random moments

// Processes count two counters up, under the lock, and are killed at any moment. At each hand-over
// the counters differ by at most what one had done; nothing else is ever seen; and all who live go
// on. FAULTLINE_KILLS: how many, by default a few hundred.
TEST_F(SyncDeath, AtRandomMomentsIsRepairedByTheLiving) {
  struct Shared {
    mutex lock;
    volatile std::uint64_t first;
    volatile std::uint64_t second;
    std::atomic<std::uint64_t> repairs;
    std::atomic<std::uint64_t> wrong;
  };
  auto& shared = share<Shared>();
  const char* given = std::getenv("FAULTLINE_KILLS");
  const int kills = given != nullptr ? std::stoi(given) : 300;
  const std::uint64_t seed = announce_seed();
  std::mt19937_64 dice(seed);
  const auto count_up = [&] {
    if (shared.lock.lock() == lock_result::owner_died) {
      if (shared.first != shared.second && shared.first != shared.second + 1) ++shared.wrong;
      shared.second = shared.first;
      ++shared.repairs;
      shared.lock.make_consistent();
    } else if (shared.first != shared.second) {
      ++shared.wrong;
    }
    shared.first = shared.first + 1;
    for (int i = 0; i < 20; ++i) sync::pause();
    shared.second = shared.second + 1;
    shared.lock.unlock();
  };
  const auto worker = [&] {
    return Child([&] {
      for (;;) count_up();
      return 0;
    });
  };
  constexpr std::size_t kWorkers = 4;
  std::array<std::optional<Child>, kWorkers> workers;
  for (auto& one : workers) one.emplace(worker());
  for (int killed = 0; killed < kills; ++killed) {
    const std::uint64_t before = shared.first;
    ASSERT_TRUE(eventually([&] { return shared.first != before; }, kPatience))
        << "nobody gets on after " << killed << " deaths";
    for (std::uint64_t wait = dice() % 2000; wait > 0; --wait) sync::pause();
    auto& who = workers.at(dice() % kWorkers);
    who.reset();
    who.emplace(worker());
  }
  for (auto& one : workers) one.reset();
  count_up();
  EXPECT_EQ(shared.wrong, 0U);
  EXPECT_EQ(shared.first, shared.second);
  EXPECT_GT(shared.repairs, 0U) << "nobody died with the lock";
  std::cout << kills << " killed, " << shared.repairs << " of them with the lock, " << shared.first
            << " times locked" << std::endl;
}

}  // namespace
}  // namespace faultline::testing
