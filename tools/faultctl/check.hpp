// faultctl check: is the daemon reachable and well, for who asks every minute. Must never say it in
// more than a line.
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace faultline::ctl {

struct Check {
  std::chrono::milliseconds window{1000};  // between the two looks
  bool as_json = false;
};

// Writes to standard output. False: it is not well. Throws Unreachable, after the line that says
// so where that is not JSON.
[[nodiscard]] bool check(const std::vector<std::string>& socket_paths, const Check& how);

}  // namespace faultline::ctl
