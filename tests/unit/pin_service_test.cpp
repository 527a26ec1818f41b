// Pin ledgers with whatever a process may write there: what is read of them, what they hold, what
// ends their pins, and what they may have.
#include "daemon/pin/pin_service.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <limits>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "tests/unit/seed.hpp"
#include "tests/unit/slower.hpp"

namespace faultline::pin {
namespace {

using testing::announce_seed;
using testing::kSlower;

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kMost = ~std::uint64_t{0};

// What a process writes into a slot.
struct Said {
  std::uint64_t object = 1;
  std::uint64_t first = 0;
  std::uint64_t count = 1;
  std::uint64_t address = 0;
  std::uint32_t flags = 0;
};

// The process's end of a ledger.
class Process {
 public:
  Process(int ledger, int verdicts) {
    void* const written =
        ::mmap(nullptr, sizeof(wire::PinLedger), PROT_READ | PROT_WRITE, MAP_SHARED, ledger, 0);
    void* const read =
        ::mmap(nullptr, sizeof(wire::PinVerdicts), PROT_READ, MAP_SHARED, verdicts, 0);
    EXPECT_NE(written, MAP_FAILED);
    EXPECT_NE(read, MAP_FAILED);
    ledger_ = static_cast<wire::PinLedger*>(written);
    verdicts_ = static_cast<const wire::PinVerdicts*>(read);
  }
  Process(Process&& other) noexcept
      : ledger_(std::exchange(other.ledger_, nullptr)), verdicts_(other.verdicts_) {}
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (ledger_ == nullptr) return;
    ::munmap(ledger_, sizeof(wire::PinLedger));
    ::munmap(const_cast<wire::PinVerdicts*>(verdicts_), sizeof(wire::PinVerdicts));
  }

  wire::PinLedger* operator->() const { return ledger_; }
  [[nodiscard]] const wire::PinVerdicts& verdicts() const { return *verdicts_; }

  // As the library does it.
  void pin(std::uint32_t number, const Said& said) const {
    wire::PinSlot& slot = ledger_->slots[number];
    slot.use.store(slot.use.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    slot.first.store(said.first, std::memory_order_release);
    slot.count.store(said.count, std::memory_order_release);
    slot.address.store(said.address, std::memory_order_release);
    slot.flags.store(said.flags, std::memory_order_release);
    if (number >= ledger_->slots_used) ledger_->slots_used = number + 1;
    slot.object.store(said.object, std::memory_order_release);
  }
  void unpin(std::uint32_t number) const {
    ledger_->slots[number].object.store(0, std::memory_order_release);
  }
  void clear() const {
    for (std::uint32_t slot = 0; slot < wire::kPinSlots; ++slot) unpin(slot);
    ledger_->slots_used = 0;
  }

  // The budget of a thread, as the library pays from it and back.
  [[nodiscard]] bool pay(std::uint32_t thread, std::int64_t bytes) const {
    return with_budget(thread, [&](std::int64_t has) { return has - bytes; });
  }
  // What cannot go there now goes to the pool.
  void pay_back(std::uint32_t thread, std::int64_t bytes) const {
    if (!with_budget(thread, [&](std::int64_t has) { return has + bytes; })) ledger_->pool += bytes;
  }
  [[nodiscard]] std::int64_t budgets() const {
    std::int64_t sum = ledger_->pool;
    for (std::uint32_t i = 0; i < ledger_->threads_used; ++i) sum += ledger_->threads[i].budget;
    return sum;
  }

 private:
  template <typename Change>
  bool with_budget(std::uint32_t index, Change change) const {
    wire::PinThread& thread = ledger_->threads[index];
    thread.busy.store(1, std::memory_order_seq_cst);
    const bool open = thread.closed.load(std::memory_order_seq_cst) == 0;
    const std::int64_t has = open ? change(thread.budget.load(std::memory_order_relaxed)) : -1;
    if (has >= 0) thread.budget.store(has, std::memory_order_relaxed);
    thread.busy.store(0, std::memory_order_release);
    return has >= 0;
  }

  wire::PinLedger* ledger_ = nullptr;
  const wire::PinVerdicts* verdicts_ = nullptr;
};

// --- the ledger

class LedgerTest : public ::testing::Test {
 protected:
  [[nodiscard]] std::vector<Pin> all() const {
    std::vector<Pin> pins;
    ledger_->each([&](const Pin& pin) {
      pins.push_back(pin);
      return true;
    });
    return pins;
  }

  [[nodiscard]] std::int64_t take_budgets() const {
    return ledger_->take_closed(ledger_->close_budgets());
  }

