// Reads and writes memory of this process through the kernel, which says EFAULT where an access of
// ours would raise SIGBUS: a client can take pages out of a memfd at any time.
#pragma once

#include <cstddef>
#include <span>

#include "daemon/kernel/error.hpp"

namespace faultline::kernel {

// Errors: EFAULT. An aligned word is copied in one step.
[[nodiscard]] Status read_own_memory(const std::byte* from, std::span<std::byte> into);
[[nodiscard]] Status write_own_memory(std::byte* to, std::span<const std::byte> from);

}  // namespace faultline::kernel
