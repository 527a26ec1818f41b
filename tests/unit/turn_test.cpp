#include "daemon/space/turn.hpp"

#include <gtest/gtest.h>

#include <array>
#include <thread>
#include <vector>

namespace faultline::space {
namespace {

TEST(Turn, OneThreadHasItAndAnotherThatComesLeaves) {
  Turn turn;
  ASSERT_TRUE(turn.try_begin());
  EXPECT_FALSE(turn.try_begin());
  EXPECT_FALSE(turn.try_end()) << "somebody came: look again";
  EXPECT_TRUE(turn.try_end());
  EXPECT_TRUE(turn.try_begin());
  EXPECT_TRUE(turn.try_end());
}

TEST(Turn, WhoeverCameSeveralTimesIsLookedAfterOnce) {
  Turn turn;
  turn.begin();
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(turn.try_begin());
  EXPECT_FALSE(turn.try_end());
  EXPECT_TRUE(turn.try_end());
}

// What each thread leaves is found by somebody: nothing lies about when all have gone. Some come
// and go, some wait for the turn; what they count in it is not atomic, so ThreadSanitizer sees an
// overlap.
TEST(Turn, NothingIsLeftLyingAndNobodyOverlaps) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 20'000;
  Turn turn;
  std::atomic<int> lying{0};
  int found = 0;
  const auto collect_and_leave = [&] {
    do {
      found += lying.exchange(0, std::memory_order_relaxed);
    } while (!turn.try_end());
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, waits = t % 2 == 0] {
      for (int i = 0; i < kRounds; ++i) {
        lying.fetch_add(1, std::memory_order_relaxed);
        if (waits) {
          turn.begin();
        } else if (!turn.try_begin()) {
          continue;
        }
        collect_and_leave();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(lying, 0);
  EXPECT_EQ(found, kThreads * kRounds);
}

}  // namespace
}  // namespace faultline::space
