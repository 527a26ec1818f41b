// Sends and receives one control packet with its descriptors over a SOCK_SEQPACKET socket.
// Must never leak a received descriptor, whatever the peer sent, and never raise SIGPIPE.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "faultline/wire/protocol.hpp"
#include "faultline/wire/unique_fd.hpp"

namespace faultline::wire {

// SCM_MAX_FD of the kernel: what one sendmsg(2) can carry.
inline constexpr std::size_t kMostFds = 253;

// Fd: closes what came and nobody took.
template <typename Fd>
struct PacketOf {
  std::vector<std::byte> bytes;
  std::vector<Fd> fds;
};
using Packet = PacketOf<UniqueFd>;

// Returns 0 or an errno. The descriptors stay the caller's. Blocks only as the socket does.
inline int send_packet(int socket, std::span<const std::byte> bytes, std::span<const int> fds) {
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * kMaxFds)> control{};
  if (fds.size() > kMaxFds) return EINVAL;
  // sendmsg(2) takes a non-const pointer and does not write through it.
  iovec iov{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
  }
  for (;;) {
    const ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent >= 0) return static_cast<std::size_t>(sent) == bytes.size() ? 0 : EMSGSIZE;
    if (errno != EINTR) return errno;
  }
}

// Returns 0 or an errno: EPIPE at the end of the connection, EMSGSIZE for a packet that is longer
// than kMaxPacket, EBADMSG where more descriptors came than a packet may carry or the kernel had to
// drop some. There is room for all that can come: what the kernel drops, it closes here and now,
// and that can block.
template <typename Fd>
int receive_packet(int socket, PacketOf<Fd>& packet) {
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * kMostFds)> control{};
  packet.bytes.resize(kMaxPacket);
  packet.fds.clear();
  iovec iov{packet.bytes.data(), packet.bytes.size()};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t got = 0;
  do {
    got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return errno;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      packet.fds.emplace_back(fd);
    }
  }
  if ((message.msg_flags & MSG_CTRUNC) != 0 || packet.fds.size() > kMaxFds) return EBADMSG;
  if ((message.msg_flags & MSG_TRUNC) != 0) return EMSGSIZE;
  if (got == 0) return EPIPE;
  packet.bytes.resize(static_cast<std::size_t>(got));
  return 0;
}

// A header and its body laid end to end, as they travel.
template <typename Header, typename Body>
std::array<std::byte, sizeof(Header) + sizeof(Body)> join(const Header& header, const Body& body) {
  std::array<std::byte, sizeof(Header) + sizeof(Body)> bytes{};
  std::memcpy(bytes.data(), &header, sizeof(Header));
  std::memcpy(bytes.data() + sizeof(Header), &body, sizeof(Body));
  return bytes;
}

// The body behind a header of the given type; false unless the packet has exactly that length.
template <typename Header, typename Body>
bool read_body(std::span<const std::byte> packet, Body& body) {
  static_assert(std::is_trivially_copyable_v<Body>);
  if (packet.size() != sizeof(Header) + sizeof(Body)) return false;
  std::memcpy(&body, packet.data() + sizeof(Header), sizeof(Body));
  return true;
}

}  // namespace faultline::wire
