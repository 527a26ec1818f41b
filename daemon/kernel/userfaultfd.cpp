#include "daemon/kernel/userfaultfd.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <string>
#include <string_view>

#include "daemon/kernel/descriptor.hpp"
#include "daemon/kernel/uapi.hpp"
#include "daemon/kernel/words.hpp"

namespace faultline::kernel {

namespace {

std::string describe(const char* what, Vaddr start, ByteCount length) {
  return std::string(what) + " of " + std::to_string(length.value()) + " bytes at " +
         words_of(start);
}

// The kernel reports progress and error in one signed field: bytes done, or a negative errno. An
// ioctl that stopped half-way fails with EAGAIN and a positive count: that is progress, and the
// caller goes on from there and learns the true reason.
RangeResult outcome(int ioctl_result, std::int64_t progress) {
  const int error = ioctl_result == 0 ? 0 : errno;
  if (progress > 0) return {ByteCount{static_cast<std::uint64_t>(progress)}, 0};
  if (progress < 0) return {ByteCount{0}, static_cast<int>(-progress)};
  return {ByteCount{0}, error};
}

constexpr std::uint64_t kNeededFeatures =
    UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM |
    UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_EVENT_REMAP |
    UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP | uapi::kFeaturePoison;

}  // namespace

bool Userfaultfd::is_userfaultfd(int fd) {
  return is_anonymous_inode(fd, "[userfaultfd]");
}

Result<Userfaultfd> Userfaultfd::adopt(ForeignFd fd) {
  if (!is_userfaultfd(fd.get()))
    return fail(EBADF, "checking that the descriptor is a userfaultfd");
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return fail_errno("making the userfaultfd non-blocking");
  }
  // A refused UFFDIO_API leaves the userfaultfd as it was, so the second try is allowed.
  uffdio_api api{UFFD_API, kNeededFeatures | UFFD_FEATURE_EVENT_FORK, 0};
  if (::ioctl(fd.get(), UFFDIO_API, &api) == 0) {
    return Userfaultfd{std::move(fd), Features{.fork_events = true}, Holders::client_too};
  }
  if (errno == EPERM) {
    api = {UFFD_API, kNeededFeatures, 0};
    if (::ioctl(fd.get(), UFFDIO_API, &api) == 0) {
      return Userfaultfd{std::move(fd), Features{.fork_events = false}, Holders::client_too};
    }
  }
  if (errno == EINVAL && api.ioctls == 0 && api.features == 0) {
    // The kernel zeroes the answer both for an unknown feature and for a second UFFDIO_API.
    // Features were probed when the daemon started, so it is the latter.
    return fail(EBUSY, "UFFDIO_API: the userfaultfd was initialised already");
  }
  return fail_errno("UFFDIO_API on the client's userfaultfd");
}

Userfaultfd Userfaultfd::from_fork_event(UniqueFd fd, Features features) {
  // The kernel gives the child's descriptor the flags that the client once asked for, which may be
  // none. Neither call can fail on a descriptor that was just installed.
  (void)::fcntl(fd.get(), F_SETFL, ::fcntl(fd.get(), F_GETFL) | O_NONBLOCK);
  (void)::fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
  return Userfaultfd{ForeignFd{std::move(fd)}, features, Holders::daemon_alone};
}

Status Userfaultfd::register_object_range(Vaddr start, ByteCount length) const {
  uffdio_register request{};
  request.range = {start.value(), length.value()};
  request.mode =
      UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_WP;
  if (::ioctl(fd_.get(), UFFDIO_REGISTER, &request) != 0) {
    return fail_errno(describe("UFFDIO_REGISTER", start, length));
  }
  return {};
}

Status Userfaultfd::register_anonymous_range(Vaddr start, ByteCount length) const {
  uffdio_register request{};
  request.range = {start.value(), length.value()};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (::ioctl(fd_.get(), UFFDIO_REGISTER, &request) != 0) {
    return fail_errno(describe("UFFDIO_REGISTER (missing only)", start, length));
  }
  return {};
}

