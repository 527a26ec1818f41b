// Waiting and waking through a real daemon: results, keys, and what happens to the memory of those
// who wait.
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <fstream>
#include <thread>
#include <vector>

#include "tests/system/harness.hpp"
#include "tests/system/waiters.hpp"

namespace faultline::testing {
namespace {

using Word = std::atomic<std::uint32_t>;

class Wait : public SystemTest {
 protected:
  Word& word_in(std::span<std::byte> memory, std::size_t offset = 0) {
    return *reinterpret_cast<Word*>(memory.data() + offset);
  }
};

// Whether somebody waits for the word: who is moved to where he waits already is counted.
bool waited_for(const void* word) {
  return fl_requeue(word, 0, 1, word) == 1;
}

// Wakes once somebody waits.
int wake_when_waiting(const void* word, int count = 1) {
  int woken = 0;
  eventually([&] { return (woken = fl_wake(word, count)) != 0; });
  return woken;
}

// A word of an object is the same through two mappings at different addresses, also for futex(2).
TEST_F(Wait, OfASharedWordIsWokenThroughAnyMapping) {
  const Object object = create(client_, kPage);
  const auto here = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto there = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  int waited = -1;
  std::thread waiter([&] { waited = fl_wait(here.data(), 0, nullptr, 0); });
  EXPECT_EQ(wake_when_waiting(there.data()), 1);
  waiter.join();
  EXPECT_EQ(waited, 0);

  waiter = std::thread([&] { waited = fl_wait(here.data(), 0, nullptr, 0); });
  EXPECT_TRUE(eventually(
      [&] { return ::syscall(SYS_futex, there.data(), FUTEX_WAKE, 1, nullptr, nullptr, 0) == 1; }));
  waiter.join();
  EXPECT_EQ(waited, 0);
}

// Bytes and halves of a word are compared alone, whatever their neighbours do meanwhile.
TEST_F(Wait, ComparesWordsOfEverySize) {
  const Object object = create(client_, kPage);
  const auto memory = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const timespec soon{0, 1'000'000};
  word_in(memory) = 0x04030201;
  word_in(memory, 4) = 0x08070605;
  EXPECT_EQ(fl_wait(memory.data(), 0x01, &soon, FL_WAIT_U8), -ETIMEDOUT);
  EXPECT_EQ(fl_wait(memory.data(), 0x02, &soon, FL_WAIT_U8), -EAGAIN);
  EXPECT_EQ(fl_wait(memory.data(), 0x0201, &soon, FL_WAIT_U16), -ETIMEDOUT);
  EXPECT_EQ(fl_wait(memory.data(), 0x0301, &soon, FL_WAIT_U16), -EAGAIN);
  EXPECT_EQ(fl_wait(memory.data(), 0x0807060504030201, &soon, FL_WAIT_U64), -ETIMEDOUT);
  EXPECT_EQ(fl_wait(memory.data(), 0x0807060504030200, &soon, FL_WAIT_U64), -EAGAIN);
  EXPECT_EQ(fl_wait(memory.data(), 0x1807060504030201, &soon, FL_WAIT_U64), -EAGAIN);
}

// The value is looked at before the time, however late the daemon hears of the wait. Of a byte that
// is at no multiple of four only the client can tell.
TEST_F(Wait, ThatFindsAnotherValueSaysSoHoweverShortItsTime) {
  const Object object = create(client_, kPage);
  const auto memory = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  word_in(memory) = 0;
  const timespec none{0, 0};
  ASSERT_EQ(fl_wait(memory.data() + 1, 0, &none, FL_WAIT_U8), -ETIMEDOUT);
  std::atomic<pid_t> tid{0};
  int result = 0;
  daemon_.pause();
  std::thread waiter([&] {
    tid = ::gettid();
    result = fl_wait(memory.data() + 1, 1, &none, FL_WAIT_U8);
  });
  // Its time is over before it sleeps: it has given up by then.
  EXPECT_TRUE(eventually([&] {
    std::string where;
    std::getline(std::ifstream("/proc/self/task/" + std::to_string(tid) + "/wchan"), where);
    return where.find("futex") != std::string::npos;
  }));
  daemon_.resume();
  waiter.join();
  EXPECT_EQ(result, -EAGAIN);
}

// Bytes beside each other are different words, wherever they lie.
TEST_F(Wait, WakesNoByteBesideTheOneMeant) {
  const Object object = create(client_, kPage);
  for (const std::uint32_t flags : {FL_MAP_SHARED | FL_MAP_WRITE, FL_MAP_PRIVATE | FL_MAP_WRITE,
                                    FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE}) {
    const auto memory = map(object, kPage, flags);
    std::array<int, 4> results{1, 1, 1, 1};
    std::vector<std::thread> waiters;
    for (std::size_t i = 0; i < 4; ++i) {
      waiters.emplace_back(
          [&, i] { results.at(i) = fl_wait(memory.data() + i, 0, nullptr, FL_WAIT_U8); });
    }
    for (const std::size_t i : {2U, 1U, 3U, 0U}) {
      EXPECT_EQ(wake_when_waiting(memory.data() + i), 1) << flags << " " << i;
      waiters[i].join();
      EXPECT_EQ(results.at(i), 0);
      EXPECT_EQ(fl_wake(memory.data() + i, 4), 0);
    }
  }
}

// A word of a private mapping is this process's: the object's is another.
TEST_F(Wait, OfAPrivateWordIsWokenByItsOwnProcessAlone) {
  const Object object = create(client_, kPage);
  const auto shared = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto mine = map(object, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  Waiter waiter(mine.data());
  EXPECT_EQ(wake_when_waiting(mine.data()), 1);
  EXPECT_EQ(waiter.result(), 0);
  Waiter again(mine.data());
  EXPECT_TRUE(eventually([&] { return fl_requeue(mine.data(), 0, 1, mine.data() + 4) == 1; }));
  EXPECT_EQ(fl_wake(shared.data(), 1), 0);
  EXPECT_EQ(fl_wake(mine.data(), 1), 0);
  EXPECT_EQ(fl_wake(mine.data() + 4, 1), 1);
  EXPECT_EQ(again.result(), 0);
  EXPECT_EQ(stats_of(client_, mine.data()).pages_copied, 0U) << "a wait copies nothing";
}

// Who was moved to another word waits for that one: what becomes of the first is nothing to it.
TEST_F(Wait, ThatWasRequeuedIsOfTheOtherWordFromThenOn) {
  const Object object = create(client_, 3 * kPage);
  for (const std::size_t target : {std::size_t{4}, kPage, 2 * kPage}) {
    const auto memory = map(object, 3 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE);
    word_in(memory, 2 * kPage) = 1;  // private already
    ASSERT_EQ(word_in(memory), 0U);
    Waiter waiter(memory.data());
    EXPECT_TRUE(eventually([&] { return waited_for(memory.data()); }));
    EXPECT_EQ(fl_requeue(memory.data(), 0, 1, memory.data() + target), 1) << target;
    word_in(memory, 8) = 1;
    EXPECT_EQ(fl_wake(memory.data(), 1), 0) << target;
    EXPECT_FALSE(waiter.ended());
    EXPECT_EQ(fl_wake(memory.data() + target, 1), 1) << target;
    EXPECT_EQ(waiter.result(), 0);
  }
}

// The same of asynchronous waits, of which some stay.
TEST_F(Wait, ThatIsAsynchronousIsRequeuedInItsOrder) {
  const Object object = create(client_, 2 * kPage);
  for (const std::uint32_t flags : {FL_MAP_SHARED | FL_MAP_WRITE, FL_MAP_PRIVATE | FL_MAP_WRITE,
                                    FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE}) {
    const auto memory = map(object, 2 * kPage, flags);
    for (std::uint64_t i = 0; i < 4; ++i) {
      fl_async_wait wait{};
      wait.struct_size = sizeof wait;
      wait.bitset = FL_WAIT_ANY;
      wait.address = memory.data();
      wait.user_data = i;
      ASSERT_EQ(fl_wait_async(&wait, nullptr), 0) << flags;
    }
    EXPECT_EQ(fl_requeue(memory.data(), 1, 2, memory.data() + kPage), 3) << flags;
    EXPECT_EQ(fl_wake(memory.data() + kPage, 8), 2) << flags;
    EXPECT_EQ(fl_wake(memory.data(), 8), 1) << flags;
    std::vector<std::uint64_t> told;
    const timespec patience{5, 0};
    while (told.size() < 4) {
      std::array<fl_completion, 4> came{};
      const int count = fl_completions(client_, came.data(), 4, &patience);
      ASSERT_GT(count, 0) << flags;
      for (int i = 0; i < count; ++i) {
        told.push_back(came.at(static_cast<std::size_t>(i)).user_data);
      }
    }
    EXPECT_EQ(told, (std::vector<std::uint64_t>{0, 1, 2, 3})) << flags;
  }
}

// As with the kernel, who is moved is in memory: also the waits of other processes for a page that
// was in none.
TEST_F(Wait, OfAnotherProcessForAnAbsentPageIsRequeued) {
  const Object object = create(client_, kPage);
  const auto shared = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto mine = map(object, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  const Child child([&] { return fl_wait(shared.data(), 0, nullptr, 0) == 0 ? 7 : 1; });
  EXPECT_TRUE(eventually([&] { return fl_requeue(shared.data(), 0, 5, mine.data() + 64) == 1; }));
  EXPECT_EQ(fl_wake(shared.data(), 5), 0);
  EXPECT_EQ(fl_wake(mine.data() + 64, 5), 1);
}

// A relative's wait for a word of a page that is common is woken rather than moved to a word of the
// mover's, which nobody could wake once that is gone.
TEST_F(Wait, OfARelativeIsWokenRatherThanMoved) {
  const Object object = create(client_, 2 * kPage);
  const auto memory = map(object, 2 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE);
  word_in(memory) = 1;
  word_in(memory, kPage) = 1;
  Gate waits;
  Child mover([&] {
    die_if_this_lasts();
    if (!waits.pass()) return 1;
    return fl_requeue(memory.data(), 0, 1, memory.data() + kPage) == 1 ? 0 : 2;
  });
  Waiter waiter(memory.data(), 1);
  ASSERT_TRUE(waiter.queued());
  waits.open();
  EXPECT_TRUE(mover.wait().exited(0));
  EXPECT_EQ(waiter.result(), 0);
}

// fl_wake_op makes a page its process's own, as a store does, wherever it was.
TEST_F(Wait, OpChangesWordsOfPagesThatNobodyTouched) {
  const Object object = create(client_, 2 * kPage);
  for (const std::uint32_t flags : {FL_MAP_SHARED | FL_MAP_WRITE, FL_MAP_PRIVATE | FL_MAP_WRITE,
                                    FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE}) {
    const auto mine = map(object, 2 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
    const auto target = map(object, 2 * kPage, flags);
    (void)touch(target[kPage]);
    for (const std::size_t offset : {std::size_t{0}, kPage}) {
      EXPECT_EQ(fl_wake_op(mine.data(), 1, target.data() + offset, 1,
                           FUTEX_OP(FUTEX_OP_SET, 3, FUTEX_OP_CMP_EQ, 0)),
                0)
          << flags << ": " << fl_last_error();
      EXPECT_EQ(word_in(target, offset), 3U) << flags;
      word_in(target, offset) = 0;
    }
  }
}

// Waits of an object that counts them are counted where they were moved to.
TEST_F(Wait, ThatIsCountedIsRequeuedWithItsCount) {
  const Object object = create(client_, kPage, nullptr, 0600, FL_COUNTED_WAITS);
  const auto memory = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  Waiter waiter(memory.data());
  EXPECT_TRUE(eventually([&] { return waited_for(memory.data()); }));
  EXPECT_EQ(fl_requeue(memory.data(), 0, 1, memory.data() + 64), 1);
  EXPECT_EQ(fl_wake(memory.data(), 1), 0);
  EXPECT_EQ(fl_wake(memory.data() + 64, 1), 1);
  EXPECT_EQ(waiter.result(), 0);
}

// So are those of other processes, though the page was in no memory when they began to wait.
TEST_F(Wait, ThatIsCountedInAnotherProcessIsRequeuedToo) {
  for (const bool in_memory : {true, false}) {
    const Object object = create(client_, 2 * kPage, nullptr, 0600, FL_COUNTED_WAITS);
    const auto memory = map(object, 2 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    if (in_memory) word_in(memory) = 0;
    Child child([&] {
      die_if_this_lasts();
      return fl_wait(memory.data(), 0, nullptr, 0) == 0 ? 0 : 1;
    });
    EXPECT_TRUE(
        eventually([&] { return fl_requeue(memory.data(), 0, 1, memory.data() + kPage) == 1; }));
    EXPECT_EQ(fl_wake(memory.data(), 1), 0);
    EXPECT_EQ(fl_wake(memory.data() + kPage, 1), 1) << in_memory;
    EXPECT_TRUE(child.wait().exited(0));
  }
}

// Who waits by itself, and so is not counted, is found where it was moved to a word that is.
TEST_F(Wait, ThatIsNotCountedIsFoundAtAWordThatCounts) {
  const Object plain = create(client_, kPage);
  const Object counting = create(client_, kPage, nullptr, 0600, FL_COUNTED_WAITS);
  const auto counted = map(counting, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  for (const std::uint32_t kind : {FL_MAP_SHARED, FL_MAP_PRIVATE}) {
    const auto memory = map(plain, kPage, kind | FL_MAP_WRITE);
    word_in(memory) = 1;
    EXPECT_TRUE(in_child([&] {
                  die_if_this_lasts();
                  Waiter waiter(memory.data(), 1);
                  if (!waiter.queued()) return 1;
                  if (fl_requeue(memory.data(), 0, 1, counted.data()) != 1) return 2;
                  if (fl_wake(counted.data(), 1) != 1) std::_Exit(3);
                  return waiter.result() == 0 ? 0 : 4;
                }).exited(0))
        << kind;
  }
}

// Private waiters go where mremap takes their memory.
TEST_F(Wait, FollowsItsMemoryToAnotherAddress) {
  const Object object = create(client_, 2 * kPage);
  const auto memory = map(object, 2 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  word_in(memory) = 1;
  Waiter waiter(memory.data(), 1);
  EXPECT_TRUE(eventually([&] { return waited_for(memory.data()); }));
  void* there = ::mmap(nullptr, 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_EQ(::mremap(memory.data(), 2 * kPage, 2 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, there),
            there);
  EXPECT_EQ(wake_when_waiting(there), 1);
  EXPECT_EQ(waiter.result(), 0);
}

// What is unmapped ends the waits inside, with an error of its own.
TEST_F(Wait, EndsWhenItsMemoryIsUnmapped) {
  const Object object = create(client_, kPage);
  for (const std::uint32_t kind : {FL_MAP_PRIVATE, FL_MAP_SHARED}) {
    const auto memory = map(object, kPage, kind | FL_MAP_WRITE);
    word_in(memory) = 1;
    Waiter waiter(memory.data(), 1);
    EXPECT_TRUE(eventually([&] { return waited_for(memory.data()); }));
    EXPECT_EQ(fl_unmap(client_, memory.data(), kPage), 0);
    EXPECT_EQ(waiter.result(), -EFAULT);
  }
}

// So does a private page that is discarded.
TEST_F(Wait, EndsWhenItsPrivatePageIsDiscarded) {
  const Object object = create(client_, kPage);
  const auto memory = map(object, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  word_in(memory) = 1;
  Waiter waiter(memory.data(), 1);
  EXPECT_TRUE(eventually([&] { return waited_for(memory.data()); }));
  EXPECT_EQ(fl_discard(client_, memory.data(), kPage, FL_DISCARD_COPIES), 0);
  EXPECT_EQ(waiter.result(), -ECANCELED);
}

// By page: a clean page is the object's, until this process writes to it; then the waiter follows.
TEST_F(Wait, ByPageFollowsItsPageThroughTheBreak) {
  const Object object = create(client_, kPage);
  const auto shared = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto mine = map(object, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE);
  word_in(shared) = 7;
  EXPECT_EQ(word_in(mine), 7U);
  Waiter clean(mine.data(), 7);
  EXPECT_EQ(wake_when_waiting(shared.data()), 1);
  EXPECT_EQ(clean.result(), 0);

  Waiter parted(mine.data(), 7);
  EXPECT_TRUE(eventually([&] { return waited_for(mine.data()); }));
  word_in(mine, 64) = 1;  // the break
  EXPECT_EQ(fl_wake(shared.data(), 1), 0);
  EXPECT_FALSE(parted.ended());
  EXPECT_EQ(fl_wake(mine.data(), 1), 1);
  EXPECT_EQ(parted.result(), 0);
}

// By page: after a fork parent and child wait for one word, until one of them writes to its page.
TEST_F(Wait, ByPageIsOneWordInParentAndChildUntilOneWrites) {
  const Object object = create(client_, kPage);
  const auto mine = map(object, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE);
  word_in(mine) = 3;
  Gate written;
  Gate go_on;
  Child child([&] {
    const int first = fl_wait(mine.data(), 3, nullptr, 0);
    word_in(mine, 64) = 1;  // the child's page parts
    written.open();
    if (!go_on.pass()) return 3;
    const timespec soon{0, 50'000'000};
    const int second = fl_wait(mine.data(), 3, &soon, 0);
    return first == 0 && second == -ETIMEDOUT ? 0 : 1;
  });
  EXPECT_EQ(wake_when_waiting(mine.data()), 1);
  ASSERT_TRUE(written.pass());
  go_on.open();
  EXPECT_FALSE(
      eventually([&] { return fl_wake(mine.data(), 1) != 0; }, std::chrono::milliseconds(40)));
  EXPECT_TRUE(child.wait().exited(0));
}

}  // namespace
}  // namespace faultline::testing
