// One io_uring of one thread. Must never be used by two threads, and never lose a completion: an
// operation is alive, and its owner must keep it so, from start until on_complete.
//
// Life of an operation:
//   1. The owner keeps a RingOperation somewhere that does not move, and starts it on the ring.
//   2. wait() submits what was started, sleeps for the first completion and hands out all that
//      are there.
//   3. on_complete runs on the ring's thread; it may start operations, the same one included.
#pragma once

#include <liburing.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>

#include "daemon/kernel/error.hpp"
#include "daemon/kernel/futex.hpp"

namespace faultline::kernel {

class RingOperation {
 public:
  RingOperation() = default;
  RingOperation(const RingOperation&) = delete;
  RingOperation& operator=(const RingOperation&) = delete;
  virtual ~RingOperation() = default;

  // result is what the system call would return, or a negative errno.
  virtual void on_complete(int result) = 0;
  [[nodiscard]] bool in_flight() const { return in_flight_; }

 private:
  friend class Ring;
  bool in_flight_ = false;
};

class Ring {
 public:
  // completions: how many may come at once before the kernel keeps them in a list, which is slower;
  // 0: twice the entries.
  static Result<std::unique_ptr<Ring>> create(unsigned entries, unsigned completions = 0);
  // Makes the calling thread the ring's own. Call once, before anything else.
  [[nodiscard]] Status own();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring();

  // At the file's own position when offset is -1 (pipes, eventfds, userfaultfds).
  // elsewhere: on a thread of the kernel's, so that a read that waits keeps nobody else's.
  enum class Begin { here, elsewhere };
  void read(RingOperation& op, int fd, std::span<std::byte> into, std::int64_t offset,
            Begin begin = Begin::here);
  // Completes once with what poll(2) would return in revents, as soon as there is anything to read.
  void await_readable(RingOperation& op, int fd);
  void timeout(RingOperation& op, std::chrono::nanoseconds after);
  // Completes with 0 when it is woken by a bit of mask, -EAGAIN where the word holds another value,
  // -EFAULT where its page is not there. Linux 6.7.
  void futex_wait(RingOperation& op, const FutexWord& word, std::uint32_t expected,
                  std::uint32_t mask);
  // Puts a completion into another process's ring. Completes with 0; -EOVERFLOW where there is no
  // room for it; -EBADFD that ring is not in use.
  void message(RingOperation& op, int ring_fd, std::uint64_t user_data, std::int32_t result);
  // Asks for an early end; the operation still completes, with -ECANCELED where the request won.
  void cancel(RingOperation& op);

  // Submits, sleeps until something completes, and runs what did. Errors: only what no retry mends.
  [[nodiscard]] Status wait();
  // Submits and runs what has completed, without sleeping. Returns how many that were.
  unsigned poll();
  // Starts what was asked for, without sleeping and without running anything.
  void submit();
  // Whether poll() would find something of what was submitted. Looks at shared memory only: no
  // system call.
  [[nodiscard]] bool ready() const;
  [[nodiscard]] std::size_t in_flight() const { return in_flight_; }

 private:
  Ring() = default;
  io_uring_sqe* next_entry();
  void start(io_uring_sqe* entry, RingOperation& op);
  unsigned dispatch();

  io_uring ring_{};
  bool live_ = false;
  bool dispatching_ = false;
  std::size_t in_flight_ = 0;
};

}  // namespace faultline::kernel
