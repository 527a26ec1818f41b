// Sockets that listen in the file system. Must never take the place of a socket that somebody
// listens on, nor of anything that is no socket.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>

#include "daemon/kernel/error.hpp"
#include "faultline/wire/unique_fd.hpp"

namespace faultline::server {

// The file of a listening socket, for as long as this lives. Must never remove one that another
// daemon has bound at its place since.
class SocketFile {
 public:
  SocketFile() = default;
  SocketFile(const SocketFile&) = delete;
  SocketFile& operator=(const SocketFile&) = delete;
  ~SocketFile() { remove(); }

  // Right after bind(2). While that socket is open, no other file can be taken for its own.
  void bound_at(std::filesystem::path path);
  void remove();

 private:
  std::filesystem::path path_;  // empty: none
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

// Listens there, nonblocking, with the group (nothing: the daemon's own) and the mode. type:
// SOCK_SEQPACKET or SOCK_STREAM. file: the socket's from then on, also where there is an error.
// Errors: EADDRINUSE another listens there, or what is there is not a socket, each in words that
// need no errno; EACCES, ENOENT of the socket's place.
Result<UniqueFd> listen_at(const std::filesystem::path& path, int type, std::optional<gid_t> group,
                           mode_t mode, SocketFile& file);

}  // namespace faultline::server
