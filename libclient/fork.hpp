// The connections of this process, one a socket path, and the hooks that carry them over a fork.
// Must never be torn down: threads may still be inside the library while the process exits.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "libclient/connection.hpp"

namespace faultline::client {

// The connection to the daemon at path: the one there is, or a new one. Throws Failure.
std::shared_ptr<Connection> connection_to(const std::string& path);

// Those that there are.
std::vector<std::shared_ptr<Connection>> all_connections();

// The calling thread's record, of which every daemon that this process is connected to knows from
// here on: what it says of the thread would be said in vain otherwise. Throws Failure.
[[nodiscard]] MyRecord& my_known_record();

}  // namespace faultline::client
