#include "daemon/space/page_set.hpp"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "tests/unit/seed.hpp"

namespace faultline::space {
namespace {

TEST(PageSet, CountsOnlyWhatChanges) {
  auto set = PageSet::create(PageIndex{1000}, PageCount{300});
  ASSERT_TRUE(set) << set.error().message();
  EXPECT_EQ(set->insert(PageIndex{1010}, PageCount{100}), PageCount{100});
  EXPECT_EQ(set->insert(PageIndex{1000}, PageCount{20}), PageCount{10});
  EXPECT_EQ(set->erase(PageIndex{1000}, PageCount{300}), PageCount{110});
  EXPECT_EQ(set->count(PageIndex{1000}, PageCount{300}), PageCount{0});
}

TEST(PageSet, AgreesWithAStdSet) {
  std::mt19937_64 random(testing::announce_seed());
  constexpr std::uint64_t kSize = 1000;
  auto set = PageSet::create(PageIndex{0}, PageCount{kSize});
  ASSERT_TRUE(set);
  std::set<std::uint64_t> model;
  for (int step = 0; step < 2000; ++step) {
    const std::uint64_t first = random() % kSize;
    const std::uint64_t count = random() % (kSize - first + 1);
    std::uint64_t changed = 0;
    const bool insert = random() % 2 == 0;
    for (std::uint64_t p = first; p < first + count; ++p) {
      changed += insert ? (model.insert(p).second ? 1U : 0U) : model.erase(p);
    }
    const PageCount got = insert ? set->insert(PageIndex{first}, PageCount{count})
                                 : set->erase(PageIndex{first}, PageCount{count});
    ASSERT_EQ(got.value(), changed) << "step " << step;
  }
  auto copy = set->clone();
  ASSERT_TRUE(copy);
  for (std::uint64_t p = 0; p < kSize; ++p) {
    ASSERT_EQ(copy->contains(PageIndex{p}), model.count(p) == 1) << "page " << p;
  }
}

}  // namespace
}  // namespace faultline::space
