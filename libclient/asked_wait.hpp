// Waits that a thread asks the daemon for, and sleeps on until it is answered. Must never return
// before the daemon has let go of the words.
#pragma once

#include <cstdint>
#include <span>

#include "libclient/channel.hpp"
#include "libclient/timeout.hpp"
#include "libclient/word.hpp"

namespace faultline::client {

// As fl_waitv. timeout: settled. Throws Failure: EBUSY the ring is full; as my_record().
long wait_through_daemon(Channel& channel, std::span<const Word> words, const Timeout& timeout,
                         std::uint32_t bitset);

}  // namespace faultline::client