  std::unique_ptr<Ledger> ledger_ = Ledger::create().value();
  Process process_{ledger_->ledger_fd(), ledger_->verdicts_fd()};
};

TEST_F(LedgerTest, ASlotSaysWhatIsPinned) {
  EXPECT_TRUE(all().empty());
  process_.pin(3, {.object = 7, .first = 8, .count = 9, .address = 10 * kPage});
  process_.pin(5, {.object = kMost, .flags = wire::kPinWrite | wire::kPinOwn});
  process_->slots[3].since = 11;
  const auto pins = all();
  ASSERT_EQ(pins.size(), 2U);
  EXPECT_EQ(pins[0].slot, 3U);
  EXPECT_EQ(pins[0].use, 1U);
  EXPECT_EQ(pins[0].object, ObjectId{7});
  EXPECT_EQ(pins[0].first, PageIndex{8});
  EXPECT_EQ(pins[0].count, PageCount{9});
  EXPECT_EQ(pins[0].address, Vaddr{10 * kPage});
  EXPECT_EQ(pins[0].since, 11U);
  EXPECT_FALSE(pins[0].write || pins[0].own);
  EXPECT_EQ(pins[0].ended, 0);
  EXPECT_TRUE(pins[1].write && pins[1].own);
  process_.unpin(3);
  EXPECT_EQ(all().size(), 1U);
}

TEST_F(LedgerTest, MoreSlotsAndThreadsThanThereAreAreNotLookedAt) {
  process_.pin(wire::kPinSlots - 1, {});
  process_->threads[wire::kPinThreads - 1].budget = 5;
  process_->threads[wire::kPinThreads - 1].fast = 6;
  for (const std::uint32_t lie : {wire::kPinSlots + 1, ~std::uint32_t{0}}) {
    process_->slots_used = lie;
    process_->threads_used = lie;
    EXPECT_EQ(all().size(), 1U);
    EXPECT_EQ(ledger_->counts().fast, 6U);
    EXPECT_EQ(take_budgets(), 5);
    process_->threads[wire::kPinThreads - 1].budget = 5;
  }
  process_->slots_used = 1;
  process_->threads_used = 1;
  EXPECT_TRUE(all().empty()) << "nor those that were never used";
  EXPECT_EQ(ledger_->counts().fast, 0U);
  EXPECT_EQ(take_budgets(), 0);
}

// Two pins by turns in one slot: what is read is one of them, and never something of each.
TEST_F(LedgerTest, ASlotThatChangesWhileItIsReadIsReadWholeOrNotAtAll) {
  std::atomic<bool> over{false};
  std::thread changing([&] {
    for (std::uint64_t i = 1; !over; ++i) {
      process_.pin(0, {.object = 1, .first = i, .count = i, .address = i});
      process_.unpin(0);
    }
  });
  int seen = 0;
  while (seen < 20'000 / kSlower) {
    for (const Pin& pin : all()) {
      ++seen;
      ASSERT_EQ(pin.first.value(), pin.count.value());
      ASSERT_EQ(pin.first.value(), pin.address.value());
      ASSERT_EQ(pin.first.value() & 0xffff'ffff, pin.use);
    }
  }
  over = true;
  changing.join();
}

// What is said to have been pinned together was.
TEST_F(LedgerTest, OfPinsAtOneMomentNoneIsAnothersSuccessor) {
  process_.pin(0, {.first = 1});
  process_.pin(9, {.first = 2});
  const auto pins = ledger_->at_once([&] {
    process_.unpin(0);
    process_.pin(4, {.first = 3});
  });
  ASSERT_EQ(pins.size(), 1U);
  EXPECT_EQ(pins[0].first, PageIndex{2});
  EXPECT_EQ(ledger_->at_once([] {}).size(), 2U);
  // In the same slot it is another, too.
  EXPECT_EQ(ledger_->at_once([&] { process_.pin(9, {.first = 2}); }).size(), 1U);
}

TEST_F(LedgerTest, AVerdictIsOfOnePinAndNotOfTheNextInItsSlot) {
  process_.pin(2, {});
  ledger_->end(all().at(0), ENOENT);
  EXPECT_EQ(all().at(0).ended, ENOENT);
  EXPECT_EQ(process_.verdicts().slots[2].use, 1U);
  EXPECT_EQ(process_.verdicts().slots[2].error, ENOENT);
  process_.unpin(2);
  process_.pin(2, {});
  EXPECT_EQ(all().at(0).ended, 0);
  EXPECT_NE(process_.verdicts().slots[2].use, process_->slots[2].use);
}

TEST_F(LedgerTest, AMoveIsOfOnePinAndNotOfTheNextInItsSlot) {
  process_.pin(2, {.address = 5 * kPage});
  ledger_->move(all().at(0), Vaddr{8 * kPage});
  EXPECT_EQ(all().at(0).address, Vaddr{8 * kPage});
  ledger_->move(all().at(0), Vaddr{9 * kPage});
  EXPECT_EQ(all().at(0).address, Vaddr{9 * kPage});
  process_.unpin(2);
  process_.pin(2, {.address = 5 * kPage});
  EXPECT_EQ(all().at(0).address, Vaddr{5 * kPage});
}

TEST_F(LedgerTest, TheTimeAndTheVerdictsAreWrittenByTheDaemonAlone) {
  const auto before = process_.verdicts().now.load();
  EXPECT_GT(before, 0U);
  while (process_.verdicts().now == before) ledger_->tick();
  EXPECT_EQ(::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, ledger_->verdicts_fd(), 0),
            MAP_FAILED);
  EXPECT_EQ(::mprotect(const_cast<wire::PinVerdicts*>(&process_.verdicts()), kPage,
                       PROT_READ | PROT_WRITE),
            -1);
  EXPECT_EQ(::pwrite(ledger_->verdicts_fd(), "", 1, 0), -1);
}

TEST_F(LedgerTest, BudgetsAreTakenButForThoseThatAreInUse) {
  process_->threads_used = 3;
  process_->pool = 1;
  process_->threads[0].budget = 10;
  process_->threads[1].budget = 100;
  process_->threads[1].busy = 1;
  process_->threads[2].budget = 1000;
  EXPECT_EQ(take_budgets(), 1011);
  EXPECT_EQ(process_.budgets(), 100);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(process_->threads[static_cast<std::size_t>(i)].closed, 0U);
}

TEST_F(LedgerTest, MadeUpBudgetsAddUpToSomeNumber) {
  constexpr std::array kNumbers{std::numeric_limits<std::int64_t>::max(),
                                std::numeric_limits<std::int64_t>::min(), std::int64_t{-1}};
  process_->threads_used = 3;
  for (const std::int64_t pool : kNumbers) {
    for (const std::int64_t budget : kNumbers) {
      process_->pool = pool;
      for (std::size_t i = 0; i < 3; ++i) process_->threads[i].budget = budget;
      (void)take_budgets();
      EXPECT_EQ(process_.budgets(), 0);
    }
  }
}

// --- the service

// Users whose processes are all this one.
class PinServiceTest : public ::testing::Test {
 protected:
  static constexpr uid_t kUser = 1001;
  static constexpr std::uint64_t kPages = 64;  // of an object

