// faultctl doctor: what is wrong here, and what to do about it. Must never need a daemon.
#pragma once

#include <string>
#include <vector>

namespace faultline::ctl {

// Writes to standard output. False: there is a problem.
[[nodiscard]] bool doctor(const std::vector<std::string>& socket_paths, bool as_json);

}  // namespace faultline::ctl
