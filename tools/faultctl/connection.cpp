#include "tools/faultctl/connection.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "faultline/wire/socket_path.hpp"

namespace faultline::ctl {

namespace {

// Waiting for the daemon ends after kAnswerWithin, in connect(2), send(2) and recv(2) alike.
void limit_waiting(const UniqueFd& socket) {
  const timeval limit{kAnswerWithin.count(), 0};
  for (const int option : {SO_SNDTIMEO, SO_RCVTIMEO}) {
    if (::setsockopt(socket.get(), SOL_SOCKET, option, &limit, sizeof(limit)) != 0) {
      throw Unreachable(errno, "limiting the wait for the daemon");
    }
  }
}

[[noreturn]] void fail(int code, const std::string& attempted, const std::string& advice = "") {
  if (code != EAGAIN) throw Unreachable(code, attempted, advice);
  throw Unreachable(ETIMEDOUT,
                    fmt::format("{}: no answer within {} s", attempted, kAnswerWithin.count()),
                    advice);
}

[[noreturn]] void fail_malformed(const char* how) {
  throw Unreachable::in_words(EPROTO, fmt::format("the daemon's answer is {}", how));
}

// The errno of connect(2), or 0.
int try_connect(const UniqueFd& socket, const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return ENAMETOOLONG;
  path.copy(static_cast<char*>(address.sun_path), sizeof(address.sun_path) - 1);
  const auto* const any = reinterpret_cast<const sockaddr*>(&address);
  return ::connect(socket.get(), any, sizeof(address)) == 0 ? 0 : errno;
}

UniqueFd connect_to_first(const std::vector<std::string>& paths) {
  UniqueFd socket{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  if (!socket) throw Unreachable(errno, "making a socket");
  limit_waiting(socket);
  int code = 0;
  for (const std::string& path : paths) {
    code = try_connect(socket, path);
    if (code == 0) return socket;
    if (!wire::nobody_listens(code)) fail(code, "connecting to the daemon at " + path);
  }
  fail(code, "connecting to the daemon at " + paths.back(), "is faultlined running?");
}

}  // namespace

Connection::Connection(const std::vector<std::string>& socket_paths)
    : socket_(connect_to_first(socket_paths)) {
  (void)ask(wire::Op::hello, wire::HelloRequest{});
}

Connection::Connection(const std::vector<std::string>& socket_paths, GreetOnly)
    : socket_(connect_to_first(socket_paths)) {
  send(wire::Op::hello, wire::HelloRequest{});
}

void Connection::send(std::span<const std::byte> request) {
  const int error = wire::send_packet(socket_.get(), request, {});
  if (error != 0) fail(error, "asking the daemon");
}

wire::Packet Connection::exchange(std::span<const std::byte> request, Patience patience) {
  send(request);
  pollfd answered{socket_.get(), POLLIN, 0};
  while (patience == Patience::endless && ::poll(&answered, 1, -1) < 0 && errno == EINTR) {
  }
  return receive();
}

wire::Packet Connection::receive() {
  wire::Packet packet;
  const int error = wire::receive_packet(socket_.get(), packet);
  if (error == EPIPE || error == ECONNRESET) {
    throw Unreachable::in_words(ECONNRESET, "the daemon closed the connection");
  }
  if (error != 0) fail(error, "asking the daemon");
  wire::ReplyHeader reply;
  if (packet.bytes.size() < sizeof(reply)) fail_malformed("too short");
  std::memcpy(&reply, packet.bytes.data(), sizeof(reply));
  reply.detail.back() = '\0';
  if (reply.status < 0) throw Refused::in_words(-reply.status, reply.detail.data());
  return packet;
}

}  // namespace faultline::ctl
