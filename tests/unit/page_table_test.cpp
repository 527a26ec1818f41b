#include "daemon/memory/page_table.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "daemon/kernel/process.hpp"

namespace faultline::memory {
namespace {

TEST(PageTable, StartsAbsentAndFollowsItsTransitions) {
  auto table = PageTable::create(PageCount{10});
  ASSERT_TRUE(table) << table.error().message();
  EXPECT_EQ(table->run(PageIndex{0}, PageCount{10}, PageState::absent), PageCount{10});
  EXPECT_TRUE(table->claim(PageIndex{3}));
  EXPECT_FALSE(table->claim(PageIndex{3})) << "a page is claimed once";
  EXPECT_FALSE(table->forget(PageIndex{3})) << "only a resident page is forgotten";
  table->mark(PageIndex{3}, PageCount{1}, PageState::resident);
  EXPECT_FALSE(table->claim(PageIndex{3}));
  EXPECT_TRUE(table->forget(PageIndex{3}));
  EXPECT_EQ(table->state(PageIndex{3}), PageState::lost);
  EXPECT_TRUE(table->claim(PageIndex{3}));
}

// A page that is being evicted is nobody's to claim or to forget, and comes back with its marks.
TEST(PageTable, AnEvictionHasOneBeginningAndOneEnd) {
  auto table = PageTable::create(PageCount{4});
  ASSERT_TRUE(table);
  EXPECT_FALSE(table->begin_eviction(PageIndex{1})) << "only a resident page is evicted";
  table->mark(PageIndex{1}, PageCount{1}, PageState::resident);
  table->set_marks(PageIndex{1}, PageCount{1}, wire::kPageDirty);
  EXPECT_TRUE(table->begin_eviction(PageIndex{1}));
  EXPECT_FALSE(table->begin_eviction(PageIndex{1}));
  EXPECT_FALSE(table->claim(PageIndex{1}));
  EXPECT_FALSE(table->forget(PageIndex{1}));
  EXPECT_FALSE(table->in_no_memory(PageIndex{1}));
  table->keep(PageIndex{1});
  EXPECT_EQ(table->state(PageIndex{1}), PageState::resident);
  EXPECT_TRUE(table->dirty(PageIndex{1}));
  EXPECT_TRUE(table->begin_eviction(PageIndex{1}));
  table->finish_eviction(PageIndex{1});
  EXPECT_EQ(table->state(PageIndex{1}), PageState::lost);
  EXPECT_FALSE(table->dirty(PageIndex{1})) << "what is in no memory has no marks";
}

TEST(PageTable, MarksAreOfPagesInMemoryAndAreTakenOnce) {
  auto table = PageTable::create(PageCount{3});
  ASSERT_TRUE(table);
  table->mark(PageIndex{1}, PageCount{1}, PageState::resident);
  table->set_marks(PageIndex{0}, PageCount{3}, wire::kPageReferenced);
  EXPECT_EQ(table->state(PageIndex{0}), PageState::absent);
  EXPECT_EQ(table->take_marks(PageIndex{0}, wire::kPageReferenced), 0);
  EXPECT_EQ(table->take_marks(PageIndex{1}, wire::kPageReferenced), wire::kPageReferenced);
  EXPECT_EQ(table->take_marks(PageIndex{1}, wire::kPageReferenced), 0);
  EXPECT_EQ(table->state(PageIndex{1}), PageState::resident);
}

// A page whose file failed is asked for again as if it had never been.
TEST(PageTable, APoisonedPageCanBeClaimed) {
  auto table = PageTable::create(PageCount{1});
  ASSERT_TRUE(table);
  ASSERT_TRUE(table->claim(PageIndex{0}));
  table->mark(PageIndex{0}, PageCount{1}, PageState::poisoned);
  EXPECT_TRUE(table->in_no_memory(PageIndex{0}));
  EXPECT_TRUE(table->claim(PageIndex{0}));
}

TEST(PageTable, RunEndsAtAnotherStateOrAtTheLimit) {
  auto table = PageTable::create(PageCount{100});
  ASSERT_TRUE(table);
  table->mark(PageIndex{10}, PageCount{5}, PageState::resident);
  EXPECT_EQ(table->run(PageIndex{10}, PageCount{50}, PageState::resident), PageCount{5});
  EXPECT_EQ(table->run(PageIndex{10}, PageCount{3}, PageState::resident), PageCount{3});
  EXPECT_EQ(table->run(PageIndex{9}, PageCount{3}, PageState::resident), PageCount{0});
}

TEST(PageTable, AnUntouchedTerabyteCostsNoMemory) {
  auto table = PageTable::create(PageCount{(std::uint64_t{1} << 40) / 4096});
  ASSERT_TRUE(table) << table.error().message();
  EXPECT_TRUE(table->claim(PageIndex{(std::uint64_t{1} << 28) - 1}));
  EXPECT_TRUE(table->claim(PageIndex{0}));
  auto pages = kernel::PageMap::open(::getpid(), 0);
  ASSERT_TRUE(pages) << pages.error().message();
  const auto resident = pages->scan(table->address_for_test(), ByteCount{table->size().value()});
  ASSERT_TRUE(resident) << resident.error().message();
  EXPECT_EQ(resident->shared, PageCount{2}) << "one page of table for each end that was touched";
}

TEST(PageTable, AClaimHasOneWinnerAmongThreads) {
  constexpr std::uint64_t kPages = 20'000;
  auto table = PageTable::create(PageCount{kPages});
  ASSERT_TRUE(table);
  std::atomic<std::uint64_t> won{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (std::uint64_t i = 0; i < kPages; ++i) {
        if (table->claim(PageIndex{i})) won.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(won.load(), kPages);
}

// Every page is counted once, in the state it is in; a page that was never looked at costs nothing,
// and takes no memory by being counted.
TEST(PageTable, TalliesEveryPageOnce) {
  constexpr std::uint64_t kPages = std::uint64_t{1} << 26;  // 64 MiB of table
  auto table = PageTable::create(PageCount{kPages});
  ASSERT_TRUE(table) << table.error().message();
  table->mark(PageIndex{10}, PageCount{5}, PageState::resident);
  table->set_marks(PageIndex{12}, PageCount{2}, wire::kPageDirty | wire::kPageReferenced);
  table->mark(PageIndex{kPages / 2}, PageCount{7}, PageState::poisoned);
  ASSERT_TRUE(table->claim(PageIndex{kPages - 1}));
  ASSERT_TRUE(table->forget(PageIndex{14}));
  ASSERT_TRUE(table->begin_eviction(PageIndex{12})) << "its mark stays, and is not counted";
  const PageTally all = table->tally(PageIndex{0}, PageCount{kPages});
  EXPECT_EQ(all.in(PageState::resident), 3U);
  EXPECT_EQ(all.dirty, 1U);
  EXPECT_EQ(all.in(PageState::evicting), 1U);
  EXPECT_EQ(all.in(PageState::lost), 1U);
  EXPECT_EQ(all.in(PageState::poisoned), 7U);
  EXPECT_EQ(all.in(PageState::filling), 1U);
  EXPECT_EQ(all.in(PageState::absent), kPages - 13);
  const PageTally some = table->tally(PageIndex{11}, PageCount{2});
  EXPECT_EQ(some.in(PageState::resident) + some.in(PageState::evicting), 2U);
  EXPECT_EQ(some.in(PageState::absent), 0U);

  const auto pages = kernel::PageMap::open(::getpid(), 0);
  ASSERT_TRUE(pages) << pages.error().message();
  const Vaddr start = kBasePage.round_down(table->address_for_test());
  const auto scanned = pages->scan(start, kBasePage.round_up(ByteCount{kPages}));
  ASSERT_TRUE(scanned) << scanned.error().message();
  EXPECT_LE(scanned->shared.value(), 6U) << "pages of the table that are mapped";
}

}  // namespace
}  // namespace faultline::memory
