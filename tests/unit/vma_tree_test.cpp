#include "daemon/space/vma_tree.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <random>
#include <thread>
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

ByteCount bytes(std::uint64_t pages) {
  return kBasePage.bytes(PageCount{pages});
}

Vma vma(const std::shared_ptr<memory::MemoryObject>& object, std::uint64_t start, std::uint64_t end,
        std::uint64_t first) {
  return Vma{.start = address(start),
             .end = address(end),
             .object = object,
             .first = PageIndex{first},
             .sharing = Sharing::shared,
             .writable = false,
             .advice = Advice::normal,
             .activity = std::make_shared<VmaActivity>(PageIndex{first}, PageCount{end - start})};
}

class VmaTreeTest : public ::testing::Test {
 protected:
  epoch::Domain domain_{"test"};
  VmaTree map{domain_};
};

TEST_F(VmaTreeTest, AHoleInTheMiddleLeavesTwoPiecesThatStillPointAtTheirOwnPages) {
  const auto object = object_of(100);
  map.insert(vma(object, 10, 20, 50));
  const auto removed = map.remove(address(13), address(15));
  ASSERT_EQ(removed.size(), 1U);
  EXPECT_EQ(removed.front().first, PageIndex{53});
  EXPECT_EQ(removed.front().pages(), PageCount{2});
  ASSERT_EQ(map.size(), 2U);
  EXPECT_FALSE(map.find(address(14)));
  EXPECT_EQ(map.find(address(12))->page_at(address(12)), PageIndex{52});
  EXPECT_EQ(map.find(address(15))->page_at(address(15)), PageIndex{55});
  EXPECT_EQ(map.find(address(12))->activity, map.find(address(19))->activity);
}

TEST_F(VmaTreeTest, AnActivityKnowsHowManyPiecesOfItThereAre) {
  const auto object = object_of(100);
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

TEST_F(VmaTreeTest, AnEmptyIntervalHoldsNothingAndCutsNothing) {
  const auto object = object_of(10);
  map.insert(vma(object, 10, 20, 0));
  EXPECT_TRUE(map.remove(address(15), address(15)).empty());
  EXPECT_TRUE(map.overlapping(address(15), address(15)).empty());
  EXPECT_EQ(map.size(), 1U);
}

TEST_F(VmaTreeTest, AnIntervalIsHalfOpen) {
  const auto object = object_of(10);
  map.insert(vma(object, 10, 12, 0));
  EXPECT_FALSE(map.find(Vaddr{address(10).value() - 1}));
  EXPECT_TRUE(map.find(address(10)));
  EXPECT_TRUE(map.find(Vaddr{address(12).value() - 1}));
  EXPECT_FALSE(map.find(address(12)));
}

void expect_pieces_counted(const VmaTree& map,
                           const std::vector<std::shared_ptr<VmaActivity>>& activities) {
  std::map<const VmaActivity*, std::size_t> pieces;
  for (const Vma& piece : map.all()) ++pieces[piece.activity.get()];
  for (const auto& activity : activities) ASSERT_EQ(activity->pieces, pieces[activity.get()]);
}

TEST_F(VmaTreeTest, AChangeCutsWhatItTouchesAndEqualNeighboursBecomeOneAgain) {
  const auto object = object_of(100);
  map.insert(vma(object, 10, 20, 50));
  const auto set_writable = [](bool writable) {
    return [writable](Vma& piece) { piece.writable = writable; };
  };
  map.change({address(13), bytes(2)}, set_writable(true));
  EXPECT_EQ(map.size(), 3U);
  EXPECT_TRUE(map.find(address(14))->writable);
  EXPECT_FALSE(map.find(address(15))->writable);
  EXPECT_EQ(map.find(address(14))->activity->pieces, 3U);
  map.change({address(13), bytes(2)}, set_writable(false));
  ASSERT_EQ(map.size(), 1U);
  EXPECT_EQ(map.find(address(14))->page_at(address(14)), PageIndex{54});
  EXPECT_EQ(map.find(address(14))->activity->pieces, 1U);
}

TEST_F(VmaTreeTest, MappingsOfTheirOwnDoNotBecomeOneThoughTheyContinue) {
  const auto object = object_of(100);
  map.insert(vma(object, 10, 20, 0));
  map.insert(vma(object, 20, 30, 10));
  map.change({address(10), bytes(20)}, [](Vma& piece) { piece.writable = true; });
  EXPECT_EQ(map.size(), 2U);
}

// Who acts on a VMA can sleep, and whoever takes it out waits for that, though readers no longer
// find it.
TEST_F(VmaTreeTest, AReferenceKeepsTheRemoverWaiting) {
  const auto object = object_of(100);
  map.insert(vma(object, 10, 20, 50));
  auto held = std::make_unique<VmaRef>(map.find(address(10)));
  std::atomic<bool> removed{false};
  std::thread remover([&] {
    map.remove(address(10), address(20));
    removed = true;
  });
  while (map.find(address(10))) std::this_thread::yield();
  EXPECT_FALSE(removed);
  EXPECT_EQ((*held)->first, PageIndex{50});
  held.reset();
  remover.join();
  EXPECT_TRUE(removed);
}

TEST_F(VmaTreeTest, WhatIsTakenOutGivesItsObjectBackAfterTheGracePeriod) {
  auto object = object_of(100);
  const std::weak_ptr<memory::MemoryObject> alive = object;
  map.insert(vma(object, 10, 20, 50));
  object.reset();
  {
    const epoch::Domain::Section section(domain_);
    map.remove(address(10), address(20));
    EXPECT_FALSE(alive.expired());
  }
  domain_.barrier();
  EXPECT_TRUE(alive.expired());
}

// A walk sees a mapping before its move or after it, and what it replaces only before.
TEST_F(VmaTreeTest, AMoveIsOneStepForReaders) {
  const auto object = object_of(100);
  map.insert(vma(object, 10, 20, 0));
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> walks{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      while (!stop) {
        const std::vector<Vma> seen = map.all();
        std::uint64_t of_the_first = 0;
        for (const Vma& piece : seen) of_the_first += piece.first == PageIndex{0} ? 1U : 0U;
        ASSERT_EQ(of_the_first, 1U);
        ++walks;
      }
    });
  }
  for (int i = 0; i < 500 || walks < 500; ++i) {
    map.insert(vma(object, 40, 45, 50));
    map.move({address(10), bytes(10)}, address(40));
    map.move({address(40), bytes(10)}, address(10));
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
}

