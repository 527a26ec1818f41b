#include "daemon/wait/unqueued_waits.hpp"

#include <algorithm>
#include <cerrno>
#include <future>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "daemon/wait/brokered_wait.hpp"

namespace faultline::wait {

bool UnqueuedWaits::enter(BrokeredWait& wait, PageIndex page) {
  wait.object->watch(*this);
  const Key key{wait.object->id(), page};
  {
    const std::lock_guard lock(mutex_);
    waits_[key].push_back(&wait);
    wait.page_comes = false;
  }
  // Pairs with the fence in MemoryObject between a page's leaving the state absent and the look at
  // who watches.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (stays(wait.offset)) return true;
  if (wait.object->pages().in_no_memory(page)) return true;
  return !leave(wait);  // otherwise whoever made the page resident has it
}

bool UnqueuedWaits::leave(BrokeredWait& wait) {
  const std::lock_guard lock(mutex_);
  const auto at =
      waits_.find({wait.object->id(), wait.object->page_size().index_of(ByteCount{wait.offset})});
  if (at == waits_.end()) return false;
  const auto there = std::ranges::find(at->second, &wait);
  if (there == at->second.end()) return false;
  at->second.erase(there);
  if (at->second.empty()) waits_.erase(at);
  return true;
}

int UnqueuedWaits::wake(const memory::MemoryObject& object, std::uint64_t offset, int count,
                        std::uint32_t mask) {
  const PageIndex page = object.page_size().index_of(ByteCount{offset});
  const std::lock_guard lock(mutex_);
  const auto at = waits_.find({object.id(), page});
  if (at == waits_.end()) return 0;
  int woken = 0;
  for (auto wait = at->second.begin(); wait != at->second.end() && woken < count;) {
    if ((*wait)->offset != offset || ((*wait)->mask & mask) == 0) {
      ++wait;
      continue;
    }
    ++woken;
    // It lives until its keeper has read this: it is over only then.
    (*wait)->client->keeper->post(
        [found = *wait] { found->client->keeper->woken_unqueued(*found); });
    wait = at->second.erase(wait);
  }
  if (at->second.empty()) waits_.erase(at);
  return woken;
}

Result<int> UnqueuedWaits::wake_at_object(memory::MemoryObject& object, ByteCount offset, int count,
                                          std::uint32_t mask, const std::function<void()>& again) {
  const PageIndex page = object.page_size().index_of(offset);
  const memory::PageState state = object.pages().state(page);
  // Of a page that was never in memory nobody is in the kernel's queue; nor can one be brought back
  // that its file no longer supplies.
  const bool in_queue = !stays(offset.value()) && state != memory::PageState::absent &&
                        state != memory::PageState::poisoned;
  if (in_queue && object.may_wait() && !object.peek(offset)) {
    object.bring_back(page, again);
    return fail(EBUSY, "waking at a word whose page is not in memory");
  }
  const int away = wake(object, offset.value(), count, mask);
  if (away == count || !in_queue) return away;
  const int woken = kernel::futex_wake_shared(*object.word(offset), count - away, mask);
  if (woken == -EFAULT && object.may_wait()) {
    // It went in this moment. Those who wait are woken a moment later, and not counted.
    hand_on(object.shared_from_this(), offset, count - away, mask);
  }
  return away + std::max(woken, 0);
}

void UnqueuedWaits::hand_on(const std::shared_ptr<memory::MemoryObject>& object, ByteCount offset,
                            int count, std::uint32_t mask) {
  (void)wake_at_object(*object, offset, count, mask, [this, object, offset, count, mask] {
    hand_on(object, offset, count, mask);
  });
}

bool UnqueuedWaits::comes(const BrokeredWait& wait) const {
  const std::lock_guard lock(mutex_);
  return wait.page_comes;
}

void UnqueuedWaits::pages_come(memory::MemoryObject& object, PageIndex first, PageCount count) {
  // By their numbers: one whose word moves meanwhile may be over before its keeper reads this.
  using Numbers = std::vector<std::pair<std::shared_ptr<Client>, std::uint32_t>>;
  std::map<WaitKeeper*, Numbers> of_keepers;
  std::vector<std::shared_future<void>> others;
  std::promise<void> all;
  auto mine = coming_.end();
  {
    const std::lock_guard lock(mutex_);
    for (const Coming& other : coming_) {
      if (other.object == object.id() && other.first < first + count &&
          first < other.first + other.count) {
        others.push_back(other.queued);
      }
    }
    auto at = waits_.lower_bound({object.id(), first});
    while (at != waits_.end() && at->first < Key{object.id(), first + count}) {
      std::erase_if(at->second, [&](BrokeredWait* wait) {
        if (stays(wait->offset)) return false;
        wait->page_comes = true;
        of_keepers[wait->client->keeper].emplace_back(wait->client, wait->id);
        return true;
      });
      at = at->second.empty() ? waits_.erase(at) : std::next(at);
    }
    if (!of_keepers.empty()) {
      mine = coming_.insert(coming_.end(), {object.id(), first, count, all.get_future().share()});
    }
  }
  std::vector<std::future<void>> queued;
  for (auto& [keeper, waits] : of_keepers) {
    auto done = std::make_shared<std::promise<void>>();
    auto future = done->get_future();
    const bool posted = keeper->post([keeper = keeper, waits = std::move(waits), done] {
      for (const auto& [client, id] : waits) keeper->page_came(*client, id);
      keeper->submit();
      done->set_value();
    });
    if (posted) queued.push_back(std::move(future));
  }
  for (const auto& each : queued) each.wait();
  if (!of_keepers.empty()) {
    all.set_value();
    const std::lock_guard lock(mutex_);
    coming_.erase(mine);
  }
  for (const auto& other : others) other.wait();
}

}  // namespace faultline::wait
