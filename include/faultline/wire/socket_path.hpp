// Where clients look for a daemon, the library and the tools alike.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <string>

namespace faultline::wire {

// $FAULTLINE_SOCKET, else the user's own daemon where there is one, else the system's.
inline std::string client_socket_path() {
  const char* path = std::getenv("FAULTLINE_SOCKET");
  if (path != nullptr && *path != '\0') return path;
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && *runtime != '\0') {
    std::string own = std::string(runtime) + "/faultline/faultlined.sock";
    if (::access(own.c_str(), W_OK) == 0) return own;
  }
  return "/run/faultline/faultlined.sock";
}

}  // namespace faultline::wire
