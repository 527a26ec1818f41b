// The seed of a randomized test: from $FAULTLINE_SEED, else fresh; printed, so that a failure
// replays.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>

namespace faultline::testing {

inline std::uint64_t announce_seed() {
  const char* given = std::getenv("FAULTLINE_SEED");
  const std::uint64_t seed = given != nullptr ? std::stoull(given) : std::random_device{}();
  std::cout << "seed " << seed << " (replay with FAULTLINE_SEED=" << seed << ")" << std::endl;
  return seed;
}

}  // namespace faultline::testing
