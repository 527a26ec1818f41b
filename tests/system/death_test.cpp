// Clients that die in any state leave the daemon, and every other client, as they were.
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

using Death = SystemTest;
constexpr std::byte kOne{1};

std::size_t spaces_in(const Daemon& daemon) {
  return daemon.ask(wire::AdminQuery::spaces)["spaces"].size();
}

// A client of its own, not this process's connection carried over a fork.
int fresh_client(const std::string& socket, const std::function<int(fl_client*)>& body) {
  // The fork child's first call would attach to its parent's space; another path to the same socket
  // is another connection.
  const std::string other = socket.substr(0, socket.rfind('/')) + "/./faultlined.sock";
  fl_client* client = nullptr;
  if (fl_connect(other.c_str(), &client) != 0) return 90;
  return body(client);
}

TEST_F(Death, KilledWhileMappedReleasesEverythingWithinASecond) {
  const std::size_t descriptors = daemon_.open_descriptors();
  const std::size_t spaces = spaces_in(daemon_);
  for (int round = 0; round < 5; ++round) {
    Gate ready;
    Child child([&] {
      return fresh_client(daemon_.socket(), [&](fl_client* client) {
        const auto memory =
            map(create(client, 64 * kPage), 64 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
        for (std::size_t page = 0; page < 64; ++page) memory[page * kPage] = kOne;
        ready.open();
        ::pause();
        return 0;
      });
    });
    ASSERT_TRUE(ready.pass());
    EXPECT_GT(spaces_in(daemon_), spaces);
    child.kill(SIGKILL);
    child.wait();
    EXPECT_TRUE(eventually(
        [&] { return daemon_.open_descriptors() <= descriptors && spaces_in(daemon_) == spaces; },
        std::chrono::milliseconds(1000)))
        << daemon_.open_descriptors() << " descriptors, " << descriptors << " before";
  }
  EXPECT_EQ(daemon_.ask(wire::AdminQuery::objects)["objects"].size(), 0U);
}

TEST_F(Death, KilledAtRandomMomentsOfAFaultStormHarmsNobodyElse) {
  const PatternFile file(512 * kPage);
  const Object object = create_from(client_, file.fd());
  // Maybe with some that are just being closed: the client's own of the file, the copy that was
  // sent.
  const std::size_t descriptors = daemon_.open_descriptors();
  for (useconds_t delay = 0; delay < 40; ++delay) {
    Gate started;
    Child child([&] {
      started.open();
      for (;;) {
        const auto view = map(object, 512 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
        for (std::size_t page = 0; page < 512; page += 3) view[page * kPage] = kOne;
        if (::fork() == 0) {
          for (std::size_t page = 0; page < 512; page += 5) view[page * kPage] = kOne;
          ::_exit(0);
        }
      }
      return 0;
    });
    ASSERT_TRUE(started.pass());
    ::usleep(delay * 400);  // the moment is the input of this test
    child.kill(SIGKILL);
    child.wait();
    const auto memory = map(object, 512 * kPage, FL_MAP_SHARED);
    ASSERT_EQ(std::memcmp(memory.data(), file.bytes().data(), memory.size()), 0);
    fl_unmap(client_, memory.data(), memory.size());
  }
  EXPECT_TRUE(eventually([&] { return daemon_.open_descriptors() <= descriptors; }))
      << daemon_.open_descriptors() << " descriptors, " << descriptors << " before";
}

TEST_F(Death, AConnectionThatSaysNothingIsHeldOnlySoLong) {
  const std::size_t descriptors = daemon_.open_descriptors();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  daemon_.socket().copy(address.sun_path, sizeof(address.sun_path) - 1);
  const UniqueFd silent{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  ASSERT_EQ(::connect(silent.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
            0);
  char byte = 0;
  EXPECT_EQ(::recv(silent.get(), &byte, 1, 0), 0) << "the daemon closes it";
  EXPECT_TRUE(eventually([&] { return daemon_.open_descriptors() <= descriptors; }));
}

TEST_F(Death, ConnectingAndDisconnectingLeaksNothing) {
  const std::size_t descriptors = daemon_.open_descriptors();
  for (int i = 0; i < 200; ++i) {
    EXPECT_TRUE(in_child([&] {
                  return fresh_client(daemon_.socket(), [&](fl_client* client) {
                    Object object = create(client, 4 * kPage);
                    const auto memory = map(object, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
                    memory[0] = kOne;
                    if (fl_unmap(client, memory.data(), memory.size()) != 0) return 1;
                    if (fl_object_close(object.release()) != 0) return 2;
                    return fl_disconnect(client) == 0 ? 0 : 3;
                  });
                }).exited(0));
  }
  EXPECT_TRUE(eventually([&] { return daemon_.open_descriptors() <= descriptors; }))
      << daemon_.open_descriptors() << " descriptors, " << descriptors << " before";
}

// The kernel keeps a fork's message until the daemon has a descriptor for the child.
TEST(Limits, AForkWaitsWhileTheDaemonIsOutOfDescriptors) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "SKIPPED: UndefinedBehaviorSanitizer makes pipes to look at objects, and reports "
                  "those that it could not look at";
#endif
  Daemon daemon;
  const PatternFile file(64 * kPage);
  const Gate mapped;
  const Gate go;
  const Gate forking;
  Child victim([&] {
    const Client client = connect(daemon.socket());
    const auto view = map(create_from(client, file.fd()), 64 * kPage, FL_MAP_PRIVATE);
    touch(view[0]);
    mapped.open();
    if (!go.pass()) return 9;
    forking.open();
    const Outcome child =
        in_child([&] { return view[40 * kPage + 1] == file.bytes()[40 * kPage + 1] ? 0 : 3; });
    if (!child.exited(0)) return 4;
    return std::memcmp(view.data(), file.bytes().data(), view.size()) == 0 ? 0 : 2;
  });
  ASSERT_TRUE(mapped.pass());
  const rlimit none_left{3, 1024};  // what is open stays so
  ASSERT_EQ(::prlimit(daemon.pid(), RLIMIT_NOFILE, &none_left, nullptr), 0) << std::strerror(errno);
  go.open();
  ASSERT_TRUE(forking.pass());
  EXPECT_TRUE(
      eventually([&] { return daemon.log().find("Too many open files") != std::string::npos; }));
  const rlimit enough{1024, 1024};
  ASSERT_EQ(::prlimit(daemon.pid(), RLIMIT_NOFILE, &enough, nullptr), 0) << std::strerror(errno);
  const Outcome outcome = victim.wait();
  EXPECT_TRUE(outcome.exited(0)) << outcome << " (2: the parent, 4: the child read something else)";
}

}  // namespace
}  // namespace faultline::testing
