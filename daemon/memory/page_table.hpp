// The state of every page of one object. Must never say "resident" of a page whose content is not
// all there.
//
// Sparse: an entry is a byte of lazily zeroed memory, so an untouched terabyte costs address space
// only. Clients of the object can read it (faultline/wire/board.hpp).
//
// States and their transitions:
//   absent -> filling      a worker claims the page: by CAS (claim), or under the object's lock
//   filling -> resident    its content is in the memfd (finish_fill, mark): the claimer alone
//   filling -> lost        it could not be supplied with others (mark): the claimer alone
//   filling -> poisoned    its file cannot supply it (mark): the claimer alone
//   absent -> resident     zero-fill, of an object whose pages never leave memory: the memfd's page
//                          was allocated (mark): any worker, idempotent
//   resident -> lost       a client punched a hole into the memfd (forget): any worker, by CAS
//   resident -> evicting   its eviction begins (begin_eviction): by CAS
//   evicting -> resident   it was pinned, or could not be taken out (keep): the evictor alone
//   evicting -> lost       it is in no memory (finish_eviction): the evictor alone
//   lost, poisoned         as absent, in all of the above
//
// Two marks stand beside the state: dirty and referenced (set_marks). Both are taken out when the
// page leaves memory. A page that is being filled can have them already: who finds it in the memfd
// may map it, and let it be written to, before it is said to be resident.
//
// On the same board the daemon counts who may wait for words of the object (count_waiters).
//
// Memory order: mark(resident) is a release, state() an acquire. Who sees "resident" therefore
// comes after the fill that made it so; the content itself is the kernel's page cache, coherent by
// itself. begin_eviction is a sequentially consistent read-modify-write: who pins a page publishes
// the pin before it looks at the entry, and who evicts one changes the entry before it looks for
// pins.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "daemon/kernel/error.hpp"
#include "daemon/kernel/published_memory.hpp"
#include "daemon/kernel/units.hpp"
#include "faultline/wire/board.hpp"

namespace faultline::memory {

enum class PageState : std::uint8_t {
  absent = 0,
  filling = 1,
  resident = wire::kStateResident,
  lost = 3,      // absent, and may have been resident: somebody may still wait for its words
  evicting = 4,  // nobody maps it from here on; it is in memory for a moment longer
  poisoned = 5,  // absent, and its file could not supply it when it was last asked
};

// How many of some pages are in which state.
struct PageTally {
  std::array<std::uint64_t, 6> in_state{};  // by PageState
  std::uint64_t dirty = 0;                  // of those that are resident

  [[nodiscard]] std::uint64_t in(PageState state) const {
    return in_state.at(static_cast<std::size_t>(state));
  }
};

class PageTable {
 public:
  static Result<PageTable> create(PageCount pages);

  [[nodiscard]] PageCount size() const { return size_; }
  [[nodiscard]] PageState state(PageIndex page) const {
    return state_of(entry(page).load(std::memory_order_acquire));
  }
  // absent, lost or poisoned -> filling; true for the one caller that did it.
  bool claim(PageIndex page);
  // resident -> lost.
  bool forget(PageIndex page) { return change(page, PageState::resident, PageState::lost); }
  [[nodiscard]] bool in_no_memory(PageIndex page) const { return out(state(page)); }
  // filling -> resident, with the marks that were set meanwhile.
  void finish_fill(PageIndex first, PageCount count);
  // Without marks.
  void mark(PageIndex first, PageCount count, PageState state);

  // resident -> evicting; false where the page is in another state.
  bool begin_eviction(PageIndex page);
  // evicting -> resident, with its marks.
  void keep(PageIndex page);
  // evicting -> lost.
  void finish_eviction(PageIndex page);

  // Of pages that are resident, being evicted or being filled; others stay without.
  void set_marks(PageIndex first, PageCount count, std::uint8_t marks);
  // Returns which of these marks the page had, and takes them out.
  std::uint8_t take_marks(PageIndex page, std::uint8_t marks);
  [[nodiscard]] bool dirty(PageIndex page) const {
    return (entry(page).load(std::memory_order_acquire) & wire::kPageDirty) != 0;
  }
  [[nodiscard]] bool referenced(PageIndex page) const {
    return (entry(page).load(std::memory_order_acquire) & wire::kPageReferenced) != 0;
  }

  // As they are while it looks, which nobody waits for. Costs what was ever in memory, not the
  // number of pages.
  [[nodiscard]] PageTally tally(PageIndex first, PageCount count) const;

  // The board, for clients to read; it stays this object's.
  [[nodiscard]] int board_fd() const { return board_.fd(); }
  // One address space more, or less, that may have somebody waiting for a word of the bucket.
  void count_waiters(std::size_t bucket, int change);
  // The count is never 0 again: somebody waits there whose end the daemon cannot know.
  void count_for_good(std::size_t bucket);

  // Where the entries lie, for tests of what they cost.
  [[nodiscard]] Vaddr address_for_test() const {
    return Vaddr{reinterpret_cast<std::uintptr_t>(board_.data() + wire::kBoardStates)};
  }
  // How many pages from first on are in no memory, up to limit.
  [[nodiscard]] PageCount run_in_no_memory(PageIndex first, PageCount limit) const;
  // How many pages from first on are in the given state, up to limit.
  [[nodiscard]] PageCount run(PageIndex first, PageCount limit, PageState state) const;

 private:
  PageTable(kernel::PublishedMemory board, PageCount size)
      : board_(std::move(board)), size_(size) {}
  [[nodiscard]] static PageState state_of(std::uint8_t entry) {
    return static_cast<PageState>(entry & wire::kStateMask);
  }
  [[nodiscard]] static bool out(PageState state) {
    return state == PageState::absent || state == PageState::lost || state == PageState::poisoned;
  }
  [[nodiscard]] std::atomic<std::uint8_t>& entry(PageIndex page) const;
  // Leaves the marks as they are where the page stays in memory.
  bool change(PageIndex page, PageState from, PageState to);

  kernel::PublishedMemory board_;
  PageCount size_;
};

}  // namespace faultline::memory
