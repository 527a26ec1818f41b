// Has a daemon read its settings file again, and says what has changed. Must never call it a
// success where the settings stay as they were because the file is wrong.
#pragma once

#include <string>
#include <vector>

namespace faultline::ctl {

// Writes to standard output. Throws Unreachable, and Refused where the file cannot be taken, too.
void reload(const std::vector<std::string>& socket_paths, bool as_json);

}  // namespace faultline::ctl
