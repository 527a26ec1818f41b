// Memory that a client made and lent to the daemon. Must never become shorter than it was checked
// to be: the daemon would get SIGBUS.
#pragma once

#include "daemon/kernel/closer.hpp"
#include "daemon/kernel/error.hpp"
#include "daemon/kernel/mapped_memory.hpp"
#include "daemon/kernel/units.hpp"

namespace faultline::kernel {

// Maps the first bytes of a memfd for reading and writing. Errors: EINVAL it is not sealed against
// shrinking, or too short, or no memfd at all; EACCES not open for both.
Result<MappedMemory> map_client_memory(const ForeignFd& memfd, ByteCount length);

}  // namespace faultline::kernel
