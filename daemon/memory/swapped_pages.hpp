// Which pages of one object are in the swap file, and where. Must never hold a page twice.
//
// Runs of pages whose slots follow each other are one entry. Not thread-safe.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <vector>

#include "daemon/memory/swap_file.hpp"

namespace faultline::memory {

class SwappedPages {
 public:
  // None of these pages is here yet.
  void put(PageIndex first, const SwapSlots& slots);
  // The slots of pages from page on that follow each other, at most so many; nothing where the page
  // is not here.
  [[nodiscard]] std::optional<SwapSlots> run(PageIndex page, PageCount most) const;
  [[nodiscard]] bool holds(PageIndex page) const { return run(page, PageCount{1}).has_value(); }
  // How many pages from first on are not here, up to limit.
  [[nodiscard]] PageCount run_not_here(PageIndex first, PageCount limit) const;
  // Where the first page from here on is; nothing where there is none.
  [[nodiscard]] std::optional<PageIndex> next(PageIndex page) const;
  // How many of [first, first + count) are here, as far as it has come when it has looked at so
  // many runs.
  struct Counted {
    PageCount here;
    PageIndex reached;
  };
  [[nodiscard]] Counted count(PageIndex first, PageCount count, std::size_t most_runs) const;
  // Takes those of [first, first + count) that are here out; returns their slots.
  [[nodiscard]] std::vector<SwapSlots> take(PageIndex first, PageCount count);
  [[nodiscard]] std::vector<SwapSlots> take_all();

 private:
  using Runs = std::map<PageIndex, SwapSlots>;
  // The run that holds the page; end() where none does.
  [[nodiscard]] Runs::const_iterator run_with(PageIndex page) const;

  Runs runs_;  // by their first page
};

}  // namespace faultline::memory
