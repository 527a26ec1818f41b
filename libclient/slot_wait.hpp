// Waiting for and waking words whose place the daemon knows: in private memory, and wherever the
// kernel's own queue does not do. Must never miss a wake between looking a word up and queueing.
#pragma once

#include <cstdint>
#include <span>

#include "libclient/timeout.hpp"
#include "libclient/word.hpp"

namespace faultline::client {

// Each returns as its namesake of wait.h, and throws Failure.

// timeout: settled.
long wait_for_words(std::span<const Word> words, const Timeout& timeout, std::uint32_t bitset);
long wake_word(std::uintptr_t address, int count, std::uint32_t bitset);
long requeue_word(std::uintptr_t address, int wake, int requeue, std::uintptr_t target);

}  // namespace faultline::client
