#include "daemon/epoch/domain.hpp"

#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <sstream>
#include <thread>
#include <vector>

#include "tests/unit/slower.hpp"

namespace faultline::epoch {
namespace {

using std::chrono::milliseconds;
using Section = Domain::Section;

using testing::kSlower;

// A callback that does what it is told to.
struct Call : Domain::Callback {
  explicit Call(std::function<void()> what) : does(std::move(what)) {
    run = [](Callback& callback) noexcept { callback.owner<Call>().does(); };
  }
  std::function<void()> does;
};

// Something that happens once, and is waited for.
class Event {
 public:
  void set() {
    happened_.store(true);
    happened_.notify_all();
  }
  void wait() const { happened_.wait(false); }
  [[nodiscard]] bool happened() const { return happened_.load(); }

 private:
  std::atomic<bool> happened_{false};
};

// A thread that is in a section until it is told to leave.
class Reader {
 public:
  explicit Reader(Domain& domain)
      : thread_([this, &domain] {
          tid_ = ::gettid();
          const Section section(domain);
          inside_.set();
          leave_.wait();
        }) {
    inside_.wait();
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { leave(); }
  void leave() {
    leave_.set();
    if (thread_.joinable()) thread_.join();
  }
  void let_go() { leave_.set(); }
  [[nodiscard]] pid_t tid() const { return tid_; }

 private:
  Event inside_;
  Event leave_;
  pid_t tid_ = 0;
  std::thread thread_;
};

// Every test runs with membarrier and with the readers' own fences.
class EpochDomain : public ::testing::TestWithParam<bool> {
 protected:
  static Domain::Options options() {
    Domain::Options options;
    options.membarrier = GetParam();
    return options;
  }
};

INSTANTIATE_TEST_SUITE_P(Fences, EpochDomain, ::testing::Values(true, false),
                         [](const auto& parameter) {
                           return parameter.param ? "OfTheWriter" : "OfTheReader";
                         });

// Nothing that is retired runs while a section is open that might have seen it; then it does, once.
TEST_P(EpochDomain, ACallbackRunsOnceAfterTheSectionsThatWereOpen) {
  Event snapshot;
  Domain::Options with_hook = options();
  with_hook.hook = [&snapshot](Domain::GraceStep step) {
    if (step == Domain::GraceStep::snapshot_taken) snapshot.set();
  };
  Domain domain("test", with_hook);
  std::atomic<int> runs{0};
  Call call([&runs] { ++runs; });
  Reader reader(domain);
  domain.retire(call);
  snapshot.wait();
  EXPECT_EQ(runs, 0);
  EXPECT_EQ(domain.status().pending, 1U);
  reader.leave();
  domain.barrier();
  EXPECT_EQ(runs, 1);
  EXPECT_EQ(domain.status().pending, 0U);
  EXPECT_EQ(domain.status().callbacks_run, 1U);
  EXPECT_EQ(domain.status().grace_periods, 1U);
}

// synchronize() waits for a section that was open when it began, and not for one that came later.
TEST_P(EpochDomain, SynchronizeWaitsForExactlyTheSectionsThatWereOpen) {
  Event snapshot;
  Domain::Options with_hook = options();
  with_hook.hook = [&snapshot](Domain::GraceStep step) {
    if (step == Domain::GraceStep::snapshot_taken) snapshot.set();
  };
  Domain domain("test", with_hook);
  Reader before(domain);
  std::atomic<bool> left{false};
  std::atomic<bool> too_early{false};
  Event done;
  std::thread writer([&] {
    domain.synchronize();
    if (!left) too_early = true;
    done.set();
  });
  snapshot.wait();
  Reader after(domain);
  EXPECT_FALSE(done.happened());
  left = true;
  before.leave();
  done.wait();  // with `after` still inside
  EXPECT_FALSE(too_early);
  writer.join();
}

// A reader that leaves just before its waiter falls asleep wakes it: nothing else would, within the
// hour.
TEST_P(EpochDomain, AReaderThatLeavesBeforeItsWaiterSleepsIsNotMissed) {
  for (int round = 0; round < 200 / kSlower; ++round) {
    std::optional<Reader> reader;
    Domain::Options with_hook = options();
    with_hook.stuck_after = std::chrono::hours(1);
    with_hook.hook = [&](Domain::GraceStep step) {
      if (step != Domain::GraceStep::before_sleep) return;
      if (round % 2 == 0) {
        reader->leave();
      } else {
        reader->let_go();  // leaves as the waiter goes to sleep
      }
    };
    Domain domain("test", with_hook);
    reader.emplace(domain);
    domain.synchronize();
    reader.reset();
  }
}

// A section within a section is no end of the outer one.
TEST_P(EpochDomain, ANestedSectionEndsWithTheOutermost) {
  Event waits;
  Domain::Options with_hook = options();
  with_hook.hook = [&waits](Domain::GraceStep step) {
    if (step == Domain::GraceStep::before_sleep) waits.set();
  };
  Domain domain("test", with_hook);
  std::atomic<bool> ran{false};
  Call call([&ran] { ran = true; });
  {
    const Section outer(domain);
    {
      const Section inner(domain);
      domain.retire(call);
    }
    waits.wait();
    { const Section another(domain); }
    { const Section another(domain); }
    EXPECT_FALSE(ran);
  }
  domain.barrier();
  EXPECT_TRUE(ran);
}

// What one domain's reader holds up is that domain's alone.
TEST_P(EpochDomain, DomainsDoNotWaitForEachOther) {
  Domain slow("slow", options());
  Domain fast("fast", options());
  std::atomic<bool> slow_ran{false};
  std::atomic<bool> fast_ran{false};
  Call slow_call([&slow_ran] { slow_ran = true; });
  Call fast_call([&fast_ran] { fast_ran = true; });
  Reader reader(slow);
  slow.retire(slow_call);
  fast.retire(fast_call);
  fast.barrier();
  fast.synchronize();
  EXPECT_TRUE(fast_ran);
  EXPECT_FALSE(slow_ran);
  reader.leave();
  slow.barrier();
  EXPECT_TRUE(slow_ran);
}

// Callbacks that one thread retires run in its order, whether or not it ever was a reader.
TEST_P(EpochDomain, CallbacksOfAThreadRunInOrder) {
  for (const bool reads : {false, true}) {
    Domain domain("test", options());
    if (reads) const Section section(domain);
    std::vector<int> order;
    std::deque<Call> calls;
    for (int i = 0; i < 1000; ++i) {
      calls.emplace_back([&order, i] { order.push_back(i); });
      domain.retire(calls.back());
    }
    domain.barrier();
    EXPECT_EQ(order.size(), 1000U);
    EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  }
}

// A callback may retire another, and be inside a section; barrier() waits for the first, the
// domain's end for all.
TEST_P(EpochDomain, ACallbackMayRetireAnother) {
  std::atomic<int> depth{0};
  std::deque<Call> chain;
  {
    Domain domain("test", options());
    for (int i = 0; i < 50; ++i) {
      chain.emplace_back([&domain, &depth, &chain, i] {
        const Section section(domain);
        ++depth;
        if (i + 1 < 50) domain.retire(chain.at(static_cast<std::size_t>(i) + 1));
      });
    }
    domain.retire(chain.front());
    domain.barrier();
    EXPECT_GE(depth, 1);
  }
  EXPECT_EQ(depth, 50);
}

// barrier() waits for what any thread retired before it, though that thread has ended.
TEST_P(EpochDomain, BarrierWaitsForCallbacksOfEveryThread) {
  Domain domain("test", options());
  std::atomic<int> ran{0};
  std::deque<Call> calls;
  for (int i = 0; i < 100; ++i) calls.emplace_back([&ran] { ++ran; });
  for (int i = 0; i < 100; ++i) {
    std::thread([&, i] {
      if (i % 2 == 0) const Section section(domain);
      domain.retire(calls.at(static_cast<std::size_t>(i)));
    }).join();
  }
  domain.barrier();
  EXPECT_EQ(ran, 100);
}

// Threads may go before their domain, and domains before threads that were in them; a thread may be
// in more domains at once than it remembers at hand.
TEST_P(EpochDomain, DomainsAndThreadsEndInAnyOrder) {
  std::deque<std::optional<Domain>> domains(60);
  for (auto& domain : domains) domain.emplace("test", options());
  Event entered;
  Event ended;
  std::thread survivor([&] {
    {
      std::deque<Section> sections;
      for (auto& domain : domains) sections.emplace_back(*domain);
      for (auto& domain : domains) sections.emplace_back(*domain);
    }
    entered.set();
    ended.wait();
    for (int i = 0; i < 100; ++i) {
      Domain fresh("fresh");
      const Section section(fresh);
    }
  });
  entered.wait();
  for (auto& domain : domains) {
    domain->synchronize();
    domain.reset();
  }
  ended.set();
  survivor.join();
}

// What is published and replaced; says when it is used after it was freed.
struct Thing : Domain::Callback {
  std::atomic<std::uint64_t> alive{1};
  static void free(Domain::Callback& callback) noexcept {
    auto& thing = callback.owner<Thing>();
    thing.alive.store(0, std::memory_order_relaxed);
    const std::unique_ptr<Thing> owner(&thing);
  }
};

void read_often(Domain& domain, const std::atomic<Thing*>& current, std::atomic<int>& wrong) {
  for (int round = 0; round < 2000 / kSlower; ++round) {
    const Section outer(domain);
    const Thing* const seen = current.load(std::memory_order_acquire);
    if (round % 64 == 0) std::this_thread::yield();
    const Section inner(domain);
    if (seen->alive.load(std::memory_order_relaxed) != 1) ++wrong;
  }
}

// Readers that come and go, sleep, and nest, beside two writers: nobody ever sees what was freed.
TEST_P(EpochDomain, NobodySeesWhatWasFreed) {
  Domain domain("test", options());
  std::atomic<Thing*> current{std::make_unique<Thing>().release()};
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  const auto read = [&] { read_often(domain, current, wrong); };
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      while (!stop) std::thread(read).join();
    });
  }
  threads.emplace_back([&] {
    while (!stop) domain.synchronize();
  });
  for (int i = 0; i < 100'000 / kSlower; ++i) {
    Thing* const old =
        current.exchange(std::make_unique<Thing>().release(), std::memory_order_acq_rel);
    old->run = Thing::free;
    domain.retire(*old);
    if (i % 1000 == 0) domain.barrier();
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  const std::unique_ptr<Thing> last(current.load());
}

// A reader that stays too long is named in the log, again when that has doubled, and in the status.
TEST_P(EpochDomain, AStuckReaderIsReported) {
  std::ostringstream text;
  const auto before = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>(
      "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(text)));
  Domain::Options impatient = options();
  impatient.stuck_after = milliseconds(10);
  std::atomic<int> sleeps{0};
  Event reported_twice;
  impatient.hook = [&](Domain::GraceStep step) {
    // Before the first sleep nothing is logged; before the third, two lines are.
    if (step == Domain::GraceStep::before_sleep && ++sleeps == 3) reported_twice.set();
  };
  {
    Domain domain("stuck", impatient);
    Call call([] {});
    Reader reader(domain);
    domain.retire(call);
    reported_twice.wait();
    const Domain::Status status = domain.status();
    EXPECT_EQ(status.oldest_thread, reader.tid());
    EXPECT_GE(status.oldest_section, milliseconds(20));
    reader.leave();
    domain.barrier();
    EXPECT_EQ(domain.status().oldest_section.count(), 0);
    EXPECT_EQ(domain.status().oldest_thread, 0);
    spdlog::set_default_logger(before);
    const std::string lines = text.str();
    EXPECT_NE(lines.find("domain stuck: thread " + std::to_string(reader.tid())), std::string::npos)
        << lines;
    EXPECT_GE(std::count(lines.begin(), lines.end(), '\n'), 2);
  }
}

// A domain that was only read, or not even that, has no thread and ends at once.
TEST_P(EpochDomain, ADomainThatNobodyRetiredInEndsAtOnce) {
  Domain domain("test", options());
  { const Section section(domain); }
  domain.barrier();
  domain.synchronize();
  EXPECT_EQ(domain.status().callbacks_run, 0U);
}

// Writers that wait at the same time share grace periods, and each gets one that began after it
// came.
TEST_P(EpochDomain, SynchronizersShareGracePeriods) {
  Domain domain("test", options());
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 3000 / kSlower; ++round) domain.synchronize();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(domain.status().grace_periods, 9000U / kSlower);
  EXPECT_GE(domain.status().grace_periods, 3000U / kSlower);
}

// A reader uses a thing, and a writer then frees it: after a grace period, or as a control without
// one. The flag between them orders nothing, so that only the grace period can.
void free_what_was_read(bool with_grace_period) {
  struct Plain : Domain::Callback {
    std::uint64_t value = 1;
    static void free(Domain::Callback& callback) noexcept {
      const std::unique_ptr<Plain> owner(&callback.owner<Plain>());
    }
  };
  Domain domain("test");
  auto owner = std::make_unique<Plain>();
  owner->run = Plain::free;
  std::atomic<bool> read{false};
  std::thread reader([&read, &domain, thing = owner.get()] {
    {
      const Section section(domain);
      volatile std::uint64_t used = thing->value;
      (void)used;
    }
    read.store(true, std::memory_order_relaxed);
  });
  while (!read.load(std::memory_order_relaxed)) std::this_thread::yield();
  if (with_grace_period) {
    domain.retire(*owner.release());
    domain.barrier();
  } else {
    owner.reset();
  }
  reader.join();
}

// The checker checks: ThreadSanitizer reports a free without a grace period, and nothing with one.
TEST(EpochDomainControl, ThreadSanitizerReportsAFreeWithoutAGracePeriod) {
#if defined(__SANITIZE_THREAD__)
  constexpr int kReported = 66;
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        free_what_was_read(false);
        std::exit(0);
      },
      ::testing::ExitedWithCode(kReported), "ThreadSanitizer: data race");
  EXPECT_EXIT(
      {
        free_what_was_read(true);
        std::exit(0);
      },
      ::testing::ExitedWithCode(0), "");
#else
  free_what_was_read(true);
  GTEST_SKIP() << "THE CONTROL DID NOT RUN: it needs a build with -DFAULTLINE_SANITIZE=thread";
#endif
}

}  // namespace
}  // namespace faultline::epoch
