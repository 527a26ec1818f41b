// Users apart: one whose worker is held up keeps nobody else from being served.
#include "daemon/space/space_service.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <thread>

#include "daemon/space/evictor.hpp"

namespace faultline::space {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kSoon{10};

class SpaceServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const UniqueFd probe = userfaultfd();
    if (!probe) GTEST_SKIP() << "SKIPPED: no userfaultfd without privilege here, run as root";
    beacons_ = kernel::MappedMemory::create(ByteCount{kBeacons * kBeaconBytes},
                                            PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
                   .value();
    service_ =
        SpaceService::create({.workers_per_user = 1, .spaces_per_user = 2, .users = 3}).value();
  }

  static UniqueFd userfaultfd() {
    return UniqueFd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))};
  }

  // Attaches a space of this very process in the name of a user.
  Result<SpaceRef> attach(uid_t uid) {
    const auto beacon =
        reinterpret_cast<std::uintptr_t>(beacons_.data()) + kBeaconBytes * next_beacon_++;
    auto answer = std::make_shared<std::promise<Result<SpaceRef>>>();
    auto attached = answer->get_future();
    service_->attach_new(kernel::ForeignFd{userfaultfd()}, Owner{.pid = ::getpid(), .uid = uid},
                         Vaddr{beacon},
                         [answer](Result<SpaceRef> ref) { answer->set_value(std::move(ref)); });
    if (attached.wait_for(kSoon) != std::future_status::ready) {
      return fail(ETIMEDOUT, "attaching");
    }
    return attached.get();
  }

  static constexpr std::size_t kBeacons = 16;
  static constexpr std::size_t kBeaconBytes = 4096;
  kernel::MappedMemory beacons_;
  std::size_t next_beacon_ = 0;
  std::unique_ptr<SpaceService> service_;
};

// What a client does that holds the lock of its memory map while an ioctl waits for it.
class HeldUp {
 public:
  explicit HeldUp(const SpaceRef& ref) {
    std::promise<void> held;
    auto is_held = held.get_future();
    ref.worker->post([&held, released = release_.get_future().share()] {
      held.set_value();
      released.wait();
      return true;
    });
    is_held.wait();
  }
  HeldUp(const HeldUp&) = delete;
  HeldUp& operator=(const HeldUp&) = delete;
  ~HeldUp() { release_.set_value(); }

 private:
  std::promise<void> release_;
};

TEST_F(SpaceServiceTest, AUserWhoHoldsItsWorkerUpKeepsNobodyElseWaiting) {
  const auto hostile = attach(1001);
  ASSERT_TRUE(hostile) << hostile.error().message();
  const HeldUp held(*hostile);
  const auto other = attach(1002);
  EXPECT_TRUE(other) << other.error().message();
}

// It takes no worker's time, so a worker that is held up keeps nothing out of it.
TEST_F(SpaceServiceTest, AReportShowsTheSpacesOfAWorkerThatIsHeldUpToo) {
  const auto hostile = attach(1001);
  const auto other = attach(1002);
  ASSERT_TRUE(hostile && other);
  const HeldUp held(*hostile);
  EXPECT_EQ(service_->overview().spaces.size(), 2U);
}

TEST_F(SpaceServiceTest, StoppingDoesNotWaitForEverForAWorkerThatIsHeldUp) {
  const auto hostile = attach(1001);
  ASSERT_TRUE(hostile);
  {
    const HeldUp held(*hostile);
    EXPECT_FALSE(service_->stop(Clock::now() + std::chrono::milliseconds(50)));
  }
}

TEST_F(SpaceServiceTest, SpacesAndUsersAreLimited) {
  ASSERT_TRUE(attach(1001));
  ASSERT_TRUE(attach(1001));
  const auto third = attach(1001);
  ASSERT_FALSE(third);
  EXPECT_EQ(third.error().code(), EUSERS);
  ASSERT_TRUE(attach(1002)) << "another user has a limit of its own";
  const auto one_user_more = attach(1003);  // besides this process's own
  ASSERT_FALSE(one_user_more);
  EXPECT_EQ(one_user_more.error().code(), EUSERS);
}

// What a cancelled job holds, a descriptor of its client's, must not wait for what the client holds
// up: it could have as many cancelled jobs as it likes.
TEST_F(SpaceServiceTest, ACancelledJobEndsThoughItsWorkerIsHeldUp) {
  const auto client = attach(1001);
  ASSERT_TRUE(client);
  const HeldUp held(*client);
  auto holds = std::make_shared<int>(0);
  const std::weak_ptr<int> held_by_job = holds;
  std::atomic<int> ended{0};
  const auto job =
      RangePopulateJob::start(*client->worker, client->space.lock(),
                              VaRange{Vaddr{std::uint64_t{1} << 40}, ByteCount{kBeaconBytes}},
                              false, [&ended, holds = std::move(holds)] { ++ended; });
  EXPECT_FALSE(job->progress().ended);
  job->cancel();
  job->cancel();
  EXPECT_TRUE(job->progress().ended);
  EXPECT_EQ(job->progress().error, ECANCELED);
  EXPECT_EQ(ended, 1);
  EXPECT_TRUE(held_by_job.expired());
}

