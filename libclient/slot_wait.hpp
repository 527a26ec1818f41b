// Waiting for and waking words whose place the daemon knows: in private memory, and wherever the
// kernel's own queue does not do. Must never miss a wake between looking a word up and queueing.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "libclient/channel.hpp"
#include "libclient/timeout.hpp"
#include "libclient/word.hpp"

namespace faultline::client {

// Each returns as its namesake of wait.h, and throws Failure.

// The channel to the daemon whose mapping holds the address. Throws Failure: EFAULT none does;
// EPIPE.
[[nodiscard]] std::shared_ptr<Channel> channel_for(std::uintptr_t address);

// timeout: settled.
long wait_for_words(std::span<const Word> words, const Timeout& timeout, std::uint32_t bitset);
long wake_word(std::uintptr_t address, int count, std::uint32_t bitset);
// That there is a mapping of ours at an address that is in no book.
void expect_mapping_at(std::uintptr_t address);
long requeue_word(std::uintptr_t address, int wake, int requeue, std::uintptr_t target);

}  // namespace faultline::client
