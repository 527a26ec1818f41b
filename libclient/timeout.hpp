// A caller's time-out, as fl_wait takes it. Must never read through the caller's pointer before the
// kernel has: it may be bad, which is an error like others.
#pragma once

#include <time.h>

#include <cstdint>

#include "faultline/faultline.h"

namespace faultline::client {

inline constexpr std::uint32_t kTimeoutFlags = FL_WAIT_ABSOLUTE | FL_WAIT_REALTIME;

class Timeout {
 public:
  // flags: kTimeoutFlags of them, not both.
  Timeout(const timespec* given, std::uint32_t flags) : given_(given), flags_(flags) {}

  [[nodiscard]] const timespec* given() const { return given_; }
  [[nodiscard]] bool relative() const { return (flags_ & kTimeoutFlags) == 0; }
  // Of the point in time, given or settled.
  [[nodiscard]] clockid_t clock() const {
    return (flags_ & FL_WAIT_REALTIME) != 0 ? CLOCK_REALTIME : CLOCK_MONOTONIC;
  }

  // Makes a point in time of it, once: who waits in several steps waits no longer. Returns 0, or
  // -EFAULT, -EINVAL as futex(2).
  int settle();
  // Once settled. Null for none.
  [[nodiscard]] const timespec* until() const { return given_ == nullptr ? nullptr : &until_; }
  // Once settled.
  [[nodiscard]] bool passed() const;

 private:
  const timespec* given_;
  std::uint32_t flags_;
  bool settled_ = false;
  timespec until_{};
};

}  // namespace faultline::client
