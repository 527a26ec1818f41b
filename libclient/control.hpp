// The control socket: one request, one reply. Must never mix up the replies of two threads: its
// owner holds a lock around call().
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "faultline/wire/packet.hpp"
#include "libclient/failure.hpp"

namespace faultline::client {

class Control {
 public:
  Control() = default;
  // Connects. Throws Failure: ENOENT, ECONNREFUSED, EACCES.
  explicit Control(const std::string& path);

  [[nodiscard]] bool open() const { return socket_ != nullptr && socket_->valid(); }
  // No thread may be watching it, or this is a fork child, where the session goes on without it.
  void close() {
    if (socket_ != nullptr) socket_->reset();
    socket_.reset();
  }
  // To be watched by other threads for the session's end. Null where there is none.
  [[nodiscard]] std::shared_ptr<const UniqueFd> socket() const { return socket_; }
  // Whether the daemon has closed its end. Does not block.
  [[nodiscard]] bool hung_up() const;

  template <typename Request>
  wire::Packet call(wire::Op op, const Request& request, std::span<const int> fds = {}) {
    return exchange(op, std::as_bytes(std::span(&request, 1)), fds);
  }
  wire::Packet call(wire::Op op, std::span<const int> fds = {}) { return exchange(op, {}, fds); }

 private:
  // Throws Failure: what the daemon refused, in its words; EPIPE where it is gone, and then the
  // socket is closed; EPROTO where it answered nonsense.
  wire::Packet exchange(wire::Op op, std::span<const std::byte> body, std::span<const int> fds);

  // Ends the session, for those who watch it too.
  void give_up();

  // Threads that watch it own it too, so that they never look at another descriptor of its number.
  // In a fork child they are gone: close() closes it all the same.
  std::shared_ptr<UniqueFd> socket_;
  std::string path_;
  std::uint64_t next_cookie_ = 1;
};

// The body of a reply. Throws Failure: EPROTO.
template <typename Body>
Body body_of(const wire::Packet& packet) {
  Body body{};
  if (!wire::read_body<wire::ReplyHeader>(packet.bytes, body)) {
    throw Failure(EPROTO, "reading a reply of the daemon");
  }
  return body;
}

}  // namespace faultline::client
