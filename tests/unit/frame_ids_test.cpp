// Identities of pages.
#include "daemon/space/frame_ids.hpp"

#include <gtest/gtest.h>

#include <array>
#include <set>
#include <thread>
#include <vector>

namespace faultline::space {
namespace {

// Around the size from which on they are kept in a mapping of their own.
constexpr std::array kSizes{PageCount{1}, PageCount{511}, PageCount{512}, PageCount{513},
                            PageCount{1 << 20}};

// No page has an identity before it is given one.
TEST(FrameIds, AreNoneAtFirst) {
  for (const PageCount size : kSizes) {
    const PageIndex first{7};
    const auto ids = FrameIds::create(first, size);
    ASSERT_TRUE(ids) << ids.error().message();
    EXPECT_EQ(ids->get(first), FrameId{});
    EXPECT_EQ(ids->get(first + PageCount{size.value() / 2}), FrameId{});
    EXPECT_EQ(ids->get(first + PageCount{size.value() - 1}), FrameId{});
  }
}

// Each page has its own, the first and the last as well, also after they were moved elsewhere.
TEST(FrameIds, AreOfTheirPageAlone) {
  for (const PageCount size : kSizes) {
    const PageIndex first{1000};
    auto made = FrameIds::create(first, size);
    ASSERT_TRUE(made) << made.error().message();
    const PageIndex last = first + PageCount{size.value() - 1};
    made->set(last, FrameId{3});
    made->set(first, FrameId{2});
    const FrameIds ids = std::move(*made);
    EXPECT_EQ(ids.get(first), FrameId{2}) << size.value();
    if (last != first) {
      EXPECT_EQ(ids.get(last), FrameId{3}) << size.value();
    }
    if (size.value() > 2) {
      EXPECT_EQ(ids.get(first + PageCount{1}), FrameId{});
    }
  }
}

// A page can be given another one, and none.
TEST(FrameIds, CanBeReplaced) {
  for (const PageCount size : kSizes) {
    auto ids = FrameIds::create(PageIndex{0}, size);
    ASSERT_TRUE(ids) << ids.error().message();
    ids->set(PageIndex{0}, FrameId{8});
    ids->set(PageIndex{0}, FrameId{9});
    EXPECT_EQ(ids->get(PageIndex{0}), FrameId{9});
    ids->set(PageIndex{0}, FrameId{});
    EXPECT_EQ(ids->get(PageIndex{0}), FrameId{});
  }
}

// No identity is given twice, nor is that of no page, whichever threads ask at once.
TEST(FrameIds, NewOnesWereNeverGivenBefore) {
  constexpr std::size_t kEach = 10'000;
  std::array<std::vector<FrameId>, 4> given;
  std::vector<std::thread> threads;
  for (auto& mine : given) {
    threads.emplace_back([&mine] {
      for (std::size_t i = 0; i < kEach; ++i) mine.push_back(new_frame_id());
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<FrameId> all{FrameId{}};
  for (const auto& mine : given) all.insert(mine.begin(), mine.end());
  EXPECT_EQ(all.size(), given.size() * kEach + 1);
}

}  // namespace
}  // namespace faultline::space
