// What a client asks of the wait service about memory that it has just moved. Its thread goes on
// when the daemon has read that it did; here the daemon is held up between that and having carried
// it out, once before anything knows of it, and once when the tree of VMAs does and the words that
// are waited for do not.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "daemon/wait/wait_service.hpp"
#include "tests/unit/stepped_space.hpp"

namespace faultline::wait {
namespace {

using space::AddressSpace;
using testing::HeldAnswer;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kWord = 68;
constexpr std::size_t kBetween = 64;
constexpr uid_t kUser = 1000;
constexpr int kDontUnmap = 4;  // MREMAP_DONTUNMAP, not in every libc's headers

std::uint64_t address_of(const void* memory, std::size_t offset = 0) {
  return reinterpret_cast<std::uintptr_t>(memory) + offset;
}

// Passes everything on; a move, where it is to be held up, only when it is released.
class HeldMoves final : public space::SpaceObserver {
 public:
  explicit HeldMoves(space::SpaceObserver& next) : next_(next) {}

  void hold_the_next() {
    hold_ = std::promise<void>();
    reached_ = std::promise<void>();
    held_ = true;
  }
  void wait_until_held() { reached_.get_future().wait(); }
  void release() { hold_.set_value(); }

  PageCount page_parts(SpaceId space, const space::Vma& vma, PageIndex page) override {
    return next_.page_parts(space, vma, page);
  }
  void unmapped(SpaceId space, const std::vector<space::Vma>& gone) override {
    next_.unmapped(space, gone);
  }
  void moved(SpaceId space, const space::VaRange& from, Vaddr to,
             const std::vector<space::Vma>& there) override {
    if (held_.exchange(false)) {
      reached_.set_value();
      hold_.get_future().wait();
    }
    next_.moved(space, from, to, there);
  }
  void discarded(SpaceId space, const space::Vma& piece) override { next_.discarded(space, piece); }
  void carried_out(SpaceId space) override { next_.carried_out(space); }
  void ended(SpaceId space, const std::vector<space::Vma>& mapped) override {
    next_.ended(space, mapped);
  }

