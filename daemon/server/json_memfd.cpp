#include "daemon/server/json_memfd.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

namespace faultline::server {

Result<UniqueFd> json_memfd(std::string_view text) {
  UniqueFd fd{::memfd_create("faultline:report", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  if (!fd) return fail_errno("memfd_create for a report");
  while (!text.empty()) {
    const ssize_t written = ::write(fd.get(), text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return fail_errno("writing a report");
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) !=
      0) {
    return fail_errno("sealing a report");
  }
  return fd;
}

}  // namespace faultline::server
