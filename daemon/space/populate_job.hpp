// Makes a range of an address space resident and maps it, in the background, a step at a time. Must
// never keep a fault waiting: it gives way after each step.
//
// Life of a job: started; steps at the home of its space, or waiting for a page to come from its
// file; ended, when it came to the end of the range, or was cancelled, or the space is gone. It
// then says so, once, and keeps nothing of its client's: what it waits for may never come.
//
// A page that cannot be had is counted, and passed over. What was unmapped meanwhile is too.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <cerrno>
#include <functional>
#include <memory>

#include "daemon/space/address_space.hpp"
#include "daemon/space/fault_worker.hpp"

namespace faultline::space {

struct PopulateProgress {
  PageCount wanted;  // pages of 4 KiB
  PageCount done;
  PageCount failed;
  bool ended = false;
  int error = 0;  // why the first of those that failed did; ECANCELED where it was unmapped
};

// As its owner sees it.
class PopulateJob {
 public:
  PopulateJob() = default;
  PopulateJob(const PopulateJob&) = delete;
  PopulateJob& operator=(const PopulateJob&) = delete;
  virtual ~PopulateJob() = default;

  [[nodiscard]] virtual PopulateProgress progress() const = 0;
  // Ends it, at once; a step that is under way is its last.
  virtual void cancel() = 0;
};

class RangePopulateJob final : public PopulateJob,
                               public std::enable_shared_from_this<RangePopulateJob> {
 public:
  // write: so that a later write raises no fault either. ended is called on any thread.
  static std::shared_ptr<PopulateJob> start(FaultWorker& home,
                                            const std::shared_ptr<AddressSpace>& space,
                                            VaRange range, bool write, std::function<void()> ended);

  [[nodiscard]] PopulateProgress progress() const override;
  void cancel() override { end(ECANCELED); }

 private:
  RangePopulateJob(FaultWorker& home, const std::shared_ptr<AddressSpace>& space, VaRange range,
                   bool write, std::function<void()> ended);
  void step_soon();
  // False: an event is under way, come back a moment later.
  bool step();
  void pass_over(ByteCount most, int error);
  void advance(ByteCount length);
  void end(int error);
  void came(Vaddr asked, memory::Supply supply);

  FaultWorker& home_;
  const std::weak_ptr<AddressSpace> space_;
  const VaRange range_;
  const bool write_;
  std::function<void()> on_end_;  // whoever ends it calls it, and lets go of what it holds
  Vaddr at_;                      // the home alone uses it
  ByteCount page_{};              // of which size the page there is
  unsigned attempts_ = 0;         // at it
  bool alone_ = false;            // the next step is of one page: a read of several failed
  std::atomic<std::uint64_t> done_{0};
  std::atomic<std::uint64_t> failed_{0};
  std::atomic<int> error_{0};
  std::atomic<bool> ended_{false};
};

}  // namespace faultline::space
