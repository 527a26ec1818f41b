#include "daemon/epoch/interval_tree.hpp"

#include <gtest/gtest.h>

#include "daemon/epoch/gate.hpp"

namespace faultline::epoch {
namespace {

using Tree = IntervalTree<int>;

// What one update inserts is found, and nothing beside it.
TEST(IntervalTree, FindsWhatWasInserted) {
  Domain domain("test");
  Tree tree(domain);
  int value = 0;
  {
    Tree::Update update(tree);
    for (std::uint64_t i = 0; i < 1000; ++i) update.insert({i * 10, i * 10 + 5, &value});
    update.commit();
  }
  const Domain::Section section(domain);
  const auto view = tree.view();
  EXPECT_EQ(view.size(), 1000U);
  for (std::uint64_t at = 0; at < 10'000; ++at) {
    const auto found = view.find(at);
    ASSERT_EQ(found.has_value(), at % 10 < 5) << at;
    ASSERT_TRUE(!found || found->start == at / 10 * 10);
  }
}

}  // namespace
}  // namespace faultline::epoch