  struct Member {
    space::SpaceRef space;
    Process process;
  };

  void SetUp() override {
    if (!userfaultfd()) {
      GTEST_SKIP() << "SKIPPED: no userfaultfd without privilege here, run as root";
    }
    ASSERT_TRUE(objects_.start());
    spaces_ = space::SpaceService::create({.workers_per_user = 1, .spaces_per_user = 8, .users = 3})
                  .value();
    object_ = make_object();
    limit({.per_process = pages(100), .per_user = pages(150), .total = pages(200)});
  }
  void TearDown() override {
    if (spaces_) (void)spaces_->stop(std::chrono::steady_clock::now() + std::chrono::seconds(10));
  }

  static constexpr ByteCount pages(std::uint64_t count) { return ByteCount{count * kPage}; }
  static UniqueFd userfaultfd() {
    return UniqueFd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))};
  }
  void limit(PinLimits limits) { pins_ = std::make_unique<PinService>(objects_, limits); }
  std::shared_ptr<memory::MemoryObject> make_object() {
    memory::ObjectSpec spec;
    spec.content_size = pages(kPages);
    return *objects_.create(std::move(spec));
  }
  // A space of this very process in the name of a user.
  space::SpaceRef attach(uid_t uid) {
    beacons_.push_back(kernel::MappedMemory::create(ByteCount{kPage}, PROT_READ | PROT_WRITE,
                                                    MAP_PRIVATE | MAP_ANONYMOUS)
                           .value());
    std::promise<Result<space::SpaceRef>> answer;
    spaces_->attach_new(kernel::ForeignFd{userfaultfd()}, {.pid = ::getpid(), .uid = uid},
                        Vaddr{reinterpret_cast<std::uintptr_t>(beacons_.back().data())},
                        [&](Result<space::SpaceRef> ref) { answer.set_value(std::move(ref)); });
    return answer.get_future().get().value();
  }
  // One that has the object open, and a ledger.
  Member member(uid_t uid = kUser) {
    space::SpaceRef space = attach(uid);
    EXPECT_TRUE(space.handles->add({object_, memory::Access::read_write}));
    auto opened = pins_->open(space);
    EXPECT_TRUE(opened) << opened.error().message();
    return {space, Process(opened->ledger.get(), opened->verdicts.get())};
  }
  Result<ByteCount> grant(const Member& member, std::uint64_t count) {
    return pins_->grant(member.space.id, ::getpid(), pages(count));
  }
  // With what it was granted in a budget, as the library has it.
  bool granted(const Member& member, std::uint64_t count, std::uint32_t thread = 0) {
    const auto bytes = grant(member, count);
    if (!bytes) return false;
    if (thread >= member.process->threads_used) member.process->threads_used = thread + 1;
    member.process.pay_back(thread, static_cast<std::int64_t>(bytes->value()));
    return true;
  }

  using Run = std::pair<std::uint64_t, std::uint64_t>;  // first page, pages
  using Runs = std::set<Run>;
  [[nodiscard]] Runs held(std::uint64_t first = 0, std::uint64_t count = kPages) const {
    Runs runs;
    pins_->held(*object_, PageIndex{first}, PageCount{count},
                [&](PageIndex page, PageCount some) { runs.emplace(page.value(), some.value()); });
    return runs;
  }
  // A private mapping of the object from page 8 on.
  [[nodiscard]] space::Vma piece() const {
    space::Vma vma;
    vma.start = Vaddr{kPieceAt};
    vma.end = Vaddr{kPieceAt + 32 * kPage};
    vma.object = object_;
    vma.first = PageIndex{8};
    vma.sharing = space::Sharing::private_copy;
    return vma;
  }
  [[nodiscard]] Runs own(const Member& member, std::uint64_t first, std::uint64_t count) const {
    Runs runs;
    pins_->stay_own(
        member.space.id, piece(), PageIndex{first}, PageCount{count},
        [&](PageIndex page, PageCount some) { runs.emplace(page.value(), some.value()); });
    return runs;
  }
  [[nodiscard]] std::vector<int> ends(const Member& member) const {
    std::vector<int> errors;
    const auto shown = pins_->pins_of(member.space.id, 100);
    for (const auto& each : shown->pins) errors.push_back(each.pin.ended);
    return errors;
  }

  static constexpr std::uint64_t kPieceAt = std::uint64_t{1} << 32;
  std::vector<kernel::MappedMemory> beacons_;
  memory::ObjectDirectory objects_{memory::ObjectLimits{}};
  std::unique_ptr<space::SpaceService> spaces_;
  std::shared_ptr<memory::MemoryObject> object_;
  std::unique_ptr<PinService> pins_;
};

