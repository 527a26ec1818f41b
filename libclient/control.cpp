#include "libclient/control.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstring>

#include "faultline/wire/socket_path.hpp"

namespace faultline::client {

namespace {

bool brings_descriptors(wire::Op op) {
  switch (op) {
    case wire::Op::object_create:
    case wire::Op::object_open:
    case wire::Op::open_channel:
    case wire::Op::open_ledger:
    case wire::Op::open_frames:
      return true;
    default:
      return false;
  }
}

// Descriptors to be closed just before others come. Where there is no room for those the kernel
// drops them, and what they are of is open in the daemon for good, for nobody. Throws Failure:
// EMFILE.
std::array<UniqueFd, wire::kMaxFds> make_room(int any, const std::string& attempted) {
  std::array<UniqueFd, wire::kMaxFds> room;
  for (UniqueFd& fd : room) {
    fd = UniqueFd{::fcntl(any, F_DUPFD_CLOEXEC, 0)};
    if (!fd) throw_errno(attempted + ", which answers with descriptors");
  }
  return room;
}

}  // namespace

Control::Control(const std::string& path) : path_(path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string attempted = "connecting to the faultline daemon at " + path;
  if (path.empty() || path.size() >= sizeof(address.sun_path))
    throw Failure(ENAMETOOLONG, attempted);
  path.copy(static_cast<char*>(address.sun_path), sizeof(address.sun_path) - 1);
  UniqueFd socket{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  if (!socket) throw_errno("making a socket for the faultline daemon");
  int result = 0;
  do {
    result = ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  } while (result != 0 && errno == EINTR);
  if (result != 0) {
    const int code = errno;
    const bool absent = wire::nobody_listens(code);
    throw Failure(code, attempted + (absent ? " (is faultlined running?)" : ""));
  }
  socket_ = std::make_shared<UniqueFd>(std::move(socket));
}

void Control::give_up() {
  (void)::shutdown(socket_->get(), SHUT_RDWR);
  socket_.reset();
}

bool Control::hung_up() const {
  pollfd session{socket_->get(), 0, 0};  // POLLHUP is always asked for
  int ready = 0;
  do {
    ready = ::poll(&session, 1, 0);
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

wire::Packet Control::exchange(wire::Op op, std::span<const std::byte> body,
                               std::span<const int> fds) {
  const NotCancelled until_its_end;
  const std::string attempted = "talking to the faultline daemon at " + path_;
  if (!open()) throw Failure(EPIPE, attempted);
  wire::RequestHeader header;
  header.op = op;
  header.cookie = next_cookie_++;
  header.body_size = static_cast<std::uint32_t>(body.size());
  std::vector<std::byte> bytes(sizeof(header) + body.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  if (!body.empty()) std::memcpy(bytes.data() + sizeof(header), body.data(), body.size());

  std::array<UniqueFd, wire::kMaxFds> room;
  if (brings_descriptors(op)) room = make_room(socket_->get(), attempted);
  wire::Packet packet;
  int error = wire::send_packet(socket_->get(), bytes, fds);
  for (UniqueFd& fd : room) fd.reset();
  if (error == 0) error = wire::receive_packet(socket_->get(), packet);
  if (error != 0) {
    give_up();
    throw Failure(error == ECONNRESET ? EPIPE : error, attempted);
  }
  wire::ReplyHeader reply;
  if (packet.bytes.size() >= sizeof(reply)) std::memcpy(&reply, packet.bytes.data(), sizeof(reply));
  if (packet.bytes.size() < sizeof(reply) || reply.magic != wire::kMagic ||
      reply.cookie != header.cookie) {
    give_up();  // out of step: what comes next cannot be trusted either
    throw Failure(EPROTO, attempted);
  }
  if (reply.status < 0) {
    reply.detail.back() = '\0';
    throw Failure::in_words(-reply.status, reply.detail.data());
  }
  return packet;
}

}  // namespace faultline::client
