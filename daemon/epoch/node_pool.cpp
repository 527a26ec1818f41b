#include "daemon/epoch/node_pool.hpp"

#include <cassert>
#include <memory>
#include <utility>

namespace faultline::epoch::detail {

NodePool::~NodePool() {
  absorb();
  free_chain(free_leaves_);
  free_chain(free_inners_);
  while (free_batches_ != nullptr) free(std::exchange(free_batches_, free_batches_->link));
}

template <typename T>
T* NodePool::allocate() {
  void* const memory = memory_.allocate(sizeof(T), alignof(T));
  bytes_.fetch_add(sizeof(T), std::memory_order_relaxed);
  return std::construct_at(static_cast<T*>(memory));
}

template <typename T>
void NodePool::free(T* object) noexcept {
  object->~T();
  memory_.deallocate(object, sizeof(T), alignof(T));
  bytes_.fetch_sub(sizeof(T), std::memory_order_relaxed);
}

void NodePool::free_node(Node* node) noexcept {
  if (node->level == 0) {
    free(&as_leaf(node));
  } else {
    free(&as_inner(node));
  }
}

void NodePool::free_chain(Node* chain) noexcept {
  while (chain != nullptr) free_node(std::exchange(chain, tail_of(chain).link));
}

void NodePool::reserve(std::size_t leaves, std::size_t inners) {
  if (leaves_ < leaves || inners_ < inners || free_batches_ == nullptr) absorb();
  for (; leaves_ < leaves; ++leaves_) {
    auto* const leaf = allocate<Leaf>();
    leaf->tail.link = std::exchange(free_leaves_, leaf);
  }
  for (; inners_ < inners; ++inners_) {
    auto* const inner = allocate<Inner>();
    inner->level = 1;
    inner->tail.link = std::exchange(free_inners_, inner);
  }
  if (free_batches_ == nullptr) free_batches_ = allocate<Batch>();
}

void NodePool::put(Node* node) noexcept {
  --used_;
  keep(node);
}

void NodePool::keep(Node* node) noexcept {
  const bool leaf = node->level == 0;
  std::size_t& count = leaf ? leaves_ : inners_;
  if (count >= keep_.load(std::memory_order_relaxed)) return free_node(node);
  ++count;
  tail_of(node).link = std::exchange(leaf ? free_leaves_ : free_inners_, node);
}

Leaf* NodePool::take_leaf() noexcept {
  assert(leaves_ != 0 && "reserve() comes first");
  --leaves_;
  ++used_;
  return &as_leaf(std::exchange(free_leaves_, tail_of(free_leaves_).link));
}

Inner* NodePool::take_inner() noexcept {
  assert(inners_ != 0 && "reserve() comes first");
  --inners_;
  ++used_;
  return &as_inner(std::exchange(free_inners_, tail_of(free_inners_).link));
}

void NodePool::free_tree(Node* root) noexcept {
  if (root->level != 0) {
    const Inner& inner = as_inner(root);
    for (std::size_t i = 0; i < inner.count; ++i) free_tree(inner.children[i]);
  }
  free_node(root);
}

void NodePool::retire(Domain& domain, Node* chain, std::size_t count) noexcept {
  assert(free_batches_ != nullptr && "reserve() comes first");
  Batch* const batch = std::exchange(free_batches_, free_batches_->link);
  batch->nodes = chain;
  batch->count = count;
  used_ -= count;
  keep_.store(kKeepLeast + used_ / kKeepShare, std::memory_order_relaxed);
  batch->pool = shared_from_this();
  batch->run = come_back;
  domain.retire(*batch);
}

// On the reclaimer's thread.
void NodePool::come_back(Domain::Callback& callback) noexcept {
  auto& batch = callback.owner<Batch>();
  const std::shared_ptr<NodePool> pool = std::move(batch.pool);
  pool->give_back(batch);
}

void NodePool::give_back(Batch& batch) noexcept {
  if (returned_nodes_.load(std::memory_order_relaxed) >= keep_.load(std::memory_order_relaxed)) {
    free_chain(batch.nodes);
    free(&batch);
    return;
  }
  returned_nodes_.fetch_add(batch.count, std::memory_order_relaxed);
  batch.link = returned_.load(std::memory_order_relaxed);
  while (!returned_.compare_exchange_weak(batch.link, &batch, std::memory_order_release,
                                          std::memory_order_relaxed)) {
  }
}

void NodePool::absorb() noexcept {
  Batch* batch = returned_.exchange(nullptr, std::memory_order_acquire);
  if (batch == nullptr) return;
  returned_nodes_.store(0, std::memory_order_relaxed);
  while (batch != nullptr) {
    Node* node = std::exchange(batch->nodes, nullptr);
    while (node != nullptr) keep(std::exchange(node, tail_of(node).link));
    Batch* const next = batch->link;
    batch->link = std::exchange(free_batches_, batch);
    batch = next;
  }
}

}  // namespace faultline::epoch::detail
