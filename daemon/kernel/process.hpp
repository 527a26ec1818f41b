// What /proc and pidfds tell of a client process. Must never be used to decide a right: a pid can
// be reused between two looks. Rights come from the socket's credentials.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "daemon/kernel/error.hpp"
#include "daemon/kernel/units.hpp"
#include "faultline/wire/unique_fd.hpp"

namespace faultline::kernel {

struct PeerCredentials {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
};

// Of the process that connected. Errors: EINVAL where it is gone already.
Result<PeerCredentials> peer_credentials(int socket);

// A copy of an io_uring of the process at the other end of a socket. Errors: EBADF there is no such
// descriptor, or it is none; EPERM the daemon may not look into that process (ptrace(2)); ESRCH.
Result<UniqueFd> ring_of_peer(int socket, int ring_fd);

// The process that a thread belongs to, in this daemon's pid namespace; nothing where it is gone.
std::optional<pid_t> process_of_thread(pid_t tid);
// The short name of a process as ps(1) shows it; empty where it is gone.
std::string process_name(pid_t pid);

// How much a process may lock in memory, as mlock(2) counts: RLIMIT_MEMLOCK, or no limit where it
// has CAP_IPC_LOCK. Nothing where that is not to be found out: it is gone, or not ours to look at.
std::optional<ByteCount> lockable_memory(pid_t pid);

struct ResidentPages {
  PageCount shared;    // pages of a file or memfd
  PageCount private_;  // anonymous pages in memory
  // Swapped anonymous pages, and marks (poison, or write protection of a page that is not there),
  // which PAGEMAP_SCAN shows alike.
  PageCount swapped_or_marked;
};

// Asks the kernel's own page table (PAGEMAP_SCAN, Linux 6.7) about [start, start + length) of a
// process. Walks page tables: milliseconds a GiB. Errors: ESRCH, EACCES, EPERM.
class PageMap {
 public:
  // Of a process that the user may look into by himself (root: of any). A pid may by now be that of
  // another user's process: of one that executed a set-user-id program, or of a newer one. EPERM
  // then, and for a process that is not dumpable.
  static Result<PageMap> open(pid_t pid, uid_t user);
  [[nodiscard]] Result<ResidentPages> scan(Vaddr start, ByteCount length) const;

 private:
  explicit PageMap(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

// One mapping of a process, as the kernel has it.
struct KernelMapping {
  Vaddr start;
  Vaddr end;
  ByteCount offset;         // of start, in the file
  std::uint64_t inode = 0;  // 0: no file
  bool writable = false;
  bool shared = false;
};

// The mapping that holds an address (PROCMAP_QUERY, Linux 6.11); nothing where there is none. Waits
// for the process's memory map, as an ioctl on its userfaultfd does. Errors: ESRCH, EACCES; ENOTTY
// from an older kernel.
Result<std::optional<KernelMapping>> mapping_at(pid_t pid, Vaddr address);

}  // namespace faultline::kernel
