#include "tools/faultctl/query.hpp"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "faultline/wire/packet.hpp"

namespace faultline::ctl {

namespace {

UniqueFd connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) throw Unreachable(path + ": the path is too long");
  path.copy(static_cast<char*>(address.sun_path), sizeof(address.sun_path) - 1);
  UniqueFd socket{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  if (!socket ||
      ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    const int code = errno;
    const bool absent = code == ENOENT || code == ECONNREFUSED;
    throw Unreachable(fmt::format("connecting to the daemon at {}: {}{}", path, std::strerror(code),
                                  absent ? " (is faultlined running?)" : ""));
  }
  return socket;
}

template <typename Body>
wire::Packet exchange(const UniqueFd& socket, wire::Op op, const Body& body) {
  wire::RequestHeader header;
  header.op = op;
  header.body_size = sizeof(body);
  wire::Packet packet;
  int error = wire::send_packet(socket.get(), wire::join(header, body), {});
  if (error == 0) error = wire::receive_packet(socket.get(), packet);
  if (error != 0) throw Unreachable(fmt::format("asking the daemon: {}", std::strerror(error)));
  wire::ReplyHeader reply;
  if (packet.bytes.size() < sizeof(reply)) throw Unreachable("the daemon's answer is too short");
  std::memcpy(&reply, packet.bytes.data(), sizeof(reply));
  reply.detail.back() = '\0';
  if (reply.status < 0) throw Refused(reply.detail.data());
  return packet;
}

}  // namespace

nlohmann::json ask(const std::string& socket_path, wire::AdminRequest question) {
  const UniqueFd socket = connect_to(socket_path);
  (void)exchange(socket, wire::Op::hello, wire::HelloRequest{});
  const wire::Packet answer = exchange(socket, wire::Op::admin, question);
  wire::AdminReply body;
  if (answer.fds.size() != 1 || !wire::read_body<wire::ReplyHeader>(answer.bytes, body)) {
    throw Unreachable("the daemon's answer is malformed");
  }
  std::string text(body.json_bytes, '\0');
  std::size_t got = 0;
  while (got < text.size()) {
    const ssize_t n = ::pread(answer.fds.front().get(), text.data() + got, text.size() - got,
                              static_cast<off_t>(got));
    if (n <= 0) throw Unreachable("reading the daemon's answer");
    got += static_cast<std::size_t>(n);
  }
  return nlohmann::json::parse(text);
}

}  // namespace faultline::ctl
