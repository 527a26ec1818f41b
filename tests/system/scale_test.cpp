// Attacks that reach other clients. Each test says what a neighbour must still get while one client
// misbehaves.
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>

#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

using wire::Op;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

bool readable(int fd, milliseconds within) {
  pollfd waiting{fd, POLLIN, 0};
  return ::poll(&waiting, 1, static_cast<int>(within.count())) == 1;
}

// A good client in a process of its own. Each request comes back with the milliseconds that it
// took, or with nothing where it was not served within the time.
class Neighbour {
 public:
  explicit Neighbour(const std::string& socket, uid_t uid = 0)
      : ends_(make_ends()), child_([&, uid] { return live(socket, uid); }) {
    ends_[1].reset();
    (void)ask('f', seconds(10));
  }
  std::optional<double> fault(milliseconds within = seconds(3)) const { return ask('f', within); }
  std::optional<double> control(milliseconds within = seconds(3)) const { return ask('c', within); }
  std::optional<double> file(milliseconds within = seconds(3)) const { return ask('h', within); }
  std::optional<double> file_fault(milliseconds within = seconds(3)) const {
    return ask('p', within);
  }
  // The longest fault of many in a row over two seconds.
  std::optional<double> longest(milliseconds within = seconds(20)) const {
    return ask('L', within);
  }

 private:
  static std::array<UniqueFd, 2> make_ends() {
    std::array<int, 2> fds{-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds.data()), 0);
    return {UniqueFd{fds[0]}, UniqueFd{fds[1]}};
  }
  std::optional<double> ask(char what, milliseconds within) const {
    double took = 0;
    if (::send(ends_[0].get(), &what, 1, MSG_NOSIGNAL) != 1) return std::nullopt;
    if (!readable(ends_[0].get(), within)) return std::nullopt;
    if (::recv(ends_[0].get(), &took, sizeof(took), 0) != sizeof(took)) return std::nullopt;
    return took;
  }
  int live(const std::string& socket, uid_t uid) {
    ends_[0].reset();
    if (uid != 0 && (::setgroups(0, nullptr) != 0 || ::setresgid(uid, uid, uid) != 0 ||
                     ::setresuid(uid, uid, uid) != 0)) {
      return 1;
    }
    const Client client = connect(socket);
    constexpr std::size_t kBig = std::size_t{64} << 30;
    const Object object = create(client, kBig);
    const auto shared = map(object, kBig, FL_MAP_SHARED | FL_MAP_WRITE);
    const PatternFile pattern(64 * kPage);
    const Object filed = create_from(client, pattern.fd());
    const auto pages = map(filed, 64 * kPage, FL_MAP_PRIVATE);
    std::size_t next_page = 63;
    std::size_t at = 0;
    const auto touch_next = [&] {
      const auto start = Clock::now();
      shared[at] = std::byte{1};
      at += std::size_t{2} << 20;
      return ms_since(start);
    };
    char what = 0;
    while (::recv(ends_[1].get(), &what, 1, 0) == 1) {
      const auto start = Clock::now();
      double took = 0;
      if (what == 'f') took = touch_next();
      if (what == 'p') {
        touch(pages[next_page * kPage]);
        next_page -= 3;
        took = ms_since(start);
      }
      if (what == 'c') {
        const Object small = create(client, kPage);
        took = ms_since(start);
      }
      if (what == 'h') {
        const Object small = create_from(client, pattern.fd());
        took = ms_since(start);
      }
      if (what == 'L') {
        while (ms_since(start) < 2000) {
          took = std::max(took, touch_next());
          ::usleep(1000);
        }
      }
      if (::send(ends_[1].get(), &took, sizeof(took), MSG_NOSIGNAL) < 0) break;
    }
    return 0;
  }
  std::array<UniqueFd, 2> ends_;
  Child child_;
};

class Raw {
 public:
  explicit Raw(const std::string& path)
      : socket_(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(static_cast<char*>(address.sun_path), sizeof(address.sun_path) - 1);
    connected_ =
        ::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  }
  [[nodiscard]] bool connected() const { return connected_; }
  [[nodiscard]] int socket() const { return socket_.get(); }
  template <typename Body>
  int send(Op op, const Body& body, std::span<const int> fds = {}) const {
    wire::RequestHeader header;
    header.op = op;
    header.body_size = sizeof(body);
    return wire::send_packet(socket_.get(), wire::join(header, body), fds);
  }
  // The status of the reply; -ETIMEDOUT, or what receiving said.
  template <typename Body>
  int call(Op op, const Body& body, std::span<const int> fds = {},
           wire::Packet* reply = nullptr) const {
    if (const int error = send(op, body, fds); error != 0) return -error;
    if (!readable(socket_.get(), seconds(10))) return -ETIMEDOUT;
    wire::Packet packet;
    if (const int error = wire::receive_packet(socket_.get(), packet); error != 0) return -error;
    wire::ReplyHeader header;
    if (packet.bytes.size() < sizeof(header)) return -EBADMSG;
    std::memcpy(&header, packet.bytes.data(), sizeof(header));
    if (reply != nullptr) *reply = std::move(packet);
    return header.status;
  }
  int hello() const { return call(Op::hello, wire::HelloRequest{}); }

 private:
  UniqueFd socket_;
  bool connected_ = false;
};

