// Writes what a watcher is sent, a line an event: columns for people, JSON for scripts. Must never
// let an event take more than its line, or tell a terminal what to do.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "faultline/wire/protocol.hpp"

namespace faultline::ctl {

// In the order of wire::EventKind.
const std::vector<std::string>& event_names();

// Each with its end of line. The heading says that the daemon has begun to tell.
std::string event_heading();
std::string event_heading_json();
std::string event_line(const wire::Event& event);
std::string event_line_json(const wire::Event& event);
std::string lost_line_json(std::uint64_t lost);

}  // namespace faultline::ctl
