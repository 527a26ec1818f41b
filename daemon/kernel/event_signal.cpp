#include "daemon/kernel/event_signal.hpp"

#include "daemon/kernel/descriptor.hpp"

namespace faultline::kernel {

Result<std::shared_ptr<EventSignal>> EventSignal::create() {
  std::shared_ptr<EventSignal> made{new EventSignal()};  // the constructor is private to this
  const int result = ::io_uring_queue_init(1, &made->ring_, 0);
  if (result < 0) return fail(-result, "io_uring_setup for signals to clients");
  made->live_ = true;
  return made;
}

EventSignal::~EventSignal() {
  if (live_) ::io_uring_queue_exit(&ring_);
}

bool EventSignal::is_eventfd(int fd) {
  return is_anonymous_inode(fd, "[eventfd]");
}

Status EventSignal::signal(const ForeignFd& eventfd) {
  const std::lock_guard lock(mutex_);
  if (const int result = ::io_uring_register_eventfd(&ring_, eventfd.get()); result < 0) {
    return fail(-result, "registering a client's eventfd");
  }
  // None: the last one could not be submitted, and waits in the queue of one. It does as well.
  if (io_uring_sqe* const entry = ::io_uring_get_sqe(&ring_)) ::io_uring_prep_nop(entry);
  // Completes before it returns, and signals with it.
  const int submitted = ::io_uring_submit(&ring_);
  ::io_uring_cq_advance(&ring_, ::io_uring_cq_ready(&ring_));
  (void)::io_uring_unregister_eventfd(&ring_);
  if (submitted < 0) return fail(-submitted, "completing a request that does nothing");
  return {};
}

}  // namespace faultline::kernel
