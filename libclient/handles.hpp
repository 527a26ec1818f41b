// What the C interface's handles are, and the check that all of its functions begin with. Must
// never be seen by users of the library.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "faultline/faultline.h"
#include "faultline/wire/unique_fd.hpp"
#include "libclient/connection.hpp"

struct fl_client {
  std::shared_ptr<faultline::client::Connection> connection;
};

struct fl_object {
  std::shared_ptr<faultline::client::Connection> connection;
  std::uint64_t generation = 0;
  faultline::wire::ObjectReply opened;
  faultline::UniqueFd memfd;
  std::shared_ptr<const faultline::client::ObjectView> view;
};

namespace faultline::client {

// Throws Failure: EINVAL.
inline void require(bool condition, const char* what) {
  if (!condition) throw Failure(EINVAL, what);
}

// Whole pages of this process. doing: as in "unmapping". Throws Failure: EINVAL.
inline MapRange range_of(const char* doing, const void* address, std::size_t length) {
  const auto start = reinterpret_cast<std::uintptr_t>(address);
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  if (length == 0 || start % page != 0 || length % page != 0 || start + length <= start) {
    throw Failure(EINVAL, std::string(doing) +
                              " a range whose address or length is zero or not a "
                              "multiple of the page size");
  }
  return {start, length};
}

}  // namespace faultline::client
