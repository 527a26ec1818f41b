// Follows what happens at a daemon and prints it as it comes. Must never hold more than one packet:
// while nobody takes what it prints it reads nothing, and the daemon counts what is lost.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "faultline/wire/protocol.hpp"

namespace faultline::ctl {

struct Watch {
  wire::WatchRequest request;
  std::uint64_t count = 0;  // events to print; 0: without an end
  // Reads at most so many a second, and the daemon counts what is lost; nothing: as they come.
  std::optional<std::uint64_t> per_second;
  bool as_json = false;
};

// Returns after the last event that was asked for, with SIGINT, SIGTERM or SIGHUP, and when nobody
// reads standard output any more. Changes what these signals do, and ignores SIGPIPE. Throws
// Unreachable, also when the daemon goes, and Refused, also where printing fails.
void watch(const std::vector<std::string>& socket_paths, const Watch& what);

}  // namespace faultline::ctl
