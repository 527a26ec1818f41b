// Fork: the child, and its children, are served from their first instruction, and each sees what
// fork(2) promises: shared memory shared, private memory its own.
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

constexpr std::byte kParent{1};
constexpr std::byte kChild{2};

using Fork = SystemTest;

TEST_F(Fork, AChildThatNeverUsesTheLibraryReadsAndWrites) {
  const PatternFile file(64 * kPage);
  const Object object = create_from(client_, file.fd());
  const auto shared = map(object, 64 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto view = map(object, 64 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  EXPECT_TRUE(in_child([&] {
                if (std::memcmp(view.data(), file.bytes().data(), view.size()) != 0) return 1;
                if (std::memcmp(shared.data(), file.bytes().data(), shared.size()) != 0) return 2;
                for (std::size_t page = 0; page < 64; ++page) view[page * kPage] = kChild;
                shared[5] = kChild;
                return view[3 * kPage] == kChild ? 0 : 3;
              }).exited(0));
  EXPECT_EQ(shared[5], kChild) << "shared memory is";
  EXPECT_EQ(view[0], file.bytes()[0]) << "private memory is not";
}

// The same without libc's fork, so without its atfork handlers: the child is the kernel's alone.
TEST_F(Fork, AChildMadeByARawCloneIsServed) {
  const PatternFile file(16 * kPage);
  const auto view = map(create_from(client_, file.fd()), 16 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  const long pid = ::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (pid == 0) {
    for (std::size_t i = 0; i < view.size(); i += 512) {
      if (view[i] != file.bytes()[i]) ::_exit(1);
    }
    ::_exit(0);
  }
  Outcome outcome;
  ASSERT_EQ(::waitpid(static_cast<pid_t>(pid), &outcome.status, 0), pid);
  EXPECT_TRUE(outcome.exited(0)) << outcome;
}

// What each side wrote before the fork both have; what each writes after it, it has alone.
TEST_F(Fork, PrivatePagesPartAtEachSidesWrite) {
  const Object object = create(client_, 4 * kPage);
  const auto view = map(object, 4 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  view[0] = kParent;                     // private before the fork
  EXPECT_EQ(view[kPage], std::byte{0});  // mapped, clean
  Gate parent_wrote;
  Child child([&] {
    if (view[0] != kParent) return 1;
    view[1] = kChild;
    view[kPage] = kChild;
    if (!parent_wrote.pass()) return 2;
    if (view[0] != kParent || view[1] != kChild) return 3;
    if (view[2 * kPage] != std::byte{0}) return 4;
    return view[kPage + 1] == std::byte{0} ? 0 : 5;
  });
  view[2 * kPage] = kParent;
  view[kPage + 1] = kParent;
  view[0] = kParent;
  parent_wrote.open();
  EXPECT_TRUE(child.wait().exited(0));
  EXPECT_EQ(view[1], std::byte{0});
  EXPECT_EQ(view[kPage], std::byte{0});
}

TEST_F(Fork, GrandchildrenAreServedToo) {
  const PatternFile file(32 * kPage);
  const auto view = map(create_from(client_, file.fd()), 32 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  const std::function<int(int)> generation = [&](int left) -> int {
    view[static_cast<std::size_t>(left) * kPage] = kChild;
    if (left > 0 && !in_child([&] { return generation(left - 1); }).exited(0)) return 1;
    for (std::size_t page = 0; page < 32; ++page) {
      const bool written = page >= static_cast<std::size_t>(left) && page <= 6;
      if (view[page * kPage] != (written ? kChild : file.bytes()[page * kPage])) return 2;
    }
    return 0;
  };
  EXPECT_EQ(generation(6), 0);
}

TEST_F(Fork, AChildUsesItsParentsHandlesAndMakesItsOwnMappings) {
  const Object object = create(client_, 4 * kPage, "fork-test");
  const auto shared = map(object, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  EXPECT_TRUE(in_child([&] {
                const auto mine = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE, kPage);
                mine[0] = kChild;
                fl_object* again = nullptr;
                if (fl_object_open(client_, "fork-test", FL_READ_ONLY, &again) != 0) return 1;
                const fl_stats stats = stats_of(client_, shared.data());
                if (stats.length != 4 * kPage) return 2;
                if (fl_unmap(client_, mine.data(), mine.size()) != 0) return 3;
                return fl_object_close(again) == 0 ? 0 : 4;
              }).exited(0));
  EXPECT_EQ(shared[kPage], kChild);
  EXPECT_EQ(fl_object_unlink(client_, "fork-test"), 0) << fl_last_error();
}

TEST_F(Fork, ForkingWhileOtherThreadsFaultLosesNoFault) {
  SKIP_WITH_HUGE_PAGES("takes too many");
  const PatternFile file(2048 * kPage);
  const Object object = create_from(client_, file.fd());
  std::atomic<bool> stop{false};
  std::atomic<bool> equal{true};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      while (!stop) {
        const auto view = map(object, 2048 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
        for (auto page = static_cast<std::size_t>(t); page < 2048 && !stop; page += 7) {
          if (view[page * kPage + 1] != file.bytes()[page * kPage + 1]) equal = false;
          view[page * kPage] = kParent;
        }
        fl_unmap(client_, view.data(), view.size());
      }
    });
  }
  const auto view = map(object, 2048 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  for (int i = 0; i < 60; ++i) {
    const Outcome outcome = in_child([&] {
      for (std::size_t page = 0; page < 2048; page += 13) {
        if (view[page * kPage] != file.bytes()[page * kPage]) return 1;
        view[page * kPage] = kChild;
      }
      return 0;
    });
    EXPECT_TRUE(outcome.exited(0)) << outcome << " in round " << i;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(equal);
}

TEST_F(Fork, ChildrenThatExitAtOnceLeaveNothingBehind) {
  const auto view = map(create(client_, 16 * kPage), 16 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  view[0] = kParent;
  const std::size_t before = daemon_.open_descriptors();
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(in_child([] { return 0; }).exited(0));
  EXPECT_TRUE(eventually([&] { return daemon_.open_descriptors() <= before; },
                         std::chrono::milliseconds(1000)))
      << daemon_.open_descriptors() << " descriptors, " << before << " before";
}

// The unmap of one thread is reported after the fork of another although it came before: whatever
// order the kernel reports them in, the child has what it had at its fork.
TEST_F(Fork, UnmapsAndForksThatOvertakeEachOtherLeaveTheChildItsMappings) {
  const PatternFile file(64 * kPage);
  const Object object = create_from(client_, file.fd());
  std::atomic<bool> stop{false};
  std::thread unmapper([&] {
    while (!stop) {
      const auto view = map(object, 64 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
      fl_unmap(client_, view.data(), view.size());
    }
  });
  for (int i = 0; i < 200; ++i) {
    const auto view = map(object, 64 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
    Gate go;
    Child child([&] {
      if (!go.pass()) return 1;
      return std::memcmp(view.data(), file.bytes().data(), view.size()) == 0 ? 0 : 2;
    });
    fl_unmap(client_, view.data(), view.size());  // the parent's own goes; the child's stays
    go.open();
    const Outcome outcome = child.wait();
    ASSERT_TRUE(outcome.exited(0)) << outcome << " in round " << i;
  }
  stop = true;
  unmapper.join();
}

TEST_F(Fork, ExecReleasesEverything) {
  const auto view = map(create(client_, 16 * kPage), 16 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  view[0] = kParent;
  const std::size_t before = daemon_.open_descriptors();
  Gate go;
  const int in = ::dup(STDIN_FILENO);
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  Child child([&] {
    view[kPage] = kChild;
    ::dup2(pipe[0], STDIN_FILENO);
    ::close(pipe[1]);
    ::execlp("cat", "cat", nullptr);
    return 1;
  });
  ::close(pipe[0]);
  EXPECT_TRUE(eventually([&] { return daemon_.open_descriptors() <= before; },
                         std::chrono::milliseconds(1500)))
      << "the child lives on as cat, and its old address space is gone";
  ::close(pipe[1]);
  ::close(in);
  EXPECT_TRUE(child.wait().exited(0));
}

// What is not served must not read made-up zeroes either.
TEST(ForkLimits, ChildrenBeyondTheLimitOfTheirUserGetNoPages) {
  Daemon daemon({"--max-spaces-per-user", "3"});
  const PatternFile file(8 * kPage);
  const Client client = connect(daemon.socket());
  const auto view = map(create_from(client, file.fd()), 8 * kPage, FL_MAP_PRIVATE);
  touch(view[0]);
  const auto reads_an_absent_page = [&] {
    return view[5 * kPage] == file.bytes()[5 * kPage] ? 0 : 1;
  };
  {
    Gate end;
    std::vector<Child> within;
    for (int i = 0; i < 2; ++i) within.emplace_back([&] { return end.pass() ? 0 : 1; });
    EXPECT_TRUE(in_child(reads_an_absent_page).killed_by(SIGBUS));
    EXPECT_NE(daemon.log().find("not served"), std::string::npos);
    for (std::size_t i = 0; i < within.size(); ++i) end.open();
    for (Child& child : within) EXPECT_TRUE(child.wait().exited(0));
  }
  EXPECT_TRUE(
      eventually([&] { return daemon.ask(wire::AdminQuery::status)["status"]["spaces"] == 1; }));
  EXPECT_TRUE(in_child(reads_an_absent_page).exited(0)) << "there is room again";
}

}  // namespace
}  // namespace faultline::testing
