// A word that is waited for, and the value that it should have.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "faultline/faultline.h"

namespace faultline::client {

inline constexpr std::uint32_t kSizeFlags = 3;

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
  // Looks at it.
  [[nodiscard]] bool as_expected() const {
    switch (size) {
      case FL_WAIT_U8:
        return holds(load<std::uint8_t>());
      case FL_WAIT_U16:
        return holds(load<std::uint16_t>());
      case FL_WAIT_U64:
        return holds(load<std::uint64_t>());
      default:
        return holds(load<std::uint32_t>());
    }
  }

 private:
  template <typename T>
  [[nodiscard]] T load() const {
    return std::atomic_ref(*reinterpret_cast<T*>(address)).load();
  }
};

// The 32 bits that the kernel compares, around a smaller word.
struct Container {
  explicit Container(const Word& word)
      : address(word.address & ~std::uintptr_t{3}),
        shift(8 * static_cast<unsigned>(word.address & 3)) {}

  [[nodiscard]] std::uint32_t load() const {
    return std::atomic_ref(*reinterpret_cast<std::uint32_t*>(address)).load();
  }
  // Whether the word has its value where the container has this one.
  [[nodiscard]] bool fits(const Word& word, std::uint32_t value) const {
    return word.holds(value >> shift);
  }

  std::uintptr_t address;
  unsigned shift;
};

}  // namespace faultline::client
