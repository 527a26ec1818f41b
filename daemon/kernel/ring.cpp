#include "daemon/kernel/ring.hpp"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cassert>
#include <string>

#include "daemon/kernel/uapi.hpp"

namespace faultline::kernel {

Result<std::unique_ptr<Ring>> Ring::create(unsigned entries, unsigned completions) {
  std::unique_ptr<Ring> ring{new Ring()};  // the constructor is private to this factory
  io_uring_params params{};
  // DEFER_TASKRUN: completions are made when this thread asks for them, and not in between, so a
  // userfaultfd is read in wait() and poll() alone. TASKRUN_FLAG tells that there is something to
  // make. R_DISABLED: the thread that owns the ring is the one that enables it, in own().
  params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_R_DISABLED;
  if (completions != 0) {
    params.flags |= IORING_SETUP_CQSIZE;
    params.cq_entries = completions;
  }
  const int result = ::io_uring_queue_init_params(entries, &ring->ring_, &params);
  if (result < 0) {
    return fail(-result, "io_uring_setup with " + std::to_string(entries) +
                             " entries (see `faultlined --check`)");
  }
  ring->live_ = true;
  return ring;
}

Ring::~Ring() {
  if (live_) ::io_uring_queue_exit(&ring_);
}

Status Ring::own() {
  // liburing 2.3 declares io_uring_enable_rings and does not export it.
  if (::syscall(SYS_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) <
      0) {
    return fail_errno("enabling an io_uring");
  }
  // Saves a look-up a system call; without it everything works.
  (void)::io_uring_register_ring_fd(&ring_);
  return {};
}

void Ring::submit() {
  if (::io_uring_sq_ready(&ring_) == 0) return;
  ::io_uring_submit(&ring_);
}

bool Ring::ready() const {
  return ::io_uring_cq_ready(&ring_) > 0 ||
         (IO_URING_READ_ONCE(*ring_.sq.kflags) & IORING_SQ_TASKRUN) != 0;
}

io_uring_sqe* Ring::next_entry() {
  io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
  while (entry == nullptr) {
    // The submission queue is full: hand it over, which empties it.
    ::io_uring_submit(&ring_);
    entry = ::io_uring_get_sqe(&ring_);
  }
  return entry;
}

void Ring::start(io_uring_sqe* entry, RingOperation& op) {
  ::io_uring_sqe_set_data(entry, &op);
  op.in_flight_ = true;
  ++in_flight_;
}

void Ring::read(RingOperation& op, int fd, std::span<std::byte> into, std::int64_t offset,
                Begin begin) {
  io_uring_sqe* entry = next_entry();
  ::io_uring_prep_read(entry, fd, into.data(), static_cast<unsigned>(into.size()),
                       static_cast<std::uint64_t>(offset));
  if (begin == Begin::elsewhere) ::io_uring_sqe_set_flags(entry, IOSQE_ASYNC);
  start(entry, op);
}

void Ring::await_readable(RingOperation& op, int fd) {
  io_uring_sqe* entry = next_entry();
  ::io_uring_prep_poll_add(entry, fd, POLLIN);
  start(entry, op);
}

void Ring::timeout(RingOperation& op, std::chrono::nanoseconds after) {
  io_uring_sqe* entry = next_entry();
  // The kernel copies the time when the entry is submitted, so it must live until then: submit at
  // once.
  __kernel_timespec time{};
  time.tv_sec = after.count() / 1'000'000'000;
  time.tv_nsec = after.count() % 1'000'000'000;
  ::io_uring_prep_timeout(entry, &time, 0, 0);
  start(entry, op);
  ::io_uring_submit(&ring_);
}

void Ring::futex_wait(RingOperation& op, const FutexWord& word, std::uint32_t expected,
                      std::uint32_t mask) {
  io_uring_sqe* entry = next_entry();
  // As io_uring_prep_futex_wait of newer versions of liburing.
  ::io_uring_prep_rw(uapi::kOpFutexWait, entry, uapi::kFutex2Size32, &word, 0, expected);
  entry->addr3 = mask;
  start(entry, op);
}

void Ring::message(RingOperation& op, int ring_fd, std::uint64_t user_data, std::int32_t result) {
  io_uring_sqe* entry = next_entry();
  ::io_uring_prep_msg_ring(entry, ring_fd, static_cast<unsigned>(result), user_data, 0);
  start(entry, op);
}

void Ring::cancel(RingOperation& op) {
  if (!op.in_flight_) return;
  io_uring_sqe* entry = next_entry();
  ::io_uring_prep_cancel(entry, &op, 0);
  ::io_uring_sqe_set_data(entry, nullptr);
}

Status Ring::wait() {
  const int result = ::io_uring_submit_and_wait(&ring_, 1);
  if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY) {
    return fail(-result, "io_uring_enter");
  }
  dispatch();
  return {};
}

unsigned Ring::poll() {
  ::io_uring_submit_and_get_events(&ring_);
  return dispatch();
}

unsigned Ring::dispatch() {
  assert(!dispatching_ && "wait() and poll() are not for use within on_complete");
  dispatching_ = true;
  unsigned handled = 0;
  io_uring_cqe* entry = nullptr;
  while (::io_uring_peek_cqe(&ring_, &entry) == 0) {
    auto* op = static_cast<RingOperation*>(::io_uring_cqe_get_data(entry));
    const int result = entry->res;
    ::io_uring_cqe_seen(&ring_, entry);
    if (op == nullptr)
      continue;  // the answer to a cancel request; the operation answers for itself
    op->in_flight_ = false;
    --in_flight_;
    ++handled;
    op->on_complete(result);
  }
  dispatching_ = false;
  return handled;
}

}  // namespace faultline::kernel