// Numbers as somebody would make them up, and around what means something.
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : dice_(seed) {}
  std::uint64_t below(std::uint64_t limit) { return dice_() % limit; }
  std::uint64_t around(std::uint64_t from, std::uint64_t size) {
    switch (below(6)) {
      case 0:
        return dice_();
      case 1:
        return kMost - below(3 * size);
      case 2:
        return (std::uint64_t{1} << (52 + below(12))) - below(3) + below(size);
      case 3:
        return below(3);
      default:
        return from - size / 4 + below(2 * size);
    }
  }

 private:
  std::mt19937_64 dice_;
};

TEST_F(PinServiceTest, PinnedPagesAreHeldWhereTheyWereAskedAbout) {
  const Member member = this->member();
  ASSERT_TRUE(granted(member, 100));
  member.process.pin(0, {.object = object_->id().value(), .first = 10, .count = 5});
  member.process.pin(1, {.object = object_->id().value(), .first = 12, .count = 20});
  EXPECT_EQ(held(), (Runs{{10, 5}, {12, 20}}));
  EXPECT_EQ(held(0, 11), (Runs{{10, 1}}));
  EXPECT_EQ(held(13, 1), (Runs{{13, 1}}));
  EXPECT_EQ(held(31, 5), (Runs{{31, 1}}));
  EXPECT_EQ(held(32, 32), (Runs{}));
  member.process.unpin(0);
  EXPECT_EQ(held(), (Runs{{12, 20}}));
}

TEST_F(PinServiceTest, OnlyThePagesOfAnObjectThatTheProcessHasAreHeld) {
  const Member member = this->member();
  ASSERT_TRUE(granted(member, 100));
  const auto mine = object_;
  const auto others = make_object();
  member.process.pin(0, {.object = others->id().value(), .count = kPages});
  member.process.pin(1, {.object = kMost, .count = 1});
  object_ = others;
  EXPECT_EQ(held(), (Runs{})) << "named, and not open";
  object_ = mine;
  EXPECT_EQ(held(), (Runs{})) << "open, and not named";
  EXPECT_TRUE(member.space.handles->add({others, memory::Access::read_only}));
  object_ = others;
  EXPECT_EQ(held(), (Runs{{0, kPages}}));
  object_ = mine;
}

TEST_F(PinServiceTest, PrivatePagesAndEndedPinsHoldNothingOfTheObject) {
  const Member member = this->member();
  ASSERT_TRUE(granted(member, 100));
  const std::uint64_t id = object_->id().value();
  member.process.pin(0, {.object = id, .first = 8, .address = kPieceAt, .flags = wire::kPinOwn});
  member.process.pin(1, {.object = id, .first = 9, .address = kPieceAt + kPage});
  EXPECT_EQ(held(), (Runs{{9, 1}}));
  pins_->unmapped(member.space.id, {piece()});
  EXPECT_EQ(held(), (Runs{}));
  member.process.unpin(1);
  member.process.pin(1, {.object = id, .first = 9, .address = kPieceAt + kPage});
  EXPECT_EQ(held(), (Runs{{9, 1}})) << "the verdict was of another";
}

TEST_F(PinServiceTest, WhatWasNotGrantedHoldsNothing) {
  const Member member = this->member();
  const std::uint64_t id = object_->id().value();
  member.process.pin(0, {.object = id, .first = 1});
  EXPECT_EQ(held(), (Runs{})) << "nothing was granted at all";
  ASSERT_TRUE(granted(member, 100));
  member.process.pin(1, {.object = id, .first = 2, .count = 99});
  EXPECT_EQ(held(), (Runs{{1, 1}, {2, kPages - 2}}));
  member.process.pin(2, {.object = id, .first = 3});
  EXPECT_EQ(held(), (Runs{{1, 1}, {2, kPages - 2}}));
  member.process.pin(1, {.object = id, .first = 2, .count = kMost});
  EXPECT_EQ(held(), (Runs{{1, 1}}));
  // Also where what is beyond is of other objects, or of none.
  member.process.pin(0, {.object = 12345, .count = kMost / kPage + 2});
  EXPECT_EQ(held(), (Runs{}));
}

