// Zeroes to copy from. Must never be written to.
#pragma once

#include <cstddef>
#include <span>

namespace faultline::kernel {

// One page of 2 MiB, or 512 of 4 KiB. Takes no memory: it is the kernel's zero page, over and over.
[[nodiscard]] std::span<const std::byte> zeroes();

}  // namespace faultline::kernel
