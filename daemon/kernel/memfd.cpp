#include "daemon/kernel/memfd.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace faultline::kernel {

namespace {
// Linux 6.3; the headers of Debian 12 are older. Without it newer kernels warn once per boot.
constexpr unsigned kMfdNoexecSeal = 0x0008U;

off_t as_offset(ByteCount n) {
  return static_cast<off_t>(n.value());
}

std::string describe(const char* what, ByteCount offset, ByteCount length) {
  return std::string(what) + " of " + std::to_string(length.value()) + " bytes at " +
         std::to_string(offset.value()) + " in an object's memfd";
}
}  // namespace

Result<Memfd> Memfd::create(const std::string& name, ByteCount size) {
  UniqueFd writable{::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | kMfdNoexecSeal)};
  if (!writable) return fail_errno("memfd_create(" + name + ")");
  if (::ftruncate(writable.get(), as_offset(size)) != 0) {
    return fail_errno("sizing memfd " + name + " to " + std::to_string(size.value()) + " bytes");
  }
  const std::string path = "/proc/self/fd/" + std::to_string(writable.get());
  UniqueFd read_only{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!read_only) return fail_errno("reopening memfd " + name + " read-only through " + path);
  if (::fchmod(writable.get(), 0) != 0) return fail_errno("fchmod(memfd " + name + ", 0)");
  if (::fcntl(writable.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail_errno("sealing memfd " + name);
  }
  return Memfd{std::move(writable), std::move(read_only)};
}

Status Memfd::allocate(ByteCount offset, ByteCount length) const {
  int result = 0;
  do {
    result = ::fallocate(writable_.get(), 0, as_offset(offset), as_offset(length));
  } while (result != 0 && errno == EINTR);
  if (result != 0) return fail_errno(describe("allocation", offset, length));
  return {};
}

Status Memfd::punch_hole(ByteCount offset, ByteCount length) const {
  const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  if (::fallocate(writable_.get(), mode, as_offset(offset), as_offset(length)) != 0) {
    return fail_errno(describe("hole punch", offset, length));
  }
  return {};
}

Result<bool> Memfd::holds(ByteCount offset) const {
  // This moves the file position, which all who opened the object share and nobody can rely on.
  const off_t data = ::lseek(read_only_.get(), as_offset(offset), SEEK_DATA);
  if (data < 0 && errno != ENXIO) return fail_errno("looking for data in an object's memfd");
  return data == as_offset(offset);
}

ByteCount Memfd::allocated() const {
  struct stat info {};
  if (::fstat(writable_.get(), &info) != 0) return ByteCount{0};
  return ByteCount{static_cast<std::uint64_t>(info.st_blocks) * 512};
}

}  // namespace faultline::kernel
