// The memory of one object: a sealed memfd. Must never hand out a descriptor with more rights than
// asked, and never take the file's own lock: a client may hold it for as long as it likes, by a
// write(2) to the memfd from memory that faults.
//
// What is sealed: SHRINK and GROW, so that no client can pull pages from under another, and SEAL.
// Writing is not sealed: rights are in the descriptor's open mode, and the file's mode is 0, so
// that a holder of the read-only descriptor cannot open /proc/self/fd/N for writing (unless it owns
// the file or has CAP_DAC_OVERRIDE: clients of the daemon's own uid are not kept from one another's
// memory by this).
//
// One of huge pages is on hugetlbfs. Whoever maps it has to reserve its pages: it has none of its
// own, and takes them from the pool of the machine (huge_pages.hpp).
#pragma once

#include <cstdint>
#include <string>

#include "daemon/kernel/error.hpp"
#include "daemon/kernel/units.hpp"
#include "faultline/wire/unique_fd.hpp"

namespace faultline::kernel {

class Memfd {
 public:
  // name shows in /proc/PID/maps as "memfd:NAME". size: whole pages. Errors: of huge pages, ENODEV
  // where the kernel has none of that size.
  static Result<Memfd> create(const std::string& name, ByteCount size,
                              PageSize page_size = kBasePage);

  [[nodiscard]] int writable_fd() const { return writable_.get(); }
  [[nodiscard]] int read_only_fd() const { return read_only_.get(); }

  // By which /proc/PID/maps tells whose memory a mapping is. Of its own among all memfds that live.
  [[nodiscard]] std::uint64_t inode() const { return inode_; }

  // Whether there is any page in the range, in memory or swapped out. Errors: EOPNOTSUPP of huge
  // pages, of which the kernel does not tell.
  [[nodiscard]] Result<bool> holds(ByteCount offset, ByteCount length) const;
  // Takes whole pages out, of the memfd and of every mapping of it. Blocks for the lock of the
  // memfd's inode, which whoever may write to it can hold for any time.
  [[nodiscard]] Status punch(ByteCount offset, ByteCount length) const;
  // Bytes of memory in use.
  [[nodiscard]] ByteCount allocated() const;

 private:
  Memfd(UniqueFd writable, UniqueFd read_only, std::uint64_t inode)
      : writable_(std::move(writable)), read_only_(std::move(read_only)), inode_(inode) {}

  UniqueFd writable_;
  UniqueFd read_only_;
  std::uint64_t inode_;
};

}  // namespace faultline::kernel
