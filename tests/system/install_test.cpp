// What is installed is enough for somebody else's project: CMake package, pkg-config, headers, both
// libraries.
#include <cstdlib>

#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

class Install : public SystemTest {
 protected:
  void SetUp() override {
    SystemTest::SetUp();
    ::setenv("FAULTLINE_SOCKET", daemon_.socket().c_str(), 1);
    prefix_ = (daemon_.directory() / "prefix").string();
    const Ran installed = run("cmake --install " BUILD_DIRECTORY " --prefix " + prefix_);
    ASSERT_EQ(installed.code, 0) << installed.output;
  }
  void TearDown() override {
    ::unsetenv("FAULTLINE_SOCKET");
    SystemTest::TearDown();
  }

  void expect_builds_and_works(const std::string& project,
                               const std::vector<std::string>& programs) const {
    const std::string build = (daemon_.directory() / "outside").string();
    const Ran configured = run("cmake -G Ninja -S " SOURCE_DIRECTORY "/tests/install" + project +
                               " -B " + build + " -DCMAKE_PREFIX_PATH=" + prefix_);
    ASSERT_EQ(configured.code, 0) << configured.output;
    const Ran built = run("cmake --build " + build);
    ASSERT_EQ(built.code, 0) << built.output;
    for (const std::string& program : programs) {
      const Ran ran = run((build + "/").append(program));
      EXPECT_EQ(ran.code, 0) << program << ": " << ran.output;
      EXPECT_NE(ran.output.find("works"), std::string::npos) << ran.output;
    }
  }

  std::string prefix_;
};

TEST_F(Install, AnOutsideProjectFindsThePackageAndRuns) {
  expect_builds_and_works("", {"outside_shared", "outside_static", "outside_c"});
}

TEST_F(Install, AProjectWithoutCxxFindsThePackageAndRuns) {
  expect_builds_and_works("/c_only", {"c_only"});
}

TEST_F(Install, AnOlderCxxIsRefusedInWords) {
  const Ran built = run("c++ -std=c++17 -fsyntax-only -I" + prefix_ +
                        "/include -x c++ " SOURCE_DIRECTORY "/tests/install/outside.cpp");
  EXPECT_NE(built.code, 0);
  EXPECT_NE(built.output.find("faultline.hpp needs C++20"), std::string::npos) << built.output;
}

TEST_F(Install, PkgConfigTellsWhatACompilerNeeds) {
  const std::string program = (daemon_.directory() / "by_pkg_config").string();
  const std::string find =
      "PKG_CONFIG_PATH=$(dirname $(find " + prefix_ + " -name faultline.pc)) pkg-config ";
  const Ran built =
      run("cc -std=c11 -pedantic-errors -Wall -Werror -o " + program +
          " " SOURCE_DIRECTORY "/tests/install/outside.c $(" + find + "--cflags --libs faultline)");
  ASSERT_EQ(built.code, 0) << built.output;
  const Ran ran = run("LD_LIBRARY_PATH=$(" + find + "--variable=libdir faultline) " + program);
  EXPECT_EQ(ran.code, 0) << ran.output;
}

TEST_F(Install, TheLibraryExportsItsVersionedInterfaceAndNothingElse) {
  const Ran symbols = run("nm -D --defined-only $(find " + prefix_ + " -name 'libfaultline.so.1')");
  ASSERT_EQ(symbols.code, 0) << symbols.output;
  std::istringstream lines(symbols.output);
  std::map<std::string, int> of_version;
  for (std::string line; std::getline(lines, line);) {
    if (line.find(" A FAULTLINE_0.") != std::string::npos) continue;
    // Functions, and one variable of each thread's.
    const bool named = line.find(" T fl_") != std::string::npos ||
                       line.find(" B fl_robust_self") != std::string::npos;
    EXPECT_TRUE(named) << line;
    const auto version = line.find("@@FAULTLINE_");
    ASSERT_NE(version, std::string::npos) << line;
    ++of_version[line.substr(version + 12)];
  }
  const std::map<std::string, int> expected{{"0.1", 14}, {"0.2", 10}, {"0.3", 18}, {"0.4", 7}};
  EXPECT_EQ(of_version, expected);
}

