#include "daemon/space/vma_activity.hpp"

#include <algorithm>
#include <utility>

namespace faultline::space {

namespace {
constexpr PageCount kLookAhead{32'768};
}

template <typename Visit>
void VmaActivity::each_broken_locked(PageIndex first, PageCount count, Visit visit) const {
  PageIndex at = first;
  const PageIndex end = first + count;
  while (at < end) {
    // Blocks of bits that are not set are counted in one step.
    const PageCount rest = std::min(end - at, kLookAhead);
    if (broken_->count(at, rest) == PageCount{0}) {
      at = at + rest;
      continue;
    }
    for (const PageIndex stop = at + rest; at < stop; at = at + PageCount{1}) {
      if (broken_->contains(at)) visit(at);
    }
  }
}

Result<std::shared_ptr<VmaActivity>> VmaActivity::clone() const {
  auto copy = without_breaks();
  const std::lock_guard lock(mutex_);
  if (broken_) {
    auto broken = broken_->clone();
    if (!broken) return propagate(broken);
    copy->broken_ = std::move(*broken);
    if (identities_) {
      auto ids = FrameIds::create(first_, size_);
      if (!ids) return propagate(ids);
      auto guarded = identities_->guarded.clone();
      if (!guarded) return propagate(guarded);
      each_broken_locked(first_, size_, [&](PageIndex page) {
        const std::uint64_t entry = identities_->ids.entry(page);
        const bool shared = identities_->guarded.contains(page);
        ids->set_entry(page,
                       shared ? entry : new_frame_id().value() | (entry & wire::kFrameUnsure));
      });
      copy->identities_ = Identities{std::move(*ids), std::move(*guarded)};
    }
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
  return std::make_shared<VmaActivity>(first_, size_, by_page_);
}

Status VmaActivity::prepare_breaks() {
  // Relaxed: who uses the set takes the lock, and the store was made under it.
  if (prepared_.load(std::memory_order_relaxed)) return {};
  const std::lock_guard lock(mutex_);
  if (broken_) return {};
  auto set = PageSet::create(first_, size_);
  if (!set) return propagate(set);
  if (by_page()) {
    auto ids = FrameIds::create(first_, size_);
    if (!ids) return propagate(ids);
    auto guarded = PageSet::create(first_, size_);
    if (!guarded) return propagate(guarded);
    identities_ = Identities{std::move(*ids), std::move(*guarded)};
  }
  broken_ = std::move(*set);
  prepared_.store(true, std::memory_order_relaxed);
  return {};
}

PageCount VmaActivity::record_break(PageIndex first, PageCount count) {
  const std::lock_guard lock(mutex_);
  if (identities_) {
    for (PageIndex page = first; page < first + count; page = page + PageCount{1}) {
      const bool shared = identities_->guarded.erase(page, PageCount{1}) > PageCount{0};
      if (shared || !broken_->contains(page)) {
        identities_->ids.set_entry(page, new_frame_id().value() | wire::kFrameUnsure);
      }
    }
  }
  return broken_->insert(first, count);
}

FrameId VmaActivity::identity(PageIndex page) const {
  const std::lock_guard lock(mutex_);
  if (!identities_ || !broken_->contains(page)) return FrameId{};
  return identities_->ids.get(page);
}

std::vector<VmaActivity::Run> VmaActivity::guard(PageIndex first, PageCount count) {
  std::vector<Run> runs;
  const std::lock_guard lock(mutex_);
  if (!identities_) return runs;
  each_broken_locked(first, count, [&](PageIndex page) {
    if (identities_->guarded.insert(page, PageCount{1}) == PageCount{0}) return;
    identities_->ids.set_entry(page, identities_->ids.entry(page) | wire::kFrameGuarded);
    if (!runs.empty() && runs.back().first + runs.back().count == page) {
      runs.back().count = runs.back().count + PageCount{1};
    } else {
      runs.push_back({page, PageCount{1}});
    }
  });
  return runs;
}

void VmaActivity::unguard(const Run& run) {
  const std::lock_guard lock(mutex_);
  if (!identities_) return;
  identities_->guarded.erase(run.first, run.count);
  for (PageIndex page = run.first; page < run.first + run.count; page = page + PageCount{1}) {
    identities_->ids.set_entry(page, identities_->ids.entry(page) & ~wire::kFrameGuarded);
  }
}

void VmaActivity::forget_break(PageIndex first, PageCount count) {
  const std::lock_guard lock(mutex_);
  if (!broken_) return;
  if (identities_) {
    each_broken_locked(first, count,
                       [&](PageIndex page) { identities_->ids.set(page, FrameId{}); });
    identities_->guarded.erase(first, count);
  }
  broken_->erase(first, count);
}

Result<UniqueFd> VmaActivity::publish() {
  if (auto prepared = prepare_breaks(); !prepared) return propagate(prepared);
  const std::lock_guard lock(mutex_);
  if (published_.load(std::memory_order_relaxed)) {
    return fail(EEXIST, "publishing the frames of a mapping once more");
  }
  auto made = FrameIds::create_published(first_, size_);
  if (!made) return propagate(made);
  if (identities_) {
    each_broken_locked(first_, size_, [&](PageIndex page) {
      made->ids.set_entry(page, identities_->ids.entry(page));
    });
    identities_->ids = std::move(made->ids);
  } else {
    auto guarded = PageSet::create(first_, size_);
    if (!guarded) return propagate(guarded);
    each_broken_locked(first_, size_, [&](PageIndex page) {
      made->ids.set_entry(page, new_frame_id().value() | wire::kFrameUnsure);
    });
    identities_ = Identities{std::move(made->ids), std::move(*guarded)};
  }
  published_.store(true, std::memory_order_release);
  return std::move(made->fd);
}

void VmaActivity::settle(PageIndex first, PageCount count) {
  const std::lock_guard lock(mutex_);
  if (!identities_) return;
  each_broken_locked(first, count, [&](PageIndex page) {
    identities_->ids.set_entry(page, identities_->ids.entry(page) & ~wire::kFrameUnsure);
  });
}

PageCount VmaActivity::broken(PageIndex first, PageCount count) const {
  const std::lock_guard lock(mutex_);
  return broken_ ? broken_->count(first, count) : PageCount{0};
}

}  // namespace faultline::space