TEST_F(PinServiceTest, PinsOfNothingCountAsAPageEach) {
  const Member member = this->member();
  const std::uint64_t id = object_->id().value();
  ASSERT_TRUE(granted(member, 100));
  for (std::uint32_t slot = 0; slot < 99; ++slot)
    member.process.pin(slot, {.object = id, .count = 0});
  member.process.pin(99, {.object = id, .first = 1});
  EXPECT_EQ(held(), (Runs{{1, 1}}));
  member.process.pin(100, {.object = id, .first = 2});
  EXPECT_EQ(held(), (Runs{{1, 1}}));
}

TEST_F(PinServiceTest, MadeUpPinsHoldNothingOutsideOfWhatIsAskedAbout) {
  const Member member = this->member();
  ASSERT_TRUE(granted(member, 100));
  Numbers numbers(announce_seed());
  std::uint64_t runs = 0;
  for (int round = 0; round < 20'000 / kSlower; ++round) {
    const Said said{.object = object_->id().value(),
                    .first = numbers.around(0, kPages),
                    .count = numbers.around(0, kPages)};
    member.process.pin(0, said);
    const std::uint64_t first = numbers.below(kPages);
    const std::uint64_t count = 1 + numbers.below(kPages - first);
    for (const auto& [page, some] : held(first, count)) {
      ++runs;
      ASSERT_GE(page, first);
      ASSERT_GE(page, said.first);
      ASSERT_GT(some, 0U);
      ASSERT_LE(some, first + count - page) << said.first << " " << said.count;
      ASSERT_LE(some, said.count);
    }
  }
  EXPECT_GT(runs, 300U / kSlower);
}

// A pin is withdrawn and another paid with what it gave back, behind and before where its ledger is
// being read: the two together are more than was granted, and there never were.
TEST_F(PinServiceTest, APinIsHeldWhileOthersOfItsProcessComeAndGo) {
  limit({.per_process = pages(3), .per_user = pages(150), .total = pages(200)});
  const Member member = this->member();
  ASSERT_TRUE(granted(member, 3));
  const std::uint64_t id = object_->id().value();
  member.process.pin(0, {.object = id, .first = 20, .count = 2});
  member.process.pin(9, {.object = id, .first = 7});
  std::set<std::uint64_t> held;
  pins_->held(*object_, PageIndex{0}, PageCount{kPages}, [&](PageIndex page, PageCount) {
    held.insert(page.value());
    member.process.unpin(0);
    member.process.pin(5, {.object = id, .first = 30, .count = 2});
  });
  EXPECT_EQ(held, (std::set<std::uint64_t>{7, 20, 30}));
}

// The same, with what it was granted meanwhile.
TEST_F(PinServiceTest, APinIsHeldWhileItsProcessIsGrantedMore) {
  limit({.per_process = pages(50), .per_user = pages(3), .total = pages(200)});
  const Member other = this->member();
  const Member member = this->member();
  ASSERT_TRUE(granted(other, 1));
  ASSERT_TRUE(other.process.pay(0, kPage));
  ASSERT_TRUE(granted(member, 2)) << "and no more, as long as the other has it";
  const std::uint64_t id = object_->id().value();
  member.process.pin(0, {.object = id, .first = 20});
  member.process.pin(9, {.object = id, .first = 7});
  std::set<std::uint64_t> held;
  pins_->held(*object_, PageIndex{0}, PageCount{kPages}, [&](PageIndex page, PageCount) {
    if (held.insert(page.value()).second && page == PageIndex{20}) {
      pins_->close(other.space.id);
      EXPECT_TRUE(granted(member, 1));
      member.process.pin(5, {.object = id, .first = 30});
    }
  });
  EXPECT_EQ(held, (std::set<std::uint64_t>{7, 20, 30}));
}

// --- what becomes of the memory

TEST_F(PinServiceTest, UnmappingEndsThePinsThatLieThere) {
  const Member member = this->member();
  const std::uint64_t id = object_->id().value();
  const auto pin = [&](std::uint32_t slot, std::uint64_t address, std::uint64_t count) {
    member.process.pin(slot, {.object = id, .count = count, .address = address});
  };
  pin(0, kPieceAt - kPage, 1);
  pin(1, kPieceAt - kPage, 2);
  pin(2, kPieceAt + 31 * kPage, 1);
  pin(3, kPieceAt + 32 * kPage, 1);
  // They say that they lie everywhere from somewhere on, or up to somewhere past the end.
  pin(4, kPage, kMost);
  pin(5, kPage, kMost / kPage);
  pin(6, kPieceAt + kPage, kMost / kPage);
  pin(7, kMost, kMost);
  pins_->unmapped(member.space.id, {piece()});
  EXPECT_EQ(ends(member), (std::vector<int>{0, ENOENT, ENOENT, 0, ENOENT, ENOENT, ENOENT, 0}));
  pins_->unmapped(SpaceId{999}, {piece()});
}

