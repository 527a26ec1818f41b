// Waiting and waking through a real daemon: results, keys, and what happens to the memory of those
// who wait.
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

using Word = std::atomic<std::uint32_t>;

class Wait : public SystemTest {
 protected:
  Word& word_in(std::span<std::byte> memory, std::size_t offset = 0) {
    return *reinterpret_cast<Word*>(memory.data() + offset);
  }
};

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

}  // namespace
}  // namespace faultline::testing
