#include "daemon/kernel/shared_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace faultline::kernel {

Result<SharedMemory> SharedMemory::create(const std::string& name, ByteCount size) {
  const ByteCount bytes = kBasePage.round_up(size);
  UniqueFd fd{::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  if (!fd) return fail_errno("memfd_create(" + name + ")");
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes.value())) != 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail_errno("sizing and sealing memfd " + name);
  }
  auto memory =
      MappedMemory::create(bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd.get());
  if (!memory) return propagate(memory);
  return SharedMemory{std::move(fd), std::move(*memory)};
}

}  // namespace faultline::kernel
