#include "daemon/epoch/gate.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "daemon/epoch/domain.hpp"
#include "tests/unit/slower.hpp"

namespace faultline::epoch {
namespace {

using testing::kSlower;

// Runs threads one step at a time, in an order that it is given. A step lasts from one Stepped call
// to the next, so that it holds one access to shared memory.
class StepScheduler {
 public:
  explicit StepScheduler(std::vector<std::function<void()>> bodies) : states_(bodies.size()) {
    for (std::size_t i = 0; i < bodies.size(); ++i) {
      threads_.emplace_back([this, i, body = std::move(bodies[i])] {
        current = this;
        self = i;
        step();
        body();
        const std::lock_guard lock(mutex_);
        states_[i] = State::ended;
        changed_.notify_all();
      });
    }
  }
  StepScheduler(const StepScheduler&) = delete;
  StepScheduler& operator=(const StepScheduler&) = delete;
  ~StepScheduler() {
    for (std::thread& thread : threads_) thread.join();
  }

  // Lets them run: `choose` is given how many could make a step, and says which one does. False if
  // at the end some slept whom nobody would wake: they are woken then.
  bool run(const std::function<std::size_t(std::size_t)>& choose) {
    bool all_woken = true;
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return count(State::running) == 0; });
      std::vector<std::size_t> ready;
      for (std::size_t i = 0; i < states_.size(); ++i) {
        if (states_[i] == State::ready) ready.push_back(i);
      }
      if (ready.empty()) {
        if (count(State::asleep) == 0) return all_woken;
        all_woken = false;
        wake_all();
        continue;
      }
      states_[ready[ready.size() == 1 ? 0 : choose(ready.size())]] = State::running;
      changed_.notify_all();
    }
  }

  // What the threads call.
  static void step() { current->pause(State::ready); }
  static void sleep() { current->pause(State::asleep); }
  static void wake() {
    const std::lock_guard lock(current->mutex_);
    current->wake_all();
  }

 private:
  enum class State {
    running,  // -> ready before its next step, asleep, ended
    ready,    // -> running when chosen
    asleep,   // -> ready when woken
    ended,
  };

  void pause(State state) {
    std::unique_lock lock(mutex_);
    states_[self] = state;
    changed_.notify_all();
    changed_.wait(lock, [this] { return states_[self] == State::running; });
  }
  void wake_all() {
    for (State& state : states_) {
      if (state == State::asleep) state = State::ready;
    }
  }
  [[nodiscard]] std::size_t count(State state) const {
    return static_cast<std::size_t>(std::count(states_.begin(), states_.end(), state));
  }

  // NOLINTBEGIN(cppcoreguidelines-avoid-non-const-global-variables): each thread's own
  static inline thread_local StepScheduler* current = nullptr;
  static inline thread_local std::size_t self = 0;
  // NOLINTEND(cppcoreguidelines-avoid-non-const-global-variables)

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<State> states_;
  std::vector<std::thread> threads_;
};

// A gate whose accesses are steps, and whose futex is the scheduler's.
struct Stepped {
  static void step() noexcept { StepScheduler::step(); }
  static void wait(kernel::FutexWord& word, std::uint32_t expected) noexcept {
    if (word.load() == expected) StepScheduler::sleep();
  }
  static void wake_all(kernel::FutexWord&) noexcept { StepScheduler::wake(); }
};
using SteppedGate = BasicGate<Stepped>;

// Runs every interleaving of what `make` returns the threads of; counts those in which somebody
// slept for ever.
struct Explored {
  int interleavings = 0;
  int lost = 0;
};
Explored explore(
    const std::function<std::vector<std::function<void()>>()>& make,
    const std::function<void()>& check = [] {}) {
  Explored explored;
  std::vector<std::size_t> choices;
  for (;;) {
    std::vector<std::size_t> widths;
    {
      StepScheduler scheduler(make());
      const bool all_woken = scheduler.run([&](std::size_t width) {
        widths.push_back(width);
        if (widths.size() > choices.size()) choices.push_back(0);
        return choices[widths.size() - 1];
      });
      ++explored.interleavings;
      if (!all_woken) ++explored.lost;
    }
    check();
    while (!choices.empty() && choices.back() + 1 == widths[choices.size() - 1]) choices.pop_back();
    if (choices.empty()) return explored;
    ++choices.back();
  }
}

// However the last put falls between close and wait, the owner goes on, and never while a reference
// is held.
TEST(EpochGate, NoInterleavingOfTheLastPutLosesTheWakeUp) {
  std::unique_ptr<SteppedGate> gate;
  std::atomic<int> held{0};
  std::atomic<int> wrong{0};
  const auto put = [&] {
    --held;
    gate->put();
  };
  const auto close_and_wait = [&] {
    gate->close();
    gate->wait_drained();
    if (held != 0) ++wrong;
  };
  for (int holders = 1; holders <= 2; ++holders) {
    const Explored explored = explore([&] {
      gate = std::make_unique<SteppedGate>();
      std::vector<std::function<void()>> threads{close_and_wait};
      held = holders;
      // Taken before the threads run; as nobody schedules this thread, as its own little run.
      StepScheduler taker({[&] {
        for (int i = 0; i < holders; ++i) EXPECT_TRUE(gate->try_get());
      }});
      taker.run([](std::size_t) { return 0U; });
      for (int i = 0; i < holders; ++i) threads.emplace_back(put);
      return threads;
    });
    EXPECT_EQ(explored.lost, 0);
    EXPECT_GT(explored.interleavings, holders == 1 ? 10 : 100);
    RecordProperty("interleavings_of_" + std::to_string(holders), explored.interleavings);
  }
  EXPECT_EQ(wrong, 0);
}

