// Attacks that reach other clients: what a neighbour must still get while one client misbehaves.
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "tests/system/harness.hpp"
#include "tests/system/hostile.hpp"

namespace faultline::testing {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;
using wire::Op;

bool ready(int fd, short events, milliseconds within) {
  pollfd waiting{fd, events, 0};
  return ::poll(&waiting, 1, static_cast<int>(within.count())) == 1;
}

// A good client in a process of its own, which says on demand whether it is served in time.
class Neighbour {
 public:
  explicit Neighbour(const std::string& socket)
      : ends_(make_ends()), child_([&] { return live(socket); }) {
    ends_[1].reset();
    EXPECT_TRUE(ask('f', seconds(20)));  // that it is there
  }
  [[nodiscard]] bool faults() const { return ask('f', kSoon); }
  [[nodiscard]] bool makes_objects() const { return ask('c', kSoon); }

 private:
  static constexpr seconds kSoon{3};

  static std::array<UniqueFd, 2> make_ends() {
    std::array<int, 2> fds{-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds.data()), 0);
    return {UniqueFd{fds[0]}, UniqueFd{fds[1]}};
  }

  [[nodiscard]] bool ask(char what, milliseconds within) const {
    return ::send(ends_[0].get(), &what, 1, MSG_NOSIGNAL) == 1 &&
           ready(ends_[0].get(), POLLIN, within) && ::recv(ends_[0].get(), &what, 1, 0) == 1;
  }

  int live(const std::string& socket) {
    ends_[0].reset();
    constexpr std::size_t kPages = 64;
    const Client client = connect(socket);
    const auto memory =
        map(create(client, kPages * kPage), kPages * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    std::size_t page = 0;
    char what = 0;
    while (::recv(ends_[1].get(), &what, 1, 0) == 1) {
      if (what == 'f') memory[page++ % kPages * kPage] = std::byte{1};
      if (what == 'c' && create(client, kPage) == nullptr) return 1;
      if (::send(ends_[1].get(), &what, 1, MSG_NOSIGNAL) != 1) break;
    }
    return 0;
  }

  std::array<UniqueFd, 2> ends_;
  Child child_;
};

// A client without the library, of whose requests the statuses are what matters.
class Sender : public Raw {
 public:
  using Raw::Raw;

  template <typename Body>
  void send(Op op, const Body& body, std::span<const int> fds = {}) const {
    send_bytes(wire::join(header_of(op, sizeof(body)), body), fds);
  }
  void send_bytes(std::span<const std::byte> bytes, std::span<const int> fds = {}) const {
    const int error = Raw::send(bytes, fds);
    EXPECT_EQ(error, 0) << std::strerror(error);
  }
  // The status of the reply; else what receiving it said, as a negative errno.
  [[nodiscard]] int status() const {
    const Answer answer = receive();
    return answer.transport != 0 ? -answer.transport : answer.header.status;
  }
  [[nodiscard]] int hello() const {
    send(Op::hello, wire::HelloRequest{});
    return status();
  }
  [[nodiscard]] bool closed() const { return receive().closed(); }
};

// A TCP connection whose last close(2) sleeps: unsent data, a peer that does not read, SO_LINGER.
class LingeringSocket {
 public:
  LingeringSocket() {
    const UniqueFd listener{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    socklen_t length = sizeof(address);
    constexpr int kLittle = 4096;
    ::setsockopt(listener.get(), SOL_SOCKET, SO_RCVBUF, &kLittle, sizeof(kLittle));
    EXPECT_EQ(::bind(listener.get(), any, length), 0) << std::strerror(errno);
    EXPECT_EQ(::listen(listener.get(), 1), 0);
    EXPECT_EQ(::getsockname(listener.get(), any, &length), 0);
    near_ = UniqueFd{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    EXPECT_EQ(::connect(near_.get(), any, length), 0) << std::strerror(errno);
    far_ = UniqueFd{::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC)};
    const std::vector<char> much(1 << 20);
    do {
      while (::send(near_.get(), much.data(), much.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
      }
    } while (ready(near_.get(), POLLOUT, milliseconds(100)));
    const linger slow{1, 30};
    EXPECT_EQ(::setsockopt(near_.get(), SOL_SOCKET, SO_LINGER, &slow, sizeof(slow)), 0);
  }
  [[nodiscard]] int fd() const { return near_.get(); }
  // To be called when somebody else holds it too: the last one waits.
  void let_go() { near_.reset(); }

 private:
  UniqueFd near_;
  UniqueFd far_;
};

class Attack : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(daemon_.ready()); }
  // Does not let the daemon see anything before all of it was sent.
  void at_once(const std::function<void()>& attack) const {
    daemon_.pause();
    attack();
    daemon_.resume();
  }
  [[nodiscard]] const std::string& socket() const { return daemon_.socket(); }

