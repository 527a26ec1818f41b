// Waits that no thread sleeps for: where their outcomes go, cancelling, time-outs, and what a
// client that takes nothing loses.
#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <map>
#include <set>
#include <vector>

#include "tests/system/harness.hpp"
#include "tests/system/waiters.hpp"

namespace faultline::testing {
namespace {

using Word = std::atomic<std::uint32_t>;

class AsyncWait : public SystemTest {
 protected:
  void SetUp() override {
    SystemTest::SetUp();
    object_ = create(client_, kPages * kPage);
    shared_ = map(object_, kPages * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    private_ = map(object_, kPages * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
    by_page_ = map(object_, kPages * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE);
  }
  static Word& word_in(std::span<std::byte> memory, std::size_t index = 0) {
    return reinterpret_cast<Word*>(memory.data())[index];
  }
  static fl_async_wait wait_for(const void* address, std::uint32_t expected,
                                std::uint64_t user_data = 0) {
    fl_async_wait wait{};
    wait.struct_size = sizeof(wait);
    wait.address = address;
    wait.expected = expected;
    wait.bitset = FL_WAIT_ANY;
    wait.user_data = user_data;
    return wait;
  }
  // The next outcome; fails where none comes.
  fl_completion next() {
    fl_completion completion{};
    const timespec soon{3, 0};
    EXPECT_EQ(fl_completions(client_, &completion, 1, &soon), 1) << fl_last_error();
    return completion;
  }
  bool nothing_comes() {
    fl_completion completion{};
    const timespec soon{0, 20'000'000};
    return fl_completions(client_, &completion, 1, &soon) == -ETIMEDOUT;
  }

  static constexpr std::size_t kPages = 32;
  Object object_;
  std::span<std::byte> shared_;
  std::span<std::byte> private_;
  std::span<std::byte> by_page_;
};

// Targets that are none are refused, and nothing else comes of it.
TEST_F(AsyncWait, TargetsThatThereAreNotAreRefused) {
  std::uint32_t target = 0;
  for (const int fd : {-1, 888}) {
    EXPECT_EQ(fl_target_add(client_, FL_TARGET_EVENTFD, fd, &target), -EBADF) << fl_last_error();
    EXPECT_EQ(fl_target_add(client_, FL_TARGET_RING, fd, &target), -EBADF) << fl_last_error();
  }
  const UniqueFd event{::eventfd(0, EFD_CLOEXEC)};
  ASSERT_EQ(fl_target_add(client_, FL_TARGET_EVENTFD, event.get(), &target), 0) << fl_last_error();
  EXPECT_EQ(fl_target_remove(client_, target + 1), -ENOENT);
  EXPECT_EQ(fl_target_remove(client_, 4242), -ENOENT);
  EXPECT_EQ(fl_target_remove(client_, target), 0);
  EXPECT_EQ(fl_target_remove(client_, target), -ENOENT);
}

// A wake ends a wait in every kind of mapping, and its outcome comes with what names it.
TEST_F(AsyncWait, IsToldOfAWakeInEveryKindOfMapping) {
  std::uint64_t number = 40;
  for (const auto memory : {shared_, private_, by_page_}) {
    for (const bool touched : {false, true}) {
      if (touched) word_in(memory) = 0;
      const fl_async_wait wait = wait_for(memory.data(), 0, ++number);
      ASSERT_EQ(fl_wait_async(&wait, nullptr), 0) << fl_last_error();
      EXPECT_EQ(fl_wake(memory.data(), 5), 1);
      const fl_completion told = next();
      EXPECT_EQ(told.user_data, number);
      EXPECT_EQ(told.result, 0);
      EXPECT_EQ(fl_wake(memory.data(), 5), 0);
    }
  }
  EXPECT_TRUE(nothing_comes());
}

// A value that is not the one expected is told at once, and nothing waits.
TEST_F(AsyncWait, ThatFindsAnotherValueIsRefused) {
  for (const auto memory : {shared_, private_, by_page_}) {
    word_in(memory) = 1;
    const fl_async_wait wait = wait_for(memory.data(), 2);
    EXPECT_EQ(fl_wait_async(&wait, nullptr), -EAGAIN);
    EXPECT_EQ(fl_wake(memory.data(), 1), 0);
  }
  EXPECT_TRUE(nothing_comes());
}

// A cancelled wait says so; one that was woken first says that, and the cancel is too late.
TEST_F(AsyncWait, CanBeCancelledUntilItIsWoken) {
  for (const auto memory : {shared_, private_, by_page_}) {
    word_in(memory) = 1;
    const fl_async_wait wait = wait_for(memory.data(), 1, 7);
    std::uint64_t id = 0;
    ASSERT_EQ(fl_wait_async(&wait, &id), 0) << fl_last_error();
    EXPECT_EQ(fl_wait_cancel(client_, id), 0);
    EXPECT_EQ(next().result, -ECANCELED);
    EXPECT_EQ(fl_wake(memory.data(), 1), 0);
    EXPECT_EQ(fl_wait_cancel(client_, id), -ENOENT);

    ASSERT_EQ(fl_wait_async(&wait, &id), 0);
    EXPECT_EQ(fl_wake(memory.data(), 1), 1);
    EXPECT_EQ(next().result, 0);
    EXPECT_EQ(fl_wait_cancel(client_, id), -ENOENT);
  }
  EXPECT_TRUE(nothing_comes());
}

// It ends when its time has come, and when its memory goes.
TEST_F(AsyncWait, EndsWithItsTimeAndWithItsMemory) {
  for (const auto memory : {shared_, private_, by_page_}) {
    word_in(memory) = 1;
    fl_async_wait wait = wait_for(memory.data(), 1);
    const timespec soon{0, 5'000'000};
    wait.timeout = &soon;
    ASSERT_EQ(fl_wait_async(&wait, nullptr), 0);
    EXPECT_EQ(next().result, -ETIMEDOUT);
    wait.timeout = nullptr;
    ASSERT_EQ(fl_wait_async(&wait, nullptr), 0);
    ASSERT_EQ(fl_unmap(client_, memory.data(), kPage), 0);
    EXPECT_EQ(next().result, -EFAULT);
  }
}

// An eventfd becomes readable.
TEST_F(AsyncWait, SignalsAnEventfd) {
  const UniqueFd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::uint32_t target = 0;
  ASSERT_EQ(fl_target_add(client_, FL_TARGET_EVENTFD, event.get(), &target), 0) << fl_last_error();
  fl_async_wait wait = wait_for(shared_.data(), 0);
  wait.target = target;
  ASSERT_EQ(fl_wait_async(&wait, nullptr), 0) << fl_last_error();
  eventfd_t count = 0;
  EXPECT_NE(::eventfd_read(event.get(), &count), 0);
  EXPECT_EQ(fl_wake(shared_.data(), 1), 1);
  EXPECT_TRUE(eventually([&] { return ::eventfd_read(event.get(), &count) == 0; }));
  EXPECT_EQ(fl_target_remove(client_, target), 0);
  EXPECT_EQ(fl_wait_async(&wait, nullptr), -EBADF);
}

struct Uring {
  explicit Uring(unsigned entries) { EXPECT_EQ(::io_uring_queue_init(entries, &ring, 0), 0); }
  Uring(const Uring&) = delete;
  Uring& operator=(const Uring&) = delete;
  ~Uring() { ::io_uring_queue_exit(&ring); }
  io_uring ring{};
};

// The application's own ring gets a completion with its user_data; where its queue is full, none is
// lost.
TEST_F(AsyncWait, CompletesInTheApplicationsOwnRingEvenWhereItsQueueIsFull) {
  Uring uring(2);  // four completions have room
  std::uint32_t target = 0;
  ASSERT_EQ(fl_target_add(client_, FL_TARGET_RING, uring.ring.ring_fd, &target), 0)
      << fl_last_error();
  constexpr std::uint64_t kWaits = 100;
  for (std::uint64_t i = 0; i < kWaits; ++i) {
    fl_async_wait wait = wait_for(shared_.data(), 0, 1000 + i);
    wait.target = target;
    ASSERT_EQ(fl_wait_async(&wait, nullptr), 0) << fl_last_error();
  }
  EXPECT_EQ(fl_wake(shared_.data(), INT32_MAX), static_cast<int>(kWaits));
  std::set<std::uint64_t> told;
  for (std::uint64_t i = 0; i < kWaits; ++i) {
    io_uring_cqe* entry = nullptr;
    __kernel_timespec soon{3, 0};
    ASSERT_EQ(::io_uring_wait_cqe_timeout(&uring.ring, &entry, &soon), 0) << i;
    EXPECT_EQ(entry->res, 0);
    told.insert(entry->user_data);
    ::io_uring_cqe_seen(&uring.ring, entry);
  }
  EXPECT_EQ(told.size(), kWaits);
  EXPECT_EQ(*told.begin(), 1000U);
}

// More outcomes than the queue has room for wait for their turn; all come, in order.
TEST_F(AsyncWait, KeepsOutcomesThatFindNoRoom) {
  constexpr std::uint64_t kWaits = 10'000;
  for (std::uint64_t i = 0; i < kWaits; ++i) {
    const fl_async_wait wait = wait_for(&word_in(private_, i % 64), 0, i);
    ASSERT_EQ(fl_wait_async(&wait, nullptr), 0) << fl_last_error();
  }
  int woken = 0;
  for (std::size_t i = 0; i < 64; ++i) woken += fl_wake(&word_in(private_, i), INT32_MAX);
  EXPECT_EQ(woken, static_cast<int>(kWaits));
  std::set<std::uint64_t> told;
  std::array<fl_completion, 64> some{};
  while (told.size() < kWaits) {
    const timespec soon{3, 0};
    const int came = fl_completions(client_, some.data(), some.size(), &soon);
    ASSERT_GT(came, 0) << told.size();
    for (int i = 0; i < came; ++i) told.insert(some.at(static_cast<std::size_t>(i)).user_data);
  }
  EXPECT_TRUE(nothing_comes());
}

// A number that no wait has is refused, whatever part of it another wait has.
TEST_F(AsyncWait, IsNotCancelledByANumberThatNoneHas) {
  const auto wait = wait_for(shared_.data(), 0, 7);
  std::uint64_t id = 0;
  ASSERT_EQ(fl_wait_async(&wait, &id), 0) << fl_last_error();
  EXPECT_TRUE(in_child([&] {  // which has another session, and no wait
                die_if_this_lasts();
                return fl_wait_cancel(client_, 0) == -ENOENT ? 0 : 1;
              })
                  .exited(0));
  EXPECT_EQ(fl_wait_cancel(client_, (std::uint64_t{1} << 32) + id), -ENOENT);
  EXPECT_TRUE(nothing_comes());
  EXPECT_EQ(fl_wake(shared_.data(), 1), 1);
  EXPECT_EQ(next().user_data, 7U);
}

// A byte at the end of a page can be waited for while the page behind is in no memory, and leaves
// that so.
TEST_F(AsyncWait, AtTheEndOfAPageLeavesTheNextOneAbsent) {
  const PatternFile file(3 * kPage);
  const Object object = create_from(client_, file.fd());
  const auto memory = map(object, 3 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  ASSERT_EQ(fl_advise(client_, memory.data(), 3 * kPage, FL_ADVICE_RANDOM), 0);
  for (const std::size_t back : {4U, 3U, 2U, 1U}) {
    const std::byte& word = memory[kPage - back];
    auto wait = wait_for(&word, std::to_integer<std::uint32_t>(word), back);
    wait.flags = FL_WAIT_U8;
    ASSERT_EQ(fl_wait_async(&wait, nullptr), 0) << back << fl_last_error();
    EXPECT_EQ(fl_wake(&word, 1), 1) << back;
    EXPECT_EQ(next().user_data, back);
  }
  EXPECT_EQ(memory[kPage], file.bytes()[kPage]);
}

// A wake that comes while a process dies goes past its waits, however many, to another who waits.
TEST_F(AsyncWait, OfADyingProcessSwallowsNoWake) {
  for (int round = 0; round < 40; ++round) {
    const auto wait = wait_for(shared_.data(), 0);
    Gate waits;
    Child child([&] {
      for (int i = 0; i < 8; ++i) {
        if (fl_wait_async(&wait, nullptr) != 0) return 1;
      }
      waits.open();
      ::pause();
      return 0;
    });
    ASSERT_TRUE(waits.pass());
    ASSERT_EQ(fl_wait_async(&wait, nullptr), 0);
    child.kill(SIGKILL);
    EXPECT_EQ(fl_wake(shared_.data(), 1), 1);
    EXPECT_TRUE(child.wait().killed_by(SIGKILL));
    ASSERT_EQ(next().result, 0) << round;
  }
}

// A wake that a process was told of, and did not take before it died, goes to another who waits.
TEST_F(AsyncWait, OfAProcessThatDiesHandsItsWakeOn) {
  const auto wait = wait_for(shared_.data(), 0);
  Gate waits;
  Child child([&] {
    if (fl_wait_async(&wait, nullptr) != 0) return 1;
    waits.open();
    ::pause();
    return 0;
  });
  ASSERT_TRUE(waits.pass());
  ASSERT_EQ(fl_wait_async(&wait, nullptr), 0);
  EXPECT_EQ(fl_wake(shared_.data(), 1), 1) << "the child's, which was first";
  child.kill(SIGKILL);
  EXPECT_TRUE(child.wait().killed_by(SIGKILL));
  EXPECT_EQ(next().result, 0);
}

}  // namespace
}  // namespace faultline::testing