TEST_F(PinServiceTest, MovingTakesAPinAlongAsAWholeOrEndsIt) {
  const Member member = this->member();
  const std::uint64_t id = object_->id().value();
  const auto pin = [&](std::uint32_t slot, std::uint64_t address, std::uint64_t count) {
    member.process.pin(slot, {.object = id, .count = count, .address = address});
  };
  pin(0, kPieceAt, 32);
  pin(1, kPieceAt + 30 * kPage, 2);
  pin(2, kPieceAt - kPage, 1);
  pin(3, kPieceAt - kPage, 2);
  pin(4, kPieceAt + 31 * kPage, 2);
  pin(5, kPieceAt + 3 * kPage, kMost);
  // Past the end of all addresses, to where the range begins.
  pin(6, kPieceAt + 3 * kPage, kMost / kPage - 1);
  const Vaddr there{std::uint64_t{1} << 40};
  pins_->moved(member.space.id, {Vaddr{kPieceAt}, pages(32)}, there);
  EXPECT_EQ(ends(member), (std::vector<int>{0, 0, 0, ENOENT, ENOENT, ENOENT, ENOENT}));
  const auto shown = pins_->pins_of(member.space.id, 100)->pins;
  EXPECT_EQ(shown[0].pin.address, there);
  EXPECT_EQ(shown[1].pin.address, there + pages(30));
  EXPECT_EQ(shown[2].pin.address, Vaddr{kPieceAt - kPage});
  // Where they are now is what counts.
  pins_->unmapped(member.space.id, {piece()});
  EXPECT_EQ(ends(member), (std::vector<int>{0, 0, 0, ENOENT, ENOENT, ENOENT, ENOENT}));
}

TEST_F(PinServiceTest, DiscardingEndsThePinsOfPrivatePagesAlone) {
  const Member member = this->member();
  const std::uint64_t id = object_->id().value();
  member.process.pin(0, {.object = id, .address = kPieceAt, .flags = wire::kPinOwn});
  member.process.pin(1, {.object = id, .address = kPieceAt});
  member.process.pin(2, {.object = id, .address = kPieceAt + 32 * kPage, .flags = wire::kPinOwn});
  member.process.pin(3, {.object = id, .count = kMost, .address = kPage, .flags = wire::kPinOwn});
  pins_->discarded(member.space.id, piece());
  EXPECT_EQ(ends(member), (std::vector<int>{EIDRM, 0, 0, EIDRM}));
}

TEST_F(PinServiceTest, PagesThatArePinnedStayOwn) {
  const Member member = this->member();
  const auto pin = [&](std::uint32_t slot, std::uint64_t page, std::uint64_t count) {
    member.process.pin(slot, {.object = object_->id().value(),
                              .count = count,
                              .address = kPieceAt + page * kPage,
                              .flags = wire::kPinOwn});
  };
  pin(0, 4, 2);
  pin(1, 6, 10);
  member.process.pin(2, {.object = object_->id().value(), .address = kPieceAt});
  EXPECT_EQ(own(member, 8, 32), (Runs{{12, 2}, {14, 10}}));
  EXPECT_EQ(own(member, 13, 2), (Runs{{13, 1}, {14, 1}}));
  EXPECT_EQ(own(member, 24, 16), (Runs{}));
}

// The daemon goes by these ranges when it writes to its own tables.
TEST_F(PinServiceTest, MadeUpPinsKeepNothingOutsideOfWhatIsAskedAbout) {
  const Member member = this->member();
  Numbers numbers(announce_seed());
  std::uint64_t runs = 0;
  for (int round = 0; round < 20'000 / kSlower; ++round) {
    const Said said{
        .object = numbers.below(4) == 0 ? kMost : object_->id().value(),
        .count = numbers.below(2) == 0 ? numbers.around(0, 32) : kMost / kPage - numbers.below(64),
        .address = numbers.around(kPieceAt, 32 * kPage),
        .flags = wire::kPinOwn};
    member.process.pin(0, said);
    const std::uint64_t first = 8 + numbers.below(32);
    const std::uint64_t count = 1 + numbers.below(40 - first);
    for (const auto& [page, some] : own(member, first, count)) {
      ++runs;
      ASSERT_GE(page, first) << said.address << " " << said.count;
      ASSERT_LE(page, first + count) << said.address << " " << said.count;
      ASSERT_GT(some, 0U) << said.address << " " << said.count;
      ASSERT_LE(some, first + count - page) << said.address << " " << said.count;
    }
  }
  EXPECT_GT(runs, 300U / kSlower);
}

// --- what may be pinned

