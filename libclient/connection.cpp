#include "libclient/connection.hpp"

#include <fcntl.h>
#include <linux/membarrier.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>

namespace faultline::client {

namespace {

constexpr std::size_t kBeaconBytes = 4096;
// linux/userfaultfd.h, Linux 6.1: makes a userfaultfd from /dev/userfaultfd.
constexpr unsigned long kNewUserfaultfd = _IO(0xAA, 0x00);

void* make_beacon() {
  void* page =
      ::mmap(nullptr, kBeaconBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) throw_errno("mapping a page for libfaultline");
  if (::madvise(page, kBeaconBytes, MADV_WIPEONFORK) != 0) throw_errno("madvise(MADV_WIPEONFORK)");
  return page;
}

// From the device that the daemon opened for us no privilege is needed, userfaultfd(2).
UniqueFd make_userfaultfd(const wire::Packet& hello, bool user_mode_only) {
  if (!hello.fds.empty()) {
    UniqueFd fd{::ioctl(hello.fds.front().get(), kNewUserfaultfd, O_CLOEXEC | O_NONBLOCK)};
    if (fd) return fd;
  }
  const auto call = [](int flags) {
    return UniqueFd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags))};
  };
  if (UniqueFd fd = call(0)) return fd;
  if (user_mode_only) {
    if (UniqueFd fd = call(UFFD_USER_MODE_ONLY)) return fd;
  }
  throw_errno("making a userfaultfd");
}

// Of those who count waits, faultline/wire/board.hpp. A wake asks the counts from then on.
void register_for_barriers() {
  if (::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) != 0) {
    throw_errno("membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED)");
  }
}

wire::Packet say_hello(Control& control) {
  wire::Packet hello = control.call(wire::Op::hello, wire::HelloRequest{});
  (void)body_of<wire::HelloReply>(hello);
  return hello;
}

}  // namespace

std::shared_ptr<Connection> Connection::open(const std::string& path) {
  std::shared_ptr<Connection> connection{new Connection(path)};  // a private constructor
  connection->beacon_ = make_beacon();
  connection->attach_new();
  return connection;
}

Connection::~Connection() {
  // The daemon may be watching the page: it ends its session first, so that nobody waits for it
  // here longer than it takes to read the event.
  control_.close();
  if (PinLedger* const ledger = this->ledger(); ledger != nullptr) ledger->close();
  if (beacon_ != nullptr) ::munmap(beacon_, kBeaconBytes);
}

bool Connection::broken() {
  const std::lock_guard lock(mutex_);
  if (!forked_) return !control_.open() || control_.hung_up();
  // No session yet that could tell. A daemon that came since knows nothing of this process.
  try {
    attach_if_forked();
  } catch (const Failure&) {
    return true;
  }
  return false;
}

std::uint64_t Connection::generation() {
  const std::lock_guard lock(mutex_);
  return generation_;
}

bool Connection::forks_are_served() {
  const std::lock_guard lock(mutex_);
  return (server_flags_ & wire::kServerNoForkEvents) == 0;
}

bool Connection::daemon_swaps() {
  const std::lock_guard lock(mutex_);
  return (server_flags_ & wire::kServerSwaps) != 0;
}

void Connection::require_generation(std::uint64_t generation) const {
  if (generation == generation_) return;
  throw Failure(ESTALE,
                "using an object opened before the fork, with a daemon that is not told of forks");
}

void Connection::require_process(std::uint64_t forks) const {
  if (forks == forks_) return;
  throw Failure(ESTALE, "using a job of the process that forked this one");
}

std::uint64_t Connection::forks() {
  const std::lock_guard lock(mutex_);
  return forks_;
}

std::shared_ptr<const UniqueFd> Connection::session_in_process(std::uint64_t forks) {
  const std::lock_guard lock(mutex_);
  require_process(forks);
  return control_.socket();
}

std::shared_ptr<Channel> Connection::channel() {
  const std::lock_guard lock(mutex_);
  attach_if_forked();
  if (channel_ && !channel_->daemon_gone()) return channel_;
  const NotCancelled until_its_end;
  const std::array fds{thread_records_fd()};
  wire::Packet reply = control_.call(wire::Op::open_channel, std::span<const int>(fds));
  channel_ = std::make_shared<Channel>(std::move(reply), control_.socket());
  return channel_;
}

