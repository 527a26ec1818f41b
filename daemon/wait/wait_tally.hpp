// How many waits the daemon has kept for one user's clients, and how they ended. One thread writes
// it, any thread reads it. Must never count a wait twice.
#pragma once

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "daemon/kernel/tally.hpp"

namespace faultline::wait {

enum class WaitEnd : std::uint8_t {
  woken,
  timed_out,  // of those whose time the daemon keeps: asynchronous ones
  cancelled,  // by its client, which so ends its threads' own time-outs; or the client has gone
  changed,    // the word had another value
  ended,      // its memory went, or it could not be queued
};
inline constexpr std::size_t kWaitEnds = 5;

struct WaitTotals {
  std::uint64_t begun = 0;
  std::array<std::uint64_t, kWaitEnds> ended{};
  WaitTotals& operator+=(const WaitTotals& other) {
    begun += other.begun;
    for (std::size_t i = 0; i < ended.size(); ++i) ended.at(i) += other.ended.at(i);
    return *this;
  }
};

class WaitTally {
 public:
  void begun() noexcept { begun_.add(); }
  // outcome: 0 woken, or a negative errno.
  void ended(int outcome) noexcept { ended_.at(static_cast<std::size_t>(end_of(outcome))).add(); }

  [[nodiscard]] WaitTotals totals() const noexcept {
    WaitTotals totals;
    for (std::size_t i = 0; i < ended_.size(); ++i) totals.ended.at(i) = ended_.at(i).value();
    totals.begun = begun_.value();
    return totals;
  }

 private:
  static WaitEnd end_of(int outcome) noexcept {
    switch (outcome) {
      case 0:
        return WaitEnd::woken;
      case -ETIMEDOUT:
        return WaitEnd::timed_out;
      case -ECANCELED:
        return WaitEnd::cancelled;
      case -EAGAIN:
        return WaitEnd::changed;
      default:
        return WaitEnd::ended;
    }
  }

  alignas(kernel::kTallyLine) kernel::Tally begun_;
  std::array<kernel::Tally, kWaitEnds> ended_{};
};

}  // namespace faultline::wait
