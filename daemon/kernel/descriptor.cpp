#include "daemon/kernel/descriptor.hpp"

#include <unistd.h>

#include <array>
#include <string>

namespace faultline::kernel {

bool is_anonymous_inode(int fd, std::string_view kind) {
  std::array<char, 64> target{};
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t length = ::readlink(path.c_str(), target.data(), target.size());
  if (length <= 0) return false;
  return std::string_view(target.data(), static_cast<std::size_t>(length)) ==
         "anon_inode:" + std::string(kind);
}

}  // namespace faultline::kernel