TEST_F(PinServiceTest, EachLimitIsExact) {
  Member first = member();
  EXPECT_EQ(grant(first, 101).error().code(), ENOMEM);
  EXPECT_EQ(grant(first, 100)->value(), 100 * kPage);
  const auto process_full = grant(first, 1);
  ASSERT_FALSE(process_full);
  EXPECT_NE(process_full.error().message().find("max_pinned_per_process"), std::string::npos);
  Member second = member();
  EXPECT_EQ(grant(second, 1)->value(), 50 * kPage) << "a little more, up to the limit";
  const auto user_full = grant(second, 1);
  ASSERT_FALSE(user_full);
  EXPECT_NE(user_full.error().message().find("max_pinned_per_user"), std::string::npos);
  Member third = member(kUser + 1);
  EXPECT_EQ(grant(third, 50)->value(), 50 * kPage);
  const auto all_full = grant(third, 1);
  ASSERT_FALSE(all_full);
  EXPECT_EQ(all_full.error().code(), ENOMEM);
  EXPECT_NE(all_full.error().message().find("max_pinned"), std::string::npos);
  pins_->close(first.space.id);
  EXPECT_EQ(grant(third, 1)->value(), 50 * kPage) << "the limit of one process comes first";
}

TEST_F(PinServiceTest, RequestsForAllOfMemoryAndMoreAreRefused) {
  const Member member = this->member();
  ASSERT_TRUE(grant(member, 1));
  for (const std::uint64_t wanted : {kMost, kMost - kPage, kMost / 2 + 1}) {
    EXPECT_EQ(pins_->grant(member.space.id, ::getpid(), ByteCount{wanted}).error().code(), ENOMEM);
  }
  EXPECT_EQ(pins_->pins_of(member.space.id, 0)->granted, pages(100));
  EXPECT_EQ(pins_->grant(SpaceId{999}, ::getpid(), pages(1)).error().code(), ENOTCONN);
}

TEST_F(PinServiceTest, WhatIsGrantedAndNotUsedIsTakenBackForAnother) {
  const Member first = member();
  const Member second = member();
  ASSERT_TRUE(granted(first, 100));
  ASSERT_TRUE(first.process.pay(0, 60 * kPage));
  first.process.pin(0, {.object = object_->id().value(), .count = 60});
  EXPECT_TRUE(granted(second, 90));
  EXPECT_EQ(first.process.budgets(), 0);
  EXPECT_EQ(pins_->pins_of(first.space.id, 0)->granted, pages(60));
  EXPECT_FALSE(grant(second, 1));
  // Another user's is taken back, too, where it is the limit of all that is short.
  const Member third = member(kUser + 1);
  EXPECT_TRUE(granted(third, 100));
  EXPECT_EQ(pins_->pins_of(second.space.id, 0)->granted, ByteCount{0});
  EXPECT_EQ(held(0, 60), (Runs{{0, 60}})) << "what is used is not";
}

// Whatever a process says of its budgets and slots, what others can have is what the limits leave
// beside what it was granted, or less; and never more than it gave back.
TEST_F(PinServiceTest, MadeUpLedgersNeverLetOthersHaveMoreThanTheLimits) {
  Numbers numbers(announce_seed());
  for (int round = 0; round < 100; ++round) {
    limit({.per_process = pages(100), .per_user = pages(150), .total = pages(200)});
    const std::array members{member(), member(kUser + 1)};
    for (int step = 0; step < 30; ++step) {
      const Member& liar = members.at(numbers.below(2));
      liar.process->pool = static_cast<std::int64_t>(numbers.around(0, 200 * kPage));
      liar.process->threads_used = static_cast<std::uint32_t>(numbers.around(0, 4));
      for (std::size_t i = 0; i < 4; ++i) {
        liar.process->threads[i].budget = static_cast<std::int64_t>(numbers.around(0, 200 * kPage));
      }
      liar.process.pin(static_cast<std::uint32_t>(numbers.below(4)),
                       {.object = object_->id().value(), .count = numbers.around(0, 100)});
      (void)grant(members.at(numbers.below(2)), 1 + numbers.below(120));
      std::uint64_t sum = 0;
      for (const Member& each : members) {
        const ByteCount has = pins_->pins_of(each.space.id, 0)->granted;
        ASSERT_LE(has, pages(100));
        sum += has.value();
      }
      ASSERT_LE(sum, 200 * kPage);
    }
    for (const Member& each : members) {
      pins_->close(each.space.id);
      spaces_->session_closed(each.space);
    }
    // Their spaces end, and others come in their place.
    while (spaces_->space_count() > 0) std::this_thread::yield();
  }
}

