#include "tools/faultctl/pace.hpp"

#include <algorithm>

namespace faultline::ctl {

void Pace::read(std::uint64_t events, Clock::time_point now) {
  const std::chrono::duration<double> worth(static_cast<double>(events) /
                                            static_cast<double>(per_second_));
  paid_until_ = std::max(paid_until_, now) + std::chrono::duration_cast<Clock::duration>(worth);
}

}  // namespace faultline::ctl
