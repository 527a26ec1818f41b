// The nodes of an interval tree, and how a node is searched. A node that readers can see must never
// change, its link excepted, which they do not look at.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace faultline::epoch::detail {

// What is not used of a node's keys: above all others, so that a search need not know how many
// there are.
inline constexpr std::uint64_t kNoKey = UINT64_MAX;

struct RawEntry {
  std::uint64_t start;
  std::uint64_t end;
  void* value;
};

struct Node {
  Node* link = nullptr;      // the next one that is free, or that was retired with it; the writer's
  std::uint64_t update = 0;  // which update made it: that one may change it
  std::uint16_t count = 0;
  std::uint16_t level = 0;    // 0: a leaf
  std::uint32_t entries = 0;  // of the whole tree; kept in its root alone
};

// How many of the keys are not above `at`. Without a branch, and without the node's count.
template <std::size_t kSize>
inline std::size_t count_upto(const std::array<std::uint64_t, kSize>& keys, std::uint64_t at) {
  std::size_t count = 0;
  for (const std::uint64_t key : keys) count += key <= at ? 1 : 0;
  return count;
}

struct Leaf : Node {
  static constexpr std::size_t kMost = 16;
  static constexpr std::size_t kLeast = kMost / 2;  // unless it is the root

  std::array<std::uint64_t, kMost> starts;
  std::array<std::uint64_t, kMost> ends;
  std::array<void*, kMost> values;

  [[nodiscard]] RawEntry entry(std::size_t i) const { return {starts[i], ends[i], values[i]}; }
};

// A child's intervals lie in [first, last), and its widest hole between two of them is gap.
struct Inner : Node {
  static constexpr std::size_t kMost = 32;
  static constexpr std::size_t kLeast = kMost / 2;

  std::array<std::uint64_t, kMost> firsts;
  std::array<Node*, kMost> children;
  std::array<std::uint64_t, kMost> lasts;
  std::array<std::uint64_t, kMost> gaps;
};

// No interval contains it: they are half open.
inline constexpr std::uint64_t kNowhere = kNoKey;

inline const Leaf& as_leaf(const Node* node) {
  return *static_cast<const Leaf*>(node);
}
inline const Inner& as_inner(const Node* node) {
  return *static_cast<const Inner*>(node);
}

}  // namespace faultline::epoch::detail
