// Times of std::chrono as the functions of wait.h take them.
#ifndef FAULTLINE_TIMEOUT_HPP
#define FAULTLINE_TIMEOUT_HPP

#include <chrono>
#include <concepts>
#include <cstdint>
#include <ctime>

#include "faultline/faultline.h"

namespace faultline::detail {

// As precise as it can be, and no less long; what is past is 0, and what is centuries away is that.
template <typename Rep, typename Period>
timespec to_timespec(std::chrono::duration<Rep, Period> time) {
  constexpr double longest = 9e9;  // seconds that nanoseconds can count
  const double about = std::chrono::duration<double>(time).count();
  if (about <= 0) return {0, 0};
  if (about >= longest) return {static_cast<std::time_t>(longest), 0};
  const auto exact = std::chrono::ceil<std::chrono::nanoseconds>(time);
  const auto seconds = std::chrono::floor<std::chrono::seconds>(exact);
  return {static_cast<std::time_t>(seconds.count()), static_cast<long>((exact - seconds).count())};
}

// Clocks that the kernel has, too.
template <typename Clock>
concept waitable_clock = std::same_as<Clock, std::chrono::steady_clock> ||
    std::same_as<Clock, std::chrono::system_clock>;
template <waitable_clock Clock>
inline constexpr std::uint32_t until_flag =
    std::same_as<Clock, std::chrono::steady_clock> ? FL_WAIT_ABSOLUTE : FL_WAIT_REALTIME;

}  // namespace faultline::detail

#endif  // FAULTLINE_TIMEOUT_HPP
