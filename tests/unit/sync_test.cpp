// The words and lists of faultline/sync.hpp, without a daemon: a platform that answers as it is
// told.
#include "faultline/sync.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <vector>

namespace faultline {
namespace {

using namespace std::chrono_literals;
using sync::deadline;
using sync::stage;

struct Told {
  // NOLINTBEGIN(cppcoreguidelines-avoid-non-const-global-variables): a platform has no object
  static inline std::function<int()> wait_answers;
  static inline std::function<void(stage)> on_stage;
  static inline std::vector<int> wakes;
  // NOLINTEND(cppcoreguidelines-avoid-non-const-global-variables)

  static int wait(const sync::word&, std::uint32_t, const deadline&) { return wait_answers(); }
  static void wake(const sync::word&, int count) { wakes.push_back(count); }
  static void reached(stage stage) {
    if (on_stage) on_stage(stage);
  }
};

class Sync : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kMe = 4711;
  static constexpr std::uint32_t kOther = 4712;

  void SetUp() override {
    fl_robust_self = {&list_, kMe, 0};
    Told::wakes.clear();
    Told::on_stage = nullptr;
    Told::wait_answers = [] { return -EFAULT; };
  }
  void TearDown() override { fl_robust_self = {nullptr, 0, 0}; }

  // How often it is in the list.
  template <typename T>
  [[nodiscard]] int listed(const T& primitive) const {
    int times = 0;
    for (std::uint64_t i = 0; i < list_.count; ++i) {
      times += list_.held[i] == reinterpret_cast<std::uintptr_t>(&primitive) ? 1 : 0;
    }
    return times;
  }
  template <typename T>
  static std::uint32_t& word_of(T& primitive) {
    return reinterpret_cast<std::uint32_t&>(primitive);
  }

