// Memory that the daemon writes and clients can read, by a descriptor of it. Must never be writable
// by whoever has that descriptor, whatever they are.
//
// A memfd, mapped here before it is sealed with F_SEAL_FUTURE_WRITE (memfd_create(2)): from then on
// the kernel gives nobody another writable mapping, nor write(2), nor a hole. Sparse: a page takes
// memory when it is first written, or read through a mapping.
#pragma once

#include <string>

#include "daemon/kernel/error.hpp"
#include "daemon/kernel/mapped_memory.hpp"
#include "daemon/kernel/units.hpp"
#include "faultline/wire/unique_fd.hpp"

namespace faultline::kernel {

class PublishedMemory {
 public:
  // Zero-filled. size is rounded up to whole pages.
  static Result<PublishedMemory> create(const std::string& name, ByteCount size);

  [[nodiscard]] std::byte* data() const { return memory_.data(); }
  [[nodiscard]] std::span<std::byte> bytes() const { return memory_.bytes(); }
  // Where memory begins, from an offset on, and where it ends: the size where there is none. Reads
  // nothing, so that nothing takes memory by being looked at.
  [[nodiscard]] ByteCount next_memory(ByteCount from) const;
  [[nodiscard]] ByteCount next_hole(ByteCount from) const;
  // To be sent; it stays this object's.
  [[nodiscard]] int fd() const { return fd_.get(); }
  // To be sent once: nobody else gets it from then on.
  [[nodiscard]] UniqueFd take_fd() { return std::move(fd_); }

 private:
  [[nodiscard]] ByteCount next(ByteCount from, int what) const;
  PublishedMemory(MappedMemory memory, UniqueFd fd)
      : memory_(std::move(memory)), fd_(std::move(fd)) {}

  MappedMemory memory_;
  UniqueFd fd_;
};

}  // namespace faultline::kernel
