#include "daemon/kernel/client_memory.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>

namespace faultline::kernel {

Result<MappedMemory> map_client_memory(const ForeignFd& memfd, ByteCount length) {
  // Only memory can be sealed, so no file system has a say in what follows.
  const int seals = ::fcntl(memfd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return fail(EINVAL, "taking a client's memory that is not sealed against shrinking");
  }
  // A huge page that is not to be had is SIGBUS.
  struct statfs system {};
  if (::fstatfs(memfd.get(), &system) != 0) return fail_errno("looking at a client's memory");
  if (system.f_type != TMPFS_MAGIC) return fail(EINVAL, "taking a client's memory of huge pages");
  struct stat info {};
  if (::fstat(memfd.get(), &info) != 0) return fail_errno("looking at a client's memory");
  if (static_cast<std::uint64_t>(info.st_size) < length.value()) {
    return fail(EINVAL, "taking " + std::to_string(length.value()) +
                            " bytes of a client's memory that has " + std::to_string(info.st_size));
  }
  return MappedMemory::create(length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                              memfd.get());
}

}  // namespace faultline::kernel
