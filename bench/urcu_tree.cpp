#include "bench/urcu_tree.hpp"

// read_lock and read_unlock inlined: the fastest that liburcu has.
#define _LGPL_SOURCE  // NOLINT(bugprone-reserved-identifier)
#include <urcu/urcu-memb.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

namespace faultline::bench {

namespace {
constexpr std::size_t kLeaf = 16;
constexpr std::size_t kInner = 32;
}  // namespace

struct UrcuTree::Node {
  rcu_head head{};
  Node* link = nullptr;
  std::uint32_t count = 0;
  bool leaf = true;

  template <std::size_t kSize>
  static std::size_t upto(const std::array<std::uint64_t, kSize>& keys, std::uint64_t at) {
    std::size_t n = 0;
    for (const std::uint64_t key : keys) n += key <= at ? 1 : 0;
    return n;
  }
};

namespace {

// NOLINTBEGIN(cppcoreguidelines-pro-type-member-init): what lies beyond the count is not looked at
struct Leaf : UrcuTree::Node {
  std::array<std::uint64_t, kLeaf> starts;
  std::array<std::uint64_t, kLeaf> ends;
  std::array<void*, kLeaf> values;
  Leaf() { starts.fill(UINT64_MAX); }
};

struct Inner : UrcuTree::Node {
  std::array<std::uint64_t, kInner> firsts;
  std::array<UrcuTree::Node*, kInner> children;
  Inner() {
    leaf = false;
    firsts.fill(UINT64_MAX);
  }
};

// NOLINTEND(cppcoreguidelines-pro-type-member-init)

// NOLINTBEGIN(cppcoreguidelines-pro-type-static-cast-downcast): `leaf` says which it is
Leaf& leaf_of(UrcuTree::Node* node) {
  return *static_cast<Leaf*>(node);
}
Inner& inner_of(UrcuTree::Node* node) {
  return *static_cast<Inner*>(node);
}
const Leaf& leaf_of(const UrcuTree::Node& node) {
  return static_cast<const Leaf&>(node);
}
const Inner& inner_of(const UrcuTree::Node& node) {
  return static_cast<const Inner&>(node);
}
// NOLINTEND(cppcoreguidelines-pro-type-static-cast-downcast)

void free_node(UrcuTree::Node* node) {
  if (node->leaf) {
    const std::unique_ptr<Leaf> owner(&leaf_of(node));
  } else {
    const std::unique_ptr<Inner> owner(&inner_of(node));
  }
}

void free_chain(UrcuTree::Node* node) {
  while (node != nullptr) free_node(std::exchange(node, node->link));
}

void free_tree(UrcuTree::Node* node) {
  if (!node->leaf) {
    for (std::size_t i = 0; i < node->count; ++i) free_tree(inner_of(node).children[i]);
  }
  free_node(node);
}

template <typename Array, typename Value>
void put_at(Array& array, std::size_t count, std::size_t at, Value value) {
  std::copy_backward(array.begin() + at, array.begin() + count, array.begin() + count + 1);
  array[at] = value;
}

template <typename Array>
void take_from(Array& array, std::size_t count, std::size_t at) {
  std::copy(array.begin() + at + 1, array.begin() + count, array.begin() + at);
}

void put_entry(Leaf& leaf, std::size_t at, std::uint64_t start, std::uint64_t end) {
  put_at(leaf.starts, leaf.count, at, start);
  put_at(leaf.ends, leaf.count, at, end);
  put_at(leaf.values, leaf.count, at, nullptr);
  ++leaf.count;
}

void put_child(Inner& inner, std::size_t at, std::uint64_t first, UrcuTree::Node* child) {
  put_at(inner.firsts, inner.count, at, first);
  put_at(inner.children, inner.count, at, child);
  ++inner.count;
}

std::uint64_t first_of(UrcuTree::Node* node) {
  return node->leaf ? leaf_of(node).starts[0] : inner_of(node).firsts[0];
}

// Moves the upper half of a full node to a new one on its right.
Leaf* split(Leaf& leaf) {
  auto right = std::make_unique<Leaf>();
  constexpr std::size_t kHalf = kLeaf / 2;
  std::copy(leaf.starts.begin() + kHalf, leaf.starts.end(), right->starts.begin());
  std::copy(leaf.ends.begin() + kHalf, leaf.ends.end(), right->ends.begin());
  std::copy(leaf.values.begin() + kHalf, leaf.values.end(), right->values.begin());
  std::fill(leaf.starts.begin() + kHalf, leaf.starts.end(), UINT64_MAX);
  leaf.count = right->count = kHalf;
  return right.release();
}

Inner* split(Inner& inner) {
  auto right = std::make_unique<Inner>();
  constexpr std::size_t kHalf = kInner / 2;
  std::copy(inner.firsts.begin() + kHalf, inner.firsts.end(), right->firsts.begin());
  std::copy(inner.children.begin() + kHalf, inner.children.end(), right->children.begin());
  std::fill(inner.firsts.begin() + kHalf, inner.firsts.end(), UINT64_MAX);
  inner.count = right->count = kHalf;
  return right.release();
}

std::size_t child_for(const Inner& inner, std::uint64_t at) {
  const std::size_t upto = UrcuTree::Node::upto(inner.firsts, at);
  return upto == 0 ? 0 : upto - 1;
}

}  // namespace

UrcuTree::Reader::Reader() {
  urcu_memb_register_thread();
}
UrcuTree::Reader::~Reader() {
  urcu_memb_unregister_thread();
}

UrcuTree::UrcuTree() : root_(std::make_unique<Leaf>().release()) {}

UrcuTree::~UrcuTree() {
  urcu_memb_barrier();
  free_tree(root_);
}

std::uint64_t UrcuTree::find_end(std::uint64_t at) const {
  urcu_memb_read_lock();
  Node* node = rcu_dereference(root_);
  std::uint64_t end = 0;
  while (!node->leaf) {
    Inner& inner = inner_of(node);
    const std::size_t upto = Node::upto(inner.firsts, at);
    node = inner.children[upto == 0 ? 0 : upto - 1];
  }
  const Leaf& leaf = leaf_of(node);
  const std::size_t upto = Node::upto(leaf.starts, at);
  if (upto != 0 && leaf.ends[upto - 1] > at) end = leaf.ends[upto - 1];
  urcu_memb_read_unlock();
  return end;
}

UrcuTree::Node* UrcuTree::copy(const Node& node) {
  Node* fresh = nullptr;
  if (node.leaf) {
    fresh = std::make_unique<Leaf>(leaf_of(node)).release();
  } else {
    fresh = std::make_unique<Inner>(inner_of(node)).release();
  }
  auto& old = const_cast<Node&>(node);
  old.link = std::exchange(replaced_, &old);
  return fresh;
}

// One callback for all that an update replaced, as Faultline has it.
void UrcuTree::publish(Node* root) {
  rcu_assign_pointer(root_, root);
  Node* const old = std::exchange(replaced_, nullptr);
  urcu_memb_call_rcu(&old->head, [](rcu_head* head) { free_chain(reinterpret_cast<Node*>(head)); });
}

UrcuTree::Node* UrcuTree::insert_into(Node* node, std::uint64_t start, std::uint64_t end,
                                      Node** sibling) {
  Node* const fresh = copy(*node);
  if (fresh->leaf) {
    Leaf* leaf = &leaf_of(fresh);
    if (leaf->count == kLeaf) {
      Leaf* const right = split(*leaf);
      *sibling = right;
      if (start >= right->starts[0]) leaf = right;
    }
    put_entry(*leaf, Node::upto(leaf->starts, start), start, end);
    return fresh;
  }
  Inner* inner = &inner_of(fresh);
  const std::size_t i = child_for(*inner, start);
  Node* more = nullptr;
  inner->children[i] = insert_into(inner->children[i], start, end, &more);
  inner->firsts[i] = first_of(inner->children[i]);
  if (more == nullptr) return fresh;
  const std::uint64_t first = first_of(more);
  if (inner->count == kInner) {
    Inner* const right = split(*inner);
    *sibling = right;
    if (first >= right->firsts[0]) inner = right;
  }
  put_child(*inner, Node::upto(inner->firsts, first), first, more);
  return fresh;
}

void UrcuTree::insert(std::uint64_t start, std::uint64_t end) {
  Node* sibling = nullptr;
  Node* root = insert_into(root_, start, end, &sibling);
  if (sibling != nullptr) {
    auto grown = std::make_unique<Inner>();
    put_child(*grown, 0, first_of(root), root);
    put_child(*grown, 1, first_of(sibling), sibling);
    root = grown.release();
  }
  publish(root);
}

// Null where nothing is left of the node.
UrcuTree::Node* UrcuTree::erase_from(Node* node, std::uint64_t start) {
  Node* const fresh = copy(*node);
  if (fresh->leaf) {
    Leaf& leaf = leaf_of(fresh);
    const std::size_t at = Node::upto(leaf.starts, start) - 1;
    take_from(leaf.starts, leaf.count, at);
    take_from(leaf.ends, leaf.count, at);
    take_from(leaf.values, leaf.count, at);
    leaf.starts[--leaf.count] = UINT64_MAX;
  } else {
    Inner& inner = inner_of(fresh);
    const std::size_t i = child_for(inner, start);
    Node* const child = erase_from(inner.children[i], start);
    if (child != nullptr) {
      inner.children[i] = child;
      inner.firsts[i] = first_of(child);
    } else {
      take_from(inner.firsts, inner.count, i);
      take_from(inner.children, inner.count, i);
      inner.firsts[--inner.count] = UINT64_MAX;
    }
  }
  if (fresh->count != 0) return fresh;
  free_node(fresh);
  return nullptr;
}

void UrcuTree::erase(std::uint64_t start) {
  Node* const root = erase_from(root_, start);
  publish(root != nullptr ? root : std::make_unique<Leaf>().release());
}

}  // namespace faultline::bench
