// How many threads fault by turns, and that a worker that looks again by itself asks nobody to.
#include "daemon/space/crowd.hpp"

#include <gtest/gtest.h>

#include "daemon/space/turn.hpp"

namespace faultline::space {
namespace {

void fill_window(Crowd& crowd, unsigned threads) {
  for (std::size_t i = 0; i < Crowd::kWindow; ++i) {
    crowd.add(static_cast<pid_t>(100 + i % threads));
  }
}

// Nothing is known of a client before it has raised a window full of faults.
TEST(Crowd, IsUnknownBeforeTheFirstWindowIsFull) {
  Crowd crowd;
  for (std::size_t i = 0; i + 1 < Crowd::kWindow; ++i) crowd.add(static_cast<pid_t>(100 + i));
  EXPECT_EQ(crowd.threads(), 0U);
  crowd.add(7);
  EXPECT_EQ(crowd.threads(), Crowd::kWindow);
}

// Each window is counted for itself: threads that have stopped faulting are forgotten.
TEST(Crowd, CountsTheThreadsOfTheLastWindowAlone) {
  Crowd crowd;
  fill_window(crowd, 4);
  EXPECT_EQ(crowd.threads(), 4U);
  fill_window(crowd, 1);
  EXPECT_EQ(crowd.threads(), 1U);
}

// Who comes by itself leaves no trace in a turn that is taken; who asks makes its holder look
// again.
TEST(Turn, IsNotProlongedByWhoLooksAgainByItself) {
  Turn turn;
  ASSERT_TRUE(turn.try_begin_unasked());
  EXPECT_FALSE(turn.try_begin_unasked());
  EXPECT_TRUE(turn.try_end());
  ASSERT_TRUE(turn.try_begin_unasked());
  EXPECT_FALSE(turn.try_begin());
  EXPECT_FALSE(turn.try_end()) << "asked: it goes on";
  EXPECT_FALSE(turn.try_begin_unasked());
  EXPECT_TRUE(turn.try_end());
}

}  // namespace
}  // namespace faultline::space
