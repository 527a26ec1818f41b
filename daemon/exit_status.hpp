// What the process tells by its exit status, beside EXIT_SUCCESS.
#pragma once

namespace faultline {

inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

}  // namespace faultline
