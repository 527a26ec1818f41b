#include "daemon/epoch/interval_view.hpp"

#include <algorithm>

namespace faultline::epoch::detail {

namespace {

// The search for a hole, from left to right.
struct GapSearch {
  std::uint64_t size;
  std::uint64_t alignment;
  std::uint64_t to;
  std::uint64_t hole;  // where the hole begins that is being looked at

  // Whether it fits between `hole` and `end`; then `hole` is where.
  bool fits(std::uint64_t end) {
    end = std::min(end, to);
    const std::uint64_t over = hole % alignment;
    const std::uint64_t skip = over == 0 ? 0 : alignment - over;
    if (end <= hole || end - hole < skip || end - hole - skip < size) return false;
    hole += skip;
    return true;
  }

  // Whether it is in a hole of the node's, or in the one before it. Looks into the children with a
  // hole that is wide enough, which with a wide alignment need not do.
  bool search(const Node* node) {
    if (node->level == 0) {
      const Leaf& leaf = as_leaf(node);
      for (std::size_t i = 0; i < leaf.count && hole < to; ++i) {
        if (leaf.ends[i] <= hole) continue;
        if (fits(leaf.starts[i])) return true;
        hole = leaf.ends[i];
      }
      return false;
    }
    const Inner& inner = as_inner(node);
    for (std::size_t i = 0; i < inner.count && hole < to; ++i) {
      if (inner.lasts[i] <= hole) continue;
      if (fits(inner.firsts[i])) return true;
      if (inner.gaps[i] >= size && search(inner.children[i])) return true;
      hole = inner.lasts[i];
    }
    return false;
  }
};

}  // namespace

std::optional<std::uint64_t> RawView::find_gap(std::uint64_t size, std::uint64_t alignment,
                                               std::uint64_t from, std::uint64_t to) const {
  if (size == 0 || alignment == 0) return std::nullopt;
  GapSearch search{.size = size, .alignment = alignment, .to = to, .hole = from};
  if (root_ != nullptr && search.search(root_)) return search.hole;
  if (search.fits(to)) return search.hole;
  return std::nullopt;
}

}  // namespace faultline::epoch::detail
