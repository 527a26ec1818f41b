// One client's userfaultfd, typed. Must never block, and never let the descriptor be lost: when the
// last reference closes, the kernel answers the client's faults itself, with zeroes where a file
// should be.
//
// Life of a userfaultfd here:
//   1. A client makes it and sends it (adopt), or the kernel makes it at a fork (from_fork_event).
//   2. Ranges are registered; faults and events are read, through io_uring or read_now.
//   3. Each fault is answered by one of the range operations.
//   4. ESRCH from any of them: the process, or the memory it had before exec, is gone.
//
// What the range operations may answer, and what it means (userfaultfd(2), ioctl_userfaultfd(2)):
//   0       the whole range was done and the threads waiting in it were woken
//   EEXIST  a page was there already at .done; nothing was woken at that page: wake it
//   ENOENT  the range is not (or no longer) registered with this userfaultfd
//   EFAULT  continue_range, and copy_range from guarded memory: the object has no page there
//           (somebody punched a hole)
//   EAGAIN  an event (fork, remap, remove, unmap) is unread or under way: read it, then try again
//   ESRCH   the address space is gone
#pragma once

#include <linux/userfaultfd.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "daemon/kernel/closer.hpp"
#include "daemon/kernel/error.hpp"
#include "daemon/kernel/units.hpp"
#include "faultline/wire/unique_fd.hpp"

namespace faultline::kernel {

// What became of a range operation: how far it came, and why it stopped there (0: it did not).
struct RangeResult {
  ByteCount done;
  int error = 0;
};

enum class WriteProtect { no, yes };
enum class Wake { no, yes };

class Userfaultfd {
 public:
  // Whether forks, unmaps and the like will be reported; fork events need CAP_SYS_PTRACE.
  struct Features {
    bool fork_events = false;
  };

  // Takes a descriptor from a client: checks that it is a userfaultfd, makes it non-blocking and
  // initialises it. Errors: EBADF not a userfaultfd; EBUSY initialised already; EINVAL this kernel
  // lacks a feature that is needed.
  static Result<Userfaultfd> adopt(ForeignFd fd);
  // Whether it is one at all. Does not block, whatever it is.
  static bool is_userfaultfd(int fd);
  // A descriptor that the kernel installed with UFFD_EVENT_FORK; initialised, same features.
  static Userfaultfd from_fork_event(UniqueFd fd, Features features);

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] Features features() const { return features_; }

  // missing | minor | write-protect for an object's range; missing only for anonymous memory.
  // Errors: EINVAL not mapped, or memory of another kind; EBUSY another userfaultfd has it; EPERM.
  [[nodiscard]] Status register_object_range(Vaddr start, ByteCount length) const;
  [[nodiscard]] Status register_anonymous_range(Vaddr start, ByteCount length) const;
  // Wakes what waits in the range; the kernel serves it from then on.
  [[nodiscard]] Status unregister(Vaddr start, ByteCount length) const;

  // Maps pages that the object already has.
  [[nodiscard]] RangeResult continue_range(Vaddr start, ByteCount length, WriteProtect wp) const;
  // Installs private copies of the daemon's memory at source.
  [[nodiscard]] RangeResult copy_range(Vaddr start, const std::byte* source,
                                       ByteCount length) const;
  [[nodiscard]] RangeResult write_unprotect(Vaddr start, ByteCount length) const;
  // A write to a page that is mapped there raises a fault from now on.
  [[nodiscard]] RangeResult write_protect(Vaddr start, ByteCount length) const;
  // Every page not yet mapped raises SIGBUS from now on.
  [[nodiscard]] RangeResult poison_range(Vaddr start, ByteCount length) const;
  void wake(Vaddr start, ByteCount length) const;

  // 0 the address space lives and no event is under way; EAGAIN one is; ESRCH it is gone.
  // Changes nothing: it asks to write-unprotect a page at an address where no object is ever
  // mapped.
  [[nodiscard]] int probe() const;

  // Undoes what a client did by a descriptor of its own: poll(2) needs O_NONBLOCK.
  void make_nonblocking() const;

  // Reads what is there without ever blocking, whatever the client did to the descriptor's flags.
  // Returns the count of messages; 0 when there is none. Errors: EOPNOTSUPP before Linux 6.10.
  [[nodiscard]] Result<std::size_t> read_now(std::span<uffd_msg> messages) const;

 private:
  [[nodiscard]] RangeResult change_protection(Vaddr start, ByteCount length,
                                              std::uint64_t mode) const;
  enum class Holders { daemon_alone, client_too };
  Userfaultfd(ForeignFd fd, Features features, Holders holders)
      : fd_(std::move(fd)), features_(features), holders_(holders) {}

  ForeignFd fd_;  // its close waits for the client's memory map
  Features features_;
  Holders holders_;
};

}  // namespace faultline::kernel