 private:
  space::SpaceObserver& next_;
  std::promise<void> hold_;
  std::promise<void> reached_;
  std::atomic<bool> held_{false};
};

// A client's end of a channel.
class Asking {
 public:
  Asking(WaitService& waits, const space::SpaceRef& space) : waits_(waits) {
    UniqueFd records{::memfd_create("records", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    EXPECT_EQ(::ftruncate(records.get(), wire::kRecordsBytes), 0);
    EXPECT_EQ(::fcntl(records.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
    records_ = static_cast<std::byte*>(map(records.get(), wire::kRecordsBytes));
    auto opened = waits.open(kUser, space, kernel::ForeignFd{std::move(records)});
    EXPECT_TRUE(opened) << opened.error().message();
    rings_ = static_cast<wire::Rings*>(map(opened->rings.get(), sizeof(wire::Rings)));
    lot_ = static_cast<wire::LotSlot*>(map(opened->lot.get(), kLotBytes, PROT_READ));
    doorbell_ = std::move(opened->doorbell);
    client_ = std::move(opened->client);
  }
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;
  ~Asking() {
    close();
    ::munmap(records_, wire::kRecordsBytes);
    ::munmap(rings_, sizeof(wire::Rings));
    ::munmap(lot_, kLotBytes);
  }
  void close() {
    if (client_) waits_.close(std::exchange(client_, nullptr));
  }

  // Returns the number of the question, each of a thread of its own.
  std::uint32_t ask(wire::Submission asked) {
    const std::uint32_t number = ++questions_;
    record(0).tid.store(number, std::memory_order_release);
    asked.record = number;
    submit(asked);
    return number;
  }
  void submit(wire::Submission asked) {
    asked.request = 1;
    wire::RingIndexes& indexes = rings_->indexes;
    const std::uint32_t tail = indexes.submission_tail.load(std::memory_order_relaxed);
    rings_->submissions.at(tail % wire::kSubmissions) = asked;
    indexes.submission_tail.store(tail + 1, std::memory_order_release);
    EXPECT_EQ(::eventfd_write(doorbell_.get(), 1), 0);
  }
  [[nodiscard]] bool answered(std::uint32_t number) const {
    return record(number).answered.load(std::memory_order_acquire) == wire::answered(1);
  }
  [[nodiscard]] int answer(std::uint32_t number) const {
    wire::ThreadRecord& mine = record(number);
    for (std::uint32_t seen = mine.answered.load(); seen != wire::answered(1);
         seen = mine.answered.load()) {
      ::syscall(SYS_futex, &mine.answered, FUTEX_WAIT, seen, nullptr, nullptr, 0);
    }
    return mine.result.load(std::memory_order_relaxed);
  }
  int answer(const wire::Submission& asked) { return answer(ask(asked)); }
  // One thread's question.
  std::uint32_t ask_for_any(const wire::Submission& first, wire::Submission second) {
    const std::uint32_t number = ask(first);
    second.record = number;
    submit(second);
    return number;
  }
  // Where the word is waited for.
  [[nodiscard]] const kernel::FutexWord& slot_of(const void* memory) {
    wire::Submission asked;
    asked.op = wire::ChannelOp::resolve;
    asked.address = address_of(memory, kWord);
    const std::uint32_t number = ask(asked);
    EXPECT_EQ(answer(number), 0);
    const auto& values = record(number).values;
    EXPECT_EQ(static_cast<wire::WordPlace>(values[0] & 0xff), wire::WordPlace::slot);
    return lot_[values[1].load(std::memory_order_relaxed)].wake;
  }
  void while_the_worker_stands_still(const std::function<void()>& step) {
    const auto stands = std::make_shared<std::promise<void>>();
    std::promise<void> goes_on;
    client_->keeper->post([stands, gone_on = goes_on.get_future().share()] {
      stands->set_value();
      gone_on.wait();
    });
    stands->get_future().wait();
    step();
    goes_on.set_value();
  }
  // How many of its requests the daemon has taken.
  [[nodiscard]] std::uint32_t taken() const {
    return rings_->indexes.submission_head.load(std::memory_order_acquire);
  }
  // How many of its waits are over.
  [[nodiscard]] std::uint32_t completed() const {
    return rings_->indexes.completion_tail.load(std::memory_order_acquire);
  }

 private:
  static constexpr std::size_t kLotBytes = std::size_t{wire::kLotSlots} * sizeof(wire::LotSlot);

  static void* map(int fd, std::size_t bytes, int protection = PROT_READ | PROT_WRITE) {
    void* memory = ::mmap(nullptr, bytes, protection, MAP_SHARED, fd, 0);
    EXPECT_NE(memory, MAP_FAILED);
    return memory;
  }
  [[nodiscard]] wire::ThreadRecord& record(std::uint32_t number) const {
    return *reinterpret_cast<wire::ThreadRecord*>(records_ + number * wire::kRecordBytes);
  }

  WaitService& waits_;
  std::shared_ptr<Client> client_;
  std::byte* records_ = nullptr;
  wire::Rings* rings_ = nullptr;
  wire::LotSlot* lot_ = nullptr;
  UniqueFd doorbell_;
  std::uint32_t questions_ = 0;
};

wire::Submission wait_at(const void* memory) {
  wire::Submission asked;
  asked.op = wire::ChannelOp::wait;
  asked.delivery = wire::Delivery::queue;
  asked.address = address_of(memory, kWord);
  return asked;
}
wire::Submission wake_at(const void* memory) {
  wire::Submission asked;
  asked.op = wire::ChannelOp::wake;
  asked.address = address_of(memory, kWord);
  asked.count = 8;
  return asked;
}
wire::Submission requeue_at(const void* memory, const void* target) {
  wire::Submission asked;
  asked.op = wire::ChannelOp::requeue;
  asked.address = address_of(memory, kWord);
  asked.expected = address_of(target, kWord);
  asked.user_data = 8;
  return asked;
}

// Where the daemon is held up.
enum class Before : std::uint8_t { all, words };
constexpr std::array kBefore{Before::all, Before::words};

std::string describe(Before before) {
  return before == Before::all ? "before the move is carried out" : "before the words have moved";
}

class WaitsAfterAMove : public ::testing::Test {
 protected:
  void SetUp() override {
    UniqueFd fd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))};
    if (!fd) GTEST_SKIP() << "SKIPPED: no userfaultfd without privilege here, run as root";
    watched_ = UniqueFd{::dup(fd.get())};
    auto uffd = kernel::Userfaultfd::adopt(kernel::ForeignFd{std::move(fd)});
    ASSERT_TRUE(uffd) << uffd.error().message();
    memory::ObjectSpec spec;
    spec.content_size = ByteCount{kPage};
    object_ = *memory::MemoryObject::create(ObjectId{1}, std::move(spec));
    observer_ = std::make_unique<HeldMoves>(*waits_.observer_of(kUser).value());
    space_ = std::make_shared<AddressSpace>(SpaceId{1}, space::Owner{}, std::move(*uffd),
                                            std::make_shared<space::HandleTable>(), std::nullopt,
                                            space::Surroundings{domain_, feed_, *observer_});
    space_->start(host_);
    asking_ = std::make_unique<Asking>(waits_, reference());
  }
  void TearDown() override {
    if (!space_) return;
    asking_.reset();
    space_->retire();
    host_.wait_until([&] { return space_->wind_up(); });
    EXPECT_TRUE(waits_.settle(std::chrono::steady_clock::now() + std::chrono::seconds(30)));
    space_.reset();
  }

  [[nodiscard]] space::SpaceRef reference() const {
    space::SpaceRef reference;
    reference.id = SpaceId{1};
    reference.space = space_;
    reference.uid = kUser;
    return reference;
  }
  // A private page.
  void* map() {
    void* memory = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE,
                          object_->memfd().writable_fd(), 0);
    EXPECT_NE(memory, MAP_FAILED);
    space::MapRequest request;
    request.address = Vaddr{address_of(memory)};
    request.length = ByteCount{kPage};
    request.object = object_;
    request.sharing = space::Sharing::private_copy;
    request.writable = true;
    const Status mapped = space_->map(request);
    EXPECT_TRUE(mapped) << mapped.error().message();
    return memory;
  }
  void wait_for_an_event() const {
    pollfd readable{watched_.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&readable, 1, 5000), 1);
  }
  // Returns when the daemon has looked at whatever was asked, and carried it out or held it.
  void have_it_looked_at() {
    // A letter may be read before the doorbell that was rung before it; the next one is not.
    for (int letter = 0; letter < 3; ++letter) {
      ASSERT_TRUE(waits_.settle(std::chrono::steady_clock::now() + std::chrono::seconds(30)));
    }
  }