UniqueFd make_userfaultfd() {
  return UniqueFd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))};
}

// An attached session without the library, with one object of its own.
class Attached {
 public:
  explicit Attached(const std::string& path) : raw_(path) {
    EXPECT_EQ(raw_.hello(), 0);
    userfaultfd_ = make_userfaultfd();
    const std::array fds{userfaultfd_.get()};
    EXPECT_EQ(raw_.call(Op::attach_new,
                        wire::AttachNewRequest{reinterpret_cast<std::uintptr_t>(beacon_)}, fds),
              0);
  }
  const Raw* operator->() const { return &raw_; }
  std::uint64_t create(std::uint64_t bytes, UniqueFd* memfd = nullptr, int file = -1) {
    wire::ObjectCreateRequest request;
    request.size = bytes;
    request.mode = 0600;
    if (file >= 0) request.flags = wire::kObjectFromFile;
    const std::array fds{file};
    wire::Packet packet;
    EXPECT_EQ(raw_.call(Op::object_create, request,
                        std::span<const int>(fds).first(file >= 0 ? 1 : 0), &packet),
              0);
    wire::ObjectReply reply{};
    EXPECT_TRUE(wire::read_body<wire::ReplyHeader>(packet.bytes, reply));
    if (memfd != nullptr && !packet.fds.empty()) *memfd = std::move(packet.fds.front());
    return reply.handle;
  }
  int map(std::uint64_t handle, const void* address, std::uint64_t bytes, std::uint64_t offset,
          std::uint32_t flags) const {
    return raw_.call(Op::map, wire::MapRequest{handle, reinterpret_cast<std::uintptr_t>(address),
                                               bytes, offset, flags, 0});
  }
  [[nodiscard]] int userfaultfd() const { return userfaultfd_.get(); }

 private:
  Raw raw_;
  void* beacon_ =
      ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  UniqueFd userfaultfd_;
};

class Attack : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(daemon_.ready()); }
  // A daemon that hangs must not hang the test: its own pid is killed.
  double stop(milliseconds within = seconds(20)) {
    const auto start = Clock::now();
    const pid_t pid = daemon_.pid();
    if (pid <= 0) return 0;
    std::atomic<bool> ended{false};
    std::thread killer([&] {
      while (!ended && Clock::now() - start < within) ::usleep(10'000);
      if (!ended) ::kill(pid, SIGKILL);
    });
    const int status = daemon_.stop();
    ended = true;
    killer.join();
    EXPECT_TRUE(WIFEXITED(status)) << "the daemon did not stop by itself";
    return ms_since(start);
  }
  void TearDown() override { (void)stop(); }
  [[nodiscard]] const std::string& socket() const { return daemon_.socket(); }

  Daemon daemon_{{"--workers", "1"}};
};

// --- many VMAs

// One kernel VMA, as many of the daemon's as it allows: neither max_map_count nor memory limits it.
void map_page_by_page(Attached& session, std::uint64_t handle, std::byte* start, std::size_t pages,
                      std::uint32_t flags = wire::kMapPrivate | wire::kMapWrite) {
  for (std::size_t i = 0; i < pages; ++i) {
    if (session.map(handle, start + i * kPage, kPage, i * kPage, flags) != 0) {
      ADD_FAILURE() << "map " << i;
      return;
    }
  }
}

constexpr std::size_t kManyPages = 60'000;

TEST_F(Attack, UnmappingManyMappingsAtOnceDoesNotStopTheWorker) {
  const Neighbour neighbour(socket());
  Attached session(socket());
  UniqueFd memfd;
  const auto handle = session.create(kManyPages * kPage, &memfd);
  auto* const start = static_cast<std::byte*>(
      ::mmap(nullptr, kManyPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, memfd.get(), 0));
  map_page_by_page(session, handle, start, kManyPages);
  std::thread attack([&] {
    ::usleep(300'000);
    ::munmap(start + kManyPages / 2 * kPage, kManyPages / 2 * kPage);
  });
  const auto longest = neighbour.longest();
  attack.join();
  ASSERT_TRUE(longest);
  std::cout << "one munmap(2): a neighbour's fault took " << *longest << " ms" << std::endl;
  EXPECT_LT(*longest, 250);
}

// --- big things

TEST_F(Attack, AskingForTheStatusDoesNotStopTheWorker) {
  const Neighbour neighbour(socket());
  Attached session(socket());
  constexpr std::size_t kHuge = std::size_t{4} << 40;
  UniqueFd memfd;
  const auto handle = session.create(kHuge, &memfd);
  for (int i = 0; i < 8; ++i) {
    auto* const start = static_cast<std::byte*>(::mmap(
        nullptr, kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, memfd.get(), 0));
    ASSERT_NE(start, MAP_FAILED) << std::strerror(errno);
    ASSERT_EQ(session.map(handle, start, kHuge, 0, wire::kMapPrivate | wire::kMapWrite), 0);
    start[0] = std::byte{1};
  }
  std::thread attack([&] {
    ::usleep(500'000);
    (void)daemon_.ask(wire::AdminQuery::status);
  });
  const auto longest = neighbour.longest();
  attack.join();
  ASSERT_TRUE(longest);
  std::cout << "one status query: a neighbour's fault took " << *longest << " ms" << std::endl;
  EXPECT_LT(*longest, 100);
}

}  // namespace
}  // namespace faultline::testing
