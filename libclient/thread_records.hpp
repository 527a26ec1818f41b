// The thread records of this process (faultline/wire/channel.hpp): one for each thread that waits
// or locks, in memory that every daemon it is connected to can read. Must never be shared with a
// fork child, which makes its own.
//
// A thread has its record from its first wait or lock to its end. What it still holds then is
// handed over as the daemon does it when the process dies.
#pragma once

#include <memory>

#include "faultline/wire/channel.hpp"

namespace faultline::client {

struct MyRecord {
  wire::ThreadRecord* record = nullptr;
  std::uint32_t index = 0;
  std::uint32_t last_request = 0;
  std::uint32_t last_wait = 0;  // the number of its last wait by itself
  bool known = false;           // to every daemon: see fork.hpp
};

// The calling thread's; made where it has none. Valid until the thread ends, or forks. Throws
// Failure: EUSERS too many threads; ENOMEM, EMFILE.
[[nodiscard]] MyRecord& my_record();
// The memfd, to be sent; it stays this module's. Throws Failure.
[[nodiscard]] int thread_records_fd();

// Whether there are any.
[[nodiscard]] bool thread_records_in_use();

// The fork hooks.
void lock_thread_records();
void unlock_thread_records();
void forget_thread_records();

}  // namespace faultline::client
