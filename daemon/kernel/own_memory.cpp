#include "daemon/kernel/own_memory.hpp"

#include <sys/uio.h>
#include <unistd.h>

#include <string>

namespace faultline::kernel {

namespace {

Status outcome(ssize_t done, std::size_t wanted, const char* attempted) {
  if (done < 0) return fail_errno(attempted);
  if (static_cast<std::size_t>(done) != wanted) return fail(EFAULT, attempted);
  return {};
}

}  // namespace

Status read_own_memory(const std::byte* from, std::span<std::byte> into) {
  const iovec here{into.data(), into.size()};
  // process_vm_readv(2) takes a non-const pointer and does not write through it.
  const iovec there{const_cast<std::byte*>(from), into.size()};
  return outcome(::process_vm_readv(::getpid(), &here, 1, &there, 1, 0), into.size(),
                 "reading memory of the daemon's own");
}

Status write_own_memory(std::byte* to, std::span<const std::byte> from) {
  const iovec here{const_cast<std::byte*>(from.data()), from.size()};
  const iovec there{to, from.size()};
  return outcome(::process_vm_writev(::getpid(), &here, 1, &there, 1, 0), from.size(),
                 "writing memory of the daemon's own");
}

}  // namespace faultline::kernel
