// Where clients look for a daemon, the library and the tools alike.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

namespace faultline::wire {

// To be tried in this order, never none: $FAULTLINE_SOCKET alone, else the user's own daemon's
// where there is one, then the system's.
inline std::vector<std::string> client_socket_paths() {
  const char* path = std::getenv("FAULTLINE_SOCKET");
  if (path != nullptr && *path != '\0') return {path};
  std::vector<std::string> paths;
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && *runtime != '\0') {
    std::string own = std::string(runtime) + "/faultline/faultlined.sock";
    if (::access(own.c_str(), W_OK) == 0) paths.push_back(std::move(own));
  }
  paths.emplace_back("/run/faultline/faultlined.sock");
  return paths;
}

// Whether this errno of connect(2) says that no daemon is there: the next path is to be tried. A
// daemon that was killed leaves its socket behind.
inline bool nobody_listens(int code) {
  return code == ENOENT || code == ECONNREFUSED;
}

}  // namespace faultline::wire
