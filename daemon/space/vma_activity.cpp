#include "daemon/space/vma_activity.hpp"

#include <utility>

namespace faultline::space {

Result<std::shared_ptr<VmaActivity>> VmaActivity::clone() const {
  auto copy = without_breaks();
  const std::lock_guard lock(mutex_);
  if (broken_) {
    auto broken = broken_->clone();
    if (!broken) return propagate(broken);
    copy->broken_ = std::move(*broken);
    copy->prepared_.store(true, std::memory_order_relaxed);  // nobody else has the copy yet
  }
  return copy;
}

FaultAround::Window VmaActivity::window(PageIndex page, AccessKind kind, Advice advice) {
  if (advice == Advice::random) return FaultAround::window_at_random();
  const std::lock_guard lock(mutex_);
  return fault_around_.window(page, kind, advice);
}

void VmaActivity::installed(const FaultAround::Window& window, PageIndex page, PageCount count,
                            PageCount ahead) {
  if (!window.in_stream()) return;  // one page, and none ahead
  const std::lock_guard lock(mutex_);
  fault_around_.installed(window, page, count, ahead);
}

std::uint64_t VmaActivity::unused_ahead() const {
  const std::lock_guard lock(mutex_);
  return fault_around_.unused_ahead();
}

std::shared_ptr<VmaActivity> VmaActivity::without_breaks() const {
  return std::make_shared<VmaActivity>(first_, size_);
}

Status VmaActivity::prepare_breaks() {
  // Relaxed: who uses the set takes the lock, and the store was made under it.
  if (prepared_.load(std::memory_order_relaxed)) return {};
  const std::lock_guard lock(mutex_);
  if (broken_) return {};
  auto set = PageSet::create(first_, size_);
  if (!set) return propagate(set);
  broken_ = std::move(*set);
  prepared_.store(true, std::memory_order_relaxed);
  return {};
}

PageCount VmaActivity::record_break(PageIndex first, PageCount count) {
  const std::lock_guard lock(mutex_);
  return broken_->insert(first, count);
}

void VmaActivity::forget_break(PageIndex first, PageCount count) {
  const std::lock_guard lock(mutex_);
  if (broken_) broken_->erase(first, count);
}

PageCount VmaActivity::broken(PageIndex first, PageCount count) const {
  const std::lock_guard lock(mutex_);
  return broken_ ? broken_->count(first, count) : PageCount{0};
}

}  // namespace faultline::space
