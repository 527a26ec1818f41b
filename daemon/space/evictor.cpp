#include "daemon/space/evictor.hpp"

#include <cassert>

namespace faultline::space {

using memory::Eviction;
using memory::EvictionCounts;

bool Evictor::enter() {
  const std::lock_guard lock(mutex_);
  if (stopping_) return false;
  ++under_way_;
  return true;
}

void Evictor::leave(const EvictionCounts& counts) {
  const std::lock_guard lock(mutex_);
  totals_ += counts;
  if (--under_way_ == 0) left_.notify_all();
}

bool Evictor::stop(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  return left_.wait_until(lock, deadline, [this] { return under_way_ == 0; });
}

bool Evictor::stopped() const {
  const std::lock_guard lock(mutex_);
  return stopping_;
}

EvictionCounts Evictor::totals() const {
  const std::lock_guard lock(mutex_);
  return totals_;
}

EvictionCounts Evictor::evict(const std::shared_ptr<memory::MemoryObject>& object, PageIndex first,
                              PageCount count, memory::WhichPages which) {
  assert(count <= kBatch);
  EvictionCounts counts;
  if (!enter()) return counts;
  if (const auto eviction = Eviction::begin(object, first, count, which, counts)) {
    // Pairs with who holds a page: it publishes that, and then looks whether it is evicting.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (holds_ != nullptr) {
      holds_->held(*object, first, count, [&](PageIndex page, PageCount held) {
        eviction->keep(page, held, &EvictionCounts::pinned);
      });
    }
    const auto deadline = std::chrono::steady_clock::now() + kProtectWithin;
    if (eviction->empty() || spaces_.stop_stores(object, eviction->runs(), deadline)) {
      eviction->take_out();
    } else {
      eviction->keep_all(&EvictionCounts::busy);
    }
  }
  leave(counts);
  return counts;
}

}  // namespace faultline::space
