// Makes reading a hole of a memfd, through mappings that are guarded, fail instead of allocating a
// page of zeroes there. Must never guard what something still has to be written through.
//
// It is a userfaultfd of the daemon's own that nobody reads: with UFFD_FEATURE_SIGBUS a fault that
// would need it is an error at once. A system call that copies from a hole gets EFAULT; the daemon
// itself must not look, and would get SIGBUS. What is in memory or swapped out is read as ever.
//
// Thread-safe.
#pragma once

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

 private:
  explicit HoleGuard(UniqueFd fd) : fd_(std::move(fd)) {}
  static Result<HoleGuard> create();

  UniqueFd fd_;
};

}  // namespace faultline::kernel
