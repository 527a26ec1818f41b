// A session's jobs: so many and no more, each cancelled when it goes.
#include "daemon/server/job_table.hpp"

#include <gtest/gtest.h>

#include <set>

namespace faultline::server {
namespace {

class Job final : public space::PopulateJob {
 public:
  [[nodiscard]] space::PopulateProgress progress() const override {
    return {PageCount{8}, PageCount{5}, PageCount{1}, cancelled_ > 0, 0};
  }
  void cancel() override { ++cancelled_; }
  [[nodiscard]] int cancelled() const { return cancelled_; }

 private:
  int cancelled_ = 0;
};

TEST(JobTable, HoldsSoManyAndNoMoreUntilOneGoes) {
  JobTable table;
  std::set<std::uint64_t> numbers;
  for (std::size_t i = 0; i < JobTable::kMost; ++i) {
    const auto number = table.reserve();
    ASSERT_TRUE(number);
    EXPECT_TRUE(numbers.insert(*number).second);
  }
  EXPECT_FALSE(table.reserve());
  EXPECT_TRUE(table.remove(*numbers.begin()));
  const auto next = table.reserve();
  ASSERT_TRUE(next);
  EXPECT_FALSE(numbers.contains(*next)) << "a number is given once";
  EXPECT_FALSE(table.reserve());
}

TEST(JobTable, AReservedNumberIsNoJobYet) {
  JobTable table;
  const auto number = table.reserve();
  EXPECT_FALSE(table.progress(*number));
  table.run(*number, std::make_shared<Job>());
  ASSERT_TRUE(table.progress(*number));
  EXPECT_EQ(table.progress(*number)->done, PageCount{5});
  EXPECT_FALSE(table.progress(*number + 1));
  EXPECT_FALSE(table.remove(*number + 1));
}

TEST(JobTable, AJobIsCancelledOnceWhenItGoes) {
  const auto freed = std::make_shared<Job>();
  const auto left = std::make_shared<Job>();
  {
    JobTable table;
    const auto number = *table.reserve();
    table.run(number, freed);
    table.run(*table.reserve(), left);
    (void)table.reserve();
    EXPECT_TRUE(table.remove(number));
    EXPECT_FALSE(table.remove(number));
    EXPECT_EQ(left->cancelled(), 0);
    table.cancel_all();
  }
  EXPECT_EQ(freed->cancelled(), 1);
  EXPECT_EQ(left->cancelled(), 1);
}

}  // namespace
}  // namespace faultline::server
