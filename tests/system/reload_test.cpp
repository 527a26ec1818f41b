// Reading the settings again while clients are served: what holds at once, what is refused, and
// that nobody notices.
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

class Reload : public ::testing::Test {
 protected:
  void SetUp() override { write("max_objects = 2\n"); }
  void TearDown() override { std::filesystem::remove(file_); }

  void write(const std::string& text) const { std::ofstream(file_) << text; }
  [[nodiscard]] Ran ctl(const Daemon& daemon, const std::string& words) const {
    return run(FAULTCTL_BINARY " --socket " + daemon.socket() + " " + words);
  }

  static int make(fl_client* client, fl_object** object) {
    fl_object_spec spec{};
    spec.struct_size = sizeof(spec);
    spec.size = kPage;
    return fl_object_create(client, &spec, object);
  }

  const std::string file_ = (std::filesystem::temp_directory_path() /
                             ("faultline-reload-" + std::to_string(::getpid()) + ".toml"))
                                .string();
};

TEST_F(Reload, LimitsHoldFromThenOnForThoseWhoAreConnected) {
  const Daemon daemon({"--config", file_});
  const Client client = connect(daemon.socket());
  const auto first = create(client, kPage);
  const auto second = create(client, kPage);
  fl_object* third = nullptr;
  EXPECT_EQ(make(client, &third), -EUSERS);
  write("max_objects = 3\n");
  const Ran reloaded = ctl(daemon, "reload");
  EXPECT_EQ(reloaded.code, 0);
  EXPECT_EQ(reloaded.output, "max_objects = 3, was 2\n");
  EXPECT_EQ(make(client, &third), 0);
  fl_object_close(third);
}

TEST_F(Reload, ALowerLimitTakesNothingAway) {
  const Daemon daemon({"--config", file_});
  const Client client = connect(daemon.socket());
  const auto first = create(client, kPage);
  const auto second = create(client, kPage);
  write("max_objects = 1\nmax_sessions = 1\nmax_spaces_per_user = 1\n");
  EXPECT_EQ(ctl(daemon, "reload").code, 0);
  const auto mapped = map(second, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  std::memset(mapped.data(), 7, kPage);
  EXPECT_EQ(mapped[kPage - 1], std::byte{7});
  const Ran refused = ctl(daemon, "status");
  EXPECT_NE(refused.output.find("the daemon allows 1 connection (max_sessions)"), std::string::npos)
      << refused.output;
}

TEST_F(Reload, TheCommandLineStillWins) {
  const Daemon daemon({"--config", file_, "--max-objects", "9"});
  write("max_objects = 1\n");
  const Ran reloaded = ctl(daemon, "reload");
  EXPECT_EQ(reloaded.output, "nothing has changed in " + file_ + "\n");
}

TEST_F(Reload, AFileThatIsWrongChangesNothing) {
  const Daemon daemon({"--config", file_});
  for (const char* wrong : {"max_objects = 0\n", "max_objects = 5\nmax = 1\n", "max_objects = \n",
                            "max_objects = 7\nlog_level = 'loud'\n"}) {
    write(wrong);
    const Ran refused = ctl(daemon, "reload");
    EXPECT_EQ(refused.code, 1) << wrong << refused.output;
  }
  EXPECT_NE(daemon.log().find("the settings stay as they are: reading settings"), std::string::npos)
      << daemon.log();
  std::filesystem::remove(file_);
  const Ran missing = ctl(daemon, "reload");
  EXPECT_EQ(missing.code, 1);
  EXPECT_NE(missing.output.find(file_ + ": No such file or directory"), std::string::npos)
      << missing.output;
  write("max_objects = 2\n");
  EXPECT_EQ(ctl(daemon, "reload").output, "nothing has changed in " + file_ + "\n");
}

TEST_F(Reload, ASettingWithoutAValueIsToldInAWord) {
  const Daemon daemon({"--config", file_});
  write("max_objects = 2\nmetrics_listen = '127.0.0.1:0'\n");
  EXPECT_EQ(ctl(daemon, "reload").output,
            "metrics_listen = 127.0.0.1:0, takes a restart; it stays none\n");
}

TEST_F(Reload, WithoutAFileThereIsNothingToRead) {
  const Daemon daemon;
  const Ran refused = ctl(daemon, "reload");
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.output.find("started without --config"), std::string::npos) << refused.output;
}

TEST_F(Reload, ADefaultFileMayComeAndGo) {
  std::filesystem::remove(file_);
  const Daemon daemon({"--default-config", file_});
  EXPECT_EQ(ctl(daemon, "reload").output, "nothing has changed in " + file_ + "\n");
  write("max_objects = 3\n");
  EXPECT_EQ(ctl(daemon, "reload").output, "max_objects = 3, was 16384\n");
  std::filesystem::remove(file_);
  EXPECT_EQ(ctl(daemon, "reload").output, "max_objects = 16384, was 3\n");
}

TEST_F(Reload, ASignalDoesTheSame) {
  const Daemon daemon({"--config", file_});
  write("max_objects = 3\nlog_level = 'debug'\nworkers = 1\nsocket_mode = '0600'\n");
  ::kill(daemon.pid(), SIGHUP);
  EXPECT_TRUE(eventually([&] { return daemon.log().find("was read again") != std::string::npos; }))
      << daemon.log();
  const std::string log = daemon.log();
  EXPECT_NE(log.find("setting max_objects = 3, was 2"), std::string::npos) << log;
  EXPECT_NE(log.find("setting socket_mode = 0600 takes a restart; it stays 0666"),
            std::string::npos)
      << log;
}

// Many at once, with clients that come and fault meanwhile: each sees one limit or the other.
TEST_F(Reload, MayComeAtAnyTime) {
  const Daemon daemon({"--config", file_});
  std::atomic<bool> over{false};
  std::jthread reloads([&] {
    for (int i = 0; !over; ++i) {
      const std::string half = file_ + ".new";
      std::ofstream(half) << "max_objects = " << 100 + i % 2
                          << "\nmax_pinned_per_process = " << (1 << 20) * (1 + i % 3) << '\n';
      std::filesystem::rename(half, file_);
      ::kill(daemon.pid(), SIGHUP);
      EXPECT_EQ(ctl(daemon, "reload").code, 0);
    }
  });
  for (int round = 0; round < 20; ++round) {
    const Client client = connect(daemon.socket());
    const auto object = create(client, 16 * kPage);
    const auto mapped = map(object, 16 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
    std::memset(mapped.data(), round, 16 * kPage);
    EXPECT_EQ(mapped[16 * kPage - 1], static_cast<std::byte>(round));
  }
  over = true;
}

}  // namespace
}  // namespace faultline::testing
