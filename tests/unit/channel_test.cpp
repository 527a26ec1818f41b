// The daemon's end of a channel, against a client that keeps to the protocol, and one that writes
// what it likes wherever it can.
#include "daemon/channel/channel.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <future>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "tests/unit/kernel_waits.hpp"
#include "tests/unit/slower.hpp"

namespace faultline::channel {
namespace {

using testing::kSlower;

// The records' memfd as a client makes it, or not quite.
UniqueFd records_of(std::size_t bytes = wire::kRecordsBytes, int seals = F_SEAL_SHRINK) {
  UniqueFd fd{::memfd_create("records", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

class ChannelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    records_fd_ = records_of();
    auto made = Channel::create(kernel::ForeignFd{UniqueFd{::dup(records_fd_.get())}});
    ASSERT_TRUE(made) << made.error().message();
    channel_ = std::move(*made);
    const UniqueFd rings = channel_->take_rings_fd();
    rings_ = static_cast<wire::Rings*>(
        ::mmap(nullptr, sizeof(wire::Rings), PROT_READ | PROT_WRITE, MAP_SHARED, rings.get(), 0));
    records_ = static_cast<std::byte*>(::mmap(nullptr, wire::kRecordsBytes, PROT_READ | PROT_WRITE,
                                              MAP_SHARED | MAP_NORESERVE, records_fd_.get(), 0));
    ASSERT_NE(rings_, MAP_FAILED);
    ASSERT_NE(static_cast<void*>(records_), MAP_FAILED);
  }
  void TearDown() override {
    ::munmap(rings_, sizeof(wire::Rings));
    ::munmap(records_, wire::kRecordsBytes);
  }

  // --- the client

  // False where the ring is full.
  bool submit(std::uint64_t address) {
    wire::RingIndexes& indexes = rings_->indexes;
    const std::uint32_t tail = indexes.submission_tail.load(std::memory_order_relaxed);
    if (tail - indexes.submission_head.load(std::memory_order_acquire) >= wire::kSubmissions) {
      return false;
    }
    wire::Submission& entry = rings_->submissions.at(tail % wire::kSubmissions);
    // As the daemon reads it: a client's own stores race with nobody until the tail says so.
    entry = wire::Submission{};
    entry.op = wire::ChannelOp::resolve;
    entry.address = address;
    indexes.submission_tail.store(tail + 1, std::memory_order_release);
    return true;
  }
  // All that there are.
  std::vector<std::uint64_t> take_completions() {
    std::vector<std::uint64_t> taken;
    wire::RingIndexes& indexes = rings_->indexes;
    std::uint32_t head = indexes.completion_head.load(std::memory_order_relaxed);
    while (head != indexes.completion_tail.load(std::memory_order_acquire)) {
      taken.push_back(rings_->completions.at(head % wire::kCompletions).user_data);
      indexes.completion_head.store(++head, std::memory_order_release);
    }
    return taken;
  }
  [[nodiscard]] wire::ThreadRecord& record(std::uint32_t index) const {
    return *reinterpret_cast<wire::ThreadRecord*>(records_ + index * wire::kRecordBytes);
  }
  void use(std::uint32_t index, std::uint64_t since) {
    record(index).tid = static_cast<std::uint32_t>(::gettid());
    record(index).since = since;
  }
  [[nodiscard]] std::vector<std::uint64_t> visited() const {
    std::vector<std::uint64_t> seen;
    channel_->each_record([&](wire::ThreadRecord& each) { seen.push_back(each.since.load()); });
    return seen;
  }

  std::unique_ptr<Channel> channel_;
  wire::Rings* rings_ = nullptr;
  std::byte* records_ = nullptr;
  UniqueFd records_fd_;
};

// Memory that could shrink under the daemon, or is too short, is none for records.
TEST(ChannelCreate, RefusesMemoryThatItCannotTrust) {
  const auto code = [](UniqueFd fd) {
    const auto made = Channel::create(kernel::ForeignFd{std::move(fd)});
    return made ? 0 : made.error().code();
  };
  EXPECT_EQ(code(records_of()), 0);
  EXPECT_EQ(code(records_of(wire::kRecordsBytes, F_SEAL_GROW)), EINVAL) << "it can shrink";
  EXPECT_EQ(code(records_of(wire::kRecordsBytes - 1)), EINVAL) << "it is too short";
  EXPECT_EQ(code(UniqueFd{::open("/dev/null", O_RDWR | O_CLOEXEC)}), EINVAL);
  EXPECT_EQ(code(UniqueFd{}), EINVAL);
}

// The rings that a client is given cannot be made shorter.
TEST_F(ChannelTest, TheRingsCannotShrink) {
  auto made = Channel::create(kernel::ForeignFd{records_of()});
  ASSERT_TRUE(made);
  const UniqueFd rings = (*made)->take_rings_fd();
  EXPECT_NE(::ftruncate(rings.get(), 0), 0);
  EXPECT_EQ(errno, EPERM);
  EXPECT_FALSE((*made)->take_rings_fd()) << "given once";
}

// --- submissions

// Requests come out in their order, over many turns of the ring, a full one included.
TEST_F(ChannelTest, RequestsAreTakenInTheirOrder) {
  std::uint64_t submitted = 0;
  std::uint64_t taken = 0;
  for (int turn = 0; turn < 5; ++turn) {
    while (submit(submitted)) ++submitted;
    EXPECT_EQ(submitted - taken, wire::kSubmissions) << "full";
    while (const auto asked = channel_->take()) {
      ASSERT_EQ(asked->op, wire::ChannelOp::resolve);
      ASSERT_EQ(asked->address, taken++);
    }
    EXPECT_EQ(taken, submitted);
    EXPECT_FALSE(channel_->has_submissions());
  }
}

// What is taken is a copy: a client that writes to the entry afterwards changes nothing, and one
// that writes to the daemon's index does not move it.
TEST_F(ChannelTest, WhatIsTakenIsTheDaemonsOwn) {
  ASSERT_TRUE(submit(1) && submit(2));
  const auto first = channel_->take();
  rings_->submissions.at(0).address = 99;
  rings_->indexes.submission_head.store(0);
  EXPECT_EQ(first->address, 1U);
  EXPECT_EQ(channel_->take()->address, 2U);
  EXPECT_FALSE(channel_->take());
  EXPECT_EQ(rings_->indexes.submission_head.load(), 2U);
}

// A tail from beyond the ring, or from before the head, gives no more than what is in the ring, one
// at a time, whatever is there; every bit pattern can be taken.
TEST_F(ChannelTest, ATailFromAnywhereDoesNoHarm) {
  std::ranges::fill(std::as_writable_bytes(std::span(rings_->submissions)), std::byte{0xff});
  for (const std::uint32_t tail : {wire::kSubmissions + 1, 0x80000000U, 0xffffffffU}) {
    rings_->indexes.submission_tail.store(tail);
    for (std::uint32_t i = 0; i < 3 * wire::kSubmissions; ++i) {
      const auto asked = channel_->take();
      if (!asked) break;
      ASSERT_EQ(static_cast<std::uint16_t>(asked->op), 0xffff);
    }
  }
  const std::uint32_t head = rings_->indexes.submission_head.load();
  rings_->indexes.submission_tail.store(head - 1);
  EXPECT_TRUE(channel_->take());
  rings_->indexes.submission_tail.store(head + 1);
  EXPECT_FALSE(channel_->take()) << "the client's own loss";
  ASSERT_TRUE(submit(7));
  EXPECT_EQ(channel_->take()->address, 7U) << "it can go on from there";
}

// Going to sleep: the client is told to ring, unless it has submitted meanwhile.
TEST_F(ChannelTest, SleepsOnlyWhereThereIsNothing) {
  EXPECT_EQ(rings_->indexes.daemon_sleeps.load(), 1U) << "nobody serves it at first";
  channel_->wake_up();
  EXPECT_EQ(rings_->indexes.daemon_sleeps.load(), 0U);
  EXPECT_TRUE(channel_->sleep());
  EXPECT_EQ(rings_->indexes.daemon_sleeps.load(), 1U);
  ASSERT_TRUE(submit(1));
  EXPECT_FALSE(channel_->sleep());
  EXPECT_EQ(rings_->indexes.daemon_sleeps.load(), 0U) << "the next need not ring";
}

// A client that submits while the daemon goes to sleep is seen, or sees that it must ring: no
// request is left behind.
TEST_F(ChannelTest, NoRequestIsLeftBehindAsTheDaemonSleeps) {
  constexpr std::uint64_t kRequests = 50'000 / kSlower;
  std::thread client([&] {
    for (std::uint64_t i = 0; i < kRequests;) {
      if (!submit(i)) continue;
      ++i;
      std::atomic_thread_fence(std::memory_order_seq_cst);
      if (rings_->indexes.daemon_sleeps.load(std::memory_order_relaxed) != 0) {
        const std::uint64_t one = 1;
        ASSERT_EQ(::write(channel_->doorbell_fd(), &one, sizeof one), 8);
      }
    }
  });
  std::uint64_t taken = 0;
  while (taken < kRequests) {
    while (const auto asked = channel_->take()) ASSERT_EQ(asked->address, taken++);
    if (taken == kRequests || !channel_->sleep()) continue;
    pollfd bell{channel_->doorbell_fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&bell, 1, 10'000), 1) << "after " << taken;
    std::uint64_t rung = 0;
    ASSERT_EQ(::read(channel_->doorbell_fd(), &rung, sizeof rung), 8);
    channel_->wake_up();
  }
  client.join();
}

// --- answers

// An answer is in the record of who asked, and wakes it, with the number of its request.
TEST_F(ChannelTest, AnAnswerWakesWhoAsked) {
  testing::KernelWaits waits;
  auto& one = waits.begin(record(5).answered, 0);
  auto& other = waits.begin(record(6).answered, 0);
  channel_->arm({5, 3});
  waits.look();
  EXPECT_TRUE(one.woken());
  EXPECT_EQ(record(5).answered.load(), wire::armed(3));
  auto& again = waits.begin(record(5).answered, wire::armed(3));
  channel_->answer({5, 3}, {-EAGAIN, {1, 2, 3}});
  waits.look();
  EXPECT_TRUE(again.woken());
  EXPECT_TRUE(other.queued());
  EXPECT_EQ(record(5).answered.load(), wire::answered(3));
  EXPECT_EQ(record(5).result.load(), -EAGAIN);
  EXPECT_EQ(record(5).values[2].load(), 3U);
}

// What nobody waits for is answered to nobody, and a record that there is not is one that there is:
// a client can only spoil its own.
TEST_F(ChannelTest, AnswersStayInTheClientsRecords) {
  channel_->answer({5, 0}, {1, {1, 1, 1}});
  channel_->arm({5, 0});
  EXPECT_EQ(record(5).answered.load(), 0U);
  EXPECT_EQ(record(5).result.load(), 0);
  channel_->answer({wire::kThreadRecords + 5, 9}, {1, {}});
  EXPECT_EQ(record(5).answered.load(), wire::answered(9));
  channel_->answer({0xffffffff, 9}, {1, {}});
  EXPECT_EQ(record(wire::kThreadRecords - 1).answered.load(), wire::answered(9));
}

// --- completions

// Completions that find no room are kept, in their order, and the client is told that there are
// more; they come as it makes room, and then it is told that there are no more.
TEST_F(ChannelTest, CompletionsThatFindNoRoomAreKept) {
  constexpr std::size_t kMore = 10;
  for (std::uint64_t i = 0; i < wire::kCompletions + kMore; ++i) channel_->complete({i, 0, 0});
  EXPECT_EQ(channel_->kept(), kMore);
  EXPECT_EQ(rings_->indexes.completions_wait.load(), 1U);
  channel_->make_use_of_room();
  EXPECT_EQ(channel_->kept(), kMore) << "there is none yet";
  std::uint64_t expected = 0;
  rings_->indexes.completion_head.store(3);
  expected = 3;
  channel_->make_use_of_room();
  EXPECT_EQ(channel_->kept(), kMore - 3);
  channel_->complete({wire::kCompletions + kMore, 0, 0});
  EXPECT_EQ(channel_->kept(), kMore - 2) << "behind those that wait";
  while (channel_->kept() > 0) {
    for (const std::uint64_t user_data : take_completions()) ASSERT_EQ(user_data, expected++);
    channel_->make_use_of_room();
  }
  EXPECT_EQ(rings_->indexes.completions_wait.load(), 0U);
  for (const std::uint64_t user_data : take_completions()) ASSERT_EQ(user_data, expected++);
  EXPECT_EQ(expected, wire::kCompletions + kMore + 1);
}

// Who waits for completions is woken once for all that came, and not where none did.
TEST_F(ChannelTest, CompletionsAreAnnouncedOnce) {
  testing::KernelWaits waits;
  auto& early = waits.begin(rings_->indexes.completion_tail, 0);
  channel_->announce();
  waits.look();
  EXPECT_TRUE(early.queued()) << "there is nothing";
  channel_->complete({1, 0, 0});
  channel_->complete({2, 0, 0});
  waits.look();
  EXPECT_TRUE(early.queued()) << "not yet";
  channel_->announce();
  waits.look();
  EXPECT_TRUE(early.woken());
  auto& late = waits.begin(rings_->indexes.completion_tail, 2);
  channel_->announce();
  waits.look();
  EXPECT_TRUE(late.queued());
}

// What the client has not taken is what it says, and at most the ring; a head from anywhere loses
// the client its own completions and none of the daemon's memory.
TEST_F(ChannelTest, AHeadFromAnywhereDoesNoHarm) {
  for (std::uint64_t i = 0; i < 5; ++i) channel_->complete({i, 0, 0});
  EXPECT_EQ(channel_->not_taken(), 5U);
  rings_->indexes.completion_head.store(2);
  EXPECT_EQ(channel_->not_taken(), 3U);
  for (const std::uint32_t head : {6U, 0x80000000U, 0xffffffffU}) {
    rings_->indexes.completion_head.store(head);
    EXPECT_LE(channel_->not_taken(), wire::kCompletions);
    const std::size_t kept = channel_->kept();
    channel_->complete({7, 0, 0});
    EXPECT_LE(channel_->kept(), kept + 1);
  }
  // The daemon's own index is its own.
  rings_->indexes.completion_tail.store(1000);
  rings_->indexes.completion_head.store(5);
  channel_->complete({9, 0, 0});
  EXPECT_EQ(channel_->kept(), 0U);
  EXPECT_EQ(rings_->indexes.completion_tail.load(), 9U);
}

// --- records

// Records that were in use are visited, the first, which is the client's own note, never; holes are
// left holes.
TEST_F(ChannelTest, OnlyRecordsInUseAreVisited) {
  EXPECT_TRUE(visited().empty());
  record(0).tid = 3;
  use(1, 11);
  record(2).since = 12;  // whose thread has ended
  use(3, 13);
  use(4, 14);  // beyond what is said to be in use
  EXPECT_EQ(visited(), (std::vector<std::uint64_t>{11, 13}));
}

// A number of records that there cannot be is no more than there are, and memory that the client
// did not touch is not touched by looking.
TEST_F(ChannelTest, ANumberOfRecordsThatCannotBeIsNoMoreThanAll) {
  record(0).tid = 0xffffffff;
  use(1000, 5);
  use(wire::kThreadRecords - 1, 6);
  EXPECT_EQ(visited(), (std::vector<std::uint64_t>{5, 6}));
  struct stat info {};
  ASSERT_EQ(::fstat(records_fd_.get(), &info), 0);
  EXPECT_EQ(info.st_blocks * 512, 3 * 4096) << "three pages";
}

// A client that writes to its records from memory that nobody supplies has their file's lock.
TEST_F(ChannelTest, WhoHasTheLockOfItsRecordsHoldsNobodyUp) {
  const UniqueFd uffd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC))};
  if (!uffd) GTEST_SKIP() << "userfaultfd(2) of this user: " << std::strerror(errno);
  uffdio_api api{};
  api.api = UFFD_API;
  ASSERT_EQ(::ioctl(uffd.get(), UFFDIO_API, &api), 0);
  constexpr std::size_t kPage = 4096;
  void* const memory =
      ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  uffdio_register range{};
  range.range = {reinterpret_cast<std::uintptr_t>(memory), kPage};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  ASSERT_EQ(::ioctl(uffd.get(), UFFDIO_REGISTER, &range), 0);
  record(0).tid = 1000;
  use(1, 11);

  std::jthread writer([&] {
    EXPECT_EQ(::pwrite(records_fd_.get(), memory, kPage, wire::kRecordsBytes - kPage),
              static_cast<ssize_t>(kPage));
  });
  uffd_msg message{};
  ASSERT_EQ(::read(uffd.get(), &message, sizeof(message)), sizeof(message));  // it has it
  auto seen = std::async(std::launch::async, [&] { return visited(); });
  EXPECT_EQ(seen.wait_for(std::chrono::seconds(5 * kSlower)), std::future_status::ready);
  EXPECT_EQ(::ioctl(uffd.get(), UFFDIO_UNREGISTER, &range.range), 0);  // wakes the writer
  writer.join();
  EXPECT_EQ(seen.get(), std::vector<std::uint64_t>{11});
  ::munmap(memory, kPage);
}

}  // namespace
}  // namespace faultline::channel
