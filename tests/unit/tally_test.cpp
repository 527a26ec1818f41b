// Cells of one writer: what is in which bucket, and that readers see sums that only grow.
#include "daemon/kernel/tally.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <thread>

#include "daemon/space/fault_tally.hpp"

namespace faultline::kernel {
namespace {

using std::chrono::nanoseconds;

// Every bound belongs to the bucket that it ends, and the next nanosecond to the next.
TEST(Durations, AreInTheBucketWhoseBoundTheyDoNotExceed) {
  EXPECT_EQ(Durations::bucket_of(nanoseconds{0}), 0U);
  EXPECT_EQ(Durations::bucket_of(nanoseconds{1}), 0U);
  for (std::size_t i = 0; i < Durations::kBounds; ++i) {
    EXPECT_EQ(Durations::bucket_of(Durations::bound(i)), i);
    EXPECT_EQ(Durations::bucket_of(Durations::bound(i) + nanoseconds{1}), i + 1);
  }
  EXPECT_EQ(Durations::bucket_of(nanoseconds::max()), Durations::kBounds);
}

TEST(Durations, OfAClockThatWentBackAreNone) {
  DurationTally tally;
  tally.add(nanoseconds{-5});
  tally.add(nanoseconds::min());
  EXPECT_EQ(tally.value().buckets.front(), 2U);
  EXPECT_EQ(tally.value().sum_ns, 0U);
}

TEST(Durations, AddUp) {
  DurationTally tally;
  tally.add(nanoseconds{512});
  tally.add(nanoseconds{513});
  tally.add(std::chrono::seconds{10});
  Durations twice = tally.value();
  twice += tally.value();
  EXPECT_EQ(twice.count(), 6U);
  EXPECT_EQ(twice.buckets.at(0), 2U);
  EXPECT_EQ(twice.buckets.at(1), 2U);
  EXPECT_EQ(twice.buckets.back(), 2U);
  EXPECT_EQ(twice.sum_ns, 2 * (512U + 513U + 10'000'000'000U));
}

// Run under ThreadSanitizer this is the proof that readers need no lock.
TEST(Tally, IsReadWhileItIsWritten) {
  constexpr std::uint64_t kMany = 200'000;
  DurationTally tally;
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (std::uint64_t i = 0; i < kMany; ++i) tally.add(nanoseconds{1000});
    done = true;
  });
  std::uint64_t last = 0;
  while (!done) {
    const std::uint64_t now = tally.value().count();
    EXPECT_GE(now, last);
    last = now;
  }
  writer.join();
  EXPECT_EQ(tally.value().count(), kMany);
  EXPECT_EQ(tally.value().sum_ns, kMany * 1000);
}

}  // namespace
}  // namespace faultline::kernel

namespace faultline::space {
namespace {

TEST(FaultTally, IsTheThreadsThatSaysSoForAsLongAsItSaysSo) {
  EXPECT_EQ(FaultTally::mine(), nullptr);
  FaultTally tally;
  {
    const FaultTally::Use use(tally);
    EXPECT_EQ(FaultTally::mine(), &tally);
    std::thread([] { EXPECT_EQ(FaultTally::mine(), nullptr); }).join();
  }
  EXPECT_EQ(FaultTally::mine(), nullptr);
}

// What one worker left waiting another takes up: the depth is that of all workers together.
TEST(FaultTally, DepthsAreOfAllWorkers) {
  FaultTally asked;
  FaultTally home;
  asked.answered(FaultClass::missing, false, FaultResult::waits);
  asked.answered(FaultClass::minor, true, FaultResult::waits);
  home.answered(FaultClass::missing, false, FaultResult::deferred);
  home.came_back();
  FaultTotals all = asked.totals();
  all += home.totals();
  EXPECT_EQ(all.waiting(), 1U);
  EXPECT_EQ(all.deferred(), 1U);
  home.tried_again(1);
  EXPECT_EQ(home.totals().deferred(), 0U);
  // One that came back before it was counted is no fault less than none.
  EXPECT_EQ(home.totals().waiting(), 0U);
}

TEST(FaultTally, AddsUpWhatIsOfOneKind) {
  FaultTally one;
  one.raised(FaultClass::write_protect, true);
  one.answered(FaultClass::write_protect, true, FaultResult::installed);
  one.took(FaultClass::write_protect, std::chrono::microseconds{3});
  one.pages(PageSource::demand, 1);
  one.pages(PageSource::fault_around, 7);
  one.broke(2);
  one.poisoned(3);
  FaultTotals all = one.totals();
  all += one.totals();
  const auto kind = static_cast<std::size_t>(FaultClass::write_protect);
  EXPECT_EQ(all.raised.at(kind).at(1), 2U);
  EXPECT_EQ(all.raised.at(kind).at(0), 0U);
  EXPECT_EQ(all.of(FaultResult::installed), 2U);
  EXPECT_EQ(all.latency.at(kind).count(), 2U);
  EXPECT_EQ(all.pages.at(static_cast<std::size_t>(PageSource::fault_around)), 14U);
  EXPECT_EQ(all.breaks, 4U);
  EXPECT_EQ(all.poisoned, 6U);
}

}  // namespace
}  // namespace faultline::space
