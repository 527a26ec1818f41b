// Waits as they can be shown: those that the daemon keeps, and those of threads that wait by
// themselves in the kernel, as far as these have written it down. Must never be acted upon: the
// latter are what a client says.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/memory/memory_object.hpp"
#include "daemon/wait/word_table.hpp"
#include "faultline/wire/word_key.hpp"

namespace faultline::wait {

// Who tells the one who waits.
enum class ToldBy : std::uint8_t {
  kernel,  // the thread waits by itself
  // The others are of waits that the daemon keeps.
  thread,  // it waits for the daemon's answer
  queue,   // the client's completions
  eventfd,
  ring,  // an io_uring of the client's
};

struct ShownWait {
  wire::WordKey key;
  Vaddr address;
  std::shared_ptr<memory::MemoryObject> object;  // that is mapped there
  std::chrono::nanoseconds since{};              // CLOCK_MONOTONIC
  // The thread's own number of itself; 0: no thread waits, or it is not known.
  std::uint32_t thread = 0;
  ToldBy told_by{};
};

struct ShownWaits {
  std::vector<ShownWait> waits;
  std::uint64_t left_out = 0;  // beyond what was asked for
};

struct Client;

// The waits of one client, at most `most`: those that the daemon keeps first. A wait that begins or
// ends meanwhile, or whose memory changes, may be left out. Thread-safe; takes the lock of the
// words for as long as copying takes, and waits for nobody.
[[nodiscard]] ShownWaits waits_of(const Client& client, const WordTable& words, std::size_t most);

}  // namespace faultline::wait