// A map of single pages, which cannot get an interval wrong, and the same changes in a tree.
class PagewiseModel {
 public:
  PagewiseModel(VmaTree& map, std::uint64_t seed) : map_(map), random_(seed) {}

  void step() {
    const std::uint64_t start = random_() % 200;
    const std::uint64_t end = start + 1 + random_() % 30;
    switch (random_() % 8) {
      case 0:
        return move(start, end, 240 + random_() % 100);
      case 1:
        return protect(start, end, random_() % 2 == 0);
      case 2:
      case 3:
      case 4:
        return insert(start, end);
      default:
        return remove(start, end);
    }
  }

  void compare() const {
    for (std::uint64_t p = 0; p < kPages; ++p) {
      const VmaRef found = map_.find(address(p));
      const auto known = pages_.find(p);
      ASSERT_EQ(static_cast<bool>(found), known != pages_.end()) << "page " << p;
      if (found) {
        ASSERT_EQ(found->page_at(address(p)).value(), known->second);
      }
    }
    expect_pieces_counted(map_, activities_);
  }

 private:
  static constexpr std::uint64_t kPages = 380;

  void insert(std::uint64_t start, std::uint64_t end) {
    const std::uint64_t first = random_() % 4000;
    Vma mapped = vma(object_, start, end, first);
    // A new mapping, or, as after mremap(2), a piece of one that may have others left.
    activities_.push_back(mapped.activity);
    mapped.activity = activities_[random_() % activities_.size()];
    map_.insert(std::move(mapped));
    for (std::uint64_t p = start; p < end; ++p) pages_[p] = first + p - start;
  }
  void remove(std::uint64_t start, std::uint64_t end) {
    std::uint64_t removed = 0;
    for (const Vma& piece : map_.remove(address(start), address(end))) {
      removed += piece.pages().value();
    }
    std::uint64_t expected = 0;
    for (std::uint64_t p = start; p < end; ++p) expected += pages_.erase(p);
    ASSERT_EQ(removed, expected);
  }
  void move(std::uint64_t start, std::uint64_t end, std::uint64_t to) {
    map_.move({address(start), bytes(end - start)}, address(to));
    for (std::uint64_t p = start; p < end; ++p) {
      pages_.erase(to + p - start);
      if (auto page = pages_.extract(p)) {
        page.key() = to + p - start;
        pages_.insert(std::move(page));
      }
    }
  }
  void protect(std::uint64_t start, std::uint64_t end, bool writable) {
    map_.change({address(start), bytes(end - start)},
                [writable](Vma& piece) { piece.writable = writable; });
    for (const Vma& piece : map_.overlapping(address(start), address(end))) {
      ASSERT_EQ(piece.writable, writable);
    }
  }

  VmaTree& map_;
  std::mt19937_64 random_;
  std::shared_ptr<memory::MemoryObject> object_ = object_of(4096);
  std::vector<std::shared_ptr<VmaActivity>> activities_;
  std::map<std::uint64_t, std::uint64_t> pages_;  // page of the space -> page of the object
};

TEST_F(VmaTreeTest, AgreesWithAPagewiseModelUnderRandomChanges) {
  PagewiseModel model(map, testing::announce_seed());
  for (int step = 0; step < 5000; ++step) {
    SCOPED_TRACE(step);
    ASSERT_NO_FATAL_FAILURE(model.step());
    ASSERT_NO_FATAL_FAILURE(model.compare());
  }
}

}  // namespace
}  // namespace faultline::space
