// Signals eventfds that came from clients. Must never block, whatever a client does to its
// descriptor.
//
// write(2) to an eventfd blocks where its count is at the top, which the client can see to, and
// O_NONBLOCK belongs to the description that it shares with us. RWF_NOWAIT is not to be had for
// an eventfd's write, nor can it be opened anew through /proc. So the kernel does it: what it
// signals by itself only ever counts up to the top and wakes. Of an io_uring that an eventfd is
// registered with, every completion signals it; a request that does nothing completes at once.
//
// Locking: one for the ring; leaf lock, nothing blocks under it.
#pragma once

#include <liburing.h>

#include <memory>
#include <mutex>

#include "daemon/kernel/closer.hpp"
#include "daemon/kernel/error.hpp"

namespace faultline::kernel {

class EventSignal {
 public:
  // Errors: as io_uring_setup(2).
  static Result<std::shared_ptr<EventSignal>> create();
  EventSignal(const EventSignal&) = delete;
  EventSignal& operator=(const EventSignal&) = delete;
  ~EventSignal();

  static bool is_eventfd(int fd);

  // Makes the eventfd readable. From any thread. Errors: EBADF, EINVAL not an eventfd; ENOMEM.
  Status signal(const ForeignFd& eventfd);

 private:
  EventSignal() = default;

  std::mutex mutex_;  // guards the ring
  io_uring ring_{};
  bool live_ = false;
};

}  // namespace faultline::kernel
