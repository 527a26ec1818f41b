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

// What a reader needs of a node to search it: eight bytes, so that they and the keys fill whole
// cache lines.
struct Node {
  std::uint32_t entries = 0;  // of the whole tree; kept in its root alone
  std::uint16_t count = 0;
  std::uint16_t level = 0;  // 0: a leaf
};

// What only the writer looks at.
struct NodeTail {
  Node* link = nullptr;      // the next one that is free, or that was retired with it
  std::uint64_t update = 0;  // which update made the node: that one may change it
};

inline constexpr std::size_t kCacheLine = 64;

// How many of the keys are not above `at`. Without the node's count and without a branch, which
// would be mispredicted every other time: first every eighth key, then the seven between two of
// those.
template <std::size_t kSize>
inline std::size_t count_upto(const std::array<std::uint64_t, kSize>& keys, std::uint64_t at) {
  constexpr std::size_t kStride = 8;
  static_assert(kSize % kStride == kStride - 1);
  std::size_t count = 0;
  for (std::size_t i = kStride - 1; i < kSize; i += kStride) count += keys[i] <= at ? kStride : 0;
  const std::uint64_t* const between = keys.data() + count;
  for (std::size_t i = 0; i < kStride - 1; ++i) count += between[i] <= at ? 1 : 0;
  return count;
}

// Whoever makes a node fills what its count says: what lies beyond is not looked at, the keys
// excepted. NOLINTBEGIN(cppcoreguidelines-pro-type-member-init)
struct alignas(kCacheLine) Leaf : Node {
  static constexpr std::size_t kMost = 15;
  static constexpr std::size_t kLeast = (kMost + 1) / 2;  // unless it is the root

  std::array<std::uint64_t, kMost> starts;
  std::array<std::uint64_t, kMost> ends;
  std::array<void*, kMost> values;
  NodeTail tail;

  [[nodiscard]] RawEntry entry(std::size_t i) const { return {starts[i], ends[i], values[i]}; }
};

// A child's intervals lie in [first, last), and its widest hole between two of them is gap.
struct alignas(kCacheLine) Inner : Node {
  static constexpr std::size_t kMost = 31;
  static constexpr std::size_t kLeast = (kMost + 1) / 2;

  std::array<std::uint64_t, kMost> firsts;
  std::array<Node*, kMost> children;
  std::array<std::uint64_t, kMost> lasts;
  std::array<std::uint64_t, kMost> gaps;
  NodeTail tail;
};

// NOLINTEND(cppcoreguidelines-pro-type-member-init)

// No interval contains it: they are half open.
inline constexpr std::uint64_t kNowhere = kNoKey;

static_assert(sizeof(Leaf) == 6 * kCacheLine && sizeof(Inner) == 16 * kCacheLine);

// The level says which of the two a node is.
// NOLINTBEGIN(cppcoreguidelines-pro-type-static-cast-downcast)
inline Leaf& as_leaf(Node* node) {
  return *static_cast<Leaf*>(node);
}
inline const Leaf& as_leaf(const Node* node) {
  return *static_cast<const Leaf*>(node);
}
inline Inner& as_inner(Node* node) {
  return *static_cast<Inner*>(node);
}
inline const Inner& as_inner(const Node* node) {
  return *static_cast<const Inner*>(node);
}
// NOLINTEND(cppcoreguidelines-pro-type-static-cast-downcast)

inline NodeTail& tail_of(Node* node) {
  return node->level == 0 ? as_leaf(node).tail : as_inner(node).tail;
}

// All of a leaf at once: in which line the end and the value lie is not known before the keys are
// there.
inline void prefetch_leaf(const Node* node) {
  const auto* const bytes = reinterpret_cast<const char*>(node);
  for (std::size_t at = 0; at < sizeof(Leaf); at += kCacheLine) __builtin_prefetch(bytes + at);
}

}  // namespace faultline::epoch::detail
