// Has a daemon take pages of an object out of memory, and says what became of them. Must never call
// it a failure that pages stayed.
#pragma once

#include <string>
#include <vector>

#include "faultline/wire/protocol.hpp"

namespace faultline::ctl {

// Writes to standard output. Throws Unreachable and Refused.
void evict(const std::vector<std::string>& socket_paths, const wire::EvictRequest& request,
           bool as_json);

}  // namespace faultline::ctl