  fl_robust_list list_{};
};

// At every step of a lock and an unlock the word is listed, and not before and after.
TEST_F(Sync, AMutexIsListedForLongerThanItIsOwned) {
  basic_mutex<Told> mutex;
  int steps = 0;
  Told::on_stage = [&](stage stage) {
    ++steps;
    EXPECT_EQ(listed(mutex), 1) << static_cast<int>(stage);
  };
  EXPECT_EQ(mutex.lock(), lock_result::locked);
  EXPECT_EQ(word_of(mutex), kMe);
  word_of(mutex) |= FL_ROBUST_WAITERS;
  mutex.unlock();
  EXPECT_EQ(steps, 4) << "listed, taken, released, notified";
  EXPECT_EQ(Told::wakes, std::vector{1});
  EXPECT_EQ(word_of(mutex), 0U);
  EXPECT_EQ(list_.count, 0U);
}

// Given back in any order, what is still owned stays listed, once.
TEST_F(Sync, LocksMayBeGivenBackInAnyOrder) {
  std::array<basic_mutex<Told>, 3> mutexes;
  for (const std::array<std::size_t, 3> order : {std::array<std::size_t, 3>{0, 1, 2},
                                                 {0, 2, 1},
                                                 {1, 0, 2},
                                                 {1, 2, 0},
                                                 {2, 0, 1},
                                                 {2, 1, 0}}) {
    for (auto& mutex : mutexes) mutex.lock();
    std::array<int, 3> wanted{1, 1, 1};
    for (const std::size_t i : order) {
      mutexes.at(i).unlock();
      wanted.at(i) = 0;
      for (std::size_t j = 0; j < 3; ++j) EXPECT_EQ(listed(mutexes.at(j)), wanted.at(j));
    }
    EXPECT_EQ(list_.count, 0U);
  }
}

// While two inconsistent locks are owned, giving one back makes that one alone unrecoverable.
TEST_F(Sync, EachInconsistentLockIsRememberedByItself) {
  std::array<basic_mutex<Told>, 3> mutexes;
  word_of(mutexes[0]) = FL_ROBUST_OWNER_DIED;
  word_of(mutexes[1]) = FL_ROBUST_OWNER_DIED | FL_ROBUST_WAITERS;
  EXPECT_EQ(mutexes[0].lock(), lock_result::owner_died);
  EXPECT_EQ(mutexes[1].lock(), lock_result::owner_died);
  EXPECT_EQ(mutexes[2].lock(), lock_result::locked);
  mutexes[2].unlock();
  EXPECT_EQ(word_of(mutexes[2]), 0U);
  mutexes[0].make_consistent();
  mutexes[1].unlock();
  EXPECT_EQ(Told::wakes, std::vector{sync::kEverybody});
  EXPECT_THROW(mutexes[1].lock(), error);
  mutexes[0].unlock();
  EXPECT_EQ(word_of(mutexes[0]), 0U);
  EXPECT_EQ(fl_robust_self.inconsistent, 0U);
  EXPECT_EQ(list_.count, 0U);
}

// Where waiting fails nothing is left behind: no entry, no waiter, no lock.
TEST_F(Sync, AWaitThatFailsLeavesNothingBehind) {
  basic_mutex<Told> mutex;
  word_of(mutex) = kOther;
  EXPECT_THROW(mutex.lock(), error);
  EXPECT_EQ(word_of(mutex), kOther | FL_ROBUST_WAITERS);
  basic_semaphore<Told> semaphore;
  EXPECT_THROW(semaphore.acquire(), error);
  basic_event_count<Told> event;
  EXPECT_THROW(event.wait(event.prepare_wait()), error);
  event.notify_all();
  basic_condition_variable<Told> condition;
  basic_mutex<Told> free;
  std::unique_lock lock(free);
  EXPECT_THROW(condition.wait(lock), error);
  EXPECT_TRUE(lock.owns_lock());
  condition.notify_all();
  lock.unlock();
  EXPECT_TRUE(Told::wakes.empty()) << "nobody waits";
  EXPECT_EQ(list_.count, 0U);
}

// A signal, and a value that changed, are looked at again; a time that is over is not waited for.
TEST_F(Sync, AWaitGoesOnUntilItIsOver) {
  basic_mutex<Told> mutex;
  word_of(mutex) = kOther;
  std::vector<int> answers{-EINTR, -EAGAIN, 0, -EINTR, -ETIMEDOUT};
  std::size_t asked = 0;
  Told::wait_answers = [&] { return answers.at(asked++); };
  EXPECT_FALSE(mutex.try_lock_for(1h));
  EXPECT_EQ(asked, answers.size());
  answers = {-EINTR, 0};
  asked = 0;
  Told::wait_answers = [&] {
    if (asked == 1) word_of(mutex) = 0;
    return answers.at(asked++);
  };
  EXPECT_TRUE(mutex.try_lock_for(1h));
  EXPECT_EQ(word_of(mutex), kMe | FL_ROBUST_WAITERS) << "who was woken may not have been alone";
  mutex.unlock();
  EXPECT_EQ(Told::wakes, std::vector{1});
}

bool names_a_thread(std::uint32_t word) {
  constexpr std::uint32_t kThreadIds = 1U << 22;
  const std::uint32_t owner = word & FL_ROBUST_TID_MASK;
  return owner != 0 && owner <= kThreadIds;
}

// What is no lock is not taken for one when a process dies: epochs and counts name no thread.
TEST_F(Sync, NoEpochAndNoCountLooksLikeAnOwner) {
  basic_event_count<Told> event;
  (void)event.prepare_wait();
  for (const std::uint32_t epoch : {0U, 0x20000000U, 0x203fffffU, 0x3ffffffeU, 0x3fffffffU,
                                    0x7fffffffU, 0xbfffffffU, 0xffffffffU}) {
    word_of(event) = epoch;
    for (int i = 0; i < 3; ++i) {
      const std::uint32_t before = word_of(event);
      event.notify_all();
      EXPECT_NE(word_of(event), before);
      EXPECT_FALSE(names_a_thread(word_of(event))) << std::hex << word_of(event);
    }
  }
  basic_semaphore<Told> semaphore;
  EXPECT_FALSE(names_a_thread(word_of(semaphore)));
  for (const std::uint32_t units : {1U, 4710U, 1U << 22, basic_semaphore<Told>::max()}) {
    semaphore.release(units);
    EXPECT_FALSE(names_a_thread(word_of(semaphore))) << units;
    EXPECT_TRUE(semaphore.try_acquire());
    EXPECT_FALSE(names_a_thread(word_of(semaphore))) << units;
    word_of(semaphore) = 0;
  }
}

// Deadlines as fl_wait takes them: absolute, of the clock that was given, rounded up; none after a
// time that nobody will see.
TEST_F(Sync, DeadlinesAreThoseOfTheirClocks) {
  using Steady = std::chrono::steady_clock;
  using System = std::chrono::system_clock;
  EXPECT_EQ(deadline().time(), nullptr);
  EXPECT_EQ(deadline().flags(), 0U);
  const deadline steady(Steady::time_point(1500ms));
  EXPECT_EQ(steady.flags(), FL_WAIT_ABSOLUTE);
  EXPECT_EQ(steady.time()->tv_sec, 1);
  EXPECT_EQ(steady.time()->tv_nsec, 500'000'000);
  EXPECT_EQ(deadline(System::time_point(2s)).flags(), FL_WAIT_REALTIME);
  using Picoseconds = std::chrono::duration<std::int64_t, std::pico>;
  const deadline fine(std::chrono::time_point<Steady, Picoseconds>(Picoseconds(1)));
  EXPECT_EQ(fine.time()->tv_nsec, 1);
  for (const deadline& past :
       {deadline(Steady::time_point::min()), deadline(Steady::time_point(-1ns)),
        deadline(std::chrono::time_point<System, std::chrono::hours>::min())}) {
    ASSERT_NE(past.time(), nullptr);
    EXPECT_EQ(past.time()->tv_sec, 0);
    EXPECT_EQ(past.time()->tv_nsec, 0);
  }
  constexpr std::time_t kCenturies = 8'000'000'000;
  using Hours = std::chrono::time_point<System, std::chrono::hours>;
  EXPECT_GT(deadline(Steady::time_point::max()).time()->tv_sec, kCenturies);
  EXPECT_GT(deadline(Hours::max()).time()->tv_sec, kCenturies);
  EXPECT_EQ(deadline::after(std::chrono::hours::max()).time(), nullptr);
  EXPECT_NE(deadline::after(std::chrono::hours::min()).time(), nullptr);
  EXPECT_NE(deadline::after(std::chrono::duration<double>(0.5)).time(), nullptr);
}

}  // namespace
}  // namespace faultline
