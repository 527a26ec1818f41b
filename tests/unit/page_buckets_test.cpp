#include "daemon/admin/page_buckets.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "tests/unit/seed.hpp"

namespace faultline::admin {
namespace {

using PageRun = PageBuckets::Run;
using Counts = PageBuckets::Counts;

TEST(PageBuckets, AreEqualButForTheLast) {
  const PageBuckets buckets(PageCount{10}, 4);
  EXPECT_EQ(buckets.pages_each(), PageCount{3});
  ASSERT_EQ(buckets.size(), 4U);
  EXPECT_EQ(buckets.run(3).first, PageIndex{9});
  EXPECT_EQ(buckets.run(3).count, PageCount{1});
}

// No more than asked for, and as many pages as there are, whatever the two numbers.
TEST(PageBuckets, AreNeverMoreThanAskedForAndHoldEveryPage) {
  for (std::uint64_t pages = 1; pages < 70; ++pages) {
    for (std::uint64_t most = 1; most < 20; ++most) {
      const PageBuckets buckets(PageCount{pages}, most);
      ASSERT_LE(buckets.size(), most);
      std::uint64_t sum = 0;
      for (std::size_t i = 0; i < buckets.size(); ++i) {
        ASSERT_EQ(buckets.run(i).first, PageIndex{sum});
        ASSERT_GT(buckets.run(i).count, PageCount{0});
        sum += buckets.run(i).count.value();
      }
      ASSERT_EQ(sum, pages) << "in at most " << most;
    }
  }
}

TEST(PageBuckets, CountAPageOnceHoweverOftenItIsThere) {
  const PageBuckets buckets(PageCount{10}, 2);
  const auto counts = buckets.covered({{PageIndex{3}, PageCount{4}},
                                       {PageIndex{0}, PageCount{4}},
                                       {PageIndex{6}, PageCount{1}},
                                       {PageIndex{9}, PageCount{50}}});
  EXPECT_EQ(counts, (Counts{5, 3}));
}

// Against a plain set of pages, for random runs, some of them past the end.
TEST(PageBuckets, AgreeWithAPlainSet) {
  std::mt19937_64 random(testing::announce_seed());
  for (int round = 0; round < 300; ++round) {
    const std::uint64_t pages = 1 + random() % 200;
    const PageBuckets buckets(PageCount{pages}, 1 + random() % 20);
    std::vector<PageRun> runs;
    std::vector<bool> plain(pages);
    for (std::uint64_t i = random() % 8; i > 0; --i) {
      const PageRun run{PageIndex{random() % pages}, PageCount{random() % 60}};
      runs.push_back(run);
      for (std::uint64_t page = run.first.value(); page < run.end().value() && page < pages;
           ++page) {
        plain[page] = true;
      }
    }
    Counts expected = buckets.none();
    for (std::uint64_t page = 0; page < pages; ++page) {
      if (plain[page]) ++expected[page / buckets.pages_each().value()];
    }
    ASSERT_EQ(buckets.covered(runs), expected);
  }
}

}  // namespace
}  // namespace faultline::admin
