// SIGTERM: no new work, no client left blocked, no made-up content, exit 0.
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

constexpr std::byte kOne{1};

// However soon it comes: from the moment the daemon says that it is ready.
TEST(Shutdown, AtOnceIsAsOrderlyAsLater) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP()
      << "SKIPPED: ThreadSanitizer holds a signal back until the thread's next call that it "
         "knows of, which need not come";
#endif
  for (int i = 0; i < 30; ++i) {
    Daemon daemon;
    const int status = daemon.stop();
    ASSERT_TRUE(Outcome{status}.exited(0)) << Outcome{status} << " in round " << i;
    EXPECT_FALSE(std::filesystem::exists(daemon.socket()));
  }
}

TEST(Shutdown, LeavesWhatIsResidentReadableAndPoisonsWhatIsOnlyInTheFile) {
  const PatternFile file(64 * kPage);
  Daemon daemon;
  const Client client = connect(daemon.socket());
  const Object object = create_from(client, file.fd());
  const auto shared = map(object, 64 * kPage, FL_MAP_SHARED);
  const auto view = map(object, 64 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  const auto zero = map(create(client, 8 * kPage), 8 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  EXPECT_EQ(shared[0], file.bytes()[0]);
  view[kPage] = kOne;
  EXPECT_EQ(view[2 * kPage], file.bytes()[2 * kPage]);
  zero[0] = kOne;

  const int status = daemon.stop();
  EXPECT_TRUE(Outcome{status}.exited(0)) << Outcome{status};
  EXPECT_EQ(shared[0], file.bytes()[0]);
  EXPECT_EQ(view[kPage], kOne);
  view[2 * kPage] = kOne;
  EXPECT_EQ(shared[2 * kPage], file.bytes()[2 * kPage]) << "still copy-on-write";
  EXPECT_EQ(zero[0], kOne);
  zero[kPage] = kOne;  // a page of zeroes the kernel can supply by itself
  EXPECT_EQ(zero[kPage], kOne);
  EXPECT_TRUE(in_child([&] { return touch(shared[63 * kPage]); }).killed_by(SIGBUS))
      << "never zeroes where the file has content";
  fl_object* late = nullptr;
  EXPECT_LT(fl_object_open(client, "any", FL_READ_ONLY, &late), 0);
}

// 0 once the library gives an error, 7 on wrong content; or SIGBUS ends it. It must never block.
int map_and_write_until_refused(fl_client* client, fl_object* object, const PatternFile& file) {
  const std::size_t pages = file.bytes().size() / kPage;
  for (;;) {
    void* address = nullptr;
    if (fl_map(object, 0, pages * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE, &address) != 0) return 0;
    auto* bytes = static_cast<std::byte*>(address);
    for (std::size_t page = 0; page < pages; ++page) {
      if (bytes[page * kPage + 1] != file.bytes()[page * kPage + 1]) return 7;
      bytes[page * kPage] = kOne;
    }
    fl_unmap(client, address, pages * kPage);
  }
}

TEST(Shutdown, UnderAFaultStormLeavesNoClientBlocked) {
  SKIP_WITH_HUGE_PAGES("takes too many");
  for (int round = 0; round < 5; ++round) {
    const PatternFile file(4096 * kPage);
    std::vector<Child> clients;
    Gate started;
    Daemon daemon;
    for (int i = 0; i < 3; ++i) {
      clients.emplace_back([&] {
        const Client client = connect(daemon.socket());
        const Object object = create_from(client, file.fd());
        started.open();
        return map_and_write_until_refused(client, object, file);
      });
    }
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(started.pass());
    const int status = daemon.stop();
    EXPECT_TRUE(Outcome{status}.exited(0)) << Outcome{status};
    for (Child& child : clients) {
      const Outcome outcome = child.wait();
      EXPECT_TRUE(outcome.exited(0) || outcome.killed_by(SIGBUS)) << outcome;
    }
  }
}

TEST(Shutdown, ASecondDaemonOnTheSameSocketIsRefusedAndAStaleSocketIsReplaced) {
  Daemon daemon;
  const Ran second = run(FAULTLINED_BINARY " --socket " + daemon.socket());
  EXPECT_NE(second.code, 0);
  EXPECT_NE(second.output.find("another daemon"), std::string::npos) << second.output;
}

// A terminal that is closed, and Ctrl-\\ in it.
TEST(Shutdown, SignalsOnTheWayOutChangeNothing) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP()
      << "SKIPPED: ThreadSanitizer holds a signal back until the thread's next call that it "
         "knows of, which need not come";
#endif
  for (int round = 0; round < 20; ++round) {
    Daemon daemon;
    const Client client = connect(daemon.socket());
    const auto memory = map(create(client, kPage), kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    memory[0] = kOne;
    ::kill(daemon.pid(), SIGTERM);
    // Until it is a zombie, which takes any signal and minds none.
    siginfo_t ended{};
    while (::waitid(P_PID, static_cast<id_t>(daemon.pid()), &ended, WEXITED | WNOHANG | WNOWAIT) ==
               0 &&
           ended.si_pid == 0) {
      ::kill(daemon.pid(), round % 2 == 0 ? SIGTERM : SIGQUIT);
      ::usleep(50);  // a flood would keep its thread from everything else
    }
    const int status = daemon.stop();
    ASSERT_TRUE(Outcome{status}.exited(0)) << Outcome{status} << ", round " << round;
  }
}

TEST(Shutdown, OfATerminalIsAsOrderly) {
  Daemon daemon;
  const Client client = connect(daemon.socket());
  const PatternFile file(8 * kPage);
  const auto shared = map(create_from(client, file.fd()), 8 * kPage, FL_MAP_SHARED);
  ::kill(daemon.pid(), SIGQUIT);
  EXPECT_TRUE(eventually([&] { return !std::filesystem::exists(daemon.socket()); }));
  const int status = daemon.stop();
  EXPECT_TRUE(Outcome{status}.exited(0)) << Outcome{status};
  EXPECT_TRUE(in_child([&] { return touch(shared[7 * kPage]); }).killed_by(SIGBUS))
      << "never zeroes where the file has content";
}

// A directory of the test's own, for daemons that come to nothing or are not the harness's.
class SocketPlace : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = std::filesystem::temp_directory_path() / "faultline-place-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  [[nodiscard]] static std::string command(const std::filesystem::path& socket) {
    return "timeout 20 " FAULTLINED_BINARY " --socket '" + socket.string() + "'";
  }
  // A daemon that listens there when this returns; killed at the latest with its Child.
  [[nodiscard]] static Child start(const std::filesystem::path& socket) {
    const std::string path = socket.string();
    Child daemon([&path] {
      ::execl(FAULTLINED_BINARY, "faultlined", "--socket", path.c_str(), "--log-level", "off",
              nullptr);
      return 127;
    });
    EXPECT_TRUE(eventually([&] { return answers(socket); })) << socket;
    return daemon;
  }
  [[nodiscard]] static bool answers(const std::filesystem::path& socket) {
    return run("timeout 20 " FAULTCTL_BINARY " --socket '" + socket.string() + "' status").code ==
           0;
  }

  std::filesystem::path directory_;
};

