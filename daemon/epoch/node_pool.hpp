// Memory of a tree's nodes, used again. Must never give out a node that a reader can still see:
// what was retired comes back through the domain's callback.
//
// Locking: none. One writer takes and puts; retired chains come back on the reclaimer's thread,
// through one atomic word.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <memory_resource>

#include "daemon/epoch/domain.hpp"
#include "daemon/epoch/interval_node.hpp"

namespace faultline::epoch::detail {

class NodePool : public std::enable_shared_from_this<NodePool> {
 public:
  // How many free nodes are kept, of a kind and on their way back: so many, and one for so many in
  // use. Those beyond go back to the resource.
  static constexpr std::size_t kKeepLeast = 256;
  static constexpr std::size_t kKeepShare = 32;

  explicit NodePool(std::pmr::memory_resource& memory) : memory_(memory) {}
  NodePool(const NodePool&) = delete;
  NodePool& operator=(const NodePool&) = delete;
  ~NodePool();

  // What one update replaced: its nodes come back when the callback runs. Holds the pool.
  struct Batch : Domain::Callback {
    Node* nodes = nullptr;
    std::size_t count = 0;
    Batch* link = nullptr;
    std::shared_ptr<NodePool> pool;
  };

  // The writer's:
  // Room for so many nodes and a batch, so that taking them cannot fail. Throws std::bad_alloc, and
  // nothing is lost.
  void reserve(std::size_t leaves, std::size_t inners);
  Leaf* take_leaf() noexcept;
  Inner* take_inner() noexcept;
  void put(Node* node) noexcept;        // one that no reader has seen
  void free_tree(Node* root) noexcept;  // that no reader sees any more
  // Has the chain come back after a grace period. After what replaces it was published.
  void retire(Domain& domain, Node* chain, std::size_t count) noexcept;

  // All that was allocated and not given back: nodes in use, waiting for readers, and free.
  [[nodiscard]] std::size_t memory_bytes() const noexcept {
    return bytes_.load(std::memory_order_relaxed);
  }

 private:
  static void come_back(Domain::Callback& callback) noexcept;
  void give_back(Batch& batch) noexcept;
  void absorb() noexcept;
  void keep(Node* node) noexcept;
  template <typename T>
  T* allocate();
  template <typename T>
  void free(T* object) noexcept;
  void free_node(Node* node) noexcept;
  void free_chain(Node* chain) noexcept;

  std::pmr::memory_resource& memory_;
  std::atomic<std::size_t> bytes_{0};
  std::atomic<Batch*> returned_{nullptr};  // pushed by the reclaimer, taken whole by the writer
  std::atomic<std::size_t> returned_nodes_{0};
  std::atomic<std::size_t> keep_{kKeepLeast};
  // The writer's:
  Node* free_leaves_ = nullptr;
  Node* free_inners_ = nullptr;
  Batch* free_batches_ = nullptr;
  std::size_t used_ = 0;  // nodes in the tree, and in the update that is being made
  std::size_t leaves_ = 0;
  std::size_t inners_ = 0;
};

}  // namespace faultline::epoch::detail
