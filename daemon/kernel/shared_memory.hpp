// Memory that the daemon and one client write, by a descriptor of it. Must never be able to shrink:
// the daemon would get SIGBUS.
#pragma once

#include <string>

#include "daemon/kernel/error.hpp"
#include "daemon/kernel/mapped_memory.hpp"
#include "daemon/kernel/units.hpp"
#include "faultline/wire/unique_fd.hpp"

namespace faultline::kernel {

struct SharedMemory {
  // Zero-filled, and sparse. size is rounded up to whole pages. Errors: of memfd_create(2),
  // mmap(2).
  static Result<SharedMemory> create(const std::string& name, ByteCount size);

  UniqueFd fd;  // to be sent
  MappedMemory memory;
};

}  // namespace faultline::kernel
