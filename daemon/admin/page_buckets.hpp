// Counts pages of one object by buckets: equal stretches of it, the last one shorter. Must never
// count a page of one set twice.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "daemon/kernel/units.hpp"

namespace faultline::admin {

class PageBuckets {
 public:
  using Counts = std::vector<std::uint64_t>;  // by bucket
  struct Run {
    PageIndex first;
    PageCount count;
    [[nodiscard]] PageIndex end() const { return first + count; }
  };

  // most: not 0. An object has at least one page.
  PageBuckets(PageCount pages, std::uint64_t most)
      : pages_(pages), each_((pages.value() + most - 1) / most) {}

  [[nodiscard]] std::size_t size() const {
    return static_cast<std::size_t>((pages_.value() + each_.value() - 1) / each_.value());
  }
  [[nodiscard]] PageCount pages_each() const { return each_; }
  [[nodiscard]] Run run(std::size_t bucket) const {
    const PageIndex first{bucket * each_.value()};
    return {first, std::min(each_, PageIndex{pages_.value()} - first)};
  }
  [[nodiscard]] Counts none() const { return Counts(size(), 0); }

  // Calls visit(bucket, part) for each bucket that the run touches.
  template <typename Visit>
  void each_part(const Run& run, Visit visit) const {
    const PageIndex end = std::min(run.end(), PageIndex{pages_.value()});
    for (PageIndex at = run.first; at < end;) {
      const auto bucket = static_cast<std::size_t>(at.value() / each_.value());
      const PageIndex to = std::min(PageIndex{(bucket + 1) * each_.value()}, end);
      visit(bucket, Run{at, to - at});
      at = to;
    }
  }

  // Pages that are in any of the runs.
  [[nodiscard]] Counts covered(std::vector<Run> runs) const {
    std::ranges::sort(runs, {}, [](const Run& run) { return run.first; });
    Counts counts = none();
    PageIndex done;
    for (const Run& run : runs) {
      const PageIndex from = std::max(run.first, done);
      if (from >= run.end()) continue;
      done = run.end();
      each_part({from, done - from},
                [&](std::size_t bucket, const Run& part) { counts[bucket] += part.count.value(); });
    }
    return counts;
  }

 private:
  PageCount pages_;
  PageCount each_;
};

}  // namespace faultline::admin
