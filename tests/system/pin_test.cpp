// Pins as a program meets them: what they hold, what they refuse, what ends them.
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <random>
#include <sstream>
#include <thread>
#include <vector>

#include "faultline/faultline.hpp"
#include "tests/system/harness.hpp"
#include "tests/unit/seed.hpp"

namespace faultline::testing {
namespace {

// What the daemon says of this process's pins; null where it has no ledger.
nlohmann::json pins_of(const Daemon& daemon, pid_t pid = ::getpid()) {
  const nlohmann::json answer = daemon.ask(wire::AdminQuery::pins, pid);
  const nlohmann::json& pins = answer.at("pins");
  return pins.empty() ? nlohmann::json(nullptr) : pins.front();
}

class Pins : public SystemTest {
 protected:
  static fl_pinned pinned(const std::byte* address, std::size_t length, std::uint32_t flags = 0) {
    fl_pinned pin{};
    EXPECT_EQ(fl_pin(address, length, flags, &pin), 0) << fl_last_error();
    return pin;
  }
  static void unpin(fl_pinned& pin) { EXPECT_EQ(fl_unpin(&pin), 0) << fl_last_error(); }
};

// A page that was never touched is brought by the first pin, and found there by the second.
TEST_F(Pins, BringWhatIsAbsentAndThenNeedNobody) {
  const Object object = create(client_, 16 * kPage);
  const auto bytes = map(object, 16 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  fl_pinned slow = pinned(&bytes[3 * kPage + 5], 2 * kPage, FL_PIN_WRITE);
  EXPECT_EQ(slow.address, &bytes[3 * kPage]);
  EXPECT_EQ(slow.length, 3 * kPage) << "every page that the range touches";
  const nlohmann::json once = pins_of(daemon_);
  EXPECT_EQ(once["slow"], 1);
  EXPECT_EQ(once["pinned_bytes"], 3 * kPage);
  ASSERT_EQ(once["pins"].size(), 1U);
  EXPECT_EQ(once["pins"][0]["offset"], 3 * kPage);
  EXPECT_EQ(once["pins"][0]["access"], "write");
  fl_pinned fast = pinned(&bytes[3 * kPage], kPage);
  const nlohmann::json twice = pins_of(daemon_);
  EXPECT_EQ(twice["slow"], 1);
  EXPECT_EQ(twice["fast"], 1);
  unpin(slow);
  unpin(fast);
  EXPECT_EQ(pins_of(daemon_)["pinned_bytes"], 0);
}

// With the daemon standing still, pages that are there are pinned all the same: nobody is asked.
TEST_F(Pins, OfResidentPagesNeedNoDaemon) {
  const Object object = create(client_, 64 * kPage);
  const auto bytes = map(object, 64 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  fl_pinned first = pinned(bytes.data(), 64 * kPage);
  unpin(first);
  daemon_.pause();
  for (std::size_t i = 0; i < 1000; ++i) {
    fl_pinned pin = pinned(&bytes[(i % 64) * kPage], kPage, FL_PIN_WRITE);
    unpin(pin);
  }
  daemon_.resume();
}

TEST_F(Pins, LieInAsManyMappingsAsTheRange) {
  const Object object = create(client_, 16 * kPage);
  const auto bytes = map(object, 16 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  ASSERT_EQ(fl_protect(client_, &bytes[4 * kPage], 4 * kPage, 0), 0);
  fl_pinned pin = pinned(bytes.data(), 16 * kPage);
  EXPECT_EQ(pin.length, 16 * kPage);
  std::array<fl_pin_run, 8> runs{};
  const int count = fl_pin_runs(&pin, runs.data(), runs.size());
  ASSERT_GE(count, 1);
  std::size_t length = 0;
  fl_object_info info{};
  ASSERT_EQ(fl_object_stat(object, &info), 0);
  for (const fl_pin_run& run : std::span(runs).first(static_cast<std::size_t>(count))) {
    EXPECT_EQ(run.object_id, info.id);
    EXPECT_EQ(run.offset, length);
    EXPECT_EQ(run.address, &bytes[length]);
    EXPECT_EQ(run.frame, 0U);
    length += run.length;
  }
  EXPECT_EQ(length, 16 * kPage);
  unpin(pin);
  expect_refused(EACCES, "read-only",
                 [&] { return fl_pin(bytes.data(), 16 * kPage, FL_PIN_WRITE, &pin); });
}

TEST_F(Pins, RefuseWhatCannotBe) {
  const Object object = create(client_, 4 * kPage);
  const auto bytes = map(object, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  ASSERT_EQ(fl_unmap(client_, &bytes[2 * kPage], 2 * kPage), 0);
  fl_pinned pin{};
  expect_refused(EINVAL, "no bytes", [&] { return fl_pin(bytes.data(), 0, 0, &pin); });
  expect_refused(EINVAL, "unknown flag", [&] { return fl_pin(bytes.data(), 1, 8, &pin); });
  expect_refused(EINVAL, "a null argument", [&] { return fl_pin(bytes.data(), 1, 0, nullptr); });
  expect_refused(EINVAL, "past the end of all addresses",
                 [&] { return fl_pin(bytes.data(), SIZE_MAX, 0, &pin); });
  expect_refused(EFAULT, "not all mapped",
                 [&] { return fl_pin(bytes.data(), 3 * kPage, 0, &pin); });
  std::ostringstream where;
  where << "12288 bytes at address " << static_cast<const void*>(bytes.data());
  expect_refused(EFAULT, where.str(), [&] { return fl_pin(bytes.data(), 3 * kPage, 0, &pin); });
  int on_stack = 0;
  expect_refused(EFAULT, "not all mapped", [&] { return fl_pin(&on_stack, 4, 0, &pin); });
  expect_refused(EAGAIN, "without waiting",
                 [&] { return fl_pin(bytes.data(), 1, FL_PIN_NOWAIT, &pin); });
  expect_refused(EINVAL, "ending", [&] { return fl_unpin(&pin); });
  expect_refused(EINVAL, "none", [&] { return fl_pin_state(&pin); });
  fl_pin_run run{};
  expect_refused(EINVAL, "none", [&] { return fl_pin_runs(&pin, &run, 1); });
  pin = pinned(bytes.data(), 1);
  fl_pinned copy = pin;
  unpin(pin);
  EXPECT_EQ(pin.parts, 0U) << "it is none any more";
  expect_refused(EINVAL, "none", [&] { return fl_pin_runs(&copy, &run, 1); });
  expect_refused(EINVAL, "ending", [&] { return fl_unpin(&copy); });
}

// What a process unmaps is pinned no longer, and whoever unpins it learns so.
TEST_F(Pins, EndWithAnErrorWhereTheirMemoryIsUnmapped) {
  const Object object = create(client_, 8 * kPage);
  const auto bytes = map(object, 8 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  fl_pinned pin = pinned(bytes.data(), 4 * kPage);
  fl_pinned other = pinned(&bytes[6 * kPage], kPage);
  EXPECT_EQ(fl_pin_state(&pin), 0);
  ASSERT_EQ(fl_unmap(client_, &bytes[2 * kPage], kPage), 0) << fl_last_error();
  EXPECT_TRUE(eventually([&] { return fl_pin_state(&pin) == -ENOENT; }));
  EXPECT_EQ(fl_pin_state(&other), 0);
  const nlohmann::json now = pins_of(daemon_);
  EXPECT_EQ(now["pinned_bytes"], kPage);
  fl_pin_run run{};
  expect_refused(ENOENT, "was unmapped", [&] { return fl_pin_runs(&pin, &run, 1); });
  expect_refused(ENOENT, "was unmapped", [&] { return fl_unpin(&pin); });
  unpin(other);
  // The slot is used again, and the verdict was of another pin.
  fl_pinned next = pinned(bytes.data(), kPage);
  EXPECT_EQ(fl_pin_state(&next), 0);
  unpin(next);
}

// The same by munmap(2) itself, which the library is not told of.
TEST_F(Pins, EndWhereThePlainSystemCallUnmapsThem) {
  const Object object = create(client_, 8 * kPage);
  const auto bytes = map(object, 8 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  fl_pinned pin = pinned(bytes.data(), 4 * kPage);
  ASSERT_EQ(::munmap(bytes.data(), 8 * kPage), 0);
  EXPECT_TRUE(eventually([&] { return fl_pin_state(&pin) == -ENOENT; }));
  EXPECT_EQ(fl_unpin(&pin), -ENOENT);
}

TEST_F(Pins, MoveWithTheirMemoryAsAWhole) {
  const Object object = create(client_, 8 * kPage);
  const auto bytes = map(object, 8 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  fl_pinned pin = pinned(bytes.data(), 4 * kPage);
  void* there = nullptr;
  ASSERT_EQ(fl_remap(client_, bytes.data(), 8 * kPage, 16 * kPage, FL_REMAP_MAYMOVE, &there),
            -EINVAL)
      << "past the object's end";
  void* const place = ::mmap(nullptr, 8 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  there = place;
  ASSERT_EQ(fl_remap(client_, bytes.data(), 8 * kPage, 8 * kPage, FL_REMAP_MAYMOVE | FL_REMAP_FIXED,
                     &there),
            0)
      << fl_last_error();
  EXPECT_TRUE(eventually([&] {
    return pins_of(daemon_)["pins"][0]["address"] == reinterpret_cast<std::uintptr_t>(there);
  }));
  EXPECT_EQ(fl_pin_state(&pin), 0);
  ASSERT_EQ(fl_unmap(client_, static_cast<std::byte*>(there) + 3 * kPage, kPage), 0);
  EXPECT_TRUE(eventually([&] { return fl_pin_state(&pin) == -ENOENT; })) << "where it is now";
  EXPECT_EQ(fl_unpin(&pin), -ENOENT);
}

TEST_F(Pins, AreNotAForkChilds) {
  const Object object = create(client_, 4 * kPage);
  const auto bytes = map(object, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  fl_pinned pin = pinned(bytes.data(), kPage);
  const Outcome outcome = in_child([&] {
    fl_pinned copy = pin;
    if (fl_unpin(&copy) != -ESTALE) return 1;
    if (std::string(fl_last_error()).find("forked this one") == std::string::npos) return 5;
    fl_pinned own{};
    if (fl_pin(&bytes[kPage], kPage, FL_PIN_WRITE, &own) != 0) return 2;
    if (fl_unpin(&own) != 0) return 3;
    if (fl_pin(&bytes[kPage], kPage, 0, &own) != 0) return 4;
    return 0;  // with a pin that nobody ends
  });
  EXPECT_TRUE(outcome.exited(0)) << outcome;
  EXPECT_EQ(fl_pin_state(&pin), 0) << "the child's were its own";
  unpin(pin);
}

// The C++ interface, as a program uses it.
TEST_F(Pins, InCppEndWithTheirScope) {
  const auto connected = faultline::client::connect(daemon_.socket());
  const auto object = connected.create({.size = 16 * kPage});
  const auto mapped = object.map(faultline::sharing::shared);
  EXPECT_FALSE(faultline::pin::try_now(mapped.bytes())) << "nothing is there";
  {
    faultline::pin first(mapped.bytes().first(4 * kPage), faultline::pin_for::writing);
    const faultline::pin second(mapped.as<std::uint64_t>().subspan(2, 600));
    EXPECT_TRUE(faultline::pin::try_now(mapped.bytes().first(kPage)));
    EXPECT_EQ(second.bytes().size(), 2 * kPage);
    EXPECT_EQ(pins_of(daemon_)["pinned_bytes"], 6 * kPage);
    ASSERT_EQ(first.runs().size(), 1U);
    EXPECT_EQ(first.runs()[0].object_id, object.info().id);
    const auto vectors = first.iovecs(kPage);
    ASSERT_EQ(vectors.size(), 4U);
    EXPECT_EQ(vectors[3].iov_base, &mapped.bytes()[3 * kPage]);
    faultline::pin moved = std::move(first);
    EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): what is left is none
    EXPECT_EQ(moved.state(), faultline::pin_state::held);
    EXPECT_EQ(moved.release(), faultline::pin_state::held);
    EXPECT_EQ(pins_of(daemon_)["pinned_bytes"], 2 * kPage);
  }
  EXPECT_EQ(pins_of(daemon_)["pinned_bytes"], 0);
  int none = 0;
  EXPECT_THROW(faultline::pin(std::span(&none, 1)), faultline::error);
}

TEST_F(Pins, InCppAreTakenFromTheirJobs) {
  const auto connected = faultline::client::connect(daemon_.socket());
  const PatternFile file(8 * kPage);
  const auto object = connected.create({.file_fd = file.fd()});
  const auto mapped = object.map(faultline::sharing::shared, faultline::protection::read);
  faultline::pin_job job(mapped.bytes());
  EXPECT_EQ(job.progress().pages_wanted, 8U);
  {
    const faultline::pin all = job.take();
    EXPECT_FALSE(job);
    EXPECT_EQ(all.bytes().data(), mapped.bytes().data());
    EXPECT_EQ(pins_of(daemon_)["pinned_bytes"], 8 * kPage);
  }
  { const faultline::pin_job given_up(mapped.bytes()); }
  EXPECT_EQ(pins_of(daemon_)["pinned_bytes"], 0);
  EXPECT_THROW(faultline::pin_job(mapped.bytes(), faultline::pin_for::writing), faultline::error);
  const auto lost = connected.create({.file_fd = file.fd()});
  const auto view = lost.map(faultline::sharing::shared, faultline::protection::read);
  file.truncate(0);
  faultline::pin_job fails(view.bytes());
  EXPECT_THROW((void)fails.take(), faultline::error);
  EXPECT_FALSE(fails);
  EXPECT_EQ(pins_of(daemon_)["pinned_bytes"], 0);
}

// A dead process's pins are gone within a second, whatever it held.
TEST_F(Pins, EndWithTheirProcess) {
  const Gate pinned_there;
  Child child([&] {
    const Client own = connect(daemon_.socket());
    const Object object = create(own, 4 * kPage);
    const auto bytes = map(object, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    fl_pinned pin{};
    if (fl_pin(bytes.data(), 4 * kPage, FL_PIN_WRITE, &pin) != 0) return 1;
    pinned_there.open();
    ::pause();
    return 0;
  });
  ASSERT_TRUE(pinned_there.pass());
  EXPECT_EQ(pins_of(daemon_, child.pid())["pinned_bytes"], 4 * kPage);
  child.kill(SIGKILL);
  (void)child.wait();
  EXPECT_TRUE(eventually([&] { return daemon_.ask(wire::AdminQuery::pins).at("pins").empty(); },
                         std::chrono::milliseconds(1000)));
}

// A pin may be made by one thread and ended by another, and a thread's end loses nothing.
TEST_F(Pins, GoFromThreadToThread) {
  const Object object = create(client_, 256 * kPage);
  const auto bytes = map(object, 256 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  for (int round = 0; round < 20; ++round) {
    std::vector<fl_pinned> pins(100);
    std::thread([&] {
      for (std::size_t i = 0; i < pins.size(); ++i) {
        EXPECT_EQ(fl_pin(&bytes[i * kPage], kPage, 0, &pins[i]), 0) << fl_last_error();
      }
    }).join();
    std::thread([&] {
      for (fl_pinned& pin : pins) EXPECT_EQ(fl_unpin(&pin), 0) << fl_last_error();
    }).join();
  }
  EXPECT_EQ(pins_of(daemon_)["pinned_bytes"], 0);
  EXPECT_LE(pins_of(daemon_)["granted_bytes"], 4 << 20) << "what was paid back was used again";
}

TEST_F(Pins, OutliveTheirConnectionOnlyAsAnError) {
  Client client = connect(daemon_.socket());
  Object object = create(client, 4 * kPage);
  const auto bytes = map(object, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  fl_pinned pin = pinned(bytes.data(), kPage);
  // Another daemon's, so that this connection ends with its own.
  const Daemon other;
  Client gone = connect(other.socket());
  Object there = create(gone, 4 * kPage);
  const auto others = map(there, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  fl_pinned left = pinned(others.data(), kPage);
  ASSERT_EQ(fl_unmap(gone, others.data(), 4 * kPage), 0);
  there.reset();
  gone.reset();
  EXPECT_EQ(fl_unpin(&left), -EPIPE);
  unpin(pin);
}

// Threads that have pinned once keep hardly any of a process's pins from others.
TEST_F(Pins, AreNotHoardedByThreadsThatPinLittle) {
  constexpr std::size_t kThreads = 64;
  const Object object = create(client_, 4 * kPage);
  const auto bytes = map(object, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  std::atomic<std::size_t> there{0};
  std::atomic<bool> over{false};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      fl_pinned pin = pinned(bytes.data(), kPage);
      unpin(pin);
      ++there;
      over.wait(false);
    });
  }
  while (there < kThreads) std::this_thread::yield();
  std::vector<fl_pinned> pins(65'536 - kThreads);
  for (fl_pinned& pin : pins) ASSERT_EQ(fl_pin(bytes.data(), kPage, 0, &pin), 0) << fl_last_error();
  over = true;
  over.notify_all();
  for (std::thread& thread : threads) thread.join();
  for (fl_pinned& pin : pins) unpin(pin);
}

// A thread that is cancelled ends between two calls, and not in the middle of one.
TEST_F(Pins, AreNoCancellationPoints) {
  const Object object = create(client_, 64 * kPage);
  const auto bytes = map(object, 64 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> done{0};
    std::thread other([&] {
      for (;; ++done) {
        if (fl_discard(client_, bytes.data(), bytes.size(), FL_DISCARD_CONTENT) != 0) return;
        fl_pinned pin{};
        if (fl_pin(&bytes[static_cast<std::size_t>(done % 64) * kPage], kPage, FL_PIN_WRITE,
                   &pin) != 0)
          return;
        (void)fl_advise(client_, bytes.data(), bytes.size(), FL_ADVICE_COLD);
        if (fl_unpin(&pin) != 0) return;
        ::pthread_testcancel();
      }
    });
    while (done < 3) std::this_thread::yield();
    EXPECT_EQ(::pthread_cancel(other.native_handle()), 0);
    other.join();
  }
  EXPECT_EQ(pins_of(daemon_)["pinned_bytes"], 0);
}

// A thread that pins while another ends the connection learns so, and touches nothing that is gone.
TEST_F(Pins, EndWithTheirConnectionInTheMiddleOfAnything) {
  const Daemon another;  // to which there is no other connection
  for (int round = 0; round < 1500 && !HasFailure(); ++round) {
    Client client = connect(another.socket());
    Object object = create(client, 4 * kPage);
    const auto bytes = map(object, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    std::atomic<int> done{0};
    std::thread other([&] {
      for (;;) {
        fl_pinned pin{};
        const int result = fl_pin(bytes.data(), kPage, 0, &pin);
        if (result != 0) {
          EXPECT_TRUE(result == -EFAULT || result == -EPIPE) << result << fl_last_error();
          return;
        }
        (void)fl_unpin(&pin);
        ++done;
      }
    });
    while (done < 50) {
    }
    EXPECT_EQ(fl_unmap(client, bytes.data(), bytes.size()), 0) << fl_last_error();
    object.reset();
    client.reset();
    other.join();
  }
}

TEST_F(Pins, ByAJobShowTheirProgressAndCanBeGivenUp) {
  constexpr std::size_t kPages = 20'000;
  const Object object = create(client_, kPages * kPage);
  const auto bytes = map(object, kPages * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  fl_job* job = nullptr;
  ASSERT_EQ(fl_pin_start(bytes.data(), bytes.size(), FL_PIN_WRITE, &job), 0) << fl_last_error();
  ASSERT_EQ(fl_job_wait(job), 0) << fl_last_error();
  fl_progress progress{};
  ASSERT_EQ(fl_job_progress(job, &progress), 0);
  EXPECT_EQ(progress.pages_done, kPages);
  fl_pinned pin{};
  ASSERT_EQ(fl_pin_take(job, &pin), 0) << fl_last_error();
  EXPECT_EQ(pin.length, bytes.size());
  EXPECT_EQ(pins_of(daemon_)["pinned_bytes"], bytes.size());
  unpin(pin);
  ASSERT_EQ(fl_pin_start(bytes.data(), bytes.size(), 0, &job), 0) << fl_last_error();
  ASSERT_EQ(fl_job_free(job), 0) << fl_last_error();
  EXPECT_EQ(pins_of(daemon_)["pinned_bytes"], 0);
}

// A job that was taken is no job any more: a session may have 64 at a time.
TEST_F(Pins, ByAJobCanBeHadAnyNumberOfTimes) {
  const PatternFile file(8 * kPage);
  const Object object = create_from(client_, file.fd());
  const auto bytes = map(object, 8 * kPage, FL_MAP_SHARED);
  file.truncate(4 * kPage);
  for (int i = 0; i < 100; ++i) {
    fl_job* job = nullptr;
    ASSERT_EQ(fl_pin_start(bytes.data(), 4 * kPage, 0, &job), 0) << i << fl_last_error();
    fl_pinned pin{};
    ASSERT_EQ(fl_pin_take(job, &pin), 0) << fl_last_error();
    unpin(pin);
    ASSERT_EQ(fl_pin_start(&bytes[6 * kPage], kPage, 0, &job), 0) << i << fl_last_error();
    expect_refused(EIO, "pinning", [&] { return fl_pin_take(job, &pin); });
  }
}

// Whoever maps and unmaps in another thread meanwhile keeps nothing from being pinned.
TEST_F(Pins, AreHadWhileOtherThreadsChangeTheirMappings) {
  const Object object = create(client_, 8 * kPage);
  const auto bytes = map(object, 8 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  std::atomic<bool> over{false};
  std::vector<std::thread> others;
  for (int i = 0; i < 3; ++i) {
    others.emplace_back([&] {
      while (!over) {
        const auto brief = map(object, 8 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
        brief[0] = std::byte{1};
        EXPECT_EQ(fl_unmap(client_, brief.data(), brief.size()), 0) << fl_last_error();
      }
    });
  }
  for (int i = 0; i < 1000 && !HasFailure(); ++i) {
    fl_pinned pin = pinned(bytes.data(), 2 * kPage);
    unpin(pin);
  }
  over = true;
  for (std::thread& other : others) other.join();
}

// A file that cannot supply its pages any more: nothing stays pinned of those that came.
TEST_F(Pins, OfWhichAPartCannotBeHadPinNothing) {
  const PatternFile file(8 * kPage);
  const Object object = create_from(client_, file.fd());
  const auto bytes = map(object, 8 * kPage, FL_MAP_SHARED);
  file.truncate(4 * kPage);
  fl_pinned pin{};
  expect_refused(EIO, "where 16384 bytes could not be had",
                 [&] { return fl_pin(bytes.data(), 8 * kPage, 0, &pin); });
  EXPECT_EQ(pins_of(daemon_)["pinned_bytes"], 0);
  pin = pinned(bytes.data(), 4 * kPage);
  unpin(pin);
}

// --- private mappings

class PrivatePins : public Pins {
 protected:
  void SetUp() override {
    Pins::SetUp();
    object_ = create(client_, 8 * kPage);
    shared_ = map(object_, 8 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    for (std::size_t page = 0; page < 8; ++page) shared_[page * kPage] = std::byte(page + 1);
    bytes_ = map(object_, 8 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  }
  static std::vector<fl_pin_run> runs_of(const fl_pinned& pin) {
    std::vector<fl_pin_run> runs(16);
    const int count = fl_pin_runs(&pin, runs.data(), runs.size());
    EXPECT_GE(count, 1) << fl_last_error();
    runs.resize(static_cast<std::size_t>(std::max(count, 0)));
    return runs;
  }
  [[nodiscard]] std::uint64_t slow() const {
    fl_pin_stats stats{};
    EXPECT_EQ(fl_pin_statistics(client_, &stats), 0);
    return stats.slow;
  }

  Object object_;
  std::span<std::byte> shared_;
  std::span<std::byte> bytes_;
};

// A process without a descriptor to spare loses nothing but the pin that it asked for.
TEST_F(PrivatePins, NeedDescriptorsOnceAndSaySo) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "SKIPPED: UndefinedBehaviorSanitizer makes pipes to look at objects, and reports "
                  "those that it could not look at without a descriptor";
#endif
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  fl_pinned pin{};
  for (unsigned room = 0; room < 3; ++room) {
    const UniqueFd next{::dup(0)};
    rlimit tight = before;
    tight.rlim_cur = static_cast<rlim_t>(next.get()) + 1 + room;
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &tight), 0);
    const int result = fl_pin(bytes_.data(), kPage, FL_PIN_WRITE, &pin);
    const std::string words = fl_last_error();
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    EXPECT_EQ(result, -EMFILE) << words;
  }
  pin = pinned(bytes_.data(), kPage, FL_PIN_WRITE);
  unpin(pin);
}

// What is pinned for writing is copied first: what others store to the object is not seen any more.
TEST_F(PrivatePins, ForWritingAreOfTheProcesssOwnPages) {
  ASSERT_EQ(bytes_[kPage], std::byte{2}) << "mapped already, and the object's";
  fl_pinned pin = pinned(bytes_.data(), 4 * kPage, FL_PIN_WRITE);
  for (std::size_t page = 0; page < 8; ++page) shared_[page * kPage] = std::byte{99};
  for (std::size_t page = 0; page < 4; ++page) {
    EXPECT_EQ(bytes_[page * kPage], std::byte(page + 1)) << page;
  }
  EXPECT_EQ(bytes_[5 * kPage], std::byte{99}) << "what was not pinned follows the object";
  for (const fl_pin_run& run : runs_of(pin)) EXPECT_NE(run.frame, 0U);
  unpin(pin);
  // They stay this process's own, and so need no daemon from now on.
  const std::uint64_t before = slow();
  daemon_.pause();
  for (int i = 0; i < 100; ++i) {
    fl_pinned again = pinned(&bytes_[kPage], 2 * kPage, FL_PIN_WRITE);
    unpin(again);
  }
  daemon_.resume();
  EXPECT_EQ(slow(), before);
}

TEST_F(PrivatePins, ForReadingCopyNothing) {
  fl_pinned pin = pinned(bytes_.data(), 8 * kPage);
  EXPECT_EQ(stats_of(client_, bytes_.data()).breaks, 0U);
  const auto runs = runs_of(pin);
  ASSERT_EQ(runs.size(), 1U);
  EXPECT_EQ(runs[0].frame, 0U) << "the object's pages";
  EXPECT_EQ(runs[0].length, 8 * kPage);
  // The process writes to one: it gets its own, and the pin stays with what it was made for.
  bytes_[2 * kPage] = std::byte{77};
  EXPECT_EQ(fl_pin_state(&pin), 0);
  EXPECT_EQ(runs_of(pin)[0].length, 8 * kPage);
  EXPECT_EQ(shared_[2 * kPage], std::byte{3});
  fl_pinned mixed = pinned(bytes_.data(), 8 * kPage);
  const auto now = runs_of(mixed);
  ASSERT_EQ(now.size(), 3U) << "what is its own lies between what is the object's";
  EXPECT_EQ(now[0].length, 2 * kPage);
  EXPECT_EQ(now[0].frame, 0U);
  EXPECT_EQ(now[1].length, kPage);
  EXPECT_NE(now[1].frame, 0U);
  EXPECT_EQ(now[2].frame, 0U);
  unpin(mixed);
  unpin(pin);
}

// A page pinned for writing stays what it is through a fork; the child's is another.
TEST_F(PrivatePins, StayTheParentsThroughAFork) {
  const auto by_page = map(object_, 8 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE);
  fl_pinned pin = pinned(by_page.data(), kPage, FL_PIN_WRITE);
  by_page[kPage] = std::byte{50};  // its own, and not pinned
  fl_pinned other = pinned(&by_page[kPage], kPage);
  const std::uint64_t frame = runs_of(pin)[0].frame;
  const std::uint64_t unpinned = runs_of(other)[0].frame;
  unpin(other);
  ASSERT_NE(frame, 0U);
  const Gate written;
  Child child([&] {
    // What the parent stores after the fork is not seen here.
    if (!written.pass()) return 1;
    if (by_page[0] != std::byte{1}) return 2;
    fl_pinned own{};
    if (fl_pin(by_page.data(), 2 * kPage, 0, &own) != 0) return 3;
    std::array<fl_pin_run, 4> runs{};
    if (fl_pin_runs(&own, runs.data(), runs.size()) < 1) return 4;
    if (runs[0].frame == frame || runs[0].frame == 0) return 5;
    return 0;
  });
  by_page[0] = std::byte{60};
  written.open();
  const Outcome outcome = child.wait();
  EXPECT_TRUE(outcome.exited(0)) << outcome;
  EXPECT_EQ(runs_of(pin)[0].frame, frame) << "the parent wrote, and it is the same page";
  EXPECT_EQ(fl_pin_state(&pin), 0);
  // One that was not pinned is shared with the child until somebody writes.
  by_page[kPage] = std::byte{51};
  fl_pinned after = pinned(&by_page[kPage], kPage);
  EXPECT_NE(runs_of(after)[0].frame, unpinned);
  unpin(after);
  unpin(pin);
}

// What a run says is so wherever the pages are by now, and whatever else is mapped meanwhile.
TEST_F(PrivatePins, KeepTheirNumbersWhereTheyAreMoved) {
  fl_pinned pin = pinned(&bytes_[kPage], 2 * kPage, FL_PIN_WRITE);
  const auto before = runs_of(pin);
  void* there = ::mmap(nullptr, 8 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_EQ(fl_remap(client_, bytes_.data(), 8 * kPage, 8 * kPage,
                     FL_REMAP_MAYMOVE | FL_REMAP_FIXED, &there),
            0)
      << fl_last_error();
  std::atomic<bool> over{false};
  std::thread other([&] {
    while (!over) {
      const auto brief = map(object_, 8 * kPage, FL_MAP_SHARED);
      EXPECT_EQ(fl_unmap(client_, brief.data(), brief.size()), 0) << fl_last_error();
    }
  });
  for (int i = 0; i < 1000 && !HasFailure(); ++i) {
    const auto now = runs_of(pin);
    ASSERT_EQ(now.size(), before.size());
    EXPECT_NE(now[0].frame, 0U);
    EXPECT_EQ(now[0].frame, before[0].frame);
    EXPECT_EQ(now[0].address, static_cast<std::byte*>(there) + kPage);
  }
  over = true;
  other.join();
  ASSERT_EQ(fl_unmap(client_, there, 8 * kPage), 0);
  EXPECT_TRUE(eventually([&] { return fl_pin_state(&pin) == -ENOENT; }));
  EXPECT_EQ(fl_unpin(&pin), -ENOENT);
}

// The pages of 256 mappings are known at a time; who unmaps some can have others known.
TEST_F(PrivatePins, OfManyMappingsAreHadWithAndWithoutNumbers) {
  constexpr std::size_t kMappings = 300;
  std::vector<std::span<std::byte>> all;
  std::vector<fl_pinned> pins;
  std::size_t unknown = 0;
  for (std::size_t i = 0; i < kMappings; ++i) {
    all.push_back(map(object_, 8 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE));
    pins.push_back(pinned(&all.back()[kPage], 2 * kPage, FL_PIN_WRITE));
    for (const fl_pin_run& run : runs_of(pins.back())) {
      EXPECT_NE(run.frame, 0U) << "they are no object's";
      if (run.frame == FL_PIN_FRAME_UNKNOWN) ++unknown;
    }
  }
  EXPECT_EQ(unknown, kMappings - 256);
  for (std::size_t i = 0; i < kMappings; ++i) {
    unpin(pins[i]);
    ASSERT_EQ(fl_unmap(client_, all[i].data(), all[i].size()), 0) << fl_last_error();
  }
  fl_pinned pin = pinned(bytes_.data(), kPage, FL_PIN_WRITE);
  EXPECT_NE(runs_of(pin)[0].frame, FL_PIN_FRAME_UNKNOWN);
  unpin(pin);
}

TEST_F(PrivatePins, EndWhenTheirPagesAreDiscarded) {
  fl_pinned pin = pinned(bytes_.data(), 2 * kPage, FL_PIN_WRITE);
  fl_pinned of_object = pinned(&bytes_[4 * kPage], kPage);
  ASSERT_EQ(fl_discard(client_, bytes_.data(), 8 * kPage, FL_DISCARD_COPIES), 0);
  EXPECT_TRUE(eventually([&] { return fl_pin_state(&pin) == -EIDRM; }));
  EXPECT_EQ(fl_pin_state(&of_object), 0) << "the object's page is where it was";
  expect_refused(EIDRM, "were discarded", [&] { return fl_unpin(&pin); });
  unpin(of_object);
  // The same through the plain system call.
  pin = pinned(bytes_.data(), 2 * kPage, FL_PIN_WRITE);
  ASSERT_EQ(::madvise(bytes_.data(), kPage, MADV_DONTNEED), 0);
  EXPECT_TRUE(eventually([&] { return fl_pin_state(&pin) == -EIDRM; }));
  EXPECT_EQ(fl_unpin(&pin), -EIDRM);
}

// Pages that were written before anybody pinned are the process's own; which they are is found out.
TEST_F(PrivatePins, OfPagesWrittenBeforeAreFoundOut) {
  for (std::size_t page = 0; page < 8; page += 2) bytes_[page * kPage] = std::byte{40};
  fl_pinned reading = pinned(bytes_.data(), 8 * kPage);
  EXPECT_GE(runs_of(reading).size(), 5U);
  unpin(reading);
  fl_pinned pin = pinned(bytes_.data(), 8 * kPage, FL_PIN_WRITE);
  EXPECT_EQ(bytes_[0], std::byte{40});
  EXPECT_EQ(bytes_[kPage], std::byte{2});
  unpin(pin);
}

// The same where it cannot be found out by a write, because the mapping is read-only by now.
TEST_F(PrivatePins, OfPagesWrittenBeforeTheyWereProtectedAreHad) {
  for (std::size_t page = 0; page < 8; page += 2) bytes_[page * kPage] = std::byte{40};
  ASSERT_EQ(fl_protect(client_, bytes_.data(), 8 * kPage, 0), 0);
  fl_pinned pin = pinned(bytes_.data(), 8 * kPage);
  EXPECT_EQ(bytes_[0], std::byte{40});
  unpin(pin);
  expect_refused(EACCES, "read-only",
                 [&] { return fl_pin(bytes_.data(), kPage, FL_PIN_WRITE, &pin); });
  ASSERT_EQ(fl_protect(client_, bytes_.data(), 8 * kPage, FL_PROTECT_WRITE), 0);
  pin = pinned(bytes_.data(), 8 * kPage, FL_PIN_WRITE);
  unpin(pin);
}

// What was grown since the first pin, and what stayed behind in a move, is pinned all the same.
TEST_F(PrivatePins, FollowAMappingThatGrowsAndMoves) {
  Object object = create(client_, 16 * kPage);
  const auto small = map(object, 4 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  fl_pinned pin = pinned(small.data(), 4 * kPage, FL_PIN_WRITE);
  unpin(pin);
  void* there = nullptr;
  ASSERT_EQ(fl_remap(client_, small.data(), 4 * kPage, 16 * kPage, FL_REMAP_MAYMOVE, &there), 0)
      << fl_last_error();
  auto* const bytes = static_cast<std::byte*>(there);
  pin = pinned(bytes, 16 * kPage, FL_PIN_WRITE);
  unpin(pin);
  void* elsewhere = nullptr;
  ASSERT_EQ(fl_remap(client_, bytes, 4 * kPage, 4 * kPage, FL_REMAP_MAYMOVE | FL_REMAP_DONTUNMAP,
                     &elsewhere),
            0)
      << fl_last_error();
  pin = pinned(bytes, 4 * kPage, FL_PIN_WRITE);
  unpin(pin);
  pin = pinned(static_cast<std::byte*>(elsewhere), 4 * kPage, FL_PIN_WRITE);
  unpin(pin);
}

// --- limits

class PinLimits : public ::testing::Test {
 protected:
  struct Memory {
    explicit Memory(const Daemon& daemon)
        : client(connect(daemon.socket())),
          object(create(client, 64 * kPage)),
          bytes(map(object, 64 * kPage, FL_MAP_SHARED | FL_MAP_WRITE)) {}
    Client client;
    Object object;
    std::span<std::byte> bytes;
  };
};

TEST_F(PinLimits, AreOfTheProcessAndExact) {
  const Daemon daemon({"--max-pinned-per-process", std::to_string(10 * kPage)});
  const Memory memory(daemon);
  std::array<fl_pinned, 10> pins{};
  for (std::size_t i = 0; i < pins.size(); ++i) {
    ASSERT_EQ(fl_pin(&memory.bytes[i * kPage], kPage, 0, &pins[i]), 0) << i << fl_last_error();
  }
  fl_pinned more{};
  expect_refused(ENOMEM, "max_pinned_per_process",
                 [&] { return fl_pin(&memory.bytes[20 * kPage], kPage, 0, &more); });
  ASSERT_EQ(fl_unpin(&pins[4]), 0);
  // What one thread does not use another has.
  std::thread([&] {
    EXPECT_EQ(fl_pin(&memory.bytes[20 * kPage], kPage, 0, &more), 0) << fl_last_error();
  }).join();
  for (fl_pinned& pin : pins) (void)fl_unpin(&pin);
  EXPECT_EQ(fl_unpin(&more), 0);
  ASSERT_EQ(fl_pin(memory.bytes.data(), 10 * kPage, 0, &more), 0) << fl_last_error();
  ASSERT_EQ(fl_unpin(&more), 0);
  expect_refused(ENOMEM, "max_pinned_per_process",
                 [&] { return fl_pin(memory.bytes.data(), 11 * kPage, 0, &more); });
}

// Threads that together never want more than the limit: what one gives back another has at once,
// also from a thread that stands still in the middle of a payment.
TEST_F(PinLimits, AreNotReachedBeforeThreadsUseThemUp) {
  constexpr std::size_t kLimit = 40;
  constexpr std::size_t kThreads = 6;  // more than most machines have processors
  const std::uint64_t seed = announce_seed();
  const Daemon daemon({"--max-pinned-per-process", std::to_string(kLimit * kPage)});
  const Memory memory(daemon);
  fl_pinned all{};
  ASSERT_EQ(fl_pin(memory.bytes.data(), kLimit * kPage, 0, &all), 0) << fl_last_error();
  ASSERT_EQ(fl_unpin(&all), 0);
  std::atomic<std::size_t> left{kLimit};
  std::atomic<std::size_t> refused{0};
  std::atomic<bool> over{false};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      std::mt19937_64 dice(seed + i);
      while (!over) {
        std::size_t there = left;
        const std::size_t pages = 1 + dice() % kLimit;
        if (there < pages || !left.compare_exchange_strong(there, there - pages)) continue;
        fl_pinned pin{};
        if (fl_pin(memory.bytes.data(), pages * kPage, 0, &pin) != 0) {
          ++refused;
        } else if (fl_unpin(&pin) != 0) {
          ++refused;
        }
        left += pages;
      }
    });
  }
  std::this_thread::sleep_for(std::chrono::seconds(2));
  over = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(refused, 0U) << "while nobody used what was granted";
  ASSERT_EQ(fl_pin(memory.bytes.data(), kLimit * kPage, 0, &all), 0) << fl_last_error();
  fl_pinned more{};
  EXPECT_EQ(fl_pin(memory.bytes.data(), kPage, 0, &more), -ENOMEM);
  EXPECT_EQ(fl_unpin(&all), 0);
}

// What one process was granted and does not use is another's to have.
TEST_F(PinLimits, OfAUserAreSharedAmongItsProcesses) {
  const Daemon daemon({"--max-pinned-per-user", std::to_string(16 * kPage)});
  const Gate used;
  const Gate go;
  Child child([&] {
    const Memory memory(daemon);
    fl_pinned pin{};
    if (fl_pin(memory.bytes.data(), 12 * kPage, 0, &pin) != 0) return 1;
    if (fl_unpin(&pin) != 0) return 2;
    if (fl_pin(memory.bytes.data(), 4 * kPage, 0, &pin) != 0) return 3;
    used.open();
    return go.pass() ? 0 : 4;
  });
  ASSERT_TRUE(used.pass());
  const Memory memory(daemon);
  fl_pinned pin{};
  ASSERT_EQ(fl_pin(memory.bytes.data(), 12 * kPage, 0, &pin), 0) << fl_last_error();
  fl_pinned more{};
  expect_refused(ENOMEM, "max_pinned_per_user",
                 [&] { return fl_pin(&memory.bytes[20 * kPage], kPage, 0, &more); });
  go.open();
  const Outcome outcome = child.wait();
  EXPECT_TRUE(outcome.exited(0)) << outcome;
  EXPECT_TRUE(eventually([&] {
    return fl_pin(&memory.bytes[20 * kPage], 4 * kPage, 0, &more) == 0;
  })) << "what the dead had pinned";
  EXPECT_EQ(fl_unpin(&pin), 0);
  EXPECT_EQ(fl_unpin(&more), 0);
}

TEST_F(PinLimits, OfAllAreKept) {
  const Daemon daemon({"--max-pinned", std::to_string(4 * kPage)});
  const Memory memory(daemon);
  fl_pinned pin{};
  expect_refused(ENOMEM, "16384 bytes are left of 16384 bytes: faultlined's max_pinned",
                 [&] { return fl_pin(memory.bytes.data(), 5 * kPage, 0, &pin); });
  ASSERT_EQ(fl_pin(memory.bytes.data(), 4 * kPage, 0, &pin), 0) << fl_last_error();
  EXPECT_EQ(fl_unpin(&pin), 0);
}

// What the process may lock, where nobody set another limit; root may lock all.
TEST_F(PinLimits, AreThoseOfMlockByDefault) {
  const Daemon daemon;
  const Memory memory(daemon);
  fl_pinned pin{};
  ASSERT_EQ(fl_pin(memory.bytes.data(), 64 * kPage, 0, &pin), 0) << fl_last_error();
  EXPECT_EQ(fl_unpin(&pin), 0);
  const Outcome outcome = in_child([&] {
    const rlimit limit{8 * kPage, 8 * kPage};
    if (::setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || ::setuid(65534) != 0) return 1;
    const Memory own(daemon);
    fl_pinned mine{};
    if (fl_pin(own.bytes.data(), 9 * kPage, 0, &mine) != -ENOMEM) return 2;
    if (std::string(fl_last_error()).find("RLIMIT_MEMLOCK") == std::string::npos) return 3;
    return fl_pin(own.bytes.data(), 8 * kPage, 0, &mine) == 0 ? 0 : 4;
  });
  EXPECT_TRUE(outcome.exited(0)) << outcome;
}

}  // namespace
}  // namespace faultline::testing