Status Userfaultfd::unregister(Vaddr start, ByteCount length) const {
  uffdio_range range{start.value(), length.value()};
  if (::ioctl(fd_.get(), UFFDIO_UNREGISTER, &range) != 0) {
    return fail_errno(describe("UFFDIO_UNREGISTER", start, length));
  }
  return {};
}

RangeResult Userfaultfd::continue_range(Vaddr start, ByteCount length, WriteProtect wp) const {
  uffdio_continue request{};
  request.range = {start.value(), length.value()};
  request.mode = wp == WriteProtect::yes ? uapi::kContinueModeWp : 0;
  const int result = ::ioctl(fd_.get(), UFFDIO_CONTINUE, &request);
  return outcome(result, request.mapped);
}

RangeResult Userfaultfd::copy_range(Vaddr start, const std::byte* source, ByteCount length) const {
  uffdio_copy request{};
  request.dst = start.value();
  request.src = reinterpret_cast<std::uintptr_t>(source);  // the ioctl's own form of a pointer
  request.len = length.value();
  const int result = ::ioctl(fd_.get(), UFFDIO_COPY, &request);
  return outcome(result, request.copy);
}

RangeResult Userfaultfd::write_protect(Vaddr start, ByteCount length) const {
  return change_protection(start, length, UFFDIO_WRITEPROTECT_MODE_WP);
}

RangeResult Userfaultfd::write_unprotect(Vaddr start, ByteCount length) const {
  return change_protection(start, length, 0);
}

RangeResult Userfaultfd::change_protection(Vaddr start, ByteCount length,
                                           std::uint64_t mode) const {
  uffdio_writeprotect request{};
  request.range = {start.value(), length.value()};
  request.mode = mode;
  if (::ioctl(fd_.get(), UFFDIO_WRITEPROTECT, &request) != 0) return {ByteCount{0}, errno};
  return {length, 0};
}

RangeResult Userfaultfd::poison_range(Vaddr start, ByteCount length) const {
  uapi::Poison request{};
  request.range = {start.value(), length.value()};
  const int result = ::ioctl(fd_.get(), uapi::kIoctlPoison, &request);
  return outcome(result, request.updated);
}

void Userfaultfd::wake(Vaddr start, ByteCount length) const {
  uffdio_range range{start.value(), length.value()};
  // Fails only for a malformed range, and then nothing can be waiting in it.
  (void)::ioctl(fd_.get(), UFFDIO_WAKE, &range);
}

int Userfaultfd::probe() const {
  // The kernel looks for a living mm and for events under way before it looks for the VMA. No
  // mapping of ours is placed at the last page of user space; a client that registers it there
  // unprotects only itself.
  uffdio_writeprotect request{};
  request.range = {0x7fff'ffff'e000, 0x1000};
  if (::ioctl(fd_.get(), UFFDIO_WRITEPROTECT, &request) == 0) return 0;
  return errno == ENOENT ? 0 : errno;
}

void Userfaultfd::make_nonblocking() const {
  (void)::fcntl(fd_.get(), F_SETFL, ::fcntl(fd_.get(), F_GETFL) | O_NONBLOCK);
}

Result<std::size_t> Userfaultfd::read_now(std::span<uffd_msg> messages) const {
  iovec iov{messages.data(), messages.size_bytes()};
  // RWF_NOWAIT, because a client can clear O_NONBLOCK by its own descriptor. A descriptor that came
  // with a fork is the daemon's alone, and the kernel knows no RWF_NOWAIT for it (fs/userfaultfd.c:
  // resolve_userfault_fork sets no FMODE_NOWAIT).
  const ssize_t got = holders_ == Holders::daemon_alone
                          ? ::readv(fd_.get(), &iov, 1)
                          : ::preadv2(fd_.get(), &iov, 1, -1, RWF_NOWAIT);
  if (got >= 0) return static_cast<std::size_t>(got) / sizeof(uffd_msg);
  if (errno == EAGAIN || errno == EINTR) return std::size_t{0};
  return fail_errno("reading a userfaultfd");
}

}  // namespace faultline::kernel
