// An address space of this very process, whose steps are taken here one by one.
#include "daemon/space/address_space.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "daemon/memory/eviction.hpp"
#include "tests/unit/holes.hpp"
#include "tests/unit/stepped_space.hpp"

namespace faultline::space {
namespace {

constexpr std::size_t kPage = 4096;

using testing::HeldAnswer;
using testing::toucher;

class AddressSpaceTest : public ::testing::Test {
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
    space_ = std::make_shared<AddressSpace>(SpaceId{1}, Owner{}, std::move(*uffd),
                                            std::make_shared<HandleTable>(), std::nullopt,
                                            Surroundings{domain_, feed_});
    space_->start(host_);
  }
  void TearDown() override {
    if (!space_) return;
    space_->retire();
    host_.wait_until([&] { return space_->wind_up(); });
    space_.reset();
  }

  void* map() { return map_at(nullptr, object_); }
  void* map_at(void* address, const std::shared_ptr<memory::MemoryObject>& object) {
    void* memory = ::mmap(address, kPage, PROT_READ | PROT_WRITE, MAP_SHARED,
                          object->memfd().writable_fd(), 0);
    EXPECT_NE(memory, MAP_FAILED);
    MapRequest request;
    request.address = Vaddr{reinterpret_cast<std::uintptr_t>(memory)};
    request.length = ByteCount{kPage};
    request.object = object;
    const Status mapped = space_->map(request);
    EXPECT_TRUE(mapped) << mapped.error().message();
    return memory;
  }
  [[nodiscard]] bool knows(void* memory) const {
    return space_->vma_at(Vaddr{reinterpret_cast<std::uintptr_t>(memory)}).has_value();
  }
  void open_letters() {
    for (kernel::Mailbox::Letter& letter : host_.mailbox()->take()) letter();
  }
  void wait_for_an_event() const {
    pollfd readable{watched_.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&readable, 1, 5000), 1);
  }

  // Raised and not yet read, as the kernel counts them.
  void wait_for_pending_faults(int count) const {
    for (int pending = -1; pending != count;) {
      std::ifstream info("/proc/self/fdinfo/" + std::to_string(watched_.get()));
      std::string word;
      while (info >> word && word != "pending:") {
      }
      info >> pending;
      std::this_thread::yield();
    }
  }

  epoch::Domain domain_{"test"};
  EventFeed feed_;
  testing::SteppedHost host_;
  UniqueFd watched_;
  std::shared_ptr<memory::MemoryObject> object_;
  std::shared_ptr<AddressSpace> space_;
};

// An unmap ends the space in the middle of a check, which remembers removals from before it.
TEST_F(AddressSpaceTest, TheLastUnmapMayComeWhileTheEndOfTheSessionIsChecked) {
  void* const first = map();
  void* const last = map();
  std::thread unmapping_first([&] { ::munmap(first, kPage); });
  host_.wait_until([&] { return !knows(first); });
  unmapping_first.join();

  std::thread unmapping_last([&] { ::munmap(last, kPage); });
  wait_for_an_event();
  space_->session_closed();
  EXPECT_TRUE(space_->dead());
  unmapping_last.join();
}

// Out of line: GCC 12 with AddressSanitizer sees something uninitialized in a member that is not
// there yet.
[[gnu::noinline]] memory::ObjectSpec spec_of_a_page() {
  memory::ObjectSpec spec;
  spec.content_size = ByteCount{kPage};
  return spec;
}

// No read of a file begins before it is released.
class HeldPager {
 public:
  HeldPager() : pager_(memory::FilePager::create().value()) {
    pager_->post([released = release_.get_future().share()] { released.wait(); });
  }
  HeldPager(const HeldPager&) = delete;
  HeldPager& operator=(const HeldPager&) = delete;
  ~HeldPager() { release(); }

  std::shared_ptr<memory::MemoryObject> object(UniqueFd file) {
    memory::ObjectSpec spec = spec_of_a_page();
    spec.file.emplace(
        memory::FileSource{kernel::ForeignFd{std::move(file)}, ByteCount{0}, ByteCount{kPage}});
    return *memory::MemoryObject::create(ObjectId{2}, std::move(spec), pager_.get());
  }
  void release() {
    if (!std::exchange(is_released_, true)) release_.set_value();
  }

 private:
  std::promise<void> release_;
  bool is_released_ = false;
  std::unique_ptr<memory::FilePager> pager_;
};

