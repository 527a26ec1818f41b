// How messages write what has more than one way to be written.
#pragma once

#include <array>
#include <charconv>
#include <string>

#include "daemon/kernel/units.hpp"

namespace faultline::kernel {

// "address 0xA", as /proc/PID/maps writes addresses.
inline std::string words_of(Vaddr address) {
  std::array<char, 16> digits{};
  const auto written =
      std::to_chars(digits.data(), digits.data() + digits.size(), address.value(), 16);
  return "address 0x" + std::string(digits.data(), written.ptr);
}

}  // namespace faultline::kernel