// An object of one page, which is in memory, and who takes it out.
class EvictingService : public SpaceServiceTest {
 protected:
  void SetUp() override {
    SpaceServiceTest::SetUp();
    if (IsSkipped()) return;
    pager_ = memory::FilePager::create().value();
    memory::ObjectSpec spec;
    spec.content_size = kBasePage.bytes();
    object_ = *memory::MemoryObject::create(
        ObjectId{1}, std::move(spec), pager_.get(),
        memory::SwapFile::open(std::filesystem::temp_directory_path(), kBasePage.bytes()).value());
    ASSERT_EQ(object_->populate(PageIndex{0}, PageCount{1}, [](memory::Supply) {}), PageCount{1});
  }
  void TearDown() override {
    if (service_) (void)service_->stop(Clock::now() + kSoon);
  }
  void map_in(const SpaceRef& ref) {
    void* const memory = ::mmap(nullptr, kBasePage.bytes().value(), PROT_READ | PROT_WRITE,
                                MAP_SHARED, object_->memfd().writable_fd(), 0);
    ASSERT_NE(memory, MAP_FAILED);
    MapRequest request;
    request.address = Vaddr{reinterpret_cast<std::uintptr_t>(memory)};
    request.length = kBasePage.bytes();
    request.object = object_;
    std::promise<Status> mapped;
    service_->map(ref, request, [&](Status status) { mapped.set_value(std::move(status)); });
    const Status status = mapped.get_future().get();
    ASSERT_TRUE(status) << status.error().message();
  }
  memory::EvictionCounts evict(memory::PageHolds* holds = nullptr) {
    Evictor evictor(*service_, holds);
    return evictor.evict(object_, PageIndex{0}, PageCount{1}, memory::WhichPages::all);
  }

  std::unique_ptr<memory::FilePager> pager_;
  std::shared_ptr<memory::MemoryObject> object_;
};

// A client that holds its worker up keeps its pages in memory, and those who wait for one of them
// waiting for so long, and no longer.
TEST_F(EvictingService, AWorkerThatIsHeldUpKeepsNobodyWaitingForAPageForLong) {
  const auto hostile = attach(1001);
  ASSERT_TRUE(hostile);
  map_in(*hostile);
  const HeldUp held(*hostile);
  const auto began = Clock::now();
  auto evicting = std::async(std::launch::async, [this] { return evict(); });
  while (object_->pages().state(PageIndex{0}) != memory::PageState::evicting) {
    std::this_thread::yield();
  }
  std::promise<void> told;
  const PageCount ready =
      object_->populate(PageIndex{0}, PageCount{1}, [&](memory::Supply) { told.set_value(); });
  ASSERT_EQ(ready, PageCount{0});
  ASSERT_EQ(told.get_future().wait_for(kSoon), std::future_status::ready);
  EXPECT_GE(Clock::now() - began, Evictor::kProtectWithin);
  EXPECT_EQ(object_->pages().state(PageIndex{0}), memory::PageState::resident);
  EXPECT_EQ(evicting.get().busy, 1U);
}

// Who does not map the object is not asked, and so cannot keep it from anything.
TEST_F(EvictingService, OnlyThoseWhoMapTheObjectAreAsked) {
  const auto hostile = attach(1001);
  const auto other = attach(1002);
  ASSERT_TRUE(hostile && other);
  map_in(*other);
  const HeldUp held(*hostile);
  EXPECT_EQ(evict().evicted, 1U);
}

class HoldsAll final : public memory::PageHolds {
 public:
  void held(const memory::MemoryObject& object, PageIndex first, PageCount count,
            const std::function<void(PageIndex, PageCount)>& hold) override {
    EXPECT_EQ(object.pages().state(first), memory::PageState::evicting);
    hold(first, count);
  }
};

// What is pinned stays.
TEST_F(EvictingService, APageThatIsPinnedStays) {
  HoldsAll holds;
  EXPECT_EQ(evict(&holds).pinned, 1U);
  EXPECT_EQ(object_->pages().state(PageIndex{0}), memory::PageState::resident);
  EXPECT_EQ(evict().evicted, 1U);
}

// Once it has stopped nothing leaves.
TEST_F(EvictingService, NothingLeavesOnceItHasStopped) {
  Evictor evictor(*service_);
  EXPECT_TRUE(evictor.stop(Clock::now()));
  EXPECT_EQ(evictor.evict(object_, PageIndex{0}, PageCount{1}, memory::WhichPages::all).evicted,
            0U);
  EXPECT_EQ(object_->pages().state(PageIndex{0}), memory::PageState::resident);
}

}  // namespace
}  // namespace faultline::space
