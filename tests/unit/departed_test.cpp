// What is remembered of removed mappings: in order, bounded, and droppable up to a mark.
#include "daemon/space/departed.hpp"

#include <gtest/gtest.h>

namespace faultline::space {
namespace {

Vma at(std::uint64_t start) {
  Vma vma;
  vma.start = Vaddr{start};
  vma.end = Vaddr{start + 4096};
  return vma;
}

TEST(DepartedVmas, DropsWhatWasAddedBeforeAMark) {
  DepartedVmas departed;
  departed.add({at(1), at(2)});
  const std::uint64_t mark = departed.mark();
  departed.add({at(3)});
  departed.drop_before(mark);
  ASSERT_EQ(std::distance(departed.begin(), departed.end()), 1);
  EXPECT_EQ(departed.begin()->start, Vaddr{3});
}

TEST(DepartedVmas, AMarkFromBeforeItWasClearedDropsNothingNew) {
  DepartedVmas departed;
  departed.add({at(1), at(2)});
  const std::uint64_t mark = departed.mark();
  departed.clear();
  departed.add({at(3)});
  departed.drop_before(mark);
  EXPECT_EQ(std::distance(departed.begin(), departed.end()), 1);
}

TEST(DepartedVmas, KeepsTheNewestOfTooMany) {
  DepartedVmas departed;
  for (std::uint64_t i = 0; i < DepartedVmas::kMost + 10; ++i) departed.add({at(i)});
  EXPECT_EQ(static_cast<std::size_t>(std::distance(departed.begin(), departed.end())),
            DepartedVmas::kMost);
  EXPECT_EQ(departed.begin()->start, Vaddr{10});
}

}  // namespace
}  // namespace faultline::space
