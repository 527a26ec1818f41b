// How fast faultctl watch reads: a rate, with a second's worth at once after a rest.
#include "tools/faultctl/pace.hpp"

#include <gtest/gtest.h>

namespace faultline::ctl {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const Pace::Clock::time_point kStart{seconds(1000)};

TEST(Pace, ASecondsWorthIsReadAtOnce) {
  Pace pace(100);
  for (int i = 0; i < 10; ++i) {
    EXPECT_LE(pace.next(), kStart) << i;
    pace.read(10, kStart);
  }
  EXPECT_EQ(pace.next(), kStart);
  pace.read(10, kStart);
  EXPECT_EQ(pace.next(), kStart + milliseconds(100));
}

TEST(Pace, WhatIsReadIsPaidForByTime) {
  Pace pace(100);
  pace.read(150, kStart);
  EXPECT_EQ(pace.next(), kStart + milliseconds(500));
  pace.read(100, pace.next());
  EXPECT_EQ(pace.next(), kStart + milliseconds(1500));
}

// An hour without events is no reason to take an hour's worth afterwards.
TEST(Pace, NoMoreThanASecondIsSavedUp) {
  Pace pace(100);
  pace.read(1, kStart);
  const auto later = kStart + seconds(3600);
  pace.read(200, later);
  EXPECT_EQ(pace.next(), later + seconds(1));
}

TEST(Pace, NothingReadCostsNothing) {
  Pace pace(1);
  pace.read(0, kStart);
  EXPECT_LT(pace.next(), kStart);
}

}  // namespace
}  // namespace faultline::ctl
