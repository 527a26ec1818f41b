#include "daemon/memory/page_table.hpp"

#include <algorithm>
#include <cassert>

namespace faultline::memory {

static_assert(sizeof(std::atomic<std::uint8_t>) == 1 &&
              std::atomic<std::uint8_t>::is_always_lock_free);

namespace {

constexpr std::uint8_t kMarks = wire::kPageDirty | wire::kPageReferenced;

bool in_memory(PageState state) {
  return state == PageState::resident || state == PageState::evicting;
}

// A page that is being filled is in memory before it is said to be, and may be mapped by then.
bool marked(PageState state) {
  return in_memory(state) || state == PageState::filling;
}

}  // namespace

Result<PageTable> PageTable::create(PageCount pages) {
  auto board = kernel::PublishedMemory::create("faultline:board",
                                               ByteCount{wire::kBoardStates + pages.value()});
  if (!board) return propagate(board);
  // A huge page here would make one touched page of a sparse object cost 2 MiB of table.
  ::madvise(board->data(), board->bytes().size(), MADV_NOHUGEPAGE);
  return PageTable{std::move(*board), pages};
}

std::atomic<std::uint8_t>& PageTable::entry(PageIndex page) const {
  assert(page.value() < size_.value());
  // Zeroed memory is a valid array of "absent": the atomic is lock-free and has no other state.
  return reinterpret_cast<std::atomic<std::uint8_t>*>(board_.data() +
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
  std::atomic<std::uint8_t>& there = entry(page);
  std::uint8_t seen = there.load(std::memory_order_acquire);
  const auto next = [&] {
    const std::uint8_t marks = in_memory(to) ? seen & kMarks : 0;
    return static_cast<std::uint8_t>(static_cast<std::uint8_t>(to) | marks);
  };
  while (state_of(seen) == from) {
    if (there.compare_exchange_weak(seen, next(), std::memory_order_seq_cst,
                                    std::memory_order_acquire)) {
      return true;
    }
  }
  return false;
}

bool PageTable::claim(PageIndex page) {
  for (;;) {
    const PageState now = state(page);
    if (!out(now)) return false;
    if (change(page, now, PageState::filling)) return true;
  }
}

bool PageTable::begin_eviction(PageIndex page) {
  return change(page, PageState::resident, PageState::evicting);
}

void PageTable::keep(PageIndex page) {
  [[maybe_unused]] const bool kept = change(page, PageState::evicting, PageState::resident);
  assert(kept);
}

void PageTable::finish_eviction(PageIndex page) {
  [[maybe_unused]] const bool gone = change(page, PageState::evicting, PageState::lost);
  assert(gone);
}

void PageTable::set_marks(PageIndex first, PageCount count, std::uint8_t marks) {
  assert((marks & ~kMarks) == 0);
  for (std::uint64_t i = 0; i < count.value(); ++i) {
    std::atomic<std::uint8_t>& there = entry(first + PageCount{i});
    std::uint8_t seen = there.load(std::memory_order_relaxed);
    // Mostly they are there, and a store would take the cache line from those who read it.
    while (marked(state_of(seen)) && (seen & marks) != marks) {
      if (there.compare_exchange_weak(seen, seen | marks, std::memory_order_acq_rel,
                                      std::memory_order_relaxed)) {
        break;
      }
    }
  }
}

std::uint8_t PageTable::take_marks(PageIndex page, std::uint8_t marks) {
  assert((marks & ~kMarks) == 0);
  const auto kept = static_cast<std::uint8_t>(~marks);
  return entry(page).fetch_and(kept, std::memory_order_acq_rel) & marks;
}

void PageTable::finish_fill(PageIndex first, PageCount count) {
  for (std::uint64_t i = 0; i < count.value(); ++i) {
    [[maybe_unused]] const bool filled =
        change(first + PageCount{i}, PageState::filling, PageState::resident);
    assert(filled);
  }
}

void PageTable::mark(PageIndex first, PageCount count, PageState state) {
  for (std::uint64_t i = 0; i < count.value(); ++i) {
    entry(first + PageCount{i}).store(static_cast<std::uint8_t>(state), std::memory_order_release);
  }
}

PageTally PageTable::tally(PageIndex first, PageCount count) const {
  assert(first.value() + count.value() <= size_.value());
  std::array<std::uint64_t, 256> seen{};  // by entry
  const auto offset_of = [](PageIndex page) {
    return ByteCount{wire::kBoardStates + page.value()};
  };
  const auto page_of = [&](ByteCount offset) {
    return PageIndex{offset.value() - wire::kBoardStates};
  };
  const PageIndex end = first + count;
  for (PageIndex page = first; page < end;) {
    const PageIndex from = std::min(page_of(board_.next_memory(offset_of(page))), end);
    seen[0] += (from - page).value();  // absent
    page = from;
    if (page == end) break;
    const PageIndex to = std::min(page_of(board_.next_hole(offset_of(page))), end);
    for (; page < to; page = page + PageCount{1}) {
      ++seen[entry(page).load(std::memory_order_relaxed)];
    }
  }
  PageTally tally;
  for (std::size_t i = 0; i < seen.size(); ++i) {
    const auto there = static_cast<std::uint8_t>(i);
    const auto state = static_cast<std::size_t>(state_of(there));
    if (seen[i] == 0) continue;
    tally.in_state.at(state) += seen[i];
    if (state_of(there) == PageState::resident && (there & wire::kPageDirty) != 0) {
      tally.dirty += seen[i];
    }
  }
  return tally;
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