// However a get falls against close and wait: it is refused, or the owner waits until it is given
// back.
TEST(EpochGate, NoInterleavingGetsPastTheClose) {
  std::unique_ptr<SteppedGate> gate;
  std::atomic<bool> drained{false};
  std::atomic<int> wrong{0};
  int refused = 0;
  int given = 0;
  std::atomic<bool> got{false};
  const Explored explored = explore(
      [&] {
        gate = std::make_unique<SteppedGate>();
        drained = false;
        return std::vector<std::function<void()>>{[&] {
                                                    gate->close();
                                                    gate->wait_drained();
                                                    drained = true;
                                                  },
                                                  [&] {
                                                    got = gate->try_get();
                                                    if (!got) return;
                                                    if (drained) ++wrong;
                                                    gate->put();
                                                  }};
      },
      [&] { ++(got ? given : refused); });
  EXPECT_EQ(explored.lost, 0);
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(refused, 0);
  EXPECT_GT(given, 0);
}

// The gate of 2009, to show that the exploration finds what was wrong with it: the count and the
// mark that somebody waits are two words.
class GateOfTwoWords {
 public:
  explicit GateOfTwoWords(int count) : count_(count) {}
  void put() {
    StepScheduler::step();
    const bool last = --count_ == 0;
    StepScheduler::step();
    if (last && waits_) StepScheduler::wake();
  }
  void wait_drained() {
    StepScheduler::step();
    if (count_ == 0) return;
    StepScheduler::step();
    waits_ = true;
    StepScheduler::step();
    StepScheduler::sleep();
  }

 private:
  std::atomic<int> count_;
  std::atomic<bool> waits_{false};
};

TEST(EpochGate, TheExplorationFindsTheLostWakeUpOfTwoWords) {
  std::unique_ptr<GateOfTwoWords> gate;
  const Explored explored = explore([&] {
    gate = std::make_unique<GateOfTwoWords>(1);
    return std::vector<std::function<void()>>{[&] { gate->wait_drained(); }, [&] { gate->put(); }};
  });
  EXPECT_GT(explored.lost, 0);
  EXPECT_LT(explored.lost, explored.interleavings);
}

// Once closed it stays so, and counts what it gave before.
TEST(EpochGate, GivesNothingOnceClosed) {
  Gate gate;
  EXPECT_TRUE(gate.try_get());
  EXPECT_TRUE(gate.try_get());
  EXPECT_EQ(gate.references(), 2U);
  EXPECT_FALSE(gate.closed());
  gate.close();
  gate.close();
  EXPECT_TRUE(gate.closed());
  EXPECT_FALSE(gate.try_get());
  EXPECT_EQ(gate.references(), 2U);
  gate.put();
  gate.put();
  gate.wait_drained();
  EXPECT_EQ(gate.references(), 0U);
}

// The whole life, many times over: found in a section, held beyond it, given back; closed, drained,
// retired, freed.
TEST(EpochGate, WhoeverHoldsAReferenceFindsTheThingAlive) {
  struct Thing : Domain::Callback {
    Gate gate;
    std::uint64_t alive = 1;
    static void free(Domain::Callback& callback) noexcept {
      const std::unique_ptr<Thing> owner(&callback.owner<Thing>());
    }
  };
  Domain domain("test");
  std::atomic<Thing*> current{std::make_unique<Thing>().release()};
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::atomic<int> uses{0};
  std::vector<std::thread> users;
  for (int i = 0; i < 2; ++i) {
    users.emplace_back([&] {
      while (!stop) {
        Thing* thing = nullptr;
        {
          const Domain::Section section(domain);
          thing = current.load(std::memory_order_acquire);
          if (!thing->gate.try_get()) continue;
        }
        if (thing->alive != 1) ++wrong;
        uses.fetch_add(1, std::memory_order_relaxed);
        const Domain::Section section(domain);
        thing->gate.put();
      }
    });
  }
  while (uses.load(std::memory_order_relaxed) < 100'000 / kSlower) {
    Thing* const old =
        current.exchange(std::make_unique<Thing>().release(), std::memory_order_acq_rel);
    old->gate.close();
    old->gate.wait_drained();
    old->alive = 0;  // its owner's alone now
    old->run = Thing::free;
    domain.retire(*old);
  }
  stop = true;
  for (std::thread& user : users) user.join();
  EXPECT_EQ(wrong, 0);
  const std::unique_ptr<Thing> last(current.load());
}

}  // namespace
}  // namespace faultline::epoch
