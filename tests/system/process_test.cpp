// Processes that come to be in every way there is, while other threads use the mappings: those go
// on, a child has what the kernel says it has, and nothing of it stays in the daemon.
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "tests/system/racing.hpp"

namespace faultline::testing {
namespace {

constexpr std::size_t kPages = 64;
constexpr std::byte kOnes{0x11};

// Two mappings of one file, and threads that fault in both without a pause and check what they see.
class InUse {
 public:
  InUse(fl_client* client, const PatternFile& file, Watchdog& watchdog)
      : file_(file),
        object_(create_from(client, file.fd())),
        shared_(map(object_, kPages * kPage, FL_MAP_SHARED | FL_MAP_WRITE)),
        view_(map(object_, kPages * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE)) {
    for (std::size_t i = 0; i < 3; ++i) {
      threads_.emplace_back(
          [this, i, &watched = watchdog.watch("user " + std::to_string(i))] { use(i, watched); });
    }
  }
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;
  ~InUse() {
    go_on();
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
    EXPECT_FALSE(wrong_) << "a thread saw what it should not";
  }

  [[nodiscard]] std::byte expected(std::size_t page) const { return file_.bytes()[page * kPage]; }
  [[nodiscard]] std::span<std::byte> shared() const { return shared_; }
  [[nodiscard]] std::span<std::byte> view() const { return view_; }
  // Each thread came round again.
  void go_on() const {
    for (const auto& rounds : rounds_) {
      const std::uint64_t before = rounds;
      EXPECT_TRUE(eventually([&] { return rounds > before + 1; }, std::chrono::seconds(20)));
    }
  }
  // For a child, which may call nothing that takes a lock: that all is as it should be.
  [[nodiscard]] bool is_right() const {
    for (std::size_t page = 0; page < kPages; ++page) {
      if (shared_[page * kPage] != expected(page) || view_[page * kPage] != expected(page)) {
        return false;
      }
      view_[page * kPage + 9] = kOnes;
      if (view_[page * kPage] != expected(page)) return false;
    }
    return true;
  }

 private:
  // Writes to what nobody checks, byte 8 of its own pages.
  void use(std::size_t index, Watchdog::Thread& watched) {
    while (!stop_) {
      for (std::size_t page = index; page < kPages; page += 3) {
        watched.does("using a page", &view_[page * kPage]);
        if (view_[page * kPage] != expected(page) || shared_[page * kPage] != expected(page)) {
          wrong_ = true;
        }
        view_[page * kPage + 8] = kOnes;
        if (view_[page * kPage + 16] != file_.bytes()[page * kPage + 16]) wrong_ = true;
        for (const auto memory : {view_, shared_}) {
          if (::madvise(&memory[page * kPage], kPage, MADV_DONTNEED) != 0) wrong_ = true;
        }
      }
      ++rounds_.at(index);
    }
    watched.rests();
  }

  const PatternFile& file_;
  Object object_;
  std::span<std::byte> shared_;
  std::span<std::byte> view_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> wrong_{false};
  std::array<std::atomic<std::uint64_t>, 3> rounds_{};
  std::vector<std::thread> threads_;
};

class Processes : public SystemTest {
 protected:
  static constexpr int kRounds = 25;

  [[nodiscard]] std::size_t spaces() const {
    return daemon_.ask(wire::AdminQuery::spaces)["spaces"].size();
  }
  // Makes children while threads use the mappings, and sees that nothing of them stays.
  void in_use(const std::function<void(const InUse&)>& make_a_child) {
    {
      Watchdog watchdog;
      const InUse memory(client_, file_, watchdog);
      memory.go_on();
      const Held before = held();
      Watchdog::Thread& maker = watchdog.watch("maker of children");
      for (int i = 0; i < kRounds && !HasFailure(); ++i) {
        maker.does("making a child");
        make_a_child(memory);
      }
      maker.rests();
      memory.go_on();
      expect_no_more_than(before);
    }
    EXPECT_EQ(daemon_.log().find("[error]"), std::string::npos) << daemon_.log();
  }
  // What the daemon has for its clients.
  struct Held {
    std::size_t spaces;
    std::size_t descriptors;
  };
  Held held() { return {spaces(), daemon_.open_descriptors()}; }
  void expect_no_more_than(const Held& before) {
    EXPECT_TRUE(eventually([&] {
      const Held now = held();
      return now.spaces == before.spaces && now.descriptors <= before.descriptors;
    })) << spaces()
        << " spaces, " << before.spaces << " before; descriptors, " << before.descriptors
        << " before:\n"
        << daemon_.describe_descriptors();
  }
  static void expect_ends_well(pid_t child) {
    Outcome outcome;
    ASSERT_GT(child, 0) << std::strerror(errno);
    ASSERT_EQ(::waitpid(child, &outcome.status, 0), child);
    EXPECT_TRUE(outcome.exited(0)) << outcome;
  }