  Daemon daemon_{{"--workers", "1"}};
};

// --- closing what a client sent

class SlowToClose : public Attack {
 protected:
  const Neighbour neighbour_{socket()};
  const Sender raw_{socket()};
  LingeringSocket slow_;
};

TEST_F(SlowToClose, ADescriptorThatNobodyAskedFor) {
  at_once([&] {
    raw_.send(Op::hello, wire::HelloRequest{}, std::array{slow_.fd()});
    slow_.let_go();
  });
  EXPECT_EQ(raw_.status(), 0);
  EXPECT_TRUE(neighbour_.makes_objects());
}

TEST_F(SlowToClose, MoreDescriptorsThanAPacketMayCarry) {
  at_once([&] {
    raw_.send(Op::hello, wire::HelloRequest{}, std::vector(wire::kMostFds, slow_.fd()));
    slow_.let_go();
  });
  EXPECT_TRUE(raw_.closed());
  EXPECT_TRUE(neighbour_.makes_objects());
}

TEST_F(SlowToClose, ADescriptorInAPacketThatIsNotReadAnyMore) {
  at_once([&] {
    raw_.send_bytes(std::array<std::byte, 3>{});
    raw_.send(Op::hello, wire::HelloRequest{}, std::array{slow_.fd()});
    slow_.let_go();
  });
  EXPECT_TRUE(raw_.closed());
  EXPECT_TRUE(neighbour_.makes_objects());
}

TEST_F(SlowToClose, WhatIsNoUserfaultfd) {
  ASSERT_EQ(raw_.hello(), 0);
  at_once([&] {
    raw_.send(Op::attach_new, wire::AttachNewRequest{kPage}, std::array{slow_.fd()});
    slow_.let_go();
  });
  EXPECT_EQ(raw_.status(), -EBADF);
  EXPECT_TRUE(neighbour_.faults());
  EXPECT_TRUE(neighbour_.makes_objects());
}

// More of them than there are threads to wait for them.
TEST_F(SlowToClose, ManyDescriptors) {
  std::vector<LingeringSocket> many(12);
  std::vector<Sender> sessions;
  for (std::size_t i = 0; i < many.size(); ++i) sessions.emplace_back(socket());
  at_once([&] {
    for (std::size_t i = 0; i < many.size(); ++i) {
      sessions.at(i).send(Op::hello, wire::HelloRequest{}, std::array{many.at(i).fd()});
      many.at(i).let_go();
    }
  });
  for (const Sender& session : sessions) EXPECT_EQ(session.status(), 0);
  EXPECT_TRUE(neighbour_.makes_objects());
  EXPECT_TRUE(neighbour_.faults());
}

// --- places

TEST(AttackLimits, OneUsersConnectionsLeaveRoomForAnothers) {
  if (::getuid() != 0) GTEST_SKIP() << "SKIPPED: needs root, to be another user";
  const Daemon daemon({"--max-sessions", "64", "--max-sessions-per-user", "8"});
  ASSERT_TRUE(daemon.ready());
  const Gate full;
  const Child attacker([&] {
    constexpr uid_t kAttacker = 1234;
    if (::setresuid(kAttacker, kAttacker, kAttacker) != 0) return 1;
    std::vector<Sender> hoard;
    for (int i = 0; i < 64 + 64; ++i) hoard.emplace_back(daemon.socket());
    full.open();
    ::pause();
    return 0;
  });
  ASSERT_TRUE(full.pass());
  EXPECT_EQ(Sender(daemon.socket()).hello(), 0) << "a user with a limit of 8 sessions holds all 64";
}

TEST(AttackLimits, WhoDoesNotHearTheRefusalIsNotWaitedFor) {
  const Daemon daemon({"--max-sessions", "1"});
  ASSERT_TRUE(daemon.ready());
  const Sender served(daemon.socket());
  ASSERT_EQ(served.hello(), 0);
  const auto start = Clock::now();
  std::vector<Sender> silent;
  for (int i = 0; i < 4; ++i) silent.emplace_back(daemon.socket());
  EXPECT_TRUE(Sender(daemon.socket()).closed()) << "there is room for a few only";
  for (const Sender& session : silent) EXPECT_TRUE(session.closed());
  EXPECT_LT(Clock::now() - start, seconds(5));
  EXPECT_EQ(Sender(daemon.socket()).hello(), -EUSERS);
}

// --- helpers

TEST_F(Attack, AFileWithALeaseDoesNotStopTheHelpers) {
  const std::string path = (daemon_.directory() / "leased").string();
  Child attacker([&] {
    ::signal(SIGIO, SIG_IGN);  // the kernel's question to give the lease up
    const UniqueFd file{::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
    EXPECT_EQ(::pwrite(file.get(), "content", 7, 0), 7);
    EXPECT_EQ(::fcntl(file.get(), F_SETLEASE, F_WRLCK), 0) << std::strerror(errno);
    const Client client = connect(socket());
    const auto memory = map(create_from(client, file.get()), kPage, FL_MAP_PRIVATE);
    return std::memcmp(memory.data(), "content", 7) == 0 ? 0 : 1;
  });
  siginfo_t ended{};
  EXPECT_TRUE(eventually(
      [&] {
        return ::waitid(P_PID, static_cast<id_t>(attacker.pid()), &ended,
                        WEXITED | WNOHANG | WNOWAIT) == 0 &&
               ended.si_pid != 0;
      },
      seconds(10)))
      << "it waits for lease-break-time, 45 s";
  if (ended.si_pid == 0) return;
  const Outcome outcome = attacker.wait();
  EXPECT_TRUE(outcome.exited(0)) << outcome;
}

TEST_F(Attack, QuestionsThatWaitDoNotKeepTheDaemonFromStopping) {
  constexpr std::size_t kBig = std::size_t{32} << 30;
  const Client client = connect(socket());
  const auto memory = map(create(client, kBig), kBig, FL_MAP_SHARED | FL_MAP_WRITE);
  // A page table each: all of them are walked for every answer.
  for (std::size_t at = 0; at < kBig; at += std::size_t{2} << 20) touch(memory[at]);
  std::vector<Sender> asking;
  for (int i = 0; i < 600; ++i) {
    const Sender& session = asking.emplace_back(socket());
    ASSERT_EQ(session.hello(), 0);
    session.send(Op::admin, wire::AdminRequest{wire::AdminQuery::vmas,
                                               static_cast<std::uint32_t>(::getpid())});
  }
  EXPECT_EQ(asking.front().status(), 0);
  const auto start = Clock::now();
  EXPECT_EQ(daemon_.stop(), 0);
  EXPECT_LT(Clock::now() - start, seconds(2));
}

// --- the log

TEST_F(Attack, GarbageDoesNotFillTheLog) {
  for (int i = 0; i < 1000; ++i) {
    const Sender raw(socket());
    raw.send_bytes(std::array<std::byte, 3>{});
    EXPECT_TRUE(raw.closed());
  }
  EXPECT_NE(daemon_.log().find("no request"), std::string::npos);
  EXPECT_LT(daemon_.log().size(), 16U << 10);
}

}  // namespace
}  // namespace faultline::testing
