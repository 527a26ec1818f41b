// membarrier(2): makes every running thread of this process pass a full memory barrier, so that
// those on the other side of an ordering argument need none of their own. Must never be used before
// its registration was accepted: the kernel then refuses it, and nothing would be ordered.
#pragma once

namespace faultline::kernel {

// Registers the process for expedited barriers, once; false where the kernel refuses. Any thread.
bool membarrier_available() noexcept;

// Returns after every thread of the process has passed a full memory barrier since the call; one
// for the caller too. Requires membarrier_available(). Any thread; a few microseconds.
void membarrier() noexcept;

// The same of every processor that runs a process which registered for it
// (MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED), whosever it is; needs no registration of the
// caller's.
void membarrier_of_clients() noexcept;

}  // namespace faultline::kernel
