// A client without the library, which sends whatever it likes, and a test that looks whether a
// daemon and those beside such a client are unharmed. Must never help the client to be right.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/system/harness.hpp"

namespace faultline::testing {

inline constexpr int kReplyWithinMs = 8000;
inline constexpr std::byte kMark{0x5a};

inline bool readable(int fd) {
  pollfd waiting{fd, POLLIN, 0};
  return ::poll(&waiting, 1, kReplyWithinMs) == 1;
}

inline UniqueFd make_userfaultfd() {
  UniqueFd fd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))};
  EXPECT_TRUE(fd.valid()) << "userfaultfd: " << std::strerror(errno);
  return fd;
}

inline UniqueFd make_userfaultfd(const UniqueFd& device) {
  UniqueFd fd{::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK)};
  EXPECT_TRUE(fd.valid()) << "USERFAULTFD_IOC_NEW: " << std::strerror(errno);
  return fd;
}

inline std::uint64_t number(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address);
}

// Memory of this process, unmapped at the end.
class Memory {
 public:
  Memory(std::size_t bytes, int flags, int fd = -1)
      : start_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0)), bytes_(bytes) {
    EXPECT_NE(start_, MAP_FAILED) << std::strerror(errno);
  }
  explicit Memory(std::size_t bytes) : Memory(bytes, MAP_PRIVATE | MAP_ANONYMOUS) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { ::munmap(start_, bytes_); }

  [[nodiscard]] std::uint64_t address() const { return number(start_); }
  [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(start_); }

 private:
  void* start_;
  std::size_t bytes_;
};

// What came back: a reply, or the end of the connection.
struct Answer {
  int transport = 0;  // an errno, where no packet came
  wire::ReplyHeader header;
  wire::Packet packet;

  [[nodiscard]] bool closed() const { return transport == EPIPE || transport == ECONNRESET; }
  [[nodiscard]] bool refused() const { return transport == 0 && header.status < 0; }
  [[nodiscard]] bool refused_with(int error) const {
    return refused() && header.status == -error && header.detail.front() != '\0';
  }
  template <typename Body>
  [[nodiscard]] Body body() const {
    Body out{};
    EXPECT_TRUE(wire::read_body<wire::ReplyHeader>(packet.bytes, out)) << *this;
    return out;
  }
  friend std::ostream& operator<<(std::ostream& out, const Answer& answer) {
    if (answer.transport != 0) return out << "no reply: " << std::strerror(answer.transport);
    return out << "status " << answer.header.status << ": " << answer.header.detail.data();
  }
};

inline wire::RequestHeader header_of(wire::Op op, std::size_t body_size) {
  wire::RequestHeader header;
  header.op = op;
  header.body_size = static_cast<std::uint32_t>(body_size);
  return header;
}

inline std::span<const std::byte> bytes_of(const auto& value) {
  return std::as_bytes(std::span(&value, 1));
}

// A client without the library: whatever bytes, whatever descriptors.
class Raw {
 public:
  explicit Raw(const std::string& path)
      : socket_(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(static_cast<char*>(address.sun_path), sizeof(address.sun_path) - 1);
    EXPECT_EQ(
        ::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0)
        << std::strerror(errno);
  }
  // Takes over the connection of another process.
  explicit Raw(UniqueFd socket) : socket_(std::move(socket)) {}

  [[nodiscard]] int socket() const { return socket_.get(); }

  // As many descriptors as asked for, unlike wire::send_packet. 0 or an errno.
  int send(std::span<const std::byte> bytes, std::span<const int> fds = {}, int flags = 0) const {
    std::vector<std::byte> control(CMSG_SPACE(fds.size_bytes()));
    iovec iov{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &iov;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(fds.size_bytes());
      std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
    }
    return ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | flags) < 0 ? errno : 0;
  }

  Answer receive() const {
    Answer answer;
    if (!readable(socket_.get())) {
      answer.transport = ETIMEDOUT;
      return answer;
    }
    answer.transport = wire::receive_packet(socket_.get(), answer.packet);
    if (answer.transport != 0) return answer;
    if (answer.packet.bytes.size() < sizeof(answer.header)) {
      answer.transport = EBADMSG;
      return answer;
    }
    std::memcpy(&answer.header, answer.packet.bytes.data(), sizeof(answer.header));
    return answer;
  }

  Answer exchange(std::span<const std::byte> bytes, std::span<const int> fds = {}) const {
    Answer answer;
    answer.transport = send(bytes, fds);
    return answer.transport != 0 ? std::move(answer) : receive();
  }
  template <typename Body>
  Answer call(wire::Op op, const Body& body, std::span<const int> fds = {}) const {
    return exchange(wire::join(header_of(op, sizeof(body)), body), fds);
  }
  Answer call(wire::Op op) const { return exchange(bytes_of(header_of(op, 0))); }
  Answer hello() const { return call(wire::Op::hello, wire::HelloRequest{}); }
  Answer attach(int userfaultfd, std::uint64_t beacon) const {
    const std::array fds{userfaultfd};
    return call(wire::Op::attach_new, wire::AttachNewRequest{beacon}, fds);
  }

 private:
  UniqueFd socket_;
};

// Greeted, and attached as a good client is: the beginning of the finer lies.
class Attached {
 public:
  explicit Attached(const std::string& path) : beacon_(kPage), raw_(path) {
    const Answer hello = raw_.hello();
    EXPECT_EQ(hello.header.status, 0) << hello;
    // A user's is made from the device that the daemon sends.
    const UniqueFd userfaultfd =
        hello.packet.fds.empty() ? make_userfaultfd() : make_userfaultfd(hello.packet.fds.front());
    const Answer attached = raw_.attach(userfaultfd.get(), beacon_.address());
    EXPECT_EQ(attached.header.status, 0) << attached;
    EXPECT_EQ(attached.transport, 0) << attached;
  }
  const Raw* operator->() const { return &raw_; }

