// A daemon that ends, and another one at the same path: the next fl_connect speaks to the new one.
#include <signal.h>
#include <unistd.h>

#include <filesystem>

#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

namespace fs = std::filesystem;

// A path at which one daemon stands, and then another.
class Path {
 public:
  explicit Path(const Daemon& daemon) : path_(daemon.directory() / "the.sock") { lead_to(daemon); }
  void lead_to(const Daemon& daemon) const {
    fs::remove(path_);
    fs::create_symlink(daemon.socket(), path_);
  }
  [[nodiscard]] std::string string() const { return path_.string(); }

 private:
  fs::path path_;
};

class Restart : public ::testing::TestWithParam<int> {
 protected:
  void end(Daemon& daemon) const {
    ASSERT_EQ(::kill(daemon.pid(), GetParam()), 0);
    (void)daemon.stop();
  }
};

int makes_an_object(const std::string& path) {
  fl_client* client = nullptr;
  const int connected = fl_connect(path.c_str(), &client);
  EXPECT_EQ(connected, 0) << fl_last_error();
  if (connected != 0) return 1;
  const Client owner(client);
  fl_object_spec spec{};
  spec.struct_size = sizeof(spec);
  spec.size = kPage;
  fl_object* object = nullptr;
  const int made = fl_object_create(client, &spec, &object);
  EXPECT_EQ(made, 0) << fl_last_error();
  (void)fl_object_close(object);
  return made == 0 ? 0 : 1;
}

TEST_P(Restart, TheNextConnectIsToTheNewDaemonWithoutAFailedCallInBetween) {
  Daemon first;
  const Daemon second;
  const Path path(first);
  const Client old = connect(path.string());
  end(first);
  path.lead_to(second);
  EXPECT_EQ(makes_an_object(path.string()), 0);
}

TEST_P(Restart, AChildThatWasForkedBeforeConnectsToTheNewDaemon) {
  Daemon first;
  const Daemon second;
  const Path path(first);
  const Client old = connect(path.string());
  const Gate gate;
  Child child([&] { return gate.pass() ? makes_an_object(path.string()) : 2; });
  end(first);
  path.lead_to(second);
  gate.open();
  EXPECT_TRUE(child.wait().exited(0));
}

INSTANTIATE_TEST_SUITE_P(Signals, Restart, ::testing::Values(SIGTERM, SIGKILL),
                         [](const auto& signal) {
                           return std::string(signal.param == SIGTERM ? "Term" : "Kill");
                         });

}  // namespace
}  // namespace faultline::testing
