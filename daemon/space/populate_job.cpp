#include "daemon/space/populate_job.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace faultline::space {

namespace {
// Of one step: what a fault may have to wait for.
constexpr ByteCount kStep{std::uint64_t{512} << 10};
// For a page that is torn out of its object as fast as it is supplied.
constexpr unsigned kMostAttempts = 8;
}  // namespace

std::shared_ptr<PopulateJob> RangePopulateJob::start(FaultWorker& home,
                                                     const std::shared_ptr<AddressSpace>& space,
                                                     VaRange range, bool write,
                                                     std::function<void()> ended) {
  // A private constructor.
  std::shared_ptr<RangePopulateJob> job{
      new RangePopulateJob(home, space, range, write, std::move(ended))};
  job->step_soon();
  return job;
}

RangePopulateJob::RangePopulateJob(FaultWorker& home, const std::shared_ptr<AddressSpace>& space,
                                   VaRange range, bool write, std::function<void()> ended)
    : home_(home),
      space_(space),
      range_(range),
      write_(write),
      on_end_(std::move(ended)),
      at_(range.start) {}

PopulateProgress RangePopulateJob::progress() const {
  // Ended is read first: what it says of the counts is then true of what is read after.
  const bool ended = ended_.load(std::memory_order_acquire);
  return {.wanted = kBasePage.pages(range_.length),
          .done = PageCount{done_.load(std::memory_order_relaxed)},
          .failed = PageCount{failed_.load(std::memory_order_relaxed)},
          .ended = ended,
          .error = error_.load(std::memory_order_relaxed)};
}

void RangePopulateJob::step_soon() {
  home_.post([self = shared_from_this()] { return self->step(); });
}

bool RangePopulateJob::step() {
  if (ended_.load(std::memory_order_relaxed)) return true;
  const auto space = space_.lock();
  if (!space || space->dead()) {
    end(ESRCH);
    return true;
  }
  if (at_ >= range_.end()) {
    end(0);
    return true;
  }
  // One page at least, however large it is.
  const ByteCount most =
      std::exchange(alone_, false) ? kBasePage.bytes() : std::min(kStep, range_.end() - at_);
  const auto result = space->populate(
      at_, most, write_,
      [self = shared_from_this(), at = at_](memory::Supply supply) { self->came(at, supply); });
  page_ = result.page;
  if (result.waits) return true;  // came() goes on
  // Of small pages there will be some again, of huge ones perhaps never.
  const bool short_of_memory = result.error == ENOMEM && result.page == kBasePage.bytes();
  if (result.error == EAGAIN || short_of_memory) return false;
  if (result.error == EFAULT && ++attempts_ < kMostAttempts) {
    // It was torn out of the object. Next time it is supplied anew.
  } else if (result.error == ENOENT) {
    pass_over(result.reached, ECANCELED);
  } else if (result.error != 0) {
    pass_over(result.page, result.error);
  } else {
    const ByteCount reached = std::min(result.reached, range_.end() - at_);
    done_.fetch_add(kBasePage.pages(reached).value(), std::memory_order_relaxed);
    advance(reached);
  }
  step_soon();
  return true;
}

void RangePopulateJob::came(Vaddr asked, memory::Supply supply) {
  // On the pager's thread, or within populate.
  home_.post([self = shared_from_this(), asked, supply] {
    if (self->at_ != asked) return true;
    if (supply == memory::Supply::failed) self->pass_over(self->page_, EIO);
    self->alone_ = supply == memory::Supply::retry_alone;
    return self->step();
  });
}

void RangePopulateJob::pass_over(ByteCount most, int error) {
  const ByteCount length = std::min(most, range_.end() - at_);
  failed_.fetch_add(kBasePage.pages(length).value(), std::memory_order_relaxed);
  int none = 0;
  error_.compare_exchange_strong(none, error, std::memory_order_relaxed);
  advance(length);
}

void RangePopulateJob::advance(ByteCount length) {
  at_ = at_ + length;
  attempts_ = 0;
}

void RangePopulateJob::end(int error) {
  if (error != 0) {
    int none = 0;
    error_.compare_exchange_strong(none, error, std::memory_order_relaxed);
  }
  if (!ended_.exchange(true, std::memory_order_release)) std::exchange(on_end_, nullptr)();
}

}  // namespace faultline::space
