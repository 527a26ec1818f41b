#include "daemon/memory/swapped_pages.hpp"

#include <algorithm>
#include <cassert>
#include <iterator>

namespace faultline::memory {

SwappedPages::Runs::const_iterator SwappedPages::run_with(PageIndex page) const {
  auto at = runs_.upper_bound(page);
  if (at == runs_.begin()) return runs_.end();
  --at;
  return page < at->first + at->second.count ? at : runs_.end();
}

void SwappedPages::put(PageIndex first, const SwapSlots& slots) {
  assert(run_not_here(first, slots.count) == slots.count);
  // What goes out page by page, in order, is one run all the same.
  auto before = runs_.lower_bound(first);
  if (before != runs_.begin()) {
    --before;
    SwapSlots& run = before->second;
    if (before->first + run.count == first &&
        run.first.value() + run.count.value() == slots.first.value()) {
      run.count = run.count + slots.count;
      return;
    }
  }
  runs_.emplace(first, slots);
}

std::optional<SwapSlots> SwappedPages::run(PageIndex page, PageCount most) const {
  const auto at = run_with(page);
  if (at == runs_.end()) return std::nullopt;
  return at->second.part(page - at->first, most);
}

PageCount SwappedPages::run_not_here(PageIndex first, PageCount limit) const {
  if (holds(first)) return PageCount{0};
  const auto behind = next(first);
  return behind ? std::min(limit, *behind - first) : limit;
}

std::optional<PageIndex> SwappedPages::next(PageIndex page) const {
  if (holds(page)) return page;
  const auto behind = runs_.lower_bound(page);
  if (behind == runs_.end()) return std::nullopt;
  return behind->first;
}

SwappedPages::Counted SwappedPages::count(PageIndex first, PageCount count,
                                          std::size_t most_runs) const {
  const PageIndex end = first + count;
  Counted counted{PageCount{0}, end};
  auto at = run_with(first);
  if (at == runs_.end()) at = runs_.lower_bound(first);
  for (std::size_t looked_at = 0; at != runs_.end() && at->first < end; ++at, ++looked_at) {
    if (looked_at == most_runs) {
      counted.reached = at->first;
      break;
    }
    const PageIndex from = std::max(at->first, first);
    counted.here = counted.here + (std::min(at->first + at->second.count, end) - from);
  }
  return counted;
}

std::vector<SwapSlots> SwappedPages::take(PageIndex first, PageCount count) {
  std::vector<SwapSlots> taken;
  const PageIndex end = first + count;
  for (auto page = next(first); page && *page < end; page = next(*page)) {
    const auto at = run_with(*page);
    const PageIndex start = at->first;
    const SwapSlots run = at->second;
    const PageCount before = *page - start;
    const PageCount here = std::min(run.count - before, end - *page);
    runs_.erase(at);
    if (before > PageCount{0}) runs_.emplace(start, run.part(PageCount{0}, before));
    const PageCount behind = run.count - before - here;
    if (behind > PageCount{0}) {
      runs_.emplace(*page + here, run.part(before + here, behind));
    }
    taken.push_back(run.part(before, here));
  }
  return taken;
}

std::vector<SwapSlots> SwappedPages::take_all() {
  std::vector<SwapSlots> taken;
  for (const auto& [first, slots] : runs_) taken.push_back(slots);
  runs_.clear();
  return taken;
}

}  // namespace faultline::memory
