#include "daemon/memory/page_table.hpp"

#include <cassert>

namespace faultline::memory {

static_assert(sizeof(std::atomic<PageState>) == 1 && std::atomic<PageState>::is_always_lock_free);

Result<PageTable> PageTable::create(PageCount pages) {
  auto entries = kernel::MappedMemory::create(ByteCount{pages.value()}, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  if (!entries) return propagate(entries);
  // A huge page here would make one touched page of a sparse object cost 2 MiB of table.
  ::madvise(entries->data(), pages.value(), MADV_NOHUGEPAGE);
  return PageTable{std::move(*entries), pages};
}

std::atomic<PageState>& PageTable::entry(PageIndex page) const {
  assert(page.value() < size_.value());
  // Zeroed memory is a valid array of "absent": the atomic is lock-free and has no other state.
  return reinterpret_cast<std::atomic<PageState>*>(entries_.data())[page.value()];
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

PageCount PageTable::run(PageIndex first, PageCount limit, PageState state) const {
  std::uint64_t n = 0;
  while (n < limit.value() && this->state(first + PageCount{n}) == state) ++n;
  return PageCount{n};
}

}  // namespace faultline::memory
