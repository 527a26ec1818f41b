// What happened in a mapping since it was made: counters, guesses, and which pages parted from the
// object. The pieces that an unmap or a change of protection cuts the mapping into share it. Must
// never be held locked over a system call.
//
// Locking: mutex_ guards fault_around_, broken_ and identities_; leaf lock, held for nanoseconds.
// prepared_ says without it that broken_ is there, for good. Thread-safe.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "daemon/kernel/units.hpp"
#include "daemon/space/fault_around.hpp"
#include "daemon/space/fault_counters.hpp"
#include "daemon/space/frame_ids.hpp"
#include "daemon/space/page_set.hpp"

namespace faultline::space {

// Whether the words of a private mapping are waited for by what their page is.
enum class ByPage : std::uint8_t { no, yes };

class VmaActivity {
 public:
  // Pages of the object that the mapping shows.
  VmaActivity(PageIndex first, PageCount size, ByPage by_page = ByPage::no)
      : first_(first), size_(size), by_page_(by_page) {}
  VmaActivity(const VmaActivity&) = delete;
  VmaActivity& operator=(const VmaActivity&) = delete;
  ~VmaActivity() = default;

  // For a fork child: the same pages have parted, nothing else has happened. Errors: ENOMEM.
  [[nodiscard]] Result<std::shared_ptr<VmaActivity>> clone() const;
  // The same, for want of memory, with no page parted.
  [[nodiscard]] std::shared_ptr<VmaActivity> without_breaks() const;

  SharedFaultCounters counters;

  // As FaultAround.
  [[nodiscard]] FaultAround::Window window(PageIndex page, AccessKind kind, Advice advice);
  void installed(const FaultAround::Window& window, PageIndex page, PageCount count,
                 PageCount ahead);
  [[nodiscard]] std::uint64_t unused_ahead() const;

  // Makes sure that breaks can be recorded. Errors: ENOMEM.
  [[nodiscard]] Status prepare_breaks();
  // Pages that are, or may by now be, this address space's own. Prepared before. Returns how many
  // were not so before.
  PageCount record_break(PageIndex first, PageCount count);
  void forget_break(PageIndex first, PageCount count);
  [[nodiscard]] PageCount broken(PageIndex first, PageCount count) const;

  // --- identities, of a mapping that is waited for by page, or pinned
  //
  // A page gets one when it parts from the object, and another one when it parts from a fork
  // relative's. The latter is seen by a fault where the page was write-protected before the fork:
  // guard() says so first. Pages that were not, part at the fork.

  [[nodiscard]] bool by_page() const { return by_page_ == ByPage::yes; }
  // Has the identities published, for the mapping's process alone, which pins private pages. No
  // answer in the mapping is under way: from then on it is exact. Errors: EEXIST they are; ENOMEM.
  Result<UniqueFd> publish();
  [[nodiscard]] bool published() const { return published_.load(std::memory_order_acquire); }
  [[nodiscard]] PageIndex first() const { return first_; }
  [[nodiscard]] PageCount size() const { return size_; }
  // Somebody goes by what each page is: no page parts that nobody writes to, and each is recorded
  // before it does.
  [[nodiscard]] bool exact() const { return by_page() || published(); }
  // Of pages that have parted: the process has them, or has written to them.
  void settle(PageIndex first, PageCount count);
  // 0: the page is the object's.
  [[nodiscard]] FrameId identity(PageIndex page) const;
  // Private pages in the range that are not guarded, as runs: each is from now on, and must be
  // write-protected at once, or unguarded.
  struct Run {
    PageIndex first;
    PageCount count;
  };
  [[nodiscard]] std::vector<Run> guard(PageIndex first, PageCount count);
  void unguard(const Run& run);

  // How many VMAs of one VmaTree share it; kept by the VmaTree alone, whose writer alone may ask.
  std::size_t pieces = 0;

 private:
  // Calls visit(page) for each page in the range that has parted.
  template <typename Visit>
  void each_broken_locked(PageIndex first, PageCount count, Visit visit) const;

  const PageIndex first_;
  const PageCount size_;
  const ByPage by_page_;
  mutable std::mutex mutex_;
  FaultAround fault_around_;
  std::optional<PageSet> broken_;  // made when the first is near
  // Made with broken_, of a mapping that is waited for by page, or when it is published.
  struct Identities {
    FrameIds ids;
    PageSet guarded;
  };
  std::optional<Identities> identities_;
  std::atomic<bool> prepared_{false};
  std::atomic<bool> published_{false};
};

}  // namespace faultline::space
