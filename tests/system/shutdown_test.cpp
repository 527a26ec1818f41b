// SIGTERM: no new work, no client left blocked, no made-up content, exit 0.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

constexpr std::byte kOne{1};

// However soon it comes: from the moment the daemon says that it is ready.
TEST(Shutdown, AtOnceIsAsOrderlyAsLater) {
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
  const std::string command =
      std::string(FAULTLINED_BINARY) + " --socket " + daemon.socket() + " 2>&1";
  FILE* second = ::popen(command.c_str(), "r");
  std::string text(4096, '\0');
  text.resize(::fread(text.data(), 1, text.size(), second));
  EXPECT_NE(::pclose(second), 0);
  EXPECT_NE(text.find("another daemon"), std::string::npos) << text;
}

}  // namespace
}  // namespace faultline::testing
