// The budget of lines that clients can cause.
#include "daemon/kernel/log_budget.hpp"

#include <gtest/gtest.h>

#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <memory>
#include <sstream>
#include <thread>
#include <vector>

namespace faultline::kernel {
namespace {

using std::chrono::milliseconds;

// A clock starts anywhere, but hours after its zero.
const LogBudget::Clock::time_point kStart{std::chrono::hours(1)};

TEST(LogBudget, WritesSoManyLinesASecond) {
  LogBudget budget(3);
  for (int line = 0; line < 3; ++line) EXPECT_EQ(budget.spend(kStart), 0U);
  for (int line = 0; line < 7; ++line) {
    EXPECT_EQ(budget.spend(kStart + milliseconds(999)), std::nullopt);
  }
  EXPECT_EQ(budget.spend(kStart + milliseconds(1000)), 7U) << "what was left out is told";
  EXPECT_EQ(budget.spend(kStart + milliseconds(1000)), 0U) << "and told once";
}

TEST(LogBudget, ManyThreadsTogetherWriteNoMore) {
  LogBudget budget(10);
  std::atomic<int> written{0};
  std::atomic<int> left_out{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int line = 0; line < 1000; ++line) ++(budget.spend(kStart) ? written : left_out);
      });
    }
  }
  EXPECT_EQ(written, 10);
  EXPECT_EQ(left_out, 3990);
}

TEST(LogBudget, WritesWhatItIsGiven) {
  std::ostringstream text;
  const auto before = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>(
      "test", std::make_shared<spdlog::sinks::ostream_sink_st>(text)));
  LogBudget budget(1);
  budget.log(log::Level::warn, {}, "line {} of {}", 1, "three");
  budget.log(log::Level::warn, {}, "line {} of {}", 2, "three");
  spdlog::set_default_logger(before);
  EXPECT_NE(text.str().find("line 1 of three"), std::string::npos) << text.str();
  EXPECT_EQ(text.str().find("line 2 of three"), std::string::npos) << text.str();
}

}  // namespace
}  // namespace faultline::kernel
