// Pages of an object that somebody is bringing into memory, or taking out, and who waits for the
// end of that. Must never end without telling them.
//
// Locking: everything is guarded by the object's claims_mutex_; waiters are called without it.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "daemon/kernel/units.hpp"

namespace faultline::memory {

enum class Supply {
  ready,        // resident, or it was: ask again
  retry_alone,  // a read of several pages failed: ask for this page alone
  failed,       // it cannot be supplied
};

class PageClaim {
 public:
  using Waiter = std::function<void(Supply)>;

  PageClaim(PageIndex first, PageCount count) : first_(first), count_(count) {}
  PageClaim(const PageClaim&) = delete;
  PageClaim& operator=(const PageClaim&) = delete;
  virtual ~PageClaim() = default;

  [[nodiscard]] PageIndex first() const { return first_; }
  [[nodiscard]] PageCount count() const { return count_; }
  [[nodiscard]] bool covers(PageIndex page) const {
    return page >= first_ && page < first_ + count_;
  }
  void add_waiter(PageIndex page, Waiter waiter) { waiters_.emplace_back(page, std::move(waiter)); }
  std::vector<std::pair<PageIndex, Waiter>> take_waiters() { return std::exchange(waiters_, {}); }

 private:
  const PageIndex first_;
  const PageCount count_;
  std::vector<std::pair<PageIndex, Waiter>> waiters_;
};

}  // namespace faultline::memory
