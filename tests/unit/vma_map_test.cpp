#include "daemon/space/vma_map.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "tests/unit/seed.hpp"

namespace faultline::space {
namespace {

std::shared_ptr<memory::MemoryObject> object_of(std::uint64_t pages) {
  memory::ObjectSpec spec;
  spec.content_size = ByteCount{pages * 4096};
  auto object = memory::MemoryObject::create(ObjectId{1}, std::move(spec));
  EXPECT_TRUE(object) << object.error().message();
  return *object;
}

Vaddr address(std::uint64_t page) {
  return Vaddr{page * 4096};
}

Vma vma(const std::shared_ptr<memory::MemoryObject>& object, std::uint64_t start, std::uint64_t end,
        std::uint64_t first) {
  return Vma{.start = address(start),
             .end = address(end),
             .object = object,
             .first = PageIndex{first},
             .sharing = Sharing::shared,
             .writable = false,
             .activity = std::make_shared<VmaActivity>()};
}

TEST(VmaMap, AHoleInTheMiddleLeavesTwoPiecesThatStillPointAtTheirOwnPages) {
  const auto object = object_of(100);
  VmaMap map;
  map.insert(vma(object, 10, 20, 50));
  const auto removed = map.remove(address(13), address(15));
  ASSERT_EQ(removed.size(), 1U);
  EXPECT_EQ(removed.front().first, PageIndex{53});
  EXPECT_EQ(removed.front().pages(), PageCount{2});
  ASSERT_EQ(map.size(), 2U);
  EXPECT_EQ(map.find(address(14)), nullptr);
  EXPECT_EQ(map.find(address(12))->page_at(address(12)), PageIndex{52});
  EXPECT_EQ(map.find(address(15))->page_at(address(15)), PageIndex{55});
  EXPECT_EQ(map.find(address(12))->activity, map.find(address(19))->activity);
}

TEST(VmaMap, AnActivityKnowsHowManyPiecesOfItThereAre) {
  const auto object = object_of(100);
  VmaMap map;
  map.insert(vma(object, 10, 20, 50));
  const auto activity = map.find(address(10))->activity;
  EXPECT_EQ(activity->pieces, 1U);
  map.remove(address(13), address(15));
  EXPECT_EQ(activity->pieces, 2U) << "a hole makes two";
  map.remove(address(10), address(11));
  EXPECT_EQ(activity->pieces, 2U) << "a shorter piece is a piece";
  std::vector<Vma> moved = map.remove(address(15), address(20));
  EXPECT_EQ(activity->pieces, 1U);
  moved.front().start = address(40);
  moved.front().end = address(45);
  map.insert(moved.front());
  EXPECT_EQ(activity->pieces, 2U);
  map.insert(vma(object, 10, 42, 0));
  EXPECT_EQ(activity->pieces, 1U) << "what stood in the place is gone";
  EXPECT_EQ(map.remove(address(0), address(100)).size(), 2U);
  EXPECT_EQ(activity->pieces, 0U);
}

TEST(VmaMap, AnEmptyIntervalHoldsNothingAndCutsNothing) {
  const auto object = object_of(10);
  VmaMap map;
  map.insert(vma(object, 10, 20, 0));
  EXPECT_TRUE(map.remove(address(15), address(15)).empty());
  EXPECT_TRUE(map.overlapping(address(15), address(15)).empty());
  EXPECT_EQ(map.size(), 1U);
}

TEST(VmaMap, AnIntervalIsHalfOpen) {
  const auto object = object_of(10);
  VmaMap map;
  map.insert(vma(object, 10, 12, 0));
  EXPECT_EQ(map.find(Vaddr{address(10).value() - 1}), nullptr);
  EXPECT_NE(map.find(address(10)), nullptr);
  EXPECT_NE(map.find(Vaddr{address(12).value() - 1}), nullptr);
  EXPECT_EQ(map.find(address(12)), nullptr);
}

void expect_pieces_counted(const VmaMap& map,
                           const std::vector<std::shared_ptr<VmaActivity>>& activities) {
  std::map<const VmaActivity*, std::size_t> pieces;
  for (const auto& [start, piece] : map) ++pieces[piece.activity.get()];
  for (const auto& activity : activities) ASSERT_EQ(activity->pieces, pieces[activity.get()]);
}

// Against a map of single pages, which cannot get an interval wrong.
TEST(VmaMap, AgreesWithAPagewiseModelUnderRandomInsertsAndRemovals) {
  const std::uint64_t seed = testing::announce_seed();
  std::mt19937_64 random(seed);
  const auto object = object_of(4096);
  VmaMap map;
  std::vector<std::shared_ptr<VmaActivity>> activities;
  std::map<std::uint64_t, std::uint64_t> model;  // page of the space -> page of the object
  for (int step = 0; step < 5000; ++step) {
    const std::uint64_t start = random() % 200;
    const std::uint64_t end = start + 1 + random() % 30;
    if (random() % 2 == 0) {
      const std::uint64_t first = random() % 4000;
      Vma mapped = vma(object, start, end, first);
      // A new mapping, or, as after mremap(2), a piece of one that may have others left.
      activities.push_back(mapped.activity);
      mapped.activity = activities[random() % activities.size()];
      map.insert(std::move(mapped));
      for (std::uint64_t p = start; p < end; ++p) model[p] = first + p - start;
    } else {
      std::uint64_t removed = 0;
      for (const Vma& piece : map.remove(address(start), address(end)))
        removed += piece.pages().value();
      std::uint64_t expected = 0;
      for (std::uint64_t p = start; p < end; ++p) expected += model.erase(p);
      ASSERT_EQ(removed, expected) << "step " << step;
    }
    for (std::uint64_t p = 0; p < 240; ++p) {
      const Vma* found = map.find(address(p));
      const auto known = model.find(p);
      ASSERT_EQ(found != nullptr, known != model.end()) << "page " << p << " step " << step;
      if (found != nullptr) {
        ASSERT_EQ(found->page_at(address(p)).value(), known->second);
      }
    }
    expect_pieces_counted(map, activities);
  }
}

}  // namespace
}  // namespace faultline::space
