// Owns one mapping of the daemon's own. Must never map memory that a client's userfaultfd watches:
// its fault would come back to the thread that raised it.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <span>
#include <utility>

#include "daemon/kernel/error.hpp"
#include "daemon/kernel/units.hpp"

namespace faultline::kernel {

class MappedMemory {
 public:
  MappedMemory() = default;
  MappedMemory(MappedMemory&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedMemory& operator=(MappedMemory&& other) noexcept {
    if (this != &other) {
      unmap();
      base_ = std::exchange(other.base_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }
  MappedMemory(const MappedMemory&) = delete;
  MappedMemory& operator=(const MappedMemory&) = delete;
  ~MappedMemory() { unmap(); }

  // fd -1: anonymous, zero-filled, taking memory only where it is written.
  static Result<MappedMemory> create(ByteCount size, int prot, int flags, int fd = -1) {
    void* base = ::mmap(nullptr, size.value(), prot, flags, fd, 0);
    if (base == MAP_FAILED) return fail_errno("mmap of " + std::to_string(size.value()) + " bytes");
    return MappedMemory{static_cast<std::byte*>(base), size.value()};
  }

  // Allocates the pages of a writable range, zeroed where nothing was; whole pages. Idempotent.
  // Blocks for the zeroing, and for no lock of a file: fallocate(2) would wait for whoever writes
  // to the memfd, who may be waiting for a page from us.
  [[nodiscard]] Status populate(ByteCount offset, ByteCount length) const {
    int result = 0;
    do {
      result = ::madvise(base_ + offset.value(), length.value(), MADV_POPULATE_WRITE);
    } while (result != 0 && (errno == EINTR || errno == EAGAIN));
    if (result != 0) {
      return fail_errno("populating " + std::to_string(length.value()) + " bytes at " +
                        std::to_string(offset.value()));
    }
    return {};
  }

  [[nodiscard]] std::byte* data() const { return base_; }
  [[nodiscard]] std::span<std::byte> bytes() const { return {base_, size_}; }

 private:
  MappedMemory(std::byte* base, std::size_t size) : base_(base), size_(size) {}
  void unmap() {
    if (base_ != nullptr) ::munmap(base_, size_);
  }

  std::byte* base_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace faultline::kernel
