// A time that a client says, as it is shown. Must never be believed: one that is to come is now.
#pragma once

#include <chrono>
#include <cstdint>

namespace faultline::admin {

class Since {
 public:
  // Of CLOCK_MONOTONIC.
  explicit Since(std::chrono::nanoseconds since) {
    const std::chrono::nanoseconds now = std::chrono::steady_clock::now().time_since_epoch();
    if (since >= std::chrono::nanoseconds(0) && since <= now) elapsed_ = now - since;
  }
  // Of CLOCK_REALTIME.
  [[nodiscard]] std::chrono::nanoseconds realtime() const {
    return std::chrono::system_clock::now().time_since_epoch() - elapsed_;
  }
  [[nodiscard]] std::int64_t elapsed_ms() const {
    return std::chrono::duration_cast<std::chrono::milliseconds>(elapsed_).count();
  }

 private:
  std::chrono::nanoseconds elapsed_{0};
};

}  // namespace faultline::admin
