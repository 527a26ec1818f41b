#include "tools/faultctl/query.hpp"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "faultline/wire/packet.hpp"
#include "faultline/wire/socket_path.hpp"

namespace faultline::ctl {

namespace {

// Waiting for the daemon ends after kAnswerWithin, in connect(2), send(2) and recv(2) alike.
void limit_waiting(const UniqueFd& socket) {
  const timeval limit{kAnswerWithin.count(), 0};
  for (const int option : {SO_SNDTIMEO, SO_RCVTIMEO}) {
    if (::setsockopt(socket.get(), SOL_SOCKET, option, &limit, sizeof(limit)) != 0) {
      throw Unreachable(fmt::format("limiting the wait for the daemon: {}", std::strerror(errno)));
    }
  }
}

std::string words_of(int code) {
  return code == EAGAIN ? fmt::format("no answer within {} s", kAnswerWithin.count())
                        : std::strerror(code);
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
  if (!socket) throw Unreachable(fmt::format("making a socket: {}", std::strerror(errno)));
  limit_waiting(socket);
  int code = 0;
  for (const std::string& path : paths) {
    code = try_connect(socket, path);
    if (code == 0) return socket;
    if (!wire::nobody_listens(code)) {
      throw Unreachable(fmt::format("connecting to the daemon at {}: {}", path, words_of(code)));
    }
  }
  throw Unreachable(fmt::format("connecting to the daemon at {}: {} (is faultlined running?)",
                                paths.back(), words_of(code)));
}

template <typename Body>
wire::Packet exchange(const UniqueFd& socket, wire::Op op, const Body& body) {
  wire::RequestHeader header;
  header.op = op;
  header.body_size = sizeof(body);
  wire::Packet packet;
  int error = wire::send_packet(socket.get(), wire::join(header, body), {});
  if (error == 0) error = wire::receive_packet(socket.get(), packet);
  if (error != 0) throw Unreachable("asking the daemon: " + words_of(error));
  wire::ReplyHeader reply;
  if (packet.bytes.size() < sizeof(reply)) throw Unreachable("the daemon's answer is too short");
  std::memcpy(&reply, packet.bytes.data(), sizeof(reply));
  reply.detail.back() = '\0';
  if (reply.status < 0) throw Refused(reply.detail.data());
  return packet;
}

}  // namespace

nlohmann::json ask(const std::vector<std::string>& socket_paths, wire::AdminRequest question) {
  const UniqueFd socket = connect_to_first(socket_paths);
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
