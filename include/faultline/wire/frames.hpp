// What the daemon publishes of a private mapping that its process pins: for each page of the object
// that it shows, an entry of 64 bits, for that process to read and nobody but the daemon to write.
//
//   0                  the page is the object's
//   a frame's number   it is the process's own; of fork relatives that share it, too
//
// kFrameUnsure beside the number: it is the process's own from its next write on, or was written to
// already; the daemon has lifted the page's protection, and the kernel copies without a word. Who
// has written to it says so (ChannelOp::pin with kPinWritten).
// kFrameGuarded: fork relatives share it, and a write of either makes it another page.
#pragma once

#include <cstdint>

namespace faultline::wire {

inline constexpr std::uint64_t kFrameGuarded = std::uint64_t{1} << 63;
inline constexpr std::uint64_t kFrameUnsure = std::uint64_t{1} << 62;
inline constexpr std::uint64_t kFrameNumber = kFrameUnsure - 1;

}  // namespace faultline::wire
