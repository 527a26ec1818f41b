// Keeps pages of a memfd from ever being there without their content. Mappings that are guarded
// never allocate a page of zeroes where the memfd has a hole: using one fails, and what is to fill
// it comes as a whole. Must never guard what the daemon itself loads from or stores to: it would
// get SIGBUS in a hole.
//
// It is a userfaultfd of the daemon's own. With UFFD_FEATURE_SIGBUS a fault that would need it is
// an error at once: a system call that copies from or to a hole gets EFAULT. What is in memory or
// swapped out is used as ever.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "daemon/kernel/error.hpp"
#include "daemon/kernel/mapped_memory.hpp"
#include "faultline/wire/unique_fd.hpp"

namespace faultline::kernel {

class HoleGuard {
 public:
  // The process's one, made with the first call. Errors: of userfaultfd(2), EPERM for one.
  static Result<const HoleGuard*> of_process();

  // Until it is unmapped. The memory is a memfd's, mapped shared from a descriptor that may write.
  // Errors: EINVAL of other memory; ENOMEM.
  [[nodiscard]] Status guard(const MappedMemory& memory) const;

  // Puts whole pages there, each in one step for everybody who has the memfd. Pages that somebody
  // else allocated meanwhile are written over. Blocks for no lock of the memfd's. Errors: ENOMEM;
  // of process_vm_writev(2), EPERM and ENOSYS where it is not allowed.
  [[nodiscard]] Status put(const MappedMemory& memory, ByteCount offset,
                           std::span<const std::byte> pages, PageSize page_size) const;
  // Allocates zeroed pages where there are holes, and leaves what is there. Errors: ENOMEM.
  [[nodiscard]] Status put_zeroes(const MappedMemory& memory, ByteCount offset, ByteCount length,
                                  PageSize page_size) const;
  // Whether there is a page, in memory or swapped out. Errors: of process_vm_readv(2).
  [[nodiscard]] static Result<bool> holds(const MappedMemory& memory, ByteCount offset);

 private:
  explicit HoleGuard(UniqueFd fd) : fd_(std::move(fd)) {}
  static Result<HoleGuard> create();
  // Each returns how many bytes came to be there, or a negative number with errno. There is no
  // UFFDIO_ZEROPAGE of huge pages: one is copied.
  [[nodiscard]] std::int64_t zero_pages(std::uintptr_t to, std::uint64_t length) const;
  [[nodiscard]] std::int64_t copy_zeroes(std::uintptr_t to) const;
  // Returns an errno, or 0.
  [[nodiscard]] static int write_over(std::byte* to, std::span<const std::byte> page);

  UniqueFd fd_;
};

}  // namespace faultline::kernel
