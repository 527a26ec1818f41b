#include "daemon/kernel/published_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace faultline::kernel {

namespace {
constexpr unsigned kMfdNoexecSeal = 0x0008U;  // Linux 6.3, as in memfd.cpp
}

Result<PublishedMemory> PublishedMemory::create(const std::string& name, ByteCount size) {
  const ByteCount bytes = kBasePage.round_up(size);
  UniqueFd fd{::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | kMfdNoexecSeal)};
  if (!fd) return fail_errno("memfd_create(" + name + ")");
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes.value())) != 0) {
    return fail_errno("sizing memfd " + name + " to " + std::to_string(bytes.value()) + " bytes");
  }
  auto memory =
      MappedMemory::create(bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd.get());
  if (!memory) return propagate(memory);
  constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;
  if (::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) return fail_errno("sealing memfd " + name);
  return PublishedMemory{std::move(*memory), std::move(fd)};
}

ByteCount PublishedMemory::next(ByteCount from, int what) const {
  const ByteCount size{bytes().size()};
  if (from >= size) return size;
  // ENXIO: none from there on. The file offset that this moves is used by nobody.
  const off_t found = ::lseek(fd_.get(), static_cast<off_t>(from.value()), what);
  return found < 0 ? size : ByteCount{static_cast<std::uint64_t>(found)};
}

ByteCount PublishedMemory::next_memory(ByteCount from) const {
  return next(from, SEEK_DATA);
}

ByteCount PublishedMemory::next_hole(ByteCount from) const {
  return next(from, SEEK_HOLE);
}

}  // namespace faultline::kernel