PinLedger& Connection::pin_ledger() {
  const std::lock_guard lock(mutex_);
  if (PinLedger* const open = ledger(); open != nullptr) return *open;
  attach_if_forked();
  PinLedger& opened = PinLedger::open(control_.call(wire::Op::open_ledger));
  ledger_.store(&opened, std::memory_order_release);
  places_changed();  // what is indexed has no ledger yet
  return opened;
}

bool Connection::open_frames(std::uintptr_t address) {
  return mappings_.open_frames(address, [&](std::uintptr_t there) {
    const wire::Packet reply = call(wire::Op::open_frames, wire::OpenFramesRequest{there});
    if (reply.fds.size() != 1) throw Failure(EPROTO, "receiving the frames of a mapping");
    return FrameView::open(body_of<wire::OpenFramesReply>(reply), reply.fds.front());
  });
}

void Connection::grant_pins(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto reply = body_of<wire::GrantPinsReply>(
      control_.call(wire::Op::grant_pins, wire::GrantPinsRequest{bytes}));
  if (PinLedger* const open = ledger(); open != nullptr) {
    open->put_into_pool(static_cast<std::int64_t>(reply.bytes));
  }
}

void Connection::attach_new() {
  register_for_barriers();
  control_ = Control(path_);
  const wire::Packet hello = say_hello(control_);
  const bool user_mode_only =
      (body_of<wire::HelloReply>(hello).server_flags & wire::kServerUserModeOnly) != 0;
  const UniqueFd userfaultfd = make_userfaultfd(hello, user_mode_only);
  const std::array fds{userfaultfd.get()};
  const wire::AttachNewRequest request{reinterpret_cast<std::uintptr_t>(beacon_)};
  const wire::Packet reply =
      control_.call(wire::Op::attach_new, request, std::span<const int>(fds));
  server_flags_ = body_of<wire::AttachReply>(reply).server_flags;
}

void Connection::attach_if_forked() {
  if (!forked_) return;
  if ((server_flags_ & wire::kServerNoForkEvents) != 0) {
    attach_new();
    ++generation_;
    forked_ = false;
    return;
  }
  control_ = Control(path_);
  (void)say_hello(control_);
  wire::AttachForkedRequest request;
  std::memcpy(request.cookie.data(), beacon_, request.cookie.size());
  const wire::Packet reply = control_.call(wire::Op::attach_forked, request);
  server_flags_ = body_of<wire::AttachReply>(reply).server_flags;
  forked_ = false;
}

void Connection::guard_pages() {
  // Where it fails, the child's private pages are other pages from the start.
  try {
    attach_if_forked();
    (void)control_.call(wire::Op::guard_pages);
  } catch (const std::exception&) {
  }
}

void Connection::before_fork() {
  mutex_.lock();
  mappings_.lock();
  if (mappings_.waits_by_page()) guard_pages();
  if (channel_) channel_->lock();
  // A child that has not attached yet, and forks, has no session to tell whether the daemon still
  // serves.
  if (!forked_ || !mappings_.maps_files()) return;
  try {
    control_ = Control(path_);
  } catch (const Failure&) {
    // It does not: left closed, which says so.
  } catch (const std::bad_alloc&) {
    // Not known: the child must think the worst.
  }
}

void Connection::after_fork_in_parent() {
  if (forked_) control_.close();
  if (channel_) channel_->unlock();
  mappings_.unlock();
  mutex_.unlock();
}

void Connection::after_fork_in_child() {
  ++forks_;
  if ((server_flags_ & wire::kServerNoForkEvents) != 0) mappings_.reserve_mappings_of_files();
  // A daemon that stops closes its sessions before it gives any range up. So where the session
  // still stands here, the kernel told it of this fork, and it serves, or poisons, the child's own
  // ranges.
  forked_ = control_.open() ? !control_.hung_up() : forked_ && !mappings_.maps_files();
  if (!forked_) mappings_.poison_mappings_of_files();
  control_.close();
  if (channel_) {
    channel_->unlock();
    channel_->abandon();
    channel_.reset();
  }
  ledger_.store(nullptr, std::memory_order_relaxed);  // the parent's
  mappings_.forget_frames();
  mappings_.unlock();
  mutex_.unlock();
}

}  // namespace faultline::client
