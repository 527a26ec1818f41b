// How many times fewer rounds a long test makes where a sanitizer slows every one of them.
#pragma once

namespace faultline::testing {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr int kSlower = 10;
#else
inline constexpr int kSlower = 1;
#endif

}  // namespace faultline::testing
