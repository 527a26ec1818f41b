// Has a daemon wake who waits for a word, and says how many that were. Must never be needed by a
// program that is right: it is for rescue.
#pragma once

#include <string>
#include <vector>

#include "faultline/wire/protocol.hpp"

namespace faultline::ctl {

// Writes to standard output. Throws Unreachable and Refused.
void wake(const std::vector<std::string>& socket_paths, const wire::WakeRequest& request,
          bool as_json);

}  // namespace faultline::ctl
