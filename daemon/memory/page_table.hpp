// The state of every page of one object. Must never say "resident" of a page whose content is not
// all there.
//
// Sparse: an entry is a byte of lazily zeroed memory, so an untouched terabyte costs address space
// only. Clients of the object can read it (faultline/wire/board.hpp).
//
// States and their transitions:
//   absent -> filling    a worker claims the page: by CAS (claim), or under the object's lock
//   filling -> resident  its content is in the memfd (mark): the claimer alone
//   filling -> absent    it could not be supplied (mark): the claimer alone
//   absent -> resident   zero-fill: the memfd's page was allocated (mark): any worker, idempotent
//   resident -> lost     a client punched a hole into the memfd (forget): any worker, by CAS
//   lost                 as absent, in all of the above
//
// On the same board the daemon counts who may wait for words of the object (count_waiters).
//
// Memory order: mark(resident) is a release, state() an acquire. Who sees "resident" therefore
// comes after the fill that made it so; the content itself is the kernel's page cache, coherent by
// itself.
#pragma once

#include <atomic>
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
  lost = 3,  // absent, and was resident once: somebody may still wait for its words
};

class PageTable {
 public:
  static Result<PageTable> create(PageCount pages);

  [[nodiscard]] PageCount size() const { return size_; }
  [[nodiscard]] PageState state(PageIndex page) const {
    return entry(page).load(std::memory_order_acquire);
  }
  // absent or lost -> filling; true for the one caller that did it.
  bool claim(PageIndex page) {
    return change(page, PageState::absent, PageState::filling) ||
           change(page, PageState::lost, PageState::filling);
  }
  // resident -> lost.
  bool forget(PageIndex page) { return change(page, PageState::resident, PageState::lost); }
  [[nodiscard]] bool in_no_memory(PageIndex page) const {
    const PageState now = state(page);
    return now == PageState::absent || now == PageState::lost;
  }
  void mark(PageIndex first, PageCount count, PageState state);

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
  // How many pages from first on are absent or lost, up to limit.
  [[nodiscard]] PageCount run_in_no_memory(PageIndex first, PageCount limit) const;
  // How many pages from first on are in the given state, up to limit.
  [[nodiscard]] PageCount run(PageIndex first, PageCount limit, PageState state) const;

 private:
  PageTable(kernel::PublishedMemory board, PageCount size)
      : board_(std::move(board)), size_(size) {}
  [[nodiscard]] std::atomic<PageState>& entry(PageIndex page) const;
  bool change(PageIndex page, PageState from, PageState to);

  kernel::PublishedMemory board_;
  PageCount size_;
};

}  // namespace faultline::memory