TEST_F(Install, TheExamplesRun) {
  const Ran hello = run(EXAMPLES_DIRECTORY "/hello_region");
  EXPECT_EQ(hello.code, 0) << hello.output;
  EXPECT_NE(hello.output.find("written by the parent"), std::string::npos) << hello.output;
  const PatternFile file(777 * kPage + 99);
  const Ran workers = run(EXAMPLES_DIRECTORY "/cow_workers --workers 3 --every 5 /proc/" +
                          std::to_string(::getpid()) + "/fd/" + std::to_string(file.fd()));
  EXPECT_EQ(workers.code, 0) << workers.output;
  EXPECT_NE(workers.output.find("every byte is right"), std::string::npos) << workers.output;
  const Ran futex = run(EXAMPLES_DIRECTORY "/fork_futex");
  EXPECT_EQ(futex.code, 0) << futex.output;
  EXPECT_NE(futex.output.find("yes both children ended well"), std::string::npos) << futex.output;
  EXPECT_EQ(futex.output.find("NO "), std::string::npos) << futex.output;
  const Ran loop = run(EXAMPLES_DIRECTORY "/event_loop");
  EXPECT_EQ(loop.code, 0) << loop.output;
  EXPECT_NE(loop.output.find("every word once, every byte: right"), std::string::npos)
      << loop.output;
  const Ran direct = run(EXAMPLES_DIRECTORY "/direct_io");
  EXPECT_EQ(direct.code, 0) << direct.output;
  EXPECT_NE(direct.output.find("other process: "), std::string::npos) << direct.output;
  if (::geteuid() == 0) {
    const Ran limited = run(
        "ulimit -l 8192 && setpriv --reuid 65534 --regid 65534 --clear-groups " EXAMPLES_DIRECTORY
        "/direct_io");
    EXPECT_EQ(limited.code, 0) << "with what a user may lock: " << limited.output;
  }
  const Ran pshared = run(EXAMPLES_DIRECTORY "/pshared");
  EXPECT_EQ(pshared.code, 0) << pshared.output;
  EXPECT_NE(pshared.output.find("20000 taken: each once"), std::string::npos) << pshared.output;
}

TEST_F(Install, TheExamplesRunWithADaemonThatIsNotToldOfForks) {
  constexpr uid_t kNobody = 65534;
  const Daemon daemon({}, kNobody);
  ::setenv("FAULTLINE_SOCKET", daemon.socket().c_str(), 1);
  const PatternFile file(777 * kPage + 99);
  const Ran hello = run(EXAMPLES_DIRECTORY "/hello_region");
  EXPECT_EQ(hello.code, 0) << hello.output;
  const Ran workers = run(EXAMPLES_DIRECTORY "/cow_workers --workers 3 --every 5 /proc/" +
                          std::to_string(::getpid()) + "/fd/" + std::to_string(file.fd()));
  EXPECT_EQ(workers.code, 0) << workers.output;
  EXPECT_NE(workers.output.find("every byte is right"), std::string::npos) << workers.output;
  const Ran direct = run(EXAMPLES_DIRECTORY "/direct_io");
  EXPECT_EQ(direct.code, 0) << direct.output;
  // The other process cannot wake here, and says so; its parent does not wait for what cannot come.
  const Ran loop =
      run("timeout 30 setpriv --reuid 65534 --regid 65534 --clear-groups " EXAMPLES_DIRECTORY
          "/event_loop");
  EXPECT_EQ(loop.code, 1) << loop.output;
  EXPECT_NE(loop.output.find("the other process failed"), std::string::npos) << loop.output;
  const Ran pshared = run(EXAMPLES_DIRECTORY "/pshared");
  EXPECT_EQ(pshared.code, 0) << pshared.output;
  EXPECT_TRUE(eventually([&] { return daemon.ask(wire::AdminQuery::objects)["objects"].empty(); }))
      << "its name was taken back, and it goes with the last process";
}

TEST_F(Install, AnExampleSaysWhichProcessesFailed) {
  const Daemon daemon({"--max-sessions-per-user", "2"});
  ::setenv("FAULTLINE_SOCKET", daemon.socket().c_str(), 1);
  const PatternFile file(7 * kPage);
  const Ran workers = run(EXAMPLES_DIRECTORY "/cow_workers --workers 3 /proc/" +
                          std::to_string(::getpid()) + "/fd/" + std::to_string(file.fd()));
  EXPECT_EQ(workers.code, 1) << workers.output;
  EXPECT_NE(workers.output.find(" failed\n"), std::string::npos) << workers.output;
  EXPECT_EQ(workers.output.find("WRONG"), std::string::npos) << workers.output;
  const auto heading = workers.output.find("3 workers");
  EXPECT_EQ(workers.output.find("3 workers", heading + 1), std::string::npos) << workers.output;
}

}  // namespace
}  // namespace faultline::testing
