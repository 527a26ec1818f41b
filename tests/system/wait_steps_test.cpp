// Waits and wakes of a client whose memory changes between two of their steps: after a word was
// looked up and before the kernel is asked, and after a wake and before it is looked at whether all
// were found. Each result and each count is checked.
#include "libclient/wait_steps.hpp"

#include <sys/mman.h>

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "tests/system/harness.hpp"
#include "tests/system/waiters.hpp"

namespace faultline::testing {
namespace {

using client::WaitStep;

constexpr std::size_t kBytes = 4 * kPage;
constexpr std::size_t kWord = 68;
constexpr std::size_t kBeside = 3000;  // in the word's page

enum class Page : std::uint8_t {
  own,     // default private memory, written
  clean,   // by page, the object's
  alone,   // by page, written, nobody else's
  common,  // by page, written, and a fork relative's too
};
constexpr std::array kPages{Page::own, Page::clean, Page::alone, Page::common};

enum class Change : std::uint8_t { store, forked, unmap, move, discard };
constexpr std::array kChanges{Change::store, Change::forked, Change::unmap, Change::move,
                              Change::discard};

std::string describe(Page page, Change change) {
  constexpr std::array kPageNames{"own", "clean", "alone", "common"};
  constexpr std::array kChangeNames{"store", "fork and the child's store", "munmap", "mremap",
                                    "MADV_DONTNEED"};
  return std::string(kPageNames.at(static_cast<std::size_t>(page))) + " page, " +
         kChangeNames.at(static_cast<std::size_t>(change));
}

// Does something once, when the first thread comes to a step. One at a time.
class AtStep {
 public:
  AtStep(WaitStep step, std::function<void()> action) : action_(std::move(action)), step_(step) {
    armed = this;
    client::wait_step_hook = [](WaitStep reached) {
      AtStep* mine = armed;
      const bool first =
          mine != nullptr && reached == mine->step_ && armed.compare_exchange_strong(mine, nullptr);
      if (first) mine->action_();
    };
  }
  AtStep(const AtStep&) = delete;
  AtStep& operator=(const AtStep&) = delete;
  ~AtStep() {
    EXPECT_EQ(armed.load(), nullptr) << "nobody came to the step";
    client::wait_step_hook = nullptr;
    armed = nullptr;
  }

 private:
  // NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): the hook has no argument
  static inline std::atomic<AtStep*> armed{nullptr};
  std::function<void()> action_;
  WaitStep step_;
};

// Private memory in a state, and what changes it.
class Memory {
 public:
  Memory(fl_object* object, Page page)
      : memory_(
            map(object, kBytes,
                FL_MAP_PRIVATE | FL_MAP_WRITE | (page == Page::own ? 0 : FL_MAP_WAIT_BY_PAGE))) {
    if (page == Page::clean) {
      (void)touch(memory_[kBeside]);  // it is in memory
    } else {
      memory_[kBeside] = std::byte{1};
    }
    if (page != Page::common) return;
    relative_ = std::make_unique<Child>([this] {
      (void)over_.pass();
      return 0;
    });
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    over_.open();
    ::munmap(memory_.data(), kBytes);
    if (there_ != nullptr) ::munmap(there_, kBytes);
  }