// The client's thread goes on as soon as its event has been read. What it tells of is carried out
// only when no answer that was looked up before is under way.
TEST_F(AddressSpaceTest, AnEventThatWasReadWaitsForTheAnswersUnderWay) {
  void* const touched = map();
  void* const unmapped = map();
  const VaRange gone{Vaddr{reinterpret_cast<std::uintptr_t>(unmapped)}, ByteCount{kPage}};
  HeldAnswer held(feed_);
  std::thread touching = toucher(touched);
  wait_for_an_event();
  std::thread answering([&] { space_->look(); });
  held.wait_until_held();

  std::thread unmapping([&] { ::munmap(unmapped, kPage); });
  wait_for_an_event();
  std::thread carrying_out([&] { space_->look(); });
  unmapping.join();
  EXPECT_TRUE(space_->covers(gone));
  held.release();
  carrying_out.join();
  EXPECT_FALSE(space_->covers(gone));
  answering.join();
  touching.join();
}

// While one worker is held up, others answer, and each takes one message at a time: there may be an
// event behind it.
TEST_F(AddressSpaceTest, WhileAnAnswerIsUnderWayMessagesAreReadOneAtATime) {
  const std::array<void*, 3> pages{map(), map(), map()};
  HeldAnswer held(feed_);
  std::thread first = toucher(pages[0]);
  wait_for_an_event();
  std::thread answering([&] { space_->look(); });
  held.wait_until_held();

  std::atomic<int> answered{0};
  std::vector<std::thread> others;
  for (std::size_t i = 1; i < pages.size(); ++i) {
    others.emplace_back([&, page = pages.at(i)] {
      toucher(page).join();
      ++answered;
      answered.notify_all();
    });
  }
  wait_for_pending_faults(2);
  EXPECT_GT(space_->look().messages, 0U);
  answered.wait(0);
  wait_for_pending_faults(1);
  EXPECT_EQ(answered, 1);
  EXPECT_GT(space_->look().messages, 0U);
  for (std::thread& other : others) other.join();
  held.release();
  answering.join();
  first.join();
  EXPECT_EQ(space_->settled_snapshot().counters.missing + space_->counters().minor, 3U);
}

// A thread that waits for its page leaves by a signal and faults again, as often as its client
// likes; the page may never come.
TEST_F(AddressSpaceTest, AThreadThatFaultsAgainAndAgainDoesNotFillTheMemory) {
  struct sigaction nothing {};
  nothing.sa_handler = [](int) {};
  ASSERT_EQ(::sigaction(SIGUSR1, &nothing, nullptr), 0);
  HeldPager pager;
  UniqueFd file{::memfd_create("file", MFD_CLOEXEC)};
  ASSERT_EQ(::ftruncate(file.get(), kPage), 0);
  void* const memory = map_at(nullptr, pager.object(std::move(file)));
  std::atomic<bool> touched{false};
  std::thread touching([&] {
    (void)*static_cast<volatile std::byte*>(memory);
    touched = true;
  });
  for (std::size_t i = 0; i < 3 * AddressSpace::kMostWaiting; ++i) {
    wait_for_an_event();
    (void)space_->look();  // where the last signal came late, the fault has gone again
    ASSERT_LE(space_->snapshot().waiting_faults, AddressSpace::kMostWaiting);
    ASSERT_EQ(::pthread_kill(touching.native_handle(), SIGUSR1), 0);
  }
  pager.release();
  while (!touched) {
    open_letters();
    space_->look();
  }
  touching.join();
}

// A page that could not be had was another object's, which stood there when it was asked for.
TEST_F(AddressSpaceTest, AFailureToReadAFileIsNotThatOfWhatIsMappedThereNow) {
  HeldPager pager;
  // Of a directory no read succeeds.
  void* const memory =
      map_at(testing::hint_for_holes(),
             pager.object(UniqueFd{::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC)}));
  std::thread touching = toucher(memory);
  wait_for_an_event();
  ASSERT_GT(space_->look().messages, 0U);
  ASSERT_EQ(space_->snapshot().waiting_faults, 1U);
  std::thread unmapping([&] { ::munmap(memory, kPage); });
  host_.wait_until([&] { return !knows(memory); });
  unmapping.join();
  ASSERT_EQ(map_at(memory, object_), memory);

  pager.release();
  while (space_->snapshot().waiting_faults != 0) open_letters();
  touching.join();
  EXPECT_EQ(space_->counters().poisoned, 0U);
}

