// What a descriptor that came from a client is. Does not block, whatever it is.
#pragma once

#include <string_view>

namespace faultline::kernel {

// Whether it is of the kernel's own kind of that name: "[eventfd]", "[io_uring]", "[userfaultfd]".
[[nodiscard]] bool is_anonymous_inode(int fd, std::string_view kind);

}  // namespace faultline::kernel