  // Moves the page with mremap(2), of which the kernel tells by one message if nothing is unmapped
  // (otherwise by two, both of which it may give to one read(2)). Does something when that has
  // returned and the daemon is held up, and then has the daemon go on. Returns where the page is.
  void* move(void* from, Before before, const std::function<void(void* to)>& meanwhile) {
    void* const to = ::mmap(nullptr, kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::optional<HeldAnswer> answer;
    std::thread touching;
    std::thread answering;
    if (before == Before::all) {
      // What was read is carried out when all answers under way have ended.
      void* const touched = map();
      answer.emplace(feed_);
      touching = testing::toucher(touched);
      wait_for_an_event();
      answering = std::thread([&] { space_->look(); });
      answer->wait_until_held();
    } else {
      observer_->hold_the_next();
    }
    std::thread moving([&] {
      EXPECT_EQ(::mremap(from, kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to),
                to);
    });
    wait_for_an_event();
    std::thread carrying_out([&] { space_->look(); });
    moving.join();
    if (before == Before::words) observer_->wait_until_held();
    meanwhile(to);
    if (answer) {
      answer->release();
    } else {
      observer_->release();
    }
    carrying_out.join();
    if (answering.joinable()) answering.join();
    if (touching.joinable()) touching.join();
    return to;
  }

  epoch::Domain domain_{"test"};
  space::EventFeed feed_;
  WaitService waits_{nullptr};
  testing::SteppedHost host_;
  UniqueFd watched_;
  std::shared_ptr<memory::MemoryObject> object_;
  std::unique_ptr<HeldMoves> observer_;
  std::shared_ptr<AddressSpace> space_;
  std::unique_ptr<Asking> asking_;
};

// A wake where the memory is now finds who began to wait where it was.
TEST_F(WaitsAfterAMove, AWakeFindsWhoWaitedBefore) {
  std::uint32_t woken = 0;
  for (const Before before : kBefore) {
    SCOPED_TRACE(describe(before));
    void* const memory = map();
    ASSERT_EQ(asking_->answer(wait_at(memory)), 0);
    std::uint32_t wake = 0;
    move(memory, before, [&](void* to) {
      wake = asking_->ask(wake_at(to));
      have_it_looked_at();
      EXPECT_FALSE(asking_->answered(wake)) << "who waits is not there yet";
    });
    EXPECT_EQ(asking_->answer(wake), 1);
    ++woken;
    have_it_looked_at();
    EXPECT_EQ(asking_->completed(), woken);
  }
}

// Of two words that a thread waits for both are woken, which takes but one of the wakes: the other
// goes to who waits for that word as well, wherever the words are by then.
TEST_F(WaitsAfterAMove, AWakeTooManyGoesToAnotherWhoWaitsThere) {
  void* const memory = map();
  wire::Submission first = wait_at(memory);
  first.delivery = wire::Delivery::record;
  first.flags = wire::kMoreWords;
  wire::Submission second = first;
  second.flags = 0;
  second.address += kBetween;
  const std::uint32_t thread = asking_->ask_for_any(first, second);
  wire::Submission other = wait_at(memory);
  other.address += kBetween;
  ASSERT_EQ(asking_->answer(other), 0);
  auto* const there = static_cast<std::byte*>(move(memory, Before::words, [](void*) {}));

  const kernel::FutexWord& word = asking_->slot_of(there);
  const kernel::FutexWord& word_beside = asking_->slot_of(there + kBetween);
  // Both before the worker looks.
  asking_->while_the_worker_stands_still([&] {
    EXPECT_EQ(kernel::futex_wake_shared(word, 1), 1);
    EXPECT_EQ(kernel::futex_wake_shared(word_beside, 1), 1) << "first come, first served";
  });
  EXPECT_EQ(asking_->answer(thread), 0);
  have_it_looked_at();
  EXPECT_EQ(asking_->completed(), 1U);
}

// A wake where the memory was finds nothing there, and nobody.
TEST_F(WaitsAfterAMove, AWakeWhereItWasFindsNobody) {
  for (const Before before : kBefore) {
    SCOPED_TRACE(describe(before));
    void* const memory = map();
    ASSERT_EQ(asking_->answer(wait_at(memory)), 0);
    std::uint32_t wake = 0;
    void* const there = move(memory, before, [&](void*) {
      wake = asking_->ask(wake_at(memory));
      have_it_looked_at();
    });
    EXPECT_EQ(asking_->answer(wake), -EFAULT);
    EXPECT_EQ(asking_->answer(wake_at(there)), 1);
  }
}

// A wait that begins there is found there, with those that came with the memory.
TEST_F(WaitsAfterAMove, AWaitThatBeginsThereIsOneOfThose) {
  for (const Before before : kBefore) {
    SCOPED_TRACE(describe(before));
    void* const memory = map();
    ASSERT_EQ(asking_->answer(wait_at(memory)), 0);
    std::uint32_t wait = 0;
    void* const there = move(memory, before, [&](void* to) {
      wait = asking_->ask(wait_at(to));
      have_it_looked_at();
    });
    EXPECT_EQ(asking_->answer(wait), 0);
    EXPECT_EQ(asking_->answer(wake_at(there)), 2);
  }
}

// From there to another word, and from another word to there.
TEST_F(WaitsAfterAMove, ARequeueFindsWhoWaitedBefore) {
  for (const Before before : kBefore) {
    for (const bool away : {true, false}) {
      SCOPED_TRACE(describe(before) + (away ? ", from there" : ", to there"));
      void* const memory = map();
      void* const other = map();
      ASSERT_EQ(asking_->answer(wait_at(away ? memory : other)), 0);
      std::uint32_t requeue = 0;
      void* const there = move(memory, before, [&](void* to) {
        requeue = asking_->ask(away ? requeue_at(to, other) : requeue_at(other, to));
        have_it_looked_at();
      });
      EXPECT_EQ(asking_->answer(requeue), 1);
      EXPECT_EQ(asking_->answer(wake_at(away ? there : other)), 0);
      EXPECT_EQ(asking_->answer(wake_at(away ? other : there)), 1);
    }
  }
}

// While a request of one is held, nothing behind it is taken, however much that is; the worker's
// other clients, and its letters, go on. All is answered in the end, in its order.
TEST_F(WaitsAfterAMove, OnlyTheClientThatAskedIsHeldUp) {
  constexpr std::uint32_t kMore = 200;
  // Of another address space, which is never read from.
  UniqueFd fd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))};
  auto uffd = kernel::Userfaultfd::adopt(kernel::ForeignFd{std::move(fd)});
  ASSERT_TRUE(uffd);
  const auto other_space = std::make_shared<AddressSpace>(
      SpaceId{2}, space::Owner{}, std::move(*uffd), std::make_shared<space::HandleTable>(),
      std::nullopt, space::Surroundings{domain_, feed_, *observer_});
  space::SpaceRef other_reference = reference();
  other_reference.id = SpaceId{2};
  other_reference.space = other_space;
  Asking other(waits_, other_reference);

  for (const Before before : kBefore) {
    SCOPED_TRACE(describe(before));
    void* const memory = map();
    ASSERT_EQ(asking_->answer(wait_at(memory)), 0);
    std::uint32_t wake = 0;
    move(memory, before, [&](void* to) {
      const std::uint32_t taken = asking_->taken();
      wake = asking_->ask(wake_at(to));
      for (std::uint32_t i = 0; i < kMore; ++i) (void)asking_->ask(wake_at(to));
      have_it_looked_at();
      EXPECT_EQ(asking_->taken(), taken + 1);
      EXPECT_EQ(other.answer(wake_at(to)), -EFAULT) << "it has nothing mapped there";
    });
    EXPECT_EQ(asking_->answer(wake), 1);
    std::uint32_t found_nobody = 0;
    for (std::uint32_t i = 1; i <= kMore; ++i) found_nobody += asking_->answer(wake + i) == 0;
    EXPECT_EQ(found_nobody, kMore);
  }
}

// Nobody waits for the answer any more, and the next client of the process is not held for it.
TEST_F(WaitsAfterAMove, AClientMayLeaveWhileItIsHeldUp) {
  for (const Before before : kBefore) {
    SCOPED_TRACE(describe(before));
    void* const memory = map();
    void* const there = move(memory, before, [&](void* to) {
      (void)asking_->ask(wake_at(to));
      have_it_looked_at();
      asking_->close();
    });
    asking_ = std::make_unique<Asking>(waits_, reference());
    EXPECT_EQ(asking_->answer(wake_at(there)), 0);
  }
}

}  // namespace
}  // namespace faultline::wait
