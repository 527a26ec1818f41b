// Closes descriptors that came from a client where it may take as long as it likes: the last
// close(2) of a socket with SO_LINGER waits for its peer, that of a file on FUSE or NFS for a
// server, that of a userfaultfd for the memory map of its process. Must never make its caller wait.
//
// Threads of no other use do it. They are made on demand, at most kMaxClosers; one that is stuck is
// left behind, and the next descriptor gets another. Where all are stuck the queue grows, with a
// line in the log, until one comes back: descriptors are lost then, but no time.
//
// The threads are detached, and own what they share among themselves: nothing waits for them at the
// end of the process, and they touch nothing that ends before they do. They must not log.
//
// Locking: the queue's mutex guards all of its state; leaf lock, never held while anything closes.
#pragma once

#include <utility>

#include "faultline/wire/unique_fd.hpp"

namespace faultline::kernel {

inline constexpr unsigned kMaxClosers = 8;

// Returns at once; the descriptor is closed some time later. From any thread.
void close_elsewhere(UniqueFd fd) noexcept;

// Owns a descriptor that came from a client, and closes it elsewhere.
class ForeignFd {
 public:
  ForeignFd() = default;
  explicit ForeignFd(int fd) : fd_(fd) {}
  explicit ForeignFd(UniqueFd fd) : fd_(std::move(fd)) {}
  ForeignFd(ForeignFd&&) noexcept = default;
  ForeignFd& operator=(ForeignFd&& other) noexcept {
    if (this != &other) close_elsewhere(std::exchange(fd_, std::move(other.fd_)));
    return *this;
  }
  ForeignFd(const ForeignFd&) = delete;
  ForeignFd& operator=(const ForeignFd&) = delete;
  ~ForeignFd() { close_elsewhere(std::move(fd_)); }

  [[nodiscard]] int get() const { return fd_.get(); }
  [[nodiscard]] bool valid() const { return fd_.valid(); }
  explicit operator bool() const { return valid(); }
  [[nodiscard]] int release() { return fd_.release(); }

 private:
  UniqueFd fd_;
};

}  // namespace faultline::kernel