// Who gives back what it uses may pin so much less, and its slots hold no more than that.
TEST_F(PinServiceTest, WhatIsGivenBackIsHeldNoLonger) {
  const Member liar = member();
  const Member other = member();
  ASSERT_TRUE(grant(liar, 100));
  liar.process.pin(0, {.object = object_->id().value(), .count = 60});
  liar.process.pin(1, {.object = object_->id().value(), .first = 2, .count = 20});
  liar.process->pool = 30 * kPage;
  EXPECT_EQ(held(), (Runs{{0, 60}, {2, 20}}));
  EXPECT_TRUE(grant(other, 71));
  EXPECT_EQ(pins_->pins_of(liar.space.id, 0)->granted, pages(70));
  EXPECT_EQ(held(), (Runs{{0, 60}}));
  liar.process->pool = std::numeric_limits<std::int64_t>::max();
  pins_->close(other.space.id);
  const Member third = member(kUser + 1);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(grant(third, 50).has_value(), i == 0);
  const Member fourth = member();
  EXPECT_TRUE(grant(fourth, 100)) << "what it says is its own loss";
  EXPECT_EQ(pins_->pins_of(liar.space.id, 0)->granted, ByteCount{0});
  EXPECT_EQ(held(), (Runs{}));
  liar.process->pool = std::numeric_limits<std::int64_t>::min();
  EXPECT_FALSE(grant(liar, 51));
}

// Threads pin and unpin while others of the user ask for what they do not use: what was taken out
// of a budget is taken off the grant, to the last byte.
TEST_F(PinServiceTest, NothingOfAGrantIsLostWhileThreadsPin) {
  limit({.per_process = pages(100), .per_user = pages(100), .total = pages(200)});
  const Member busy = member();
  const Member other = member();
  const std::uint64_t id = object_->id().value();
  ASSERT_TRUE(granted(busy, 20));
  ASSERT_TRUE(busy.process.pay(0, 10 * kPage));
  busy.process.pin(5000, {.object = id, .count = 10});
  busy.process->threads_used = 2;
  std::atomic<bool> over{false};
  std::thread pinning([&] {
    for (std::uint32_t slot = 0; !over; slot = (slot + 1) % 5000) {
      if (busy.process.pay(1, 5 * kPage)) {
        busy.process.pin(slot, {.object = id, .count = 5});
        busy.process.unpin(slot);
        busy.process.pay_back(1, 5 * kPage);
      } else {
        busy.process.pay_back(1, busy.process->pool.exchange(0));
        if (busy.process.budgets() < 5 * std::int64_t{kPage}) (void)granted(busy, 5, 1);
      }
    }
  });
  for (int round = 0; round < 2000 / kSlower; ++round) EXPECT_FALSE(grant(other, 95));
  over = true;
  pinning.join();
  EXPECT_EQ(pins_->pins_of(busy.space.id, 0)->granted.value(),
            static_cast<std::uint64_t>(busy.process.budgets()) + 10 * kPage);
}

// --- the life of a ledger

TEST_F(PinServiceTest, AProcessHasOneLedgerUntilItIsClosed) {
  const Member member = this->member();
  const auto second = pins_->open(member.space);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), EISCONN);
  ASSERT_TRUE(granted(member, 100));
  member.process.pin(0, {.object = object_->id().value()});
  EXPECT_TRUE(pins_->tick());
  EXPECT_EQ(held().size(), 1U);
  pins_->close(member.space.id);
  pins_->close(member.space.id);
  EXPECT_TRUE(held().empty());
  EXPECT_FALSE(pins_->pins_of(member.space.id, 100));
  EXPECT_FALSE(pins_->tick());
  EXPECT_EQ(grant(member, 1).error().code(), ENOTCONN);
  EXPECT_TRUE(pins_->open(member.space)) << "another one, of which the first says nothing";
  EXPECT_TRUE(held().empty());
}

TEST_F(PinServiceTest, TheLedgerOfASpaceThatEndsIsDropped) {
  const Member member = this->member();
  ASSERT_TRUE(granted(member, 100));
  member.process.pin(0, {.object = object_->id().value()});
  pins_->ended(member.space.id);
  EXPECT_TRUE(held().empty());
  EXPECT_EQ(pins_->pins_of(member.space.id, 100).has_value(), false);
}

TEST_F(PinServiceTest, TheLedgerOfASpaceThatIsGoneHoldsNothing) {
  const Member member = this->member();
  ASSERT_TRUE(granted(member, 100));
  member.process.pin(0, {.object = object_->id().value()});
  ASSERT_EQ(held().size(), 1U);
  spaces_->session_closed(member.space);
  while (spaces_->space_count() > 0) std::this_thread::yield();
  EXPECT_TRUE(held().empty());
  pins_->close(member.space.id);
  const auto late = pins_->open(member.space);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code(), ESRCH);
}

// --- what is shown

TEST_F(PinServiceTest, WhatIsShownIsLimitedAndAddedUpWithoutOverflow) {
  const Member member = this->member();
  for (std::uint32_t slot = 0; slot < 10; ++slot) {
    member.process.pin(slot, {.object = object_->id().value() + slot,
                              .first = kMost,
                              .count = kMost - slot,
                              .address = kMost});
  }
  const auto shown = pins_->pins_of(member.space.id, 4);
  ASSERT_TRUE(shown);
  EXPECT_EQ(shown->pins.size(), 4U);
  EXPECT_EQ(shown->left_out, 6U);
  EXPECT_EQ(shown->pinned, ByteCount{kMost});
  EXPECT_EQ(shown->pins[0].object, object_);
  EXPECT_EQ(shown->pins[1].object, nullptr);
}

}  // namespace
}  // namespace faultline::pin
