// faultctl top: follows the load of a daemon, on a screen or in lines. Must never leave a terminal
// in another state than it was in.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "tools/faultctl/top_table.hpp"

namespace faultline::ctl {

struct Top {
  TopOrder order;
  std::chrono::milliseconds interval{2000};
  std::uint64_t count = 0;  // refreshes to print; 0: without an end
  bool plain = false;       // even on a terminal
  bool as_json = false;
};

// Nothing of that name: throws WrongUsage, which names those that there are.
TopOrder order_from(const std::string& column);

// Returns after the last refresh that was asked for, with q, with SIGINT, SIGTERM, SIGHUP or
// SIGQUIT, and when nobody reads standard output any more. A daemon that goes is looked for until
// it is there again. Throws Unreachable and Refused where there was none from the beginning.
void top(const std::vector<std::string>& socket_paths, const Top& how);

}  // namespace faultline::ctl
