// A word that is waited for, and the value that it should have.
#pragma once

#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "faultline/faultline.h"

namespace faultline::client {

inline constexpr std::uint32_t kSizeFlags = 3;

// Reads 1, 2, 4 or 8 bytes through the kernel: another thread may be unmapping them at this moment,
// which must not end the process. Nothing where they are gone.
[[nodiscard]] inline std::optional<std::uint64_t> read_memory(std::uintptr_t address,
                                                              std::size_t bytes) {
  std::uint64_t value = 0;
  const iovec into{&value, bytes};
  const iovec from{reinterpret_cast<void*>(address), bytes};
  const ssize_t read = ::process_vm_readv(::getpid(), &into, 1, &from, 1, 0);
  if (read == static_cast<ssize_t>(bytes)) return value;
  return std::nullopt;
}

struct Word {
  std::uintptr_t address = 0;
  std::uint64_t expected = 0;
  std::uint32_t size = FL_WAIT_U32;

  [[nodiscard]] unsigned bytes() const {
    constexpr std::array<unsigned, 4> kBytes{4, 1, 2, 8};
    return kBytes.at(size);
  }
  [[nodiscard]] bool aligned() const { return address % bytes() == 0; }
  [[nodiscard]] std::uint64_t mask() const {
    return size == FL_WAIT_U64 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * bytes())) - 1;
  }
  [[nodiscard]] bool holds(std::uint64_t value) const {
    return (value & mask()) == (expected & mask());
  }
  // Looks at it. 0: it is as expected; -EAGAIN it is not; -EFAULT it is gone.
  [[nodiscard]] int look() const {
    const auto value = read_memory(address, bytes());
    if (!value) return -EFAULT;
    return holds(*value) ? 0 : -EAGAIN;
  }
};

// 0: all are as expected; otherwise what the first says that is not.
[[nodiscard]] inline int look_at(std::span<const Word> words) {
  for (const Word& word : words) {
    if (const int looked = word.look(); looked != 0) return looked;
  }
  return 0;
}

// The 32 bits that the kernel compares, around a smaller word.
struct Container {
  explicit Container(const Word& word)
      : address(word.address & ~std::uintptr_t{3}),
        shift(8 * static_cast<unsigned>(word.address & 3)) {}

  // Nothing where it is gone.
  [[nodiscard]] std::optional<std::uint32_t> load() const {
    const auto value = read_memory(address, sizeof(std::uint32_t));
    if (!value) return std::nullopt;
    return static_cast<std::uint32_t>(*value);
  }
  // Whether the word has its value where the container has this one.
  [[nodiscard]] bool fits(const Word& word, std::uint32_t value) const {
    return word.holds(value >> shift);
  }

  std::uintptr_t address;
  unsigned shift;
};

}  // namespace faultline::client
