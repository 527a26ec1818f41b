// faultctl doctor and check: what they say, and how they exit.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

class Doctor : public SystemTest {
 protected:
  [[nodiscard]] static Ran ctl(const std::string& socket, const std::string& arguments) {
    return run(FAULTCTL_BINARY " --socket " + socket + " " + arguments);
  }
  static nlohmann::json findings(const std::string& socket, const std::string& before = "") {
    const Ran ran = run(before + FAULTCTL_BINARY " --socket " + socket + " doctor --json");
    return nlohmann::json::parse(ran.output)["doctor"]["findings"];
  }
  static nlohmann::json finding(const nlohmann::json& all, const std::string& subject) {
    for (const auto& one : all) {
      if (one["subject"] == subject) return one;
    }
    ADD_FAILURE() << "nothing of " << subject << " in " << all.dump(2);
    return {{"verdict", ""}, {"detail", ""}, {"fix", ""}};
  }
};

TEST_F(Doctor, FindsThisMachineAndThisDaemonWell) {
  const Ran text = ctl(daemon_.socket(), "doctor");
  EXPECT_EQ(text.code, 0) << text.output;
  const auto all = findings(daemon_.socket());
  for (const char* subject :
       {"kernel version", "/dev/userfaultfd", "vm.unprivileged_userfaultfd", "userfaultfd features",
        "io_uring", "RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "pages of 2 MiB", "vm.overcommit_memory",
        "vm.max_map_count", "socket", "daemon", "versions", "swap file", "objects", "sessions",
        "pinned memory", "memory cgroup of the daemon"}) {
    EXPECT_NE(text.output.find(subject), std::string::npos) << subject;
    EXPECT_NE(finding(all, subject)["verdict"], "problem") << subject;
  }
  EXPECT_NE(finding(all, "socket")["detail"].get<std::string>().find("mode 0666"),
            std::string::npos);
}

// Without a daemon it says so, how to start one, and what this machine lacks besides.
TEST_F(Doctor, NeedsNoDaemon) {
  const Ran text = ctl("/nonexistent/socket", "doctor");
  EXPECT_EQ(text.code, 1) << text.output;
  EXPECT_NE(text.output.find("systemctl start faultlined"), std::string::npos) << text.output;
  EXPECT_EQ(finding(findings("/nonexistent/socket"), "kernel version")["verdict"], "ok");
}

TEST_F(Doctor, EverythingThatIsNotWellHasAFix) {
  for (const std::string& socket : {daemon_.socket(), std::string("/nonexistent/socket")}) {
    for (const auto& one : findings(socket, "ulimit -l 64; ulimit -n 1000; ")) {
      EXPECT_EQ(one["verdict"] == "ok", one["fix"] == "") << one.dump();
    }
  }
  const auto all = findings(daemon_.socket(), "ulimit -l 64; ulimit -n 1000; ");
  EXPECT_EQ(finding(all, "RLIMIT_MEMLOCK")["verdict"], "warning");
  EXPECT_EQ(finding(all, "RLIMIT_NOFILE")["verdict"], "warning");
}

// faultctl is not linked to the library: what loads it later, as a plug-in's program does, may.
TEST_F(Doctor, LoadsTheLibraryThatIsThere) {
  const auto versions = finding(
      findings(daemon_.socket(), "LD_LIBRARY_PATH=" BUILD_DIRECTORY "/libclient "), "versions");
  EXPECT_EQ(versions["verdict"], "ok") << versions;
  EXPECT_NE(versions["detail"].get<std::string>().find(std::string("libfaultline ") + fl_version()),
            std::string::npos)
      << versions;
}

TEST_F(Doctor, ALibraryThatCannotBeLoadedIsNotOneThatIsAbsent) {
  const std::string broken = (daemon_.directory() / "broken").string();
  std::filesystem::create_directory(broken);
  std::ofstream(broken + "/libfaultline.so.1") << "no library";
  const auto versions =
      finding(findings(daemon_.socket(), "LD_LIBRARY_PATH=" + broken + " "), "versions");
  EXPECT_EQ(versions["verdict"], "warning") << versions;
  EXPECT_NE(versions["detail"].get<std::string>().find("cannot be loaded: "), std::string::npos)
      << versions;
}