  void change(Change change) {
    switch (change) {
      case Change::store:
        memory_[kBeside] = std::byte{2};
        return;
      case Change::forked: {
        const Outcome outcome = in_child([&] {
          die_if_this_lasts();
          memory_[kBeside] = std::byte{2};
          return fl_wake(word(), 8);
        });
        EXPECT_TRUE(outcome.exited(0)) << "the child's page is another: " << outcome;
        return;
      }
      case Change::unmap:
        EXPECT_EQ(::munmap(memory_.data(), kBytes), 0);
        return;
      case Change::move:
        there_ = static_cast<std::byte*>(
            ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        EXPECT_EQ(::mremap(memory_.data(), kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, there_),
                  there_);
        return;
      case Change::discard:
        EXPECT_EQ(::madvise(memory_.data(), kBytes, MADV_DONTNEED), 0);
        return;
    }
  }
  [[nodiscard]] std::byte* word() const { return memory_.data() + kWord; }
  // Where mremap took it.
  [[nodiscard]] std::byte* word_there() const { return there_ + kWord; }

 private:
  std::span<std::byte> memory_;
  std::byte* there_ = nullptr;
  Gate over_;
  std::unique_ptr<Child> relative_;
};

// How a wait ends in whose memory that happened; nothing where it goes on.
std::optional<int> outcome_of(Page page, Change change) {
  switch (change) {
    case Change::unmap:
      return -EFAULT;
    case Change::discard:
      return page == Page::clean ? std::nullopt : std::optional(-ECANCELED);
    default:
      return std::nullopt;
  }
}

class WaitSteps : public SystemTest {
 protected:
  void SetUp() override {
    SystemTest::SetUp();
    object_ = create(client_, kBytes);
  }
  Object object_;
};

// Between looking the word up and queueing: who comes too late for the change looks again, and
// waits where it is woken, or learns that there is nothing to wait for. Of several threads.
TEST_F(WaitSteps, AWaitWhoseMemoryChangesBeforeItIsQueued) {
  for (const Page page : kPages) {
    if (page == Page::clean) continue;  // the daemon keeps those
    for (const Change change : kChanges) {
      SCOPED_TRACE(describe(page, change));
      Memory memory(object_, page);
      const AtStep then(WaitStep::before_wait, [&] { memory.change(change); });
      Waiter waiter(memory.word());
      // Where its memory was moved it is waiting for an address that is gone.
      const auto outcome = change == Change::move ? -EFAULT : outcome_of(page, change);
      if (change == Change::discard) {
        // The daemon learns of it at the same time: the wait is one from before it, and ended, or
        // one that looked the word up after it.
        bool woken = false;
        EXPECT_TRUE(eventually([&] {
          woken = fl_wake(memory.word(), 8) == 1;
          return woken || waiter.ended();
        }));
        EXPECT_EQ(waiter.result(), woken ? 0 : -ECANCELED);
        continue;
      }
      if (outcome) {
        EXPECT_EQ(waiter.result(), *outcome);
        continue;
      }
      ASSERT_TRUE(waiter.queued());
      EXPECT_EQ(fl_wake(memory.word(), 8), 1);
      EXPECT_EQ(waiter.result(), 0);
    }
  }
}

// The same in a process with one thread, where nobody wakes: the wait is as long as its time-out,
// or is ended.
TEST_F(WaitSteps, AWaitOfAnOnlyThreadWhoseMemoryChangesBeforeItIsQueued) {
  for (const Page page : kPages) {
    if (page == Page::clean) continue;
    for (const Change change : kChanges) {
      SCOPED_TRACE(describe(page, change));
      Memory memory(object_, page);
      const AtStep then(WaitStep::before_wait, [&] { memory.change(change); });
      const auto outcome = change == Change::move ? -EFAULT : outcome_of(page, change);
      const timespec time{outcome == -EFAULT ? 10 : 0, 20'000'000};
      const int result = fl_wait(memory.word(), 0, &time, 0);
      const bool either = change == Change::discard;  // before it, or after it
      EXPECT_TRUE(result == outcome.value_or(-ETIMEDOUT) || (either && result == -ETIMEDOUT))
          << result;
    }
  }
}

// Between looking the word up and waking: the waiter is found where it is now, or it is ended and
// not counted.
TEST_F(WaitSteps, AWakeWhoseMemoryChangesBeforeIt) {
  for (const Page page : kPages) {
    for (const Change change : kChanges) {
      SCOPED_TRACE(describe(page, change));
      Memory memory(object_, page);
      Waiter waiter(memory.word());
      ASSERT_TRUE(waiter.queued());
      const auto outcome = outcome_of(page, change);
      const AtStep then(WaitStep::before_wake, [&] {
        memory.change(change);
        // Of these the daemon may learn a moment later.
        if (outcome) {
          EXPECT_TRUE(eventually([&] { return waiter.ended(); }));
        }
      });
      const int woken = fl_wake(memory.word(), 8);
      if (outcome) {
        EXPECT_EQ(woken, change == Change::unmap ? -EFAULT : 0);
        EXPECT_EQ(waiter.result(), *outcome);
      } else if (change == Change::move && woken == -EFAULT) {
        EXPECT_EQ(fl_wake(memory.word_there(), 8), 1);
        EXPECT_EQ(waiter.result(), 0);
      } else {
        EXPECT_EQ(woken, 1);
        EXPECT_EQ(waiter.result(), 0);
      }
    }
  }
}

// After a wake, before it is looked at whether all were found: whoever was woken is counted,
// whatever becomes of the memory then.
TEST_F(WaitSteps, AWakeWhoseMemoryChangesAfterItCountsWhomItWoke) {
  for (const Page page : kPages) {
    for (const Change change : kChanges) {
      SCOPED_TRACE(describe(page, change));
      Memory memory(object_, page);
      Waiter waiter(memory.word());
      ASSERT_TRUE(waiter.queued());
      {
        const AtStep then(WaitStep::after_wake, [&] {
          memory.change(change);
          // Until the daemon has learnt of it.
          if (change == Change::unmap || change == Change::move) {
            EXPECT_TRUE(eventually([&] { return fl_wake(memory.word(), 0) == -EFAULT; }));
          }
        });
        EXPECT_EQ(fl_wake(memory.word(), 8), 1);
      }
      EXPECT_EQ(waiter.result(), 0);
    }
  }
}

// A wake in a process with one thread finds nobody, wherever its memory goes meanwhile.
TEST_F(WaitSteps, AWakeOfAnOnlyThreadFindsNobody) {
  for (const Page page : kPages) {
    for (const WaitStep step : {WaitStep::before_wake, WaitStep::after_wake}) {
      for (const Change change : kChanges) {
        SCOPED_TRACE(describe(page, change));
        Memory memory(object_, page);
        const AtStep then(step, [&] { memory.change(change); });
        const int woken = fl_wake(memory.word(), 8);
        const bool gone = change == Change::unmap || change == Change::move;
        EXPECT_TRUE(woken == 0 || (gone && woken == -EFAULT)) << woken;
      }
    }
  }
}

// A relative moves its memory while another wakes: the page is one all the time, and the waiter is
// found, before the move or after it.
TEST_F(WaitSteps, AWakeFindsARelativeThatMovesItsMemory) {
  for (const WaitStep step : {WaitStep::before_wake, WaitStep::after_wake}) {
    for (const bool waiter_first : {true, false}) {
      const auto memory = map(object_, kBytes, FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE);
      memory[kBeside] = std::byte{1};
      Gate queued;
      Gate go;
      Gate moved;
      Child relative([&] {
        die_if_this_lasts();
        Waiter waiter(memory.data() + kWord);
        if (!waiter.queued()) return 2;
        queued.open();
        if (!go.pass()) return 3;
        void* there = ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (::mremap(memory.data(), kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, there) != there)
          return 4;
        moved.open();
        return waiter.result() == 0 ? 0 : 5;
      });
      ASSERT_TRUE(queued.pass());
      if (waiter_first) {
        const timespec none{0, 0};  // this process has a slot before the relative moves, too
        ASSERT_EQ(fl_wait(memory.data() + kWord, 0, &none, 0), -ETIMEDOUT);
      }
      const AtStep then(step, [&] {
        go.open();
        EXPECT_TRUE(moved.pass());
      });
      EXPECT_EQ(fl_wake(memory.data() + kWord, 8), 1);
      EXPECT_TRUE(relative.wait().exited(0));
      ::munmap(memory.data(), kBytes);
    }
  }
}

}  // namespace
}  // namespace faultline::testing
