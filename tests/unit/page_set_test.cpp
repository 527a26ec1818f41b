#include "daemon/space/page_set.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "tests/unit/seed.hpp"

namespace faultline::space {
namespace {

constexpr std::uint64_t kBlock = 32'768;  // pages whose bits fill a page

TEST(PageSet, CountsOnlyWhatChanges) {
  auto set = PageSet::create(PageIndex{1000}, PageCount{300});
  ASSERT_TRUE(set) << set.error().message();
  EXPECT_EQ(set->insert(PageIndex{1010}, PageCount{100}), PageCount{100});
  EXPECT_EQ(set->insert(PageIndex{1000}, PageCount{20}), PageCount{10});
  EXPECT_EQ(set->erase(PageIndex{1000}, PageCount{300}), PageCount{110});
  EXPECT_EQ(set->count(PageIndex{1000}, PageCount{300}), PageCount{0});
}

// Page by page against a set that cannot get a word or a block wrong.
void expect_agreement(PageIndex first, std::uint64_t size, int steps, std::uint64_t longest) {
  std::mt19937_64 random(testing::announce_seed());
  auto set = PageSet::create(first, PageCount{size});
  ASSERT_TRUE(set) << set.error().message();
  std::set<std::uint64_t> model;
  const auto modelled = [&](std::uint64_t from, std::uint64_t count) {
    return static_cast<std::uint64_t>(
        std::distance(model.lower_bound(from), model.lower_bound(from + count)));
  };
  const auto some_range = [&] {
    const std::uint64_t from = random() % size;
    // Mostly short ones, so that blocks are touched in part, and left empty between.
    const std::uint64_t most = random() % 8 == 0 ? longest : 100;
    return std::pair{from, random() % (std::min(most, size - from) + 1)};
  };
  for (int step = 0; step < steps; ++step) {
    const auto [from, count] = some_range();
    const std::uint64_t before = modelled(from, count);
    if (random() % 2 == 0) {
      for (std::uint64_t p = from; p < from + count; ++p) model.insert(p);
      ASSERT_EQ(set->insert(first + PageCount{from}, PageCount{count}), PageCount{count - before})
          << "step " << step;
    } else {
      model.erase(model.lower_bound(from), model.lower_bound(from + count));
      ASSERT_EQ(set->erase(first + PageCount{from}, PageCount{count}), PageCount{before})
          << "step " << step;
    }
    const auto [asked, pages] = some_range();
    ASSERT_EQ(set->count(first + PageCount{asked}, PageCount{pages}).value(),
              modelled(asked, pages))
        << "step " << step;
    ASSERT_EQ(set->count(first, PageCount{size}).value(), model.size()) << "step " << step;
  }
  auto copy = set->clone();
  ASSERT_TRUE(copy) << copy.error().message();
  EXPECT_EQ(copy->count(first, PageCount{size}).value(), model.size());
  for (std::uint64_t p = 0; p < size; ++p) {
    ASSERT_EQ(copy->contains(first + PageCount{p}), model.count(p) == 1) << "page " << p;
  }
  // The copy counts by itself from now on.
  EXPECT_EQ(copy->erase(first, PageCount{size}).value(), model.size());
  EXPECT_EQ(set->count(first, PageCount{size}).value(), model.size());
}

TEST(PageSet, AgreesWithAStdSet) {
  expect_agreement(PageIndex{0}, 1000, 2000, 1000);
}

TEST(PageSet, OfOneBlockAgreesWithAStdSet) {
  expect_agreement(PageIndex{77}, kBlock, 500, kBlock);
}

TEST(PageSet, OfManyBlocksAgreesWithAStdSet) {
  expect_agreement(PageIndex{12'345}, 5 * kBlock + 1001, 1000, 2 * kBlock);
}

std::uint64_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t size = 0;
  std::uint64_t resident = 0;
  statm >> size >> resident;
  return resident * 4096;
}

// What a query or a fork asks for must not depend on the size of the mapping: it is asked of the
// thread that serves everybody.
TEST(PageSet, AHugeSetCostsWhatIsSetInIt) {
  constexpr PageCount kHuge{std::uint64_t{1} << 30};  // 4 TiB: 128 MiB of bits
  constexpr std::chrono::milliseconds kBudget(50);    // what one look at every word takes
  const std::uint64_t memory = resident_bytes();
  auto set = PageSet::create(PageIndex{0}, kHuge);
  ASSERT_TRUE(set) << set.error().message();
  for (const std::uint64_t page : {std::uint64_t{0}, kHuge.value() / 2, kHuge.value() - 1}) {
    EXPECT_EQ(set->insert(PageIndex{page}, PageCount{1}), PageCount{1});
  }

  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(set->count(PageIndex{0}, kHuge), PageCount{3});
  EXPECT_EQ(set->count(PageIndex{1}, kHuge - PageCount{2}), PageCount{1}) << "as when it was cut";
  auto copy = set->clone();
  ASSERT_TRUE(copy) << copy.error().message();
  EXPECT_EQ(copy->erase(PageIndex{1}, kHuge - PageCount{2}), PageCount{1});
  EXPECT_EQ(copy->count(PageIndex{0}, kHuge), PageCount{2});
  EXPECT_LT(std::chrono::steady_clock::now() - start, kBudget);
  EXPECT_TRUE(copy->contains(PageIndex{kHuge.value() - 1}));
  EXPECT_LT(resident_bytes(), memory + (std::uint64_t{2} << 20));
}

// A client may have 60,000 mappings of a page, and a child of a fork has its own record of each.
TEST(PageSet, ManySmallSetsTakeLittleMemory) {
  const std::uint64_t memory = resident_bytes();
  std::vector<PageSet> sets;
  for (std::uint64_t i = 0; i < 60'000; ++i) {
    auto set = PageSet::create(PageIndex{i}, PageCount{1});
    ASSERT_TRUE(set) << set.error().message();
    set->insert(PageIndex{i}, PageCount{1});
    sets.push_back(std::move(*set));
  }
  EXPECT_LT(resident_bytes(), memory + (std::uint64_t{32} << 20));
}

}  // namespace
}  // namespace faultline::space