TEST_F(SocketPlace, WhatIsNotASocketIsNeverRemoved) {
  const auto file = directory_ / "file";
  const auto directory = directory_ / "directory";
  const auto link = directory_ / "link";
  const auto dangling = directory_ / "dangling";
  std::ofstream(file) << "precious";
  std::filesystem::create_directory(directory);
  std::filesystem::create_symlink("file", link);
  std::filesystem::create_symlink("nowhere", dangling);
  for (const auto& path : {file, directory, link, dangling}) {
    const Ran ran = run(command(path));
    EXPECT_EQ(ran.code, 1) << path;
    EXPECT_NE(ran.output.find("listening on " + path.string() + ": it exists and is not a socket"),
              std::string::npos)
        << ran.output;
    EXPECT_TRUE(std::filesystem::exists(std::filesystem::symlink_status(path))) << path;
  }
  std::string content;
  std::ifstream(file) >> content;
  EXPECT_EQ(content, "precious");
}

TEST_F(SocketPlace, ASocketOfAnotherKindIsInUse) {
  const auto path = directory_ / "stream";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.string().copy(static_cast<char*>(address.sun_path), sizeof(address.sun_path) - 1);
  const UniqueFd stream{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  ASSERT_EQ(::bind(stream.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(::listen(stream.get(), 1), 0);
  const Ran ran = run(command(path));
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.output.find("in use"), std::string::npos) << ran.output;
  EXPECT_TRUE(std::filesystem::is_socket(path));
}

TEST_F(SocketPlace, AStaleSocketIsReplaced) {
  const auto path = directory_ / "socket";
  {
    Child killed = start(path);
    killed.kill(SIGKILL);
    (void)killed.wait();
  }
  ASSERT_TRUE(std::filesystem::is_socket(path));
  Child next = start(path);
  next.kill(SIGTERM);
  EXPECT_TRUE(next.wait().exited(0));
}

TEST_F(SocketPlace, AStoppingDaemonLeavesTheSocketOfItsSuccessor) {
  const auto path = directory_ / "socket";
  Child first = start(path);
  std::filesystem::remove(path);
  Child second = start(path);
  first.kill(SIGTERM);
  EXPECT_TRUE(first.wait().exited(0));
  EXPECT_TRUE(answers(path));
  second.kill(SIGTERM);
  EXPECT_TRUE(second.wait().exited(0));
  EXPECT_FALSE(std::filesystem::exists(path));
}

// The group is there, but this user may not give the socket to it.
TEST_F(SocketPlace, AFailedStartLeavesNoSocket) {
  if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED: becoming another user takes root";
  constexpr uid_t kNobody = 65534;
  ASSERT_EQ(::chown(directory_.c_str(), kNobody, kNobody), 0) << std::strerror(errno);
  const auto path = directory_ / "socket";
  const Ran ran = run("timeout 20 setpriv --reuid 65534 --regid 65534 --clear-groups " +
                      command(path) + " --socket-group root");
  EXPECT_EQ(ran.code, 1) << ran.output;
  EXPECT_NE(ran.output.find("to group root"), std::string::npos) << ran.output;
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

TEST_F(SocketPlace, ARelativePathNeedsNoDirectory) {
  std::filesystem::current_path(directory_);
  Child daemon = start("relative.sock");
  EXPECT_TRUE(std::filesystem::is_socket(directory_ / "relative.sock"));
  daemon.kill(SIGTERM);
  EXPECT_TRUE(daemon.wait().exited(0));
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
  std::filesystem::current_path("/");
}

}  // namespace
}  // namespace faultline::testing
