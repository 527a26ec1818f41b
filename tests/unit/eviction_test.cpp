// The swap file, what an object has there, and how its pages leave memory and come back.
#include "daemon/memory/eviction.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <future>
#include <map>
#include <random>
#include <set>
#include <string>

#include "tests/unit/seed.hpp"

namespace faultline::memory {
namespace {

constexpr std::size_t kPage = 4096;

// A name in the directory of temporary files that is nobody's; removed at the end.
class TemporaryName {
 public:
  TemporaryName()
      : path_(std::filesystem::temp_directory_path() /
              ("faultline-swap-" + std::to_string(::getpid()) + "-" + std::to_string(++made))) {}
  TemporaryName(const TemporaryName&) = delete;
  TemporaryName& operator=(const TemporaryName&) = delete;
  ~TemporaryName() { (void)::unlink(path_.c_str()); }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  static inline int made = 0;
  std::filesystem::path path_;
};

std::shared_ptr<SwapFile> open_swap(const std::filesystem::path& path, std::uint64_t pages) {
  auto swap = SwapFile::open(path, ByteCount{pages * kPage});
  EXPECT_TRUE(swap) << swap.error().message();
  return swap ? *swap : nullptr;
}
std::shared_ptr<SwapFile> unnamed_swap(std::uint64_t pages) {
  return open_swap(std::filesystem::temp_directory_path(), pages);
}

// Slots come side by side as long as there are such, and no slot is given out twice.
TEST(SwapFile, GivesEachSlotToOnePageAtATime) {
  const auto swap = unnamed_swap(200);
  EXPECT_EQ(swap->take(PageCount{130}), (SwapSlots{SlotIndex{0}, PageCount{130}}));
  EXPECT_EQ(swap->take(PageCount{100}), (SwapSlots{SlotIndex{130}, PageCount{70}}));
  EXPECT_EQ(swap->take(PageCount{1}).count, PageCount{0}) << "it is full";
  swap->give_back({SlotIndex{60}, PageCount{10}});
  swap->give_back({SlotIndex{3}, PageCount{1}});
  EXPECT_EQ(swap->take(PageCount{5}), (SwapSlots{SlotIndex{3}, PageCount{1}}));
  EXPECT_EQ(swap->take(PageCount{64}), (SwapSlots{SlotIndex{60}, PageCount{10}}));
  EXPECT_EQ(swap->used(), ByteCount{200 * kPage});
}

// It is the daemon's alone: its mode, and that nobody else has it open as his swap file.
TEST(SwapFile, BelongsToOneDaemonAndToNobodyElse) {
  const TemporaryName name;
  ASSERT_EQ(::close(::open(name.path().c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644)), 0);
  const auto swap = open_swap(name.path(), 10);
  struct stat info {};
  ASSERT_EQ(::stat(name.path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
  EXPECT_EQ(SwapFile::open(name.path(), ByteCount{kPage}).error().code(), EBUSY);
  EXPECT_EQ(SwapFile::open("/dev/null", ByteCount{kPage}).error().code(), EINVAL);
  EXPECT_EQ(SwapFile::open("/nowhere/at/all", ByteCount{kPage}).error().code(), ENOENT);
  EXPECT_EQ(SwapFile::open(name.path(), ByteCount{1}).error().code(), EINVAL);
}

// Random puts and takes, against a plain map of pages.
TEST(SwappedPages, KnowsWhereEachPageIs) {
  std::mt19937_64 dice(testing::announce_seed());
  SwappedPages pages;
  std::map<std::uint64_t, std::uint64_t> model;
  std::uint64_t next_slot = 1;
  for (int turn = 0; turn < 3000; ++turn) {
    const std::uint64_t first = dice() % 64;
    const std::uint64_t count = 1 + dice() % 16;
    if (dice() % 2 == 0) {
      const PageCount free = pages.run_not_here(PageIndex{first}, PageCount{count});
      if (dice() % 2 == 0) next_slot += 5;
      if (free > PageCount{0}) pages.put(PageIndex{first}, {SlotIndex{next_slot}, free});
      for (std::uint64_t i = 0; i < free.value(); ++i) model[first + i] = next_slot++;
    } else {
      std::set<std::uint64_t> taken;
      for (const SwapSlots& slots : pages.take(PageIndex{first}, PageCount{count})) {
        for (std::uint64_t i = 0; i < slots.count.value(); ++i) {
          EXPECT_TRUE(taken.insert(slots.first.value() + i).second);
        }
      }
      std::set<std::uint64_t> expected;
      for (std::uint64_t page = first; page < first + count; ++page) {
        const auto at = model.find(page);
        if (at == model.end()) continue;
        expected.insert(at->second);
        model.erase(at);
      }
      ASSERT_EQ(taken, expected) << "turn " << turn;
    }
    for (std::uint64_t page = 0; page < 80; ++page) {
      const auto run = pages.run(PageIndex{page}, PageCount{100});
      const auto at = model.find(page);
      ASSERT_EQ(run.has_value(), at != model.end()) << "page " << page << " turn " << turn;
      if (!run) continue;
      for (std::uint64_t i = 0; i < run->count.value(); ++i) {
        ASSERT_EQ(model.at(page + i), run->first.value() + i);
      }
    }
  }
}

// Counted run by run, as far as it may look at once, with what is cut off at both ends left out.
TEST(SwappedPages, CountsWhatIsThereInSteps) {
  SwappedPages pages;
  for (const std::uint64_t first : {0U, 10U, 20U, 30U}) {
    pages.put(PageIndex{first}, {SlotIndex{1000 - first}, PageCount{5}});
  }
  const auto whole = pages.count(PageIndex{2}, PageCount{30}, 100);
  EXPECT_EQ(whole.here, PageCount{3 + 5 + 5 + 2});
  EXPECT_EQ(whole.reached, PageIndex{32});
  const auto step = pages.count(PageIndex{2}, PageCount{30}, 2);
  EXPECT_EQ(step.here, PageCount{3 + 5});
  ASSERT_EQ(step.reached, PageIndex{20});
  const auto rest = pages.count(step.reached, PageCount{12}, 2);
  EXPECT_EQ(rest.here, PageCount{5 + 2});
  EXPECT_EQ(rest.reached, PageIndex{32});
  EXPECT_EQ(pages.count(PageIndex{5}, PageCount{5}, 1).here, PageCount{0});
}

class EvictionTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kPages = 8;

  void SetUp() override {
    pager_ = FilePager::create().value();
    swap_ = open_swap(name_.path(), kPages);
    object_ = make(swap_);
  }
  std::shared_ptr<MemoryObject> make(std::shared_ptr<SwapFile> swap) {
    ObjectSpec spec;
    spec.content_size = ByteCount{kPages * kPage};
    auto object = MemoryObject::create(ObjectId{1}, std::move(spec), pager_.get(), std::move(swap));
    EXPECT_TRUE(object) << object.error().message();
    return *object;
  }
  Supply populate(std::uint64_t first, std::uint64_t window = 1) {
    std::promise<Supply> answer;
    const PageCount ready = object_->populate(PageIndex{first}, PageCount{window},
                                              [&](Supply supply) { answer.set_value(supply); });
    return ready > PageCount{0} ? Supply::ready : answer.get_future().get();
  }
  void store(std::uint64_t page, std::uint64_t value) {
    ASSERT_EQ(populate(page), Supply::ready);
    ASSERT_TRUE(object_->poke(ByteCount{page * kPage}, static_cast<std::uint32_t>(value)));
  }
  std::uint32_t load(std::uint64_t page) {
    EXPECT_EQ(populate(page), Supply::ready);
    std::uint32_t value = 0;
    std::memcpy(&value, object_->content(PageIndex{page}), sizeof(value));
    return value;
  }
  std::unique_ptr<Eviction> begin(std::uint64_t first = 0, std::uint64_t count = kPages,
                                  WhichPages which = WhichPages::all) {
    return Eviction::begin(object_, PageIndex{first}, PageCount{count}, which, counts_);
  }
  void evict(std::uint64_t first = 0, std::uint64_t count = kPages) {
    if (const auto eviction = begin(first, count)) eviction->take_out();
  }
  [[nodiscard]] PageState state(std::uint64_t page) const {
    return object_->pages().state(PageIndex{page});
  }

  TemporaryName name_;
  std::unique_ptr<FilePager> pager_;
  std::shared_ptr<SwapFile> swap_;
  std::shared_ptr<MemoryObject> object_;
  EvictionCounts counts_;
};

// Out to the swap file, and back, with the slot free again.
TEST_F(EvictionTest, PagesComeBackWithWhatTheyHeld) {
  for (std::uint64_t page = 0; page < kPages; page += 2) store(page, 100 + page);
  evict();
  EXPECT_EQ(counts_.evicted, kPages / 2);
  EXPECT_EQ(counts_.swapped, kPages / 2);
  EXPECT_EQ(object_->resident(), ByteCount{0});
  EXPECT_EQ(object_->swapped(), PageCount{kPages / 2});
  for (std::uint64_t page = 0; page < kPages; ++page) {
    EXPECT_EQ(load(page), page % 2 == 0 ? 100 + page : 0U) << page;
  }
  EXPECT_EQ(swap_->used(), ByteCount{0});
}

// Who wants a page that is being evicted is told when that has ended, whichever way it does.
TEST_F(EvictionTest, WhoWantsAPageMeanwhileIsToldOfTheEnd) {
  for (const bool goes : {false, true}) {
    store(1, 7);
    auto eviction = begin();
    ASSERT_TRUE(eviction);
    EXPECT_EQ(state(1), PageState::evicting);
    bool told = false;
    EXPECT_EQ(
        object_->populate(PageIndex{1}, PageCount{1}, [&](Supply s) { told = s == Supply::ready; }),
        PageCount{0});
    EXPECT_FALSE(told);
    if (goes) {
      eviction->take_out();
    } else {
      eviction->keep_all(&EvictionCounts::pinned);
    }
    EXPECT_TRUE(told);
    EXPECT_EQ(state(1), goes ? PageState::lost : PageState::resident);
    EXPECT_EQ(load(1), 7U);
  }
  EXPECT_EQ(counts_.pinned, 1U);
}

// One at a time: another finds the pages busy.
TEST_F(EvictionTest, AnObjectHasOneEvictionAtATime) {
  store(0, 1);
  store(1, 1);
  const auto first = begin(0, 1);
  ASSERT_TRUE(first);
  EXPECT_FALSE(begin(1, 1));
  EXPECT_EQ(counts_.busy, 1U);
}

// The daemon's own stores do not go into a page whose content may have been read already.
TEST_F(EvictionTest, TheDaemonDoesNotStoreToAPageThatLeaves) {
  store(0, 1);
  auto eviction = begin();
  ASSERT_TRUE(eviction);
  EXPECT_FALSE(object_->poke(ByteCount{0}, 2));
  eviction.reset();
  EXPECT_TRUE(object_->poke(ByteCount{0}, 2));
  EXPECT_EQ(load(0), 2U);
}

// What the swap file has no room for stays.
TEST_F(EvictionTest, PagesStayWhereTheSwapFileIsFull) {
  swap_ = unnamed_swap(3);
  object_ = make(swap_);
  for (std::uint64_t page = 0; page < kPages; ++page) store(page, 1 + page);
  evict();
  EXPECT_EQ(counts_.evicted, 3U);
  EXPECT_EQ(counts_.swap_full, kPages - 3);
  for (std::uint64_t page = 0; page < kPages; ++page) EXPECT_EQ(load(page), 1 + page);
}

// A page that cannot be read back fails whoever wants it, and is not given up: it comes when the
// file can be read again.
TEST_F(EvictionTest, APageThatCannotBeReadBackIsNotReplacedByZeroes) {
  store(2, 42);
  evict();
  ASSERT_EQ(::truncate(name_.path().c_str(), 0), 0);
  EXPECT_EQ(populate(2), Supply::failed);
  EXPECT_EQ(state(2), PageState::poisoned);
  EXPECT_EQ(object_->failed_fills(), 1U);
  const std::uint32_t value = 43;
  const int fd = ::open(name_.path().c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_EQ(::pwrite(fd, &value, sizeof(value), 0), static_cast<ssize_t>(sizeof(value)));
  ASSERT_EQ(::ftruncate(fd, kPages * kPage), 0);
  ::close(fd);
  EXPECT_EQ(load(2), 43U);
}

// A hole that a client punches into a page that leaves is a hole, with no place in the swap file.
TEST_F(EvictionTest, AHoleThatIsPunchedMeanwhileIsLeftEmpty) {
  for (std::uint64_t page = 0; page < 4; ++page) store(page, 9);
  auto eviction = begin();
  ASSERT_TRUE(eviction);
  ASSERT_TRUE(object_->memfd().punch(ByteCount{kPage}, ByteCount{kPage}));
  eviction->take_out();
  EXPECT_EQ(counts_.swapped, 3U);
  EXPECT_EQ(swap_->used(), ByteCount{3 * kPage});
  EXPECT_EQ(load(1), 0U);
  EXPECT_EQ(load(2), 9U);
}

// A word can be looked at without its page coming back.
TEST_F(EvictionTest, AWordIsReadFromTheSwapFile) {
  store(3, 1234);
  evict();
  std::promise<Result<std::uint64_t>> seen;
  object_->glance(ByteCount{3 * kPage},
                  [&](Result<std::uint64_t> value) { seen.set_value(std::move(value)); });
  const auto value = seen.get_future().get();
  ASSERT_TRUE(value) << value.error().message();
  EXPECT_EQ(*value, 1234U);
  EXPECT_EQ(object_->resident(), ByteCount{0});
}

// What is away is no run of zeroes.
TEST_F(EvictionTest, PagesThatAreAwayAreNotTakenForZeroes) {
  store(4, 5);
  evict();
  EXPECT_EQ(object_->run_of_zeroes(PageIndex{0}, PageCount{kPages}), PageCount{4});
  EXPECT_EQ(object_->run_of_zeroes(PageIndex{4}, PageCount{4}), PageCount{0});
  EXPECT_EQ(object_->run_kernel_has(PageIndex{0}, PageCount{kPages}), PageCount{4});
  EXPECT_EQ(object_->run_kernel_lacks(PageIndex{4}, PageCount{4}), PageCount{1});
}

// Once somebody has the pages who is not served, none leaves memory.
TEST_F(EvictionTest, NothingLeavesWhatIsLeftToTheKernel) {
  store(0, 1);
  auto eviction = begin();
  ASSERT_TRUE(eviction);
  EXPECT_TRUE(object_->leave_to_kernel()) << "it can still be given up";
  eviction->take_out();
  EXPECT_EQ(counts_.evicted, 0U);
  EXPECT_EQ(state(0), PageState::resident);
  EXPECT_FALSE(begin());
  EXPECT_EQ(counts_.busy, 2U);
}

// What is dropped does not come back.
TEST_F(EvictionTest, WhatIsDroppedIsZero) {
  store(0, 1);
  store(1, 2);
  evict();
  EXPECT_TRUE(object_->drop_swapped(PageIndex{0}, PageCount{1}));
  EXPECT_EQ(swap_->used(), ByteCount{kPage});
  EXPECT_EQ(load(0), 0U);
  EXPECT_EQ(load(1), 2U);
  const auto eviction = begin();
  EXPECT_FALSE(object_->drop_swapped(PageIndex{0}, PageCount{1})) << "it is on its way";
}

// An object that ends gives its slots back.
TEST_F(EvictionTest, AnObjectThatEndsGivesItsSlotsBack) {
  store(0, 1);
  store(5, 1);
  evict();
  EXPECT_EQ(swap_->used(), ByteCount{2 * kPage});
  object_.reset();
  EXPECT_EQ(swap_->used(), ByteCount{0});
}

// Without a swap file a page of a file goes until it is said that somebody can store to it: also
// where that was said while it was being read.
TEST_F(EvictionTest, APageThatIsSaidToBeStoredToStaysWithoutASwapFile) {
  ObjectSpec spec;
  spec.content_size = ByteCount{2 * kPage};
  UniqueFd file{::memfd_create("file", MFD_CLOEXEC)};
  ASSERT_EQ(::ftruncate(file.get(), 2 * kPage), 0);
  spec.file = FileSource{kernel::ForeignFd{std::move(file)}, ByteCount{0}, spec.content_size};
  object_ = *MemoryObject::create(ObjectId{2}, std::move(spec), pager_.get());
  std::promise<void> held;
  pager_->post([released = held.get_future().share()] { released.wait(); });
  std::promise<Supply> answer;
  ASSERT_EQ(object_->populate(PageIndex{0}, PageCount{2}, [&](Supply s) { answer.set_value(s); }),
            PageCount{0});
  ASSERT_EQ(state(0), PageState::filling);
  object_->stored(PageIndex{0}, PageCount{1});
  held.set_value();
  ASSERT_EQ(answer.get_future().get(), Supply::ready);
  evict(0, 2);
  EXPECT_EQ(counts_.dirty, 1U);
  EXPECT_EQ(counts_.evicted, 1U);
  EXPECT_EQ(state(0), PageState::resident);
}

}  // namespace
}  // namespace faultline::memory