// A client can make mappings that nobody is told of by the ten thousand. To take them all in is not
// one step, which would keep everybody else who is at home there waiting.
TEST_F(AddressSpaceTest, SoManyUnreportedMappingsAreTakenInAtATime) {
  space_->set_pid(::getpid());
  constexpr std::size_t kCopies = 3 * AddressSpace::kMostFoundAtOnce;
  auto* const original = static_cast<std::byte*>(map());
  auto* const copies = static_cast<std::byte*>(
      ::mmap(nullptr, kCopies * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::atomic<bool> copied{false};
  std::thread copying([&] {
    for (std::size_t i = 0; i < kCopies; ++i) {
      EXPECT_NE(::mremap(original, 0, kPage, MREMAP_MAYMOVE | MREMAP_FIXED, copies + i * kPage),
                MAP_FAILED);
    }
    copied = true;
  });
  while (!copied) space_->look();
  copying.join();

  const VaRange all{Vaddr{reinterpret_cast<std::uintptr_t>(copies)}, ByteCount{kCopies * kPage}};
  std::size_t steps = 1;
  Status found = space_->rediscover(all);
  for (; !found && steps <= kCopies; ++steps) {
    ASSERT_EQ(found.error().code(), EAGAIN) << found.error().message();
    found = space_->rediscover(all);
  }
  EXPECT_TRUE(space_->covers(all));
  EXPECT_GE(steps, 3U);
}

const std::vector<memory::PageRun> kFirstPage{{PageIndex{0}, PageCount{1}}};

// An object whose pages can leave memory, with the eviction of all of them.
class Leaving {
 public:
  Leaving()
      : pager_(memory::FilePager::create().value()),
        object_(*memory::MemoryObject::create(
            ObjectId{3}, spec_of_a_page(), pager_.get(),
            memory::SwapFile::open(std::filesystem::temp_directory_path(), ByteCount{kPage})
                .value())) {}

  [[nodiscard]] const std::shared_ptr<memory::MemoryObject>& object() const { return object_; }
  [[nodiscard]] std::unique_ptr<memory::Eviction> begin() {
    return memory::Eviction::begin(object_, PageIndex{0}, PageCount{1}, memory::WhichPages::all,
                                   counts_);
  }
  [[nodiscard]] const memory::EvictionCounts& counts() const { return counts_; }

 private:
  std::unique_ptr<memory::FilePager> pager_;
  std::shared_ptr<memory::MemoryObject> object_;
  memory::EvictionCounts counts_;
};

// A page that a client has mapped writable is write-protected before it leaves. A store from then
// on waits for the end of the eviction, and happens in the page that comes back.
TEST_F(AddressSpaceTest, AStoreToAPageThatLeavesHappensInTheOneThatComesBack) {
  Leaving leaving;
  auto* const words = static_cast<volatile std::uint32_t*>(map_at(nullptr, leaving.object()));
  for (const bool goes : {false, true}) {
    std::atomic<bool> wrote{false};
    std::thread first([&] {
      words[0] = 7;
      wrote = true;
    });
    while (!wrote) space_->look();
    first.join();
    wrote = false;
    auto eviction = leaving.begin();
    ASSERT_TRUE(eviction);
    ASSERT_TRUE(space_->may_store(*leaving.object(), kFirstPage));
    ASSERT_TRUE(space_->stop_stores(*leaving.object(), kFirstPage));
    std::thread second([&] {
      words[1] = 8;
      wrote = true;
    });
    wait_for_an_event();
    space_->look();
    EXPECT_EQ(space_->snapshot().waiting_faults, 1U);
    EXPECT_FALSE(wrote);
    if (goes) {
      eviction->take_out();
      EXPECT_EQ(leaving.object()->resident(), ByteCount{0});
    } else {
      eviction.reset();
    }
    while (!wrote) {
      open_letters();
      space_->look();
    }
    second.join();
    EXPECT_EQ(words[0], 7U);
    EXPECT_EQ(words[1], 8U);
  }
  EXPECT_EQ(leaving.counts().swapped, 1U);
}

// An answer that found the page resident may map it writable still: who evicts waits for it.
TEST_F(AddressSpaceTest, WhoEvictsWaitsForTheAnswersUnderWay) {
  Leaving leaving;
  void* const memory = map_at(nullptr, leaving.object());
  HeldAnswer held(feed_);
  // Reads: a store would fault again where the page is write-protected before it is made.
  std::thread touching([memory] { (void)*static_cast<const volatile std::byte*>(memory); });
  wait_for_an_event();
  std::thread answering([&] { space_->look(); });
  held.wait_until_held();
  std::atomic<bool> stopped{false};
  std::thread evicting([&] {
    EXPECT_TRUE(space_->stop_stores(*leaving.object(), kFirstPage));
    stopped = true;
  });
  EXPECT_FALSE(stopped);
  held.release();
  evicting.join();
  answering.join();
  touching.join();
}

}  // namespace
}  // namespace faultline::space
