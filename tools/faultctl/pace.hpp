// How fast a watcher reads: so many events a second, and a second's worth at once where none came
// before. Must never look at a clock itself.
#pragma once

#include <chrono>
#include <cstdint>

namespace faultline::ctl {

// All in virtual time (GCRA): what was read has paid for the time up to paid_until_. At most a
// second of it is paid for ahead, and nothing is saved up beyond that second.
class Pace {
 public:
  using Clock = std::chrono::steady_clock;

  // per_second: events, at least 1.
  explicit Pace(std::uint64_t per_second) : per_second_(per_second) {}

  void read(std::uint64_t events, Clock::time_point now);
  // From then on it may read again; a time that has passed: at once.
  [[nodiscard]] Clock::time_point next() const { return paid_until_ - std::chrono::seconds(1); }

 private:
  std::uint64_t per_second_;
  Clock::time_point paid_until_;
};

}  // namespace faultline::ctl
