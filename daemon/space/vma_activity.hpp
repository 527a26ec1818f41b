// What happened in a mapping since it was made: counters, guesses, and which pages parted from the
// object. The pieces that an unmap or a change of protection cuts the mapping into share it. Must
// never be held locked over a system call.
//
// Locking: mutex_ guards fault_around_ and broken_; leaf lock, held for nanoseconds. prepared_ says
// without it that broken_ is there, for good. Thread-safe.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include "daemon/kernel/units.hpp"
#include "daemon/space/fault_around.hpp"
#include "daemon/space/fault_counters.hpp"
#include "daemon/space/page_set.hpp"

namespace faultline::space {

class VmaActivity {
 public:
  // Pages of the object that the mapping shows.
  VmaActivity(PageIndex first, PageCount size) : first_(first), size_(size) {}
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

  // How many VMAs of one VmaTree share it; kept by the VmaTree alone, whose writer alone may ask.
  std::size_t pieces = 0;

 private:
  const PageIndex first_;
  const PageCount size_;
  mutable std::mutex mutex_;
  FaultAround fault_around_;
  std::optional<PageSet> broken_;  // made when the first is near
  std::atomic<bool> prepared_{false};
};

}  // namespace faultline::space
