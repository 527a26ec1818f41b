#include "daemon/memory/page_table.hpp"

#include <cassert>

namespace faultline::memory {

static_assert(sizeof(std::atomic<PageState>) == 1 && std::atomic<PageState>::is_always_lock_free);

Result<PageTable> PageTable::create(PageCount pages) {
  auto board = kernel::PublishedMemory::create("faultline:board",
                                               ByteCount{wire::kBoardStates + pages.value()});
  if (!board) return propagate(board);
  // A huge page here would make one touched page of a sparse object cost 2 MiB of table.
  ::madvise(board->data(), board->bytes().size(), MADV_NOHUGEPAGE);
  return PageTable{std::move(*board), pages};
}

std::atomic<PageState>& PageTable::entry(PageIndex page) const {
  assert(page.value() < size_.value());
  // Zeroed memory is a valid array of "absent": the atomic is lock-free and has no other state.
  return reinterpret_cast<std::atomic<PageState>*>(board_.data() +
                                                   wire::kBoardStates)[page.value()];
}

void PageTable::count_waiters(std::size_t bucket, int change) {
  assert(bucket < wire::kWaitCounts);
  // Zeroed memory is a valid array of zeroes.
  reinterpret_cast<std::atomic<std::uint32_t>*>(board_.data())[bucket].fetch_add(
      static_cast<std::uint32_t>(change), std::memory_order_seq_cst);
}

void PageTable::count_for_good(std::size_t bucket) {
  assert(bucket < wire::kWaitCounts);
  reinterpret_cast<std::atomic<std::uint32_t>*>(board_.data())[bucket].fetch_or(
      wire::kCountedForGood, std::memory_order_seq_cst);
}

bool PageTable::change(PageIndex page, PageState from, PageState to) {
  return entry(page).compare_exchange_strong(from, to, std::memory_order_acq_rel,
                                             std::memory_order_acquire);
}

void PageTable::mark(PageIndex first, PageCount count, PageState state) {
  for (std::uint64_t i = 0; i < count.value(); ++i) {
    entry(first + PageCount{i}).store(state, std::memory_order_release);
  }
}

PageCount PageTable::run_in_no_memory(PageIndex first, PageCount limit) const {
  std::uint64_t n = 0;
  while (n < limit.value() && in_no_memory(first + PageCount{n})) ++n;
  return PageCount{n};
}

PageCount PageTable::run(PageIndex first, PageCount limit, PageState state) const {
  std::uint64_t n = 0;
  while (n < limit.value() && this->state(first + PageCount{n}) == state) ++n;
  return PageCount{n};
}

}  // namespace faultline::memory
