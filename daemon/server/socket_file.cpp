#include "daemon/server/socket_file.hpp"

#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace faultline::server {

namespace {

Result<sockaddr_un> socket_address(const std::filesystem::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string text = path.string();
  if (text.size() >= sizeof(address.sun_path)) {
    return fail(ENAMETOOLONG, "listening on " + text);
  }
  text.copy(static_cast<char*>(address.sun_path), sizeof(address.sun_path) - 1);
  return address;
}

// Removes a socket file that nobody listens on, left by a daemon that was killed; nothing else.
Status remove_stale(const std::filesystem::path& path, const sockaddr_un& address, int type) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return {};
    return fail_errno("looking at " + path.string());
  }
  if (!S_ISSOCK(info.st_mode)) {
    return fail(EADDRINUSE, "listening on " + path.string() + ": it exists and is not a socket");
  }
  const UniqueFd probe{::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!probe) return fail_errno("making a socket");
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 ||
      errno == EAGAIN) {
    return fail(EADDRINUSE, "listening on " + path.string() + ", where another daemon does");
  }
  // EACCES: it is not for us to ask. EPROTOTYPE: a socket of another kind.
  if (errno != ECONNREFUSED) {
    return fail(EADDRINUSE, "listening on " + path.string() +
                                ", which is in use: asking it gives " + std::strerror(errno));
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return fail_errno("removing the stale socket " + path.string());
  }
  return {};
}

std::string name_of_group(gid_t gid) {
  const group* const known = ::getgrgid(gid);
  return known == nullptr ? std::to_string(gid) : known->gr_name;
}

// The file is born without any permission: it gets its mode when its group is right.
Status bind_to(int fd, const std::filesystem::path& path, const sockaddr_un& address, int type) {
  const auto bind_now = [&]() -> int {
    const mode_t before = ::umask(0777);
    const int bound = ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
    const int error = bound == 0 ? 0 : errno;
    ::umask(before);
    return error;
  };
  int error = bind_now();
  if (error == EADDRINUSE) {
    if (auto removed = remove_stale(path, address, type); !removed) return propagate(removed);
    error = bind_now();
  }
  if (error == EADDRINUSE) {
    return fail(error, "listening on " + path.string() + ", which came to be in use just now");
  }
  if (error != 0) return fail(error, "listening on " + path.string());
  return {};
}

}  // namespace

void SocketFile::bound_at(std::filesystem::path path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return;  // somebody removed it already
  path_ = std::move(path);
  device_ = info.st_dev;
  inode_ = info.st_ino;
}

void SocketFile::remove() {
  const std::filesystem::path path = std::exchange(path_, {});
  struct stat info {};
  if (path.empty() || ::lstat(path.c_str(), &info) != 0) return;
  if (info.st_dev == device_ && info.st_ino == inode_) (void)::unlink(path.c_str());
}

Result<UniqueFd> listen_at(const std::filesystem::path& path, int type, std::optional<gid_t> group,
                           mode_t mode, SocketFile& file) {
  auto address = socket_address(path);
  if (!address) return propagate(address);
  if (path.has_parent_path()) {
    std::error_code error;
    std::filesystem::create_directories(path.parent_path(), error);
    if (error) return fail(error.value(), "making the directory of " + path.string());
  }
  UniqueFd fd{::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!fd) return fail_errno("making the listening socket");
  if (auto bound = bind_to(fd.get(), path, *address, type); !bound) return propagate(bound);
  // At once: a socket that does not listen yet is a stale one to another daemon that starts.
  const int listening = ::listen(fd.get(), SOMAXCONN);
  const int listen_errno = errno;
  file.bound_at(path);
  if (listening != 0) return fail(listen_errno, "listening on " + path.string());
  if (group && ::chown(path.c_str(), static_cast<uid_t>(-1), *group) != 0) {
    const int error = errno;  // before the group's name is asked for
    return fail(error, "giving " + path.string() + " to group " + name_of_group(*group));
  }
  if (::chmod(path.c_str(), mode) != 0) return fail_errno("chmod of " + path.string());
  return fd;
}

}  // namespace faultline::server
