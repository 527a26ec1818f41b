#include "daemon/space/event_feed.hpp"

#include <algorithm>

namespace faultline::space {

bool EventFilter::lets_through(const EventOutline& event) const {
  if ((kinds & wire::bit_of(event.kind)) == 0) return false;
  if (only_of && *only_of != event.uid) return false;
  if (pid != 0 && pid != event.pid) return false;
  if (!object && object_name.empty()) return true;
  if (event.object == ObjectId{}) return false;
  return object == event.object || (!object_name.empty() && object_name == event.object_name);
}

// One who watches. The feed's mutex guards what changes in it.
class EventFeed::Watcher {
 public:
  Watcher(uid_t uid, EventFilter filter, std::function<void()> on_ready)
      : uid_(uid), filter_(std::move(filter)), on_ready_(std::move(on_ready)), slots_(kBuffered) {}

  [[nodiscard]] uid_t uid() const { return uid_; }
  // Not under the mutex.
  void tell() const { on_ready_(); }

  [[nodiscard]] bool takes_locked(const EventOutline& event) const {
    return !full_ && filter_.lets_through(event);
  }
  void count_lost_locked(const EventOutline& event) {
    if (filter_.lets_through(event)) ++lost_;
  }

  // True where the watcher is to be told.
  bool put_locked(const SpaceEvent& event) {
    if (!filter_.lets_through(event.outline())) return false;
    if (full_) {
      ++lost_;
      return false;
    }
    slots_[(first_ + count_) % kBuffered] = Slot{event, std::exchange(lost_, 0)};
    ++count_;
    full_ = count_ == kBuffered;
    return std::exchange(idle_, false);
  }

  void take_locked(EventBatch& batch, std::size_t most) {
    if (count_ == 0) {
      batch.lost = std::exchange(lost_, 0);
      idle_ = batch.lost == 0;
      return;
    }
    batch.lost = slots_[first_].lost_before;
    do {
      batch.events.push_back(slots_[first_].event);
      first_ = (first_ + 1) % kBuffered;
      --count_;
    } while (count_ > 0 && batch.events.size() < most && slots_[first_].lost_before == 0);
    // Not sooner: one gap for a watcher that is too slow, not one a batch.
    if (count_ <= kBuffered / 2) full_ = false;
  }

 private:
  struct Slot {
    SpaceEvent event;
    std::uint64_t lost_before = 0;
  };

  const uid_t uid_;
  const EventFilter filter_;
  const std::function<void()> on_ready_;
  std::vector<Slot> slots_;  // a ring of kBuffered
  std::size_t first_ = 0;
  std::size_t count_ = 0;
  std::uint64_t lost_ = 0;  // since the last that was put
  bool full_ = false;
  bool idle_ = true;
};

bool EventFeed::taken_by_any(const EventOutline& event) {
  const std::lock_guard lock(mutex_);
  for (const auto& watcher : watchers_) {
    if (watcher->takes_locked(event)) return true;
  }
  for (const auto& watcher : watchers_) watcher->count_lost_locked(event);
  return false;
}

void EventFeed::publish(const SpaceEvent& event) {
  std::vector<std::shared_ptr<Watcher>> ready;  // seldom any: who reads is told only once
  {
    const std::lock_guard lock(mutex_);
    for (const auto& watcher : watchers_) {
      if (watcher->put_locked(event)) ready.push_back(watcher);
    }
  }
  for (const auto& watcher : ready) watcher->tell();
}

Result<EventFeed::Subscription> EventFeed::subscribe(uid_t watcher, EventFilter filter,
                                                     std::function<void()> on_ready) {
  auto made = std::make_shared<Watcher>(watcher, std::move(filter), std::move(on_ready));
  const std::lock_guard lock(mutex_);
  const auto others = std::count_if(watchers_.begin(), watchers_.end(),
                                    [&](const auto& other) { return other->uid() == watcher; });
  if (static_cast<std::size_t>(others) >= kMostWatchersOfUser) {
    return fail(EUSERS, "watching with more than " + std::to_string(kMostWatchersOfUser) +
                            " watchers of one user");
  }
  watchers_.push_back(made);
  watched_.store(true, std::memory_order_relaxed);
  return Subscription{*this, std::move(made)};
}

void EventFeed::end(const std::shared_ptr<Watcher>& watcher) {
  const std::lock_guard lock(mutex_);
  std::erase(watchers_, watcher);
  if (watchers_.empty()) watched_.store(false, std::memory_order_relaxed);
}

std::size_t EventFeed::watcher_count() const {
  const std::lock_guard lock(mutex_);
  return watchers_.size();
}

EventFeed::Subscription::~Subscription() {
  if (watcher_) feed_.end(watcher_);  // none: it was moved from
}

EventBatch EventFeed::Subscription::take(std::size_t most) {
  EventBatch batch;
  batch.events.reserve(std::min(most, kBuffered));
  const std::lock_guard lock(feed_.mutex_);
  watcher_->take_locked(batch, most);
  return batch;
}

}  // namespace faultline::space
