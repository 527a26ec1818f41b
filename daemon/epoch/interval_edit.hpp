// One transaction on an interval tree: nodes that readers may see are copied, nodes that it made
// itself are changed in place. Must never change, or give back, a node that was published.
//
// Life of an edit:
//   1. It begins with the published root.
//   2. Each change first reserves the nodes that it can need at most, which may throw. What follows
//      cannot fail, so that the edit is whole between changes. Replaced nodes gather in a chain.
//   3. commit() publishes the root with one release store, then retires the chain: never before, or
//      a reader could find a node after the grace period for it had begun.
//   4. Destroyed without a commit, it gives back the nodes that it made, and nothing happened.
//
// Locking: the tree's writers are serialised by their caller.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "daemon/epoch/domain.hpp"
#include "daemon/epoch/interval_node.hpp"
#include "daemon/epoch/interval_view.hpp"
#include "daemon/epoch/node_pool.hpp"

namespace faultline::epoch::detail {

// What a tree is: the published root, and what its writers keep.
struct RawTree {
  RawTree(Domain& in, std::pmr::memory_resource& memory)
      : domain(in), pool(std::make_shared<NodePool>(memory)) {}
  RawTree(const RawTree&) = delete;
  RawTree& operator=(const RawTree&) = delete;
  ~RawTree();  // nobody reads any more

  Domain& domain;
  std::atomic<Node*> root{nullptr};
  std::shared_ptr<NodePool> pool;
  std::uint64_t last_update = 0;
  bool updating = false;
};

class IntervalEdit {
 public:
  explicit IntervalEdit(RawTree& tree);
  IntervalEdit(const IntervalEdit&) = delete;
  IntervalEdit& operator=(const IntervalEdit&) = delete;
  ~IntervalEdit();

  [[nodiscard]] RawView view() const { return RawView{root_}; }

  // Each of these either happens or throws std::bad_alloc and changes nothing.
  void insert(const RawEntry& entry);
  void erase(std::uint64_t start);  // an interval begins there
  // The interval that begins at `start` becomes `entry`, which lies within the same two neighbours.
  void change(std::uint64_t start, const RawEntry& entry);
  // Room for `changes` of the above in a row, which then cannot fail.
  void reserve(std::size_t changes);
  void assign(std::size_t count, const std::function<RawEntry(std::size_t)>& entry);
  void clear() noexcept;

  void commit() noexcept;

 private:
  struct Inserted {
    Node* node;
    Node* sibling;  // what did not fit, to its right; or null
  };

  Leaf* make_leaf() noexcept;
  Inner* make_inner(std::uint16_t level) noexcept;
  template <typename T>
  T* own(Node* node) noexcept;
  void drop(Node* node) noexcept;
  void drop_all(Node* node) noexcept;
  void free_made(Node* node) noexcept;
  [[nodiscard]] bool made(Node* node) const { return tail_of(node).update == update_; }

  Inserted insert_into(Node* node, const RawEntry& entry) noexcept;
  Node* insert_into_leaf(Leaf& leaf, const RawEntry& entry) noexcept;
  Node* insert_child(Inner& inner, std::size_t at, Node* child) noexcept;
  Node* erase_from(Node* node, std::uint64_t start) noexcept;
  Node* change_in(Node* node, std::uint64_t start, const RawEntry& entry) noexcept;
  void refill(Inner& parent, std::size_t child) noexcept;
  template <typename T>
  void level_out(Inner& parent, std::size_t left) noexcept;
  void set_root(Node* root, std::size_t entries) noexcept;

  RawTree& tree_;
  const std::uint64_t update_;
  Node* root_;
  Node* replaced_ = nullptr;
  std::size_t replaced_count_ = 0;
  bool committed_ = false;
};

}  // namespace faultline::epoch::detail
