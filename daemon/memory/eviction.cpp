#include "daemon/memory/eviction.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <utility>

namespace faultline::memory {

namespace {

constexpr PageCount kOnePage{1};

using Waiters = std::vector<std::pair<PageIndex, PageClaim::Waiter>>;

void tell_to_ask_again(const Waiters& waiters) {
  for (const auto& [page, waiter] : waiters) waiter(Supply::ready);
}

}  // namespace

EvictionCounts& EvictionCounts::operator+=(const EvictionCounts& other) {
  constexpr std::array kFields{&EvictionCounts::evicted,    &EvictionCounts::swapped,
                               &EvictionCounts::referenced, &EvictionCounts::pinned,
                               &EvictionCounts::dirty,      &EvictionCounts::busy,
                               &EvictionCounts::swap_full,  &EvictionCounts::failed};
  static_assert(sizeof(EvictionCounts) == kFields.size() * sizeof(std::uint64_t));
  for (const auto field : kFields) this->*field += other.*field;
  return *this;
}

Eviction::Eviction(std::shared_ptr<MemoryObject> object, PageIndex first, PageCount count,
                   EvictionCounts& counts)
    : PageClaim(first, count), object_(std::move(object)), counts_(counts) {}

std::unique_ptr<Eviction> Eviction::begin(const std::shared_ptr<MemoryObject>& object,
                                          PageIndex first, PageCount count, WhichPages which,
                                          EvictionCounts& counts) {
  PageTable& pages = object->pages_;
  // A private constructor.
  std::unique_ptr<Eviction> eviction{new Eviction(object, first, count, counts)};
  const std::lock_guard lock(object->claims_mutex_);
  const bool refused = object->eviction_ != nullptr || object->unserved_;
  for (PageIndex page = first; page < first + count; page = page + kOnePage) {
    if (pages.state(page) != PageState::resident) continue;
    if (which == WhichPages::cold && pages.referenced(page)) {
      ++counts.referenced;
    } else if (!object->swap_ && (!object->tracks_stores() || pages.dirty(page))) {
      ++counts.dirty;
    } else if (refused) {
      ++counts.busy;
    } else if (pages.begin_eviction(page)) {
      eviction->pages_.push_back({.page = page});
    }
  }
  if (eviction->pages_.empty()) return nullptr;
  object->eviction_ = eviction.get();
  return eviction;
}

Eviction::~Eviction() {
  keep_all(&EvictionCounts::busy);
}

void Eviction::keep(PageIndex first, PageCount count, Reason why) {
  // All pins of a process may be of one page, which stays for the first of them.
  const auto next = std::ranges::lower_bound(pages_, first, {}, &Leaving::page);
  if (next == pages_.end() || next->page >= first + count) return;
  for (Leaving& each : pages_) each.kept = each.page >= first && each.page < first + count;
  keep_marked(why);
}

void Eviction::keep_all(Reason why) {
  for (Leaving& each : pages_) each.kept = true;
  keep_marked(why);
}

void Eviction::keep_marked(Reason why) {
  Waiters waiters;
  {
    const std::lock_guard lock(object_->claims_mutex_);
    const auto kept = std::stable_partition(pages_.begin(), pages_.end(),
                                            [](const Leaving& each) { return !each.kept; });
    if (kept == pages_.end()) return;
    for (auto each = kept; each != pages_.end(); ++each) object_->pages_.keep(each->page);
    counts_.*why += static_cast<std::uint64_t>(pages_.end() - kept);
    pages_.erase(kept, pages_.end());
    // Those who wait for others ask again for nothing, which is rare.
    waiters = take_waiters();
    end_if_empty_locked();
  }
  tell_to_ask_again(waiters);
}

void Eviction::end_if_empty_locked() {
  if (!pages_.empty() || object_->eviction_ != this) return;
  object_->eviction_ = nullptr;
  object_->taking_out_ = false;
}

void Eviction::for_runs(const std::function<bool(const Leaving&)>& condition,
                        const std::function<void(std::size_t, std::size_t)>& each) const {
  for (std::size_t first = 0; first < pages_.size();) {
    std::size_t past = first;
    while (past < pages_.size() && condition(pages_[past]) &&
           pages_[past].page - pages_[first].page == PageCount{past - first}) {
      ++past;
    }
    if (past > first) each(first, past);
    first = std::max(past, first + 1);
  }
}

std::vector<PageRun> Eviction::runs() const {
  std::vector<PageRun> runs;
  for_runs([](const Leaving&) { return true; },
           [&](std::size_t first, std::size_t past) {
             runs.push_back({pages_[first].page, PageCount{past - first}});
           });
  return runs;
}

void Eviction::take_out() {
  if (pages_.empty()) return;
  {
    const std::unique_lock lock(object_->claims_mutex_);
    if (!object_->unserved_) object_->taking_out_ = true;
  }
  if (!object_->taking_out_) return keep_all(&EvictionCounts::busy);
  choose_where_to();
  for_runs([](const Leaving& e) { return e.to_swap; },
           [this](std::size_t first, std::size_t past) { write(first, past); });
  keep_marked(&EvictionCounts::failed);
  for_runs([](const Leaving&) { return true; },
           [this](std::size_t first, std::size_t past) { punch(first, past); });
  keep_marked(&EvictionCounts::failed);
  finish();
}

void Eviction::choose_where_to() {
  // Nobody can store any more, so what is clean now stays so.
  for (Leaving& each : pages_) {
    const bool only_here = !object_->tracks_stores() || object_->pages_.dirty(each.page);
    each.to_swap = only_here && object_->swap_ != nullptr;
    each.kept = only_here && object_->swap_ == nullptr;
  }
  keep_marked(&EvictionCounts::dirty);
  std::size_t at = 0;
  for (const std::size_t all = pages_.size(); at < all;) {
    if (!pages_[at].to_swap) {
      ++at;
      continue;
    }
    std::size_t wanted = 1;
    while (at + wanted < all && pages_[at + wanted].to_swap) ++wanted;
    const SwapSlots slots = object_->swap_->take(PageCount{wanted});
    if (slots.count == PageCount{0}) break;
    for (std::uint64_t i = 0; i < slots.count.value(); ++i) {
      pages_[at++].slot = SlotIndex{slots.first.value() + i};
    }
  }
  for (; at < pages_.size(); ++at) pages_[at].kept = pages_[at].to_swap;
  keep_marked(&EvictionCounts::swap_full);
}

void Eviction::write(std::size_t first, std::size_t past) {
  const PageSize page_size = object_->page_size();
  for (std::size_t at = first; at < past;) {
    std::size_t end = at + 1;
    while (end < past && pages_[end].slot.value() == pages_[at].slot.value() + (end - at)) ++end;
    const SwapSlots slots{pages_[at].slot, PageCount{end - at}};
    const auto wrote = object_->swap_->write(
        slots, {object_->content(pages_[at].page),
                static_cast<std::size_t>(page_size.bytes(slots.count).value())});
    if (!wrote) {
      object_->log(pages_[at].page, wrote.error().message());
      object_->swap_->give_back(slots);
      for (; at < end; ++at) pages_[at].kept = true;
      continue;
    }
    for (std::uint64_t i = 0; i < wrote->value(); ++i) pages_[at++].written = true;
    if (at < end) {
      // A client punched a hole there, and wants it empty.
      object_->swap_->give_back(slots.part(*wrote, kOnePage));
      pages_[at++].to_swap = false;
    }
    // What is behind it is tried anew, from the slots that it has.
  }
}

void Eviction::punch(std::size_t first, std::size_t past) {
  const PageSize page_size = object_->page_size();
  const Status punched = object_->memfd_.punch(page_size.offset_of(pages_[first].page),
                                               page_size.bytes(PageCount{past - first}));
  if (punched) return;
  object_->log(pages_[first].page, punched.error().message());
  for (std::size_t at = first; at < past; ++at) {
    pages_[at].kept = true;
    if (pages_[at].written) object_->swap_->give_back({pages_[at].slot, kOnePage});
  }
}

void Eviction::finish() {
  Waiters waiters;
  {
    const std::lock_guard lock(object_->claims_mutex_);
    counts_.evicted += pages_.size();
    for_runs([](const Leaving& e) { return e.written; },
             [this](std::size_t first, std::size_t past) {
               for (std::size_t at = first; at < past; ++at) {
                 object_->swapped_.put(pages_[at].page, {pages_[at].slot, kOnePage});
               }
               counts_.swapped += past - first;
               object_->swapped_count_.fetch_add(past - first, std::memory_order_relaxed);
             });
    for (const Leaving& each : pages_) object_->pages_.finish_eviction(each.page);
    pages_.clear();
    waiters = take_waiters();
    end_if_empty_locked();
  }
  tell_to_ask_again(waiters);
}

}  // namespace faultline::memory
