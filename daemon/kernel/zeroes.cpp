#include "daemon/kernel/zeroes.hpp"

#include <array>

namespace faultline::kernel {

namespace {
// Not const: so it is in .bss, where the kernel backs it with its zero page.
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): see above
alignas(4096) constinit std::array<std::byte, std::size_t{512} << 12> memory{};
}  // namespace

std::span<const std::byte> zeroes() {
  return memory;
}

}  // namespace faultline::kernel
