#include "daemon/kernel/memfd.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/kernel/uapi.hpp"

namespace faultline::kernel {

namespace {
// Linux 6.3; the headers of Debian 12 are older. Without it newer kernels warn once per boot.
constexpr unsigned kMfdNoexecSeal = 0x0008U;

off_t as_offset(ByteCount n) {
  return static_cast<off_t>(n.value());
}

}  // namespace

Result<Memfd> Memfd::create(const std::string& name, ByteCount size, PageSize page_size) {
  const unsigned pages = page_size == kHugePage ? MFD_HUGETLB | uapi::kMfdHuge2Mb : 0;
  UniqueFd writable{
      ::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING | kMfdNoexecSeal | pages)};
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
  struct stat info {};
  if (::fstat(writable.get(), &info) != 0) return fail_errno("looking at memfd " + name);
  return Memfd{std::move(writable), std::move(read_only), info.st_ino};
}

Result<bool> Memfd::holds(ByteCount offset, ByteCount length) const {
  const uapi::CachestatRange range{offset.value(), length.value()};
  uapi::Cachestat stat{};
  if (::syscall(uapi::kSysCachestat, writable_.get(), &range, &stat, 0) != 0) {
    return fail_errno("cachestat of " + std::to_string(length.value()) + " bytes at " +
                      std::to_string(offset.value()) + " of an object's memfd");
  }
  return stat.nr_cache + stat.nr_evicted > 0;  // of a memfd, evicted is what is in swap
}

Status Memfd::punch(ByteCount offset, ByteCount length) const {
  int result = 0;
  do {
    result = ::fallocate(writable_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                         as_offset(offset), as_offset(length));
  } while (result != 0 && errno == EINTR);
  if (result == 0) return {};
  return fail_errno("taking " + std::to_string(length.value()) + " bytes at " +
                    std::to_string(offset.value()) + " out of an object's memfd");
}

ByteCount Memfd::allocated() const {
  struct stat info {};
  if (::fstat(writable_.get(), &info) != 0) return ByteCount{0};
  return ByteCount{static_cast<std::uint64_t>(info.st_blocks) * 512};
}

}  // namespace faultline::kernel
