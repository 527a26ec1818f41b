#include "daemon/kernel/hole_guard.hpp"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdint>

#include "daemon/kernel/own_memory.hpp"
#include "daemon/kernel/uapi.hpp"
#include "daemon/kernel/zeroes.hpp"

namespace faultline::kernel {

Result<const HoleGuard*> HoleGuard::of_process() {
  static const Result<HoleGuard> made = create();
  if (!made) return tl::make_unexpected(made.error());
  return &*made;
}

Result<HoleGuard> HoleGuard::create() {
  // Of user mode only: that needs no privilege, and a fault of the kernel's is an error all the
  // same.
  UniqueFd fd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY))};
  if (!fd) {
    const UniqueFd device{::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)};
    fd = UniqueFd{::ioctl(device.get(), uapi::kIoctlNewUserfaultfd, O_CLOEXEC)};
  }
  if (!fd) return fail_errno("making a userfaultfd of the daemon's own");
  uffdio_api api{UFFD_API, UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MISSING_SHMEM, 0};
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) {
    return fail_errno("UFFDIO_API on a userfaultfd of the daemon's own");
  }
  return HoleGuard{std::move(fd)};
}

Status HoleGuard::guard(const MappedMemory& memory) const {
  uffdio_register request{};
  request.range = {reinterpret_cast<std::uintptr_t>(memory.data()), memory.bytes().size()};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (::ioctl(fd_.get(), UFFDIO_REGISTER, &request) != 0) {
    return fail_errno("guarding " + std::to_string(memory.bytes().size()) +
                      " bytes of an object against holes");
  }
  return {};
}

Status HoleGuard::put(const MappedMemory& memory, ByteCount offset,
                      std::span<const std::byte> pages, PageSize page_size) const {
  const std::size_t one = page_size.bytes().value();
  std::byte* const to = memory.data() + offset.value();
  std::size_t done = 0;
  while (done < pages.size()) {
    uffdio_copy request{};
    request.dst = reinterpret_cast<std::uintptr_t>(to + done);
    request.src = reinterpret_cast<std::uintptr_t>(pages.data() + done);
    request.len = pages.size() - done;
    if (::ioctl(fd_.get(), UFFDIO_COPY, &request) == 0) return {};
    if (request.copy > 0) {
      done += static_cast<std::size_t>(request.copy);
      continue;
    }
    int error = errno;
    if (error == EEXIST) {
      error = write_over(to + done, pages.subspan(done, one));
      if (error == 0) done += one;
    }
    // EFAULT: what was there has gone since, so that there is a hole to fill.
    if (error != 0 && error != EFAULT) {
      return fail(error, "putting " + std::to_string(pages.size() - done) + " bytes at " +
                             std::to_string(offset.value() + done));
    }
  }
  return {};
}

Status HoleGuard::put_zeroes(const MappedMemory& memory, ByteCount offset, ByteCount length,
                             PageSize page_size) const {
  std::uint64_t done = 0;
  while (done < length.value()) {
    const auto to = reinterpret_cast<std::uintptr_t>(memory.data() + offset.value() + done);
    const std::int64_t put =
        page_size == kHugePage ? copy_zeroes(to) : zero_pages(to, length.value() - done);
    if (put > 0) {
      done += static_cast<std::uint64_t>(put);
    } else if (errno == EEXIST) {
      done += page_size.bytes().value();
    } else if (errno != EAGAIN) {
      return fail_errno("putting " + std::to_string(length.value() - done) + " zero bytes at " +
                        std::to_string(offset.value() + done));
    }
  }
  return {};
}

std::int64_t HoleGuard::zero_pages(std::uintptr_t to, std::uint64_t length) const {
  uffdio_zeropage request{};
  request.range = {to, length};
  (void)::ioctl(fd_.get(), UFFDIO_ZEROPAGE, &request);
  return request.zeropage;
}

std::int64_t HoleGuard::copy_zeroes(std::uintptr_t to) const {
  uffdio_copy request{};
  request.dst = to;
  request.src = reinterpret_cast<std::uintptr_t>(zeroes().data());
  request.len = kHugePage.bytes().value();
  (void)::ioctl(fd_.get(), UFFDIO_COPY, &request);
  return request.copy;
}

Result<bool> HoleGuard::holds(const MappedMemory& memory, ByteCount offset) {
  std::byte first{};
  Status read = read_own_memory(memory.data() + offset.value(), std::span(&first, 1));
  if (read) return true;
  if (read.error().code() == EFAULT) return false;
  return propagate(read);
}

// Not by a store, which would be the daemon's end where the page is gone by now.
int HoleGuard::write_over(std::byte* to, std::span<const std::byte> page) {
  const Status written = write_own_memory(to, page);
  return written ? 0 : written.error().code();
}

}  // namespace faultline::kernel
