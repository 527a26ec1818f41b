// One version of an interval tree, and the ways to look at it. Must never write: others look too.
//
// Locking: none. A version stays while the Section in which its root was loaded lasts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "daemon/epoch/interval_node.hpp"

namespace faultline::epoch::detail {

class RawView {
 public:
  explicit RawView(const Node* root) : root_(root) {}

  [[nodiscard]] const Node* root() const { return root_; }
  [[nodiscard]] std::size_t size() const { return root_ == nullptr ? 0 : root_->entries; }

  [[nodiscard]] std::optional<RawEntry> find(std::uint64_t at) const {
    if (root_ == nullptr || at == kNowhere) return std::nullopt;
    const Node* node = root_;
    while (node->level != 0) {
      const Inner& inner = as_inner(node);
      const std::size_t upto = count_upto(inner.firsts, at);
      if (upto == 0) return std::nullopt;
      node = inner.children[upto - 1];
      if (inner.level == 1) prefetch_leaf(node);
    }
    const Leaf& leaf = as_leaf(node);
    const std::size_t upto = count_upto(leaf.starts, at);
    if (upto == 0 || leaf.ends[upto - 1] <= at) return std::nullopt;
    return leaf.entry(upto - 1);
  }

  [[nodiscard]] std::optional<RawEntry> first_from(std::uint64_t at) const {
    if (root_ == nullptr || at == kNowhere) return std::nullopt;
    const Node* node = root_;
    while (node->level != 0) {
      const Inner& inner = as_inner(node);
      const std::size_t i = first_ending_after(inner.firsts, inner.lasts, at);
      if (i == inner.count) return std::nullopt;
      node = inner.children[i];
    }
    const Leaf& leaf = as_leaf(node);
    const std::size_t i = first_ending_after(leaf.starts, leaf.ends, at);
    if (i == leaf.count) return std::nullopt;
    return leaf.entry(i);
  }

  // `each` takes a RawEntry, and returns whether to go on.
  template <typename Each>
  void for_each(std::uint64_t from, std::uint64_t to, Each&& each) const {
    if (root_ != nullptr && from < to) walk(root_, from, to, each);
  }

  [[nodiscard]] std::optional<std::uint64_t> find_gap(std::uint64_t size, std::uint64_t alignment,
                                                      std::uint64_t from, std::uint64_t to) const;

 private:
  // Of disjoint sorted intervals, the first that ends after `at`.
  template <std::size_t kSize>
  static std::size_t first_ending_after(const std::array<std::uint64_t, kSize>& starts,
                                        const std::array<std::uint64_t, kSize>& ends,
                                        std::uint64_t at) {
    const std::size_t upto = count_upto(starts, at);
    return upto != 0 && ends[upto - 1] > at ? upto - 1 : upto;
  }

  template <typename Each>
  static bool walk(const Node* node, std::uint64_t from, std::uint64_t to, Each& each) {
    if (node->level == 0) {
      const Leaf& leaf = as_leaf(node);
      for (std::size_t i = first_ending_after(leaf.starts, leaf.ends, from); i < leaf.count; ++i) {
        if (leaf.starts[i] >= to || !each(leaf.entry(i))) return false;
      }
      return true;
    }
    const Inner& inner = as_inner(node);
    for (std::size_t i = first_ending_after(inner.firsts, inner.lasts, from); i < inner.count;
         ++i) {
      if (inner.firsts[i] >= to || !walk(inner.children[i], from, to, each)) return false;
    }
    return true;
  }

  const Node* root_;
};

}  // namespace faultline::epoch::detail