  PatternFile file_{kPages * kPage};
};

TEST_F(Processes, AForkChildThatCallsExec) {
  in_use([&](const InUse& memory) {
    const pid_t child = ::fork();
    if (child == 0) {
      if (!memory.is_right()) ::_exit(1);
      ::execlp("true", "true", nullptr);
      ::_exit(2);
    }
    expect_ends_well(child);
  });
}

// It has its parent's memory until it calls exec, so its faults are its parent's.
TEST_F(Processes, AVforkChildThatCallsExec) {
  in_use([&](const InUse& memory) {
    const std::span<std::byte> shared = memory.shared();
    (void)::madvise(shared.data(), shared.size(), MADV_DONTNEED);
    // NOLINTNEXTLINE(clang-analyzer-security.insecureAPI.vfork): what this is about
    const pid_t child = ::vfork();
    if (child == 0) {
      // NOLINTNEXTLINE(clang-analyzer-unix.Vfork): the parent's memory is written to on purpose
      for (std::size_t page = 0; page < kPages; ++page) shared[page * kPage + 24] = kOnes;
      ::execlp("true", "true", nullptr);
      ::_exit(2);
    }
    expect_ends_well(child);
    for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(shared[page * kPage + 24], kOnes);
  });
}

TEST_F(Processes, ASpawnedProcess) {
  in_use([&](const InUse&) {
    std::string name = "true";
    std::array<char*, 2> arguments{name.data(), nullptr};
    pid_t child = -1;
    EXPECT_EQ(::posix_spawnp(&child, "true", nullptr, nullptr, arguments.data(), environ), 0);
    expect_ends_well(child);
  });
}

// A process that shares all memory, as a thread does: no new address space, and its faults are
// answered as its parent's are.
TEST_F(Processes, AChildThatSharesItsParentsMemory) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "SKIPPED: ThreadSanitizer knows no thread without pthread_create";
#endif
  in_use([&](const InUse& memory) {
    std::vector<std::byte> stack(std::size_t{256} << 10);
    const auto body = [](void* argument) {
      const auto& shown = *static_cast<const InUse*>(argument);
      for (std::size_t page = 0; page < kPages; ++page) {
        if (shown.shared()[page * kPage] != shown.expected(page)) return 1;
        shown.shared()[page * kPage + 32] = kOnes;
      }
      return 0;
    };
    const std::span<std::byte> shared = memory.shared();
    (void)::madvise(shared.data(), shared.size(), MADV_DONTNEED);
    const std::size_t before = spaces();
    const pid_t child =
        ::clone(body, stack.data() + stack.size(), CLONE_VM | SIGCHLD, const_cast<InUse*>(&memory));
    expect_ends_well(child);
    EXPECT_EQ(spaces(), before);
    for (std::size_t page = 0; page < kPages; ++page) ASSERT_EQ(shared[page * kPage + 32], kOnes);
  });
}

// And one that leaves that memory by exec, while its parent goes on in it.
TEST_F(Processes, AChildThatSharesItsParentsMemoryAndCallsExec) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "SKIPPED: ThreadSanitizer knows no thread without pthread_create";
#endif
  in_use([&](const InUse&) {
    std::vector<std::byte> stack(std::size_t{256} << 10);
    const auto body = [](void*) {
      ::execl("/bin/true", "true", nullptr);
      return 2;
    };
    expect_ends_well(::clone(body, stack.data() + stack.size(), CLONE_VM | SIGCHLD, nullptr));
  });
}

// Without libc, so without anybody's fork handlers.
TEST_F(Processes, AChildMadeByARawClone) {
  in_use([&](const InUse& memory) {
    const auto child = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
    if (child == 0) ::_exit(memory.is_right() ? 0 : 1);
    expect_ends_well(child);
  });
}

// Of a raw clone's child only the kernel knew, and it is gone with its first system call.
TEST_F(Processes, ARawCloneChildThatCallsExecAtOnce) {
  in_use([&](const InUse&) {
    const auto child = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
    if (child == 0) {
      ::execl("/bin/true", "true", nullptr);
      ::_exit(2);
    }
    expect_ends_well(child);
  });
}

// The process itself calls exec, and its threads end in the middle of their faults.
TEST_F(Processes, AProcessWhoseThreadsFaultCallsExec) {
  const Held before = held();
  for (int i = 0; i < kRounds; ++i) {
    const Outcome outcome = in_child([&] {
      Watchdog watchdog;
      const InUse memory(client_, file_, watchdog);
      memory.go_on();
      ::execlp("true", "true", nullptr);
      return 2;
    });
    ASSERT_TRUE(outcome.exited(0)) << outcome;
  }
  expect_no_more_than(before);
  EXPECT_EQ(daemon_.log().find("[error]"), std::string::npos) << daemon_.log();
}

}  // namespace
}  // namespace faultline::testing
