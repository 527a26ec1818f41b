// Whether a daemon is there, may be reached, is of this version, and has room left. Must never take
// it for a fault of the daemon's that this user may not look at something.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/faultctl/finding.hpp"

namespace faultline::ctl {

struct DaemonProbe {
  bool reached = false;
  Findings findings;
};
DaemonProbe probe_daemon(const std::vector<std::string>& socket_paths);

// What a daemon's status says of itself: an answer to AdminQuery::status.
Findings findings_in(const nlohmann::json& status);

}  // namespace faultline::ctl
