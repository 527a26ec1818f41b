// The settings file: every key, and a clear error for everything else.
#include "daemon/server/settings.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace faultline::server {
namespace {

class SettingsFile : public ::testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove(path_); }
  Status read(const std::string& text) {
    std::ofstream(path_) << text;
    return read_settings_file(path_, settings_);
  }

  std::filesystem::path path_ =
      std::filesystem::temp_directory_path() / ("faultline-settings-" + std::to_string(::getpid()));
  Settings settings_;
};

TEST_F(SettingsFile, TakesEveryKey) {
  const Status status = read(
      "socket_path = '/x/y'\nsocket_mode = 0o640\nsocket_group = 'root'\nworkers = 3\n"
      "max_object_bytes = 1048576\nmax_objects = 7\nmax_sessions = 8\nmax_sessions_per_user = 9\n"
      "max_spaces_per_user = 10\nmetrics_listen = '[::1]:9719'\nlog_level = 'debug'\n");
  ASSERT_TRUE(status) << status.error().message();
  EXPECT_EQ(settings_.socket_path, "/x/y");
  EXPECT_EQ(settings_.socket_mode, 0640U);
  EXPECT_EQ(settings_.socket_group, "root");
  EXPECT_EQ(settings_.workers, 3U);
  EXPECT_EQ(settings_.max_object_bytes, 1048576U);
  EXPECT_EQ(settings_.max_objects, 7U);
  EXPECT_EQ(settings_.max_sessions, 8U);
  EXPECT_EQ(settings_.max_sessions_per_user, 9U);
  EXPECT_EQ(settings_.max_spaces_per_user, 10U);
  EXPECT_EQ(settings_.metrics_listen, "[::1]:9719");
  EXPECT_EQ(settings_.log_level, "debug");
  EXPECT_TRUE(complete(settings_));
}

TEST_F(SettingsFile, RefusesToShowMetricsToTheNetwork) {
  EXPECT_TRUE(read("metrics_listen = '0.0.0.0:9719'\n"));
  const Status status = complete(settings_);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), EINVAL);
  EXPECT_NE(status.error().attempted().find("metrics_listen"), std::string::npos);
}

TEST_F(SettingsFile, RefusesAnUnknownKeyWithItsLine) {
  const Status status = read("workers = 1\nworker = 2\n");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), EINVAL);
  EXPECT_NE(status.error().message().find("line 2"), std::string::npos) << status.error().message();
  EXPECT_NE(status.error().message().find("worker"), std::string::npos);
}

TEST_F(SettingsFile, RefusesAWrongTypeOrRange) {
  EXPECT_FALSE(read("workers = 'two'\n"));
  EXPECT_FALSE(read("workers = -1\n"));
  EXPECT_FALSE(read("workers = 5000000000\n"));
  EXPECT_FALSE(read("socket_path = 5\n"));
  EXPECT_FALSE(read("workers = \n"));
}

TEST_F(SettingsFile, TakesAModeThatIsWrittenInOctalAlone) {
  EXPECT_TRUE(read("socket_mode = '0600'\n"));
  EXPECT_EQ(settings_.socket_mode, 0600U);
  for (const char* wrong : {"432", "440", "0o1000", "'rw-'", "''", "-1", "true", "'-1'", "' 7'"}) {
    const Status status = read(std::string("socket_mode = ") + wrong + "\n");
    ASSERT_FALSE(status) << wrong;
    EXPECT_NE(status.error().message().find("socket_mode takes 0o660 or the like"),
              std::string::npos)
        << status.error().message();
  }
}

TEST_F(SettingsFile, RefusesAnEmptySocketPath) {
  EXPECT_FALSE(read("socket_path = ''\n"));
}

TEST_F(SettingsFile, SaysInOneLineWhereTheSyntaxIsWrong) {
  const Status status = read("workers = 1\nworkers = \n");
  ASSERT_FALSE(status);
  EXPECT_NE(status.error().message().find("line 2"), std::string::npos) << status.error().message();
  EXPECT_EQ(status.error().message().find('\n'), std::string::npos) << status.error().message();
}

TEST_F(SettingsFile, RefusesWhatIsNotARegularFile) {
  for (const char* path : {"/", "/dev/null"}) {
    const Status status = read_settings_file(path, settings_);
    ASSERT_FALSE(status);
    EXPECT_NE(status.error().message().find("not a regular file"), std::string::npos)
        << status.error().message();
  }
}

TEST_F(SettingsFile, SaysThatAFileIsMissing) {
  const Status status = read_settings_file("/nonexistent/faultline.toml", settings_);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code(), ENOENT);
  EXPECT_EQ(status.error().message(),
            "reading settings from /nonexistent/faultline.toml: No such file or directory");
}

TEST(Settings, CompletingRefusesWhatCannotWork) {
  const auto refused = [](auto change) {
    Settings settings;
    change(settings);
    return !complete(settings);
  };
  EXPECT_TRUE(refused([](Settings& s) { s.workers = 257; }));
  EXPECT_TRUE(refused([](Settings& s) { s.socket_mode = 01000; }));
  EXPECT_TRUE(refused([](Settings& s) { s.max_object_bytes = 1; }));
  EXPECT_TRUE(refused([](Settings& s) { s.max_sessions = 0; }));
  EXPECT_TRUE(refused([](Settings& s) { s.max_spaces_per_user = 0; }));
  EXPECT_TRUE(refused([](Settings& s) { s.max_pinned_per_process = 0; }));
  EXPECT_TRUE(refused([](Settings& s) { s.max_pinned_per_user = 0; }));
  EXPECT_TRUE(refused([](Settings& s) { s.max_pinned = 0; }));
  EXPECT_TRUE(refused([](Settings& s) { s.swap_file = "/tmp"; }));
  EXPECT_TRUE(refused([](Settings& s) { s.swap_bytes = 1 << 20; }));
  EXPECT_TRUE(refused([](Settings& s) { s.log_level = "loud"; }));
  EXPECT_TRUE(refused([](Settings& s) { s.socket_group = "no-such-group"; }));
  EXPECT_FALSE(refused([](Settings&) {}));
}

// All that can be set, to something else.
Settings all_other() {
  Settings other;
  other.socket_path = "/x/y";
  other.socket_mode = 0600;
  other.socket_group = "root";
  other.workers = 7;
  other.max_object_bytes = 1 << 20;
  other.max_objects = 11;
  other.max_sessions = 12;
  other.max_sessions_per_user = 13;
  other.max_spaces_per_user = 14;
  other.max_pinned_per_process = 1 << 21;
  other.max_pinned_per_user = 1 << 22;
  other.max_pinned = 1 << 23;
  other.swap_file = "/tmp";
  other.swap_bytes = 1 << 24;
  other.metrics_listen = "127.0.0.1:9719";
  other.log_level = "debug";
  return other;
}

TEST(Settings, ASettingIsEitherTakenOverOrSaidToTakeARestart) {
  Settings now;
  Settings wanted = all_other();
  ASSERT_TRUE(complete(now));
  ASSERT_TRUE(complete(wanted));
  const auto changed = changes(now, wanted);
  EXPECT_EQ(changed.size(), shown(now).size()) << "all_other() leaves one out";
  for (const ChangedSetting& left : changes(taken_over(now, wanted), wanted)) {
    EXPECT_FALSE(left.live) << left.name;
  }
  for (const ChangedSetting& taken : changes(now, taken_over(now, wanted))) {
    EXPECT_TRUE(taken.live) << taken.name;
  }
  EXPECT_TRUE(changes(now, now).empty());
}

}  // namespace
}  // namespace faultline::server