  wire::ObjectReply create(std::uint64_t bytes, std::string_view name = {}, int file = -1,
                           UniqueFd* memfd = nullptr) {
    wire::ObjectCreateRequest request;
    request.size = bytes;
    request.mode = 0644;
    name.copy(request.name.data(), wire::kMaxName);
    const std::array fds{file};
    if (file >= 0) request.flags = wire::kObjectFromFile;
    Answer answer = raw_.call(wire::Op::object_create, request,
                              std::span<const int>(fds).first(file >= 0 ? 1 : 0));
    return taken(std::move(answer), memfd);
  }
  wire::ObjectReply open(std::string_view name, wire::Access access, UniqueFd* memfd = nullptr) {
    wire::ObjectOpenRequest request;
    request.access = access;
    name.copy(request.name.data(), wire::kMaxName);
    return taken(raw_.call(wire::Op::object_open, request), memfd);
  }
  Answer unlink(std::string_view name) const {
    wire::UnlinkRequest request;
    name.copy(request.name.data(), wire::kMaxName);
    return raw_.call(wire::Op::object_unlink, request);
  }

 private:
  static wire::ObjectReply taken(Answer answer, UniqueFd* memfd) {
    EXPECT_EQ(answer.header.status, 0) << answer;
    EXPECT_EQ(answer.packet.fds.size(), 2U) << answer;
    if (memfd != nullptr && !answer.packet.fds.empty()) {
      *memfd = std::move(answer.packet.fds.front());
    }
    return answer.body<wire::ObjectReply>();
  }

  Memory beacon_;  // outlives the session, which watches it
  Raw raw_;
};

// A client that does nothing wrong, in a process of its own, and says on demand whether it is
// served.
class Bystander {
 public:
  explicit Bystander(const std::string& socket)
      : ends_(make_ends()), child_([&] { return live(socket); }) {
    ends_[1].reset();
  }

  // The first time: that it is there. Later: that faults, requests and contents are right.
  [[nodiscard]] bool served() const {
    char byte = 1;
    if (::send(ends_[0].get(), &byte, 1, MSG_NOSIGNAL) != 1) return false;
    return readable(ends_[0].get()) && ::recv(ends_[0].get(), &byte, 1, 0) == 1 && byte == 1;
  }

 private:
  static std::array<UniqueFd, 2> make_ends() {
    std::array<int, 2> fds{-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds.data()), 0);
    return {UniqueFd{fds[0]}, UniqueFd{fds[1]}};
  }

  int live(const std::string& socket) {
    ends_[0].reset();
    const Client client = connect(socket);
    const PatternFile file(64 * kPage);
    std::vector<std::byte> expected = file.bytes();
    const Object object = create_from(client, file.fd());
    const auto shared = map(object, 64 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    std::size_t round = 0;
    char byte = 0;
    while (::recv(ends_[1].get(), &byte, 1, 0) == 1) {
      byte = 1;
      if (round > 0) byte = once(client, object, expected) ? 1 : 0;
      const std::size_t at = (round++ % 64) * kPage + 7;
      shared[at] = expected[at] = kMark;
      if (::send(ends_[1].get(), &byte, 1, MSG_NOSIGNAL) != 1) break;
    }
    return 0;
  }

  static bool once(fl_client* client, fl_object* object, const std::vector<std::byte>& expected) {
    const auto view = map(object, expected.size(), FL_MAP_PRIVATE | FL_MAP_WRITE);
    bool right = std::memcmp(view.data(), expected.data(), view.size()) == 0;
    view[kPage] = kMark;
    right = fl_unmap(client, view.data(), view.size()) == 0 && right;
    Object zeroes = create(client, 2 * kPage);
    const auto zero = map(zeroes, 2 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    right = right && zero[kPage] == std::byte{0};
    zero[kPage] = kMark;
    right = fl_unmap(client, zero.data(), zero.size()) == 0 && right;
    return fl_object_close(zeroes.release()) == 0 && right;
  }

  std::array<UniqueFd, 2> ends_;
  Child child_;
};

class Hostile : public ::testing::Test {
 protected:
  explicit Hostile(std::vector<std::string> options = {}) : daemon_(std::move(options)) {}
  void SetUp() override {
    ASSERT_TRUE(daemon_.ready());
    ASSERT_TRUE(bystander_.served());
    // Maybe with one that is just being closed, the bystander's own of its file.
    descriptors_ = daemon_.open_descriptors();
  }

  // To be asked after every hostile act, when what it held is closed.
  void expect_unharmed(const std::string& after) const {
    SCOPED_TRACE("after " + after);
    ASSERT_EQ(::waitpid(daemon_.pid(), nullptr, WNOHANG), 0) << "the daemon ended";
    ASSERT_TRUE(bystander_.served());
    EXPECT_TRUE(eventually([&] { return daemon_.open_descriptors() <= descriptors_; }))
        << descriptors_ << " descriptors before, now:\n"
        << daemon_.describe_descriptors();
    EXPECT_EQ(daemon_.ask(wire::AdminQuery::status)["status"]["pid"], daemon_.pid());
  }

  [[nodiscard]] const std::string& socket() const { return daemon_.socket(); }

  Daemon daemon_;
  Bystander bystander_{daemon_.socket()};
  std::size_t descriptors_ = 0;
};

}  // namespace faultline::testing