// A user whom the socket's mode keeps out is told that, and not that there is no daemon.
TEST_F(Doctor, TellsWhoMayNotConnect) {
  if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED: becoming another user takes root";
  ASSERT_EQ(::chmod(daemon_.socket().c_str(), 0600), 0);
  const Ran ran =
      run("setpriv --reuid 65534 --regid 65534 --clear-groups " FAULTCTL_BINARY " --socket " +
          daemon_.socket() + " doctor");
  EXPECT_EQ(ran.code, 1) << ran.output;
  EXPECT_NE(ran.output.find("this user may not connect to it"), std::string::npos) << ran.output;
  EXPECT_NE(ran.output.find("socket_mode"), std::string::npos) << ran.output;
}

TEST_F(Doctor, TellsALimitThatIsReached) {
  const Daemon small({"--max-objects", "1"});
  const Client client = connect(small.socket());
  const Object only = create(client, kPage);
  const auto objects = finding(findings(small.socket()), "objects");
  EXPECT_EQ(objects["verdict"], "problem") << objects;
  EXPECT_NE(objects["fix"].get<std::string>().find("max_objects"), std::string::npos);
  EXPECT_EQ(ctl(small.socket(), "doctor").code, 1);
}

TEST_F(Doctor, ADaemonThatHangsIsNotOneThatIsAbsent) {
  daemon_.pause();
  const auto all = findings(daemon_.socket());
  daemon_.resume();
  EXPECT_NE(finding(all, "daemon")["fix"].get<std::string>().find("hangs"), std::string::npos);
}

using Check = Doctor;

TEST_F(Check, SaysInALineThatAllIsWell) {
  const Ran ran = ctl(daemon_.socket(), "check --window 0.1");
  EXPECT_EQ(ran.code, 0) << ran.output;
  EXPECT_EQ(ran.output.rfind("HEALTHY - faultlined ", 0), 0U) << ran.output;
  EXPECT_EQ(std::count(ran.output.begin(), ran.output.end(), '\n'), 1) << ran.output;
  EXPECT_NE(ran.output.find("| sessions="), std::string::npos) << ran.output;
}

TEST_F(Check, TellsWhoIsNotThereFromWhoIsIll) {
  const Ran ran = run("(" FAULTCTL_BINARY " --socket /nonexistent/socket check 2>/dev/null)");
  EXPECT_EQ(ran.code, 3);
  EXPECT_EQ(ran.output.rfind("UNREACHABLE - ", 0), 0U) << ran.output;
  EXPECT_EQ(std::count(ran.output.begin(), ran.output.end(), '\n'), 1) << ran.output;
}

// Pages that cannot be supplied while it looks make it unwell; when no more come, it is well again.
TEST_F(Check, APageThatCannotBeSuppliedIsSeen) {
  const PatternFile file(512 * kPage);
  const Object object = create_from(client_, file.fd());
  const auto memory = map(object, 512 * kPage, FL_MAP_SHARED);
  touch(memory[0]);
  file.truncate(kPage);
  const Child failing([&] {
    // One child a page: each is killed by the first.
    for (std::size_t page = 511; page > 0; --page)
      (void)in_child([&] { return touch(memory[page * kPage]); });
    return 0;
  });
  EXPECT_TRUE(eventually(
      [&] { return daemon_.ask(wire::AdminQuery::status)["status"]["poisoned_pages"] > 0; }));
  const Ran ran = ctl(daemon_.socket(), "check --window 0.3");
  failing.kill(SIGKILL);
  EXPECT_EQ(ran.code, 1) << ran.output;
  EXPECT_EQ(ran.output.rfind("DEGRADED - ", 0), 0U) << ran.output;
  EXPECT_NE(ran.output.find("pages more could not be supplied"), std::string::npos) << ran.output;
  EXPECT_TRUE(eventually([&] { return ctl(daemon_.socket(), "check --window 0.1").code == 0; }));
}

}  // namespace
}  // namespace faultline::testing
