#include "daemon/epoch/interval_edit.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <type_traits>
#include <utility>

namespace faultline::epoch::detail {

namespace {

// How full assign() makes its nodes: some room, so that the next insert need not split.
constexpr std::size_t kLeafFill = Leaf::kMost - 2;
constexpr std::size_t kInnerFill = Inner::kMost - 4;

// `from`'s [begin, end) to `to`'s [at, ...), which may be the same and may overlap.
void move_items(const Leaf& from, std::size_t begin, std::size_t end, Leaf& to, std::size_t at) {
  const std::size_t bytes = (end - begin) * sizeof(std::uint64_t);
  std::memmove(&to.starts[at], &from.starts[begin], bytes);
  std::memmove(&to.ends[at], &from.ends[begin], bytes);
  std::memmove(&to.values[at], &from.values[begin], bytes);
}

void move_items(const Inner& from, std::size_t begin, std::size_t end, Inner& to, std::size_t at) {
  const std::size_t bytes = (end - begin) * sizeof(std::uint64_t);
  std::memmove(&to.firsts[at], &from.firsts[begin], bytes);
  std::memmove(&to.children[at], &from.children[begin], bytes);
  std::memmove(&to.lasts[at], &from.lasts[begin], bytes);
  std::memmove(&to.gaps[at], &from.gaps[begin], bytes);
}

std::array<std::uint64_t, Leaf::kMost>& keys(Leaf& leaf) {
  return leaf.starts;
}
std::array<std::uint64_t, Inner::kMost>& keys(Inner& inner) {
  return inner.firsts;
}

// Every key beyond the count is kNoKey.
template <typename T>
void set_count(T& node, std::size_t count) {
  for (std::size_t i = count; i < node.count; ++i) keys(node)[i] = kNoKey;
  node.count = static_cast<std::uint16_t>(count);
}

void put_entry(Leaf& leaf, std::size_t at, const RawEntry& entry) {
  leaf.starts[at] = entry.start;
  leaf.ends[at] = entry.end;
  leaf.values[at] = entry.value;
}

void put_child(Inner& inner, std::size_t at, Node* child) {
  inner.children[at] = child;
  std::uint64_t gap = 0;
  if (child->level == 0) {
    const Leaf& leaf = as_leaf(child);
    inner.firsts[at] = leaf.starts[0];
    inner.lasts[at] = leaf.ends[leaf.count - 1U];
    for (std::size_t i = 1; i < leaf.count; ++i) {
      gap = std::max(gap, leaf.starts[i] - leaf.ends[i - 1]);
    }
  } else {
    const Inner& below = as_inner(child);
    inner.firsts[at] = below.firsts[0];
    inner.lasts[at] = below.lasts[below.count - 1U];
    gap = below.gaps[0];
    for (std::size_t i = 1; i < below.count; ++i) {
      gap = std::max({gap, below.gaps[i], below.firsts[i] - below.lasts[i - 1]});
    }
  }
  inner.gaps[at] = gap;
}

// The child below which `at` is or would be.
std::size_t child_for(const Inner& inner, std::uint64_t at) {
  const std::size_t upto = count_upto(inner.firsts, at);
  return upto == 0 ? 0 : upto - 1;
}

template <typename T>
T& as(Node* node) {
  if constexpr (std::is_same_v<T, Leaf>) {
    return as_leaf(node);
  } else {
    return as_inner(node);
  }
}

std::size_t nodes_for(std::size_t items, std::size_t fill, std::size_t most) {
  return items <= most ? 1 : (items + fill - 1) / fill;
}

std::size_t least(const Node* node) {
  return node->level == 0 ? Leaf::kLeast : Inner::kLeast;
}

}  // namespace

RawTree::~RawTree() {
  assert(!updating && "an update outlives its tree");
  if (Node* const last = root.load(std::memory_order_relaxed)) pool->free_tree(last);
}

IntervalEdit::IntervalEdit(RawTree& tree)
    : tree_(tree), update_(++tree.last_update), root_(tree.root.load(std::memory_order_relaxed)) {
  assert(!tree.updating && "writers are serialised");
  tree_.pool->reserve(0, 0);
  tree_.updating = true;
}

IntervalEdit::~IntervalEdit() {
  tree_.updating = false;
  if (root_ != nullptr && root_ != tree_.root.load(std::memory_order_relaxed)) free_made(root_);
}

void IntervalEdit::commit() noexcept {
  assert(!committed_ && "one commit an update");
  committed_ = true;
  if (root_ == tree_.root.load(std::memory_order_relaxed)) return;
  assert(root_ == nullptr || made(root_));
  tree_.root.store(root_, std::memory_order_release);
  if (replaced_ != nullptr) {
    tree_.pool->retire(tree_.domain, std::exchange(replaced_, nullptr), replaced_count_);
  }
}

Leaf* IntervalEdit::make_leaf() noexcept {
  Leaf* const leaf = tree_.pool->take_leaf();
  leaf->tail.update = update_;
  leaf->count = Leaf::kMost;
  set_count(*leaf, 0);
  return leaf;
}

Inner* IntervalEdit::make_inner(std::uint16_t level) noexcept {
  Inner* const inner = tree_.pool->take_inner();
  inner->tail.update = update_;
  inner->level = level;
  inner->count = Inner::kMost;
  set_count(*inner, 0);
  return inner;
}

// The node itself where this edit made it, else a copy that replaces it.
template <typename T>
T* IntervalEdit::own(Node* node) noexcept {
  T* const old = &as<T>(node);
  if (made(old)) return old;
  T* copy = nullptr;
  if constexpr (std::is_same_v<T, Leaf>) {
    copy = tree_.pool->take_leaf();
  } else {
    copy = tree_.pool->take_inner();
  }
  *copy = *old;
  copy->tail.update = update_;
  drop(old);
  return copy;
}

// The tree that is being made has it no more.
void IntervalEdit::drop(Node* node) noexcept {
  if (made(node)) {
    tree_.pool->put(node);
  } else {
    tail_of(node).link = std::exchange(replaced_, node);
    ++replaced_count_;
  }
}

void IntervalEdit::drop_all(Node* node) noexcept {
  if (node->level != 0) {
    const Inner& inner = as_inner(node);
    for (std::size_t i = 0; i < inner.count; ++i) drop_all(inner.children[i]);
  }
  drop(node);
}

// Of the tree that is given up, what this edit made: a made node hangs from made nodes alone.
void IntervalEdit::free_made(Node* node) noexcept {
  if (!made(node)) return;
  if (node->level != 0) {
    const Inner& inner = as_inner(node);
    for (std::size_t i = 0; i < inner.count; ++i) free_made(inner.children[i]);
  }
  tree_.pool->put(node);
}

void IntervalEdit::set_root(Node* root, std::size_t entries) noexcept {
  root_ = root;
  if (root == nullptr) return;
  assert(made(root) && entries <= UINT32_MAX);
  root->entries = static_cast<std::uint32_t>(entries);
}

void IntervalEdit::reserve(std::size_t changes) {
  assert(!committed_ && "readers see its nodes now");
  // Each level is copied once, and splits or takes from a sibling; the root may grow by a level.
  const std::size_t levels = root_ == nullptr ? 0 : root_->level;
  tree_.pool->reserve(2 * changes, (2 * (levels + 1) + 1) * changes);
}

void IntervalEdit::insert(const RawEntry& entry) {
  assert(entry.start < entry.end);
  const std::size_t size = view().size();
  reserve(1);
  if (root_ == nullptr) {
    Leaf* const leaf = make_leaf();
    insert_into_leaf(*leaf, entry);
    return set_root(leaf, 1);
  }
  auto [root, sibling] = insert_into(root_, entry);
  if (sibling != nullptr) {
    Inner* const grown = make_inner(static_cast<std::uint16_t>(root->level + 1));
    insert_child(*grown, 0, root);
    insert_child(*grown, 1, sibling);
    root = grown;
  }
  set_root(root, size + 1);
}

IntervalEdit::Inserted IntervalEdit::insert_into(Node* node, const RawEntry& entry) noexcept {
  if (node->level == 0) {
    auto* const leaf = own<Leaf>(node);
    return {leaf, insert_into_leaf(*leaf, entry)};
  }
  auto* const inner = own<Inner>(node);
  const std::size_t i = child_for(*inner, entry.start);
  const auto [child, sibling] = insert_into(inner->children[i], entry);
  put_child(*inner, i, child);
  return {inner, sibling == nullptr ? nullptr : insert_child(*inner, i + 1, sibling)};
}

// Puts it into its place; returns the new right sibling where the leaf was full.
Node* IntervalEdit::insert_into_leaf(Leaf& leaf, const RawEntry& entry) noexcept {
  const std::size_t at = count_upto(leaf.starts, entry.start);
  assert(at == 0 || leaf.ends[at - 1] <= entry.start);
  assert(at == leaf.count || entry.end <= leaf.starts[at]);
  if (leaf.count < Leaf::kMost) {
    move_items(leaf, at, leaf.count, leaf, at + 1);
    ++leaf.count;
    put_entry(leaf, at, entry);
    return nullptr;
  }
  constexpr std::size_t kHalf = Leaf::kMost / 2;
  const bool to_left = at <= kHalf;
  const std::size_t from = to_left ? kHalf : kHalf + 1;  // both have as many in the end
  Leaf* const right = make_leaf();
  move_items(leaf, from, Leaf::kMost, *right, 0);
  right->count = static_cast<std::uint16_t>(Leaf::kMost - from);
  set_count(leaf, from);
  insert_into_leaf(to_left ? leaf : *right, entry);
  return right;
}

Node* IntervalEdit::insert_child(Inner& inner, std::size_t at, Node* child) noexcept {
  if (inner.count < Inner::kMost) {
    move_items(inner, at, inner.count, inner, at + 1);
    ++inner.count;
    put_child(inner, at, child);
    return nullptr;
  }
  constexpr std::size_t kHalf = Inner::kMost / 2;
  const bool to_left = at <= kHalf;
  const std::size_t from = to_left ? kHalf : kHalf + 1;
  Inner* const right = make_inner(inner.level);
  move_items(inner, from, Inner::kMost, *right, 0);
  right->count = static_cast<std::uint16_t>(Inner::kMost - from);
  set_count(inner, from);
  if (to_left) {
    insert_child(inner, at, child);
  } else {
    insert_child(*right, at - from, child);
  }
  return right;
}

void IntervalEdit::erase(std::uint64_t start) {
  const std::size_t size = view().size();
  reserve(1);
  Node* root = erase_from(root_, start);
  if (root->count == 0) {
    drop(root);
    root = nullptr;
  } else if (root->level != 0 && root->count == 1) {
    Node* const only = as_inner(root).children[0];
    drop(root);
    root = only;
  }
  set_root(root, size - 1);
}

Node* IntervalEdit::erase_from(Node* node, std::uint64_t start) noexcept {
  if (node->level == 0) {
    auto* const leaf = own<Leaf>(node);
    const std::size_t at = count_upto(leaf->starts, start) - 1;
    assert(leaf->starts[at] == start && "no interval begins there");
    move_items(*leaf, at + 1, leaf->count, *leaf, at);
    set_count(*leaf, leaf->count - 1U);
    return leaf;
  }
  auto* const inner = own<Inner>(node);
  const std::size_t i = child_for(*inner, start);
  Node* const child = erase_from(inner->children[i], start);
  inner->children[i] = child;
  if (child->count < least(child)) {
    refill(*inner, i);
  } else {
    put_child(*inner, i, child);
  }
  return inner;
}

// Makes a child that has too little one with a sibling, or evens the two out.
void IntervalEdit::refill(Inner& parent, std::size_t child) noexcept {
  const std::size_t left = child == 0 ? 0 : child - 1;
  if (parent.children[child]->level == 0) {
    level_out<Leaf>(parent, left);
  } else {
    level_out<Inner>(parent, left);
  }
}

template <typename T>
void IntervalEdit::level_out(Inner& parent, std::size_t left) noexcept {
  auto* const a = own<T>(parent.children[left]);
  const std::size_t total = a->count + std::size_t{parent.children[left + 1]->count};
  if (total <= T::kMost) {
    const T& b = as<T>(parent.children[left + 1]);
    move_items(b, 0, b.count, *a, a->count);
    a->count = static_cast<std::uint16_t>(total);
    put_child(parent, left, a);
    drop(parent.children[left + 1]);
    move_items(parent, left + 2, parent.count, parent, left + 1);
    set_count(parent, parent.count - 1U);
    return;
  }
  auto* const b = own<T>(parent.children[left + 1]);
  const std::size_t half = total / 2;
  if (a->count < half) {
    const std::size_t moved = half - a->count;
    move_items(*b, 0, moved, *a, a->count);
    move_items(*b, moved, b->count, *b, 0);
    a->count = static_cast<std::uint16_t>(half);
    set_count(*b, b->count - moved);
  } else {
    const std::size_t moved = a->count - half;
    move_items(*b, 0, b->count, *b, moved);
    move_items(*a, half, a->count, *b, 0);
    b->count = static_cast<std::uint16_t>(b->count + moved);
    set_count(*a, half);
  }
  put_child(parent, left, a);
  put_child(parent, left + 1, b);
}

void IntervalEdit::change(std::uint64_t start, const RawEntry& entry) {
  assert(entry.start < entry.end);
  const std::size_t size = view().size();
  reserve(1);
  set_root(change_in(root_, start, entry), size);
}

Node* IntervalEdit::change_in(Node* node, std::uint64_t start, const RawEntry& entry) noexcept {
  if (node->level == 0) {
    auto* const leaf = own<Leaf>(node);
    const std::size_t at = count_upto(leaf->starts, start) - 1;
    assert(leaf->starts[at] == start && "no interval begins there");
    assert(at == 0 || leaf->ends[at - 1] <= entry.start);
    assert(at + 1 == leaf->count || entry.end <= leaf->starts[at + 1]);
    put_entry(*leaf, at, entry);
    return leaf;
  }
  auto* const inner = own<Inner>(node);
  const std::size_t i = child_for(*inner, start);
  put_child(*inner, i, change_in(inner->children[i], start, entry));
  return inner;
}

void IntervalEdit::assign(std::size_t count, const std::function<RawEntry(std::size_t)>& entry) {
  assert(root_ == nullptr && "for an empty tree");
  if (count == 0) return;
  const std::size_t leaves = nodes_for(count, kLeafFill, Leaf::kMost);
  std::size_t inners = 0;
  for (std::size_t below = leaves; below > 1; inners += below) {
    below = nodes_for(below, kInnerFill, Inner::kMost);
  }
  std::vector<Node*> nodes(leaves);
  tree_.pool->reserve(leaves, inners);

  // Items are dealt out evenly, so that no node has too little.
  for (std::size_t i = 0; i < leaves; ++i) {
    Leaf* const leaf = make_leaf();
    for (std::size_t at = i * count / leaves; at < (i + 1) * count / leaves; ++at) {
      insert_into_leaf(*leaf, entry(at));
    }
    nodes[i] = leaf;
  }
  for (std::uint16_t level = 1; nodes.size() > 1; ++level) {
    const std::size_t above = nodes_for(nodes.size(), kInnerFill, Inner::kMost);
    for (std::size_t i = 0; i < above; ++i) {
      Inner* const inner = make_inner(level);
      for (std::size_t at = i * nodes.size() / above; at < (i + 1) * nodes.size() / above; ++at) {
        insert_child(*inner, inner->count, nodes[at]);
      }
      nodes[i] = inner;
    }
    nodes.resize(above);
  }
  set_root(nodes.front(), count);
}

void IntervalEdit::clear() noexcept {
  if (root_ != nullptr) drop_all(root_);
  root_ = nullptr;
}

}  // namespace faultline::epoch::detail
