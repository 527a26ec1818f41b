// faultlined as systemd runs it: installed, started by its socket, watched, reloaded, hardened and
// stopped, in a machine of the test's own, with clients of another user.
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <fstream>
#include <regex>

#include "tests/places.hpp"
#include "tests/service/machine.hpp"

namespace faultline::testing {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSettings = "/etc/faultline/faultline.toml";
constexpr const char* kJoe = "runuser -u joe -- ";

class Service : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string missing = Machine::missing(); !missing.empty()) {
      GTEST_SKIP() << "NO TEST OF THE SERVICE: there can be no machine here without " << missing;
    }
    // Also where it lies in a directory that the machine has its own of, as /tmp.
    machine_ =
        std::make_unique<Machine>("/", std::vector<fs::path>{SOURCE_DIRECTORY, BUILD_DIRECTORY});
    ASSERT_TRUE(machine_->booted());
    must("cmake --install " BUILD_DIRECTORY " --prefix /usr");
    must("systemd-sysusers");
    must("systemd-tmpfiles --create faultline.conf");
    must("useradd --create-home joe");
    must("systemctl daemon-reload && systemctl enable --now faultlined.socket");
  }
  void TearDown() override {
    if (HasFailure() && machine_) {
      std::cerr << machine_->run("journalctl --no-pager -o short-monotonic -u faultlined").output;
    }
  }

  Ran run(const std::string& command) const { return machine_->run(command); }
  std::string must(const std::string& command) const { return machine_->must(command); }
  [[nodiscard]] std::string property(const std::string& name) const {
    std::string value = must("systemctl show --value --property " + name + " faultlined.service");
    value.erase(value.find_last_not_of('\n') + 1);
    return value;
  }
  void drop_in(const std::string& text) const {
    machine_->write("/etc/systemd/system/faultlined.service.d/test.conf", text);
    must("systemctl daemon-reload");
  }
  [[nodiscard]] std::string journal() const {
    return must("journalctl --no-pager -o cat --unit faultlined");
  }
  // The daemon's, as this machine numbers it.
  [[nodiscard]] pid_t daemon_pid() const {
    const std::string inside = property("MainPID");
    for (const auto& entry : fs::directory_iterator("/proc")) {
      std::ifstream in(entry.path() / "status");
      for (std::string line; std::getline(in, line);) {
        std::istringstream words(line);
        std::string key;
        pid_t here = 0;
        std::string there;
        if (words >> key >> here >> there && key == "NSpid:" && there == inside) {
          std::ifstream name(entry.path() / "comm");
          std::string comm;
          if (name >> comm && comm == "faultlined") return here;
        }
      }
    }
    return -1;
  }
  void expect_serves() const {
    const Ran hello = run(std::string(kJoe) + EXAMPLES_DIRECTORY "/hello_region");
    EXPECT_EQ(hello.code, 0) << hello.output;
    EXPECT_NE(hello.output.find("parent: view \"written by the parent\""), std::string::npos)
        << hello.output;
  }
  [[nodiscard]] nlohmann::json ctl(const std::string& words) const {
    return nlohmann::json::parse(must("faultctl " + words + " --json"), nullptr, false);
  }

  std::unique_ptr<Machine> machine_;
};

TEST_F(Service, IsStartedByTheFirstWhoConnects) {
  EXPECT_EQ(property("ActiveState"), "inactive");
  expect_serves();
  EXPECT_EQ(property("ActiveState"), "active");
  EXPECT_EQ(property("User"), "faultline");
  const std::regex status("\\d+ client process.*, \\d+ connection.*, \\d+ object.*");
  EXPECT_TRUE(std::regex_search(property("StatusText"), status)) << property("StatusText");
}

TEST_F(Service, SystemctlStartReturnsWhenItIsReady) {
  must("systemctl start faultlined.service");
  EXPECT_NE(journal().find("listens on /run/faultline/faultlined.sock"), std::string::npos);
  EXPECT_EQ(ctl("status")["status"]["socket"], "/run/faultline/faultlined.sock");
  expect_serves();
}

TEST_F(Service, UnitsAreWithoutMistakes) {
  EXPECT_EQ(must("systemd-analyze verify --man=no faultlined.service faultlined.socket"), "");
  EXPECT_EQ(must("XDG_RUNTIME_DIR=/tmp systemd-analyze --user verify --man=no "
                 "/usr/lib/systemd/user/faultlined.service "
                 "/usr/lib/systemd/user/faultlined.socket"),
            "");
}

TEST_F(Service, IsExposedAsLittleAsItsWorkAllows) {
  const Ran ran = run("systemd-analyze security --no-pager --threshold=30 faultlined.service");
  EXPECT_EQ(ran.code, 0) << ran.output;
  const auto overall = ran.output.find("Overall exposure level");
  ASSERT_NE(overall, std::string::npos) << ran.output;
  std::cout << ran.output.substr(overall);
}

// Not what the unit says, but what the process has.
TEST_F(Service, ItsHardeningIsInForceWhileItServesRealFaults) {
  expect_serves();
  const std::string proc = "/proc/" + property("MainPID");
  const std::string status = must("cat " + proc + "/status");
  EXPECT_NE(status.find("\nNoNewPrivs:\t1\n"), std::string::npos) << status;
  EXPECT_NE(status.find("\nSeccomp:\t2\n"), std::string::npos) << status;
  // CAP_DAC_READ_SEARCH is 2, CAP_SYS_PTRACE 19.
  for (const char* set : {"CapPrm", "CapEff", "CapBnd"}) {
    EXPECT_NE(status.find(std::string("\n") + set + ":\t0000000000080004\n"), std::string::npos)
        << set << "\n"
        << status;
  }
  const std::string uid = must("id -u faultline");
  EXPECT_NE(status.find("\nUid:\t" + uid.substr(0, uid.size() - 1) + "\t"), std::string::npos);
  const std::string in_its_mounts = "nsenter --mount --target " + property("MainPID") + " ";
  EXPECT_NE(run(in_its_mounts + "touch /usr/written /etc/written").code, 0);
  EXPECT_NE(run(in_its_mounts + "ls /home/joe/").code, 0) << "homes are not there";
  // In its control group: which devices it can open.
  const std::string in_its_group =
      "echo $$ >/sys/fs/cgroup/system.slice/faultlined.service/cgroup.procs && ";
  EXPECT_EQ(run("sh -c '" + in_its_group + ": </dev/userfaultfd'").code, 0);
  must("mknod /dev/another c 10 229");  // fuse, which is there everywhere
  EXPECT_EQ(run("sh -c ': </dev/another'").code, 0) << "the control: outside it can be opened";
  EXPECT_NE(run("sh -c '" + in_its_group + ": </dev/another'").code, 0);

  const Ran forks = run(std::string(kJoe) + EXAMPLES_DIRECTORY "/fork_futex");
  EXPECT_EQ(forks.code, 0) << forks.output;
  const Ran workers = run(std::string(kJoe) + EXAMPLES_DIRECTORY
                          "/cow_workers --workers 2 " EXAMPLES_DIRECTORY "/hello_region");
  EXPECT_EQ(workers.code, 0) << workers.output;
  EXPECT_NE(workers.output.find("every byte is right"), std::string::npos) << workers.output;
  // What clients of another user have in memory is counted.
  const std::regex counted("reader +[0-9.]*[1-9]");
  EXPECT_TRUE(std::regex_search(workers.output, counted)) << workers.output;
  const Ran ring = run(std::string(kJoe) + EXAMPLES_DIRECTORY "/event_loop");
  EXPECT_EQ(ring.code, 0) << ring.output;
}

TEST_F(Service, ReloadTakesLimitsAndNamesWhatTakesARestart) {
  must("systemctl start faultlined");
  must(std::string("printf 'max_objects = 1\\nworkers = 1\\nlog_level = \"debug\"\\n' >") +
       kSettings);
  must("systemctl reload faultlined");
  const std::string told = journal();
  EXPECT_NE(told.find("setting max_objects = 1, was 16384"), std::string::npos) << told;
  EXPECT_NE(told.find("setting workers = 1 takes a restart"), std::string::npos) << told;
  EXPECT_EQ(ctl("reload")["reload"]["takes_a_restart"][0]["setting"], "workers");
  const std::string made = must(std::string(kJoe) + SERVICE_CLIENT " make 2");
  EXPECT_NE(made.find("made 1"), std::string::npos) << made;
  EXPECT_NE(made.find("the daemon allows 1 object (max_objects)"), std::string::npos) << made;
}

TEST_F(Service, AFileThatIsWrongChangesNothingAndReloadSaysWhy) {
  must("systemctl start faultlined");
  must(std::string("printf 'max_objects = 1\\nmax_object = 2\\n' >") + kSettings);
  EXPECT_NE(run("systemctl reload faultlined").code, 0);
  const Ran asked = run("faultctl reload");
  EXPECT_EQ(asked.code, 1);
  EXPECT_NE(asked.output.find("unknown key in " + std::string(kSettings) + " line 2, max_object"),
            std::string::npos)
      << asked.output;
  must("systemctl kill --signal HUP faultlined");
  EXPECT_TRUE(eventually([this] {
    return journal().find("the settings stay as they are: reading settings") != std::string::npos;
  })) << journal();
  EXPECT_EQ(property("ActiveState"), "active");
  must(std::string("printf 'max_objects = 16384\\n' >") + kSettings);
  EXPECT_EQ(must("faultctl reload"), "nothing has changed in " + std::string(kSettings) + "\n");
}

TEST_F(Service, ReloadIsNotForEverybody) {
  must("systemctl start faultlined");
  const Ran asked = run(std::string(kJoe) + "faultctl reload");
  EXPECT_EQ(asked.code, 1);
  EXPECT_NE(asked.output.find("for root and the daemon's own user"), std::string::npos)
      << asked.output;
}

TEST_F(Service, ADropInChangesIt) {
  drop_in("[Service]\nEnvironment=FAULTLINED_OPTIONS=--max-objects=5\nNice=5\n");
  must("systemctl start faultlined");
  EXPECT_NE(journal().find("setting max_objects = 5"), std::string::npos);
  expect_serves();
}

TEST_F(Service, MetricsOfAUnixSocketAreForItsGroup) {
  must("groupadd watchers && useradd --groups watchers ann");
  must(std::string("printf 'metrics_listen = \"unix:/run/faultline/metrics.sock\"\\n"
                   "socket_group = \"watchers\"\\n' >") +
       kSettings);
  drop_in("[Service]\nSupplementaryGroups=watchers\n");
  must("systemctl start faultlined");
  EXPECT_EQ(must("stat --format %G:%a /run/faultline/metrics.sock"), "watchers:660\n");
  const std::string get =
      "python3 -c 'import socket; s=socket.socket(socket.AF_UNIX); "
      "s.connect(\"/run/faultline/metrics.sock\"); s.sendall(b\"GET /metrics "
      "HTTP/1.0\\r\\n\\r\\n\"); "
      "print(s.makefile().read())'";
  EXPECT_NE(must("runuser -u ann -- " + get).find("faultline_build_info"), std::string::npos);
  EXPECT_NE(run(kJoe + get).code, 0);
  // On the loopback device, which the unit's filters leave open.
  must(std::string("printf 'metrics_listen = \"127.0.0.1:9719\"\\n' >") + kSettings);
  must("systemctl restart faultlined");
  EXPECT_NE(journal().find("127.0.0.1:9719"), std::string::npos) << journal();
}

TEST_F(Service, SettingsMayBeAbsent) {
  must(std::string("rm ") + kSettings);
  must("systemctl start faultlined");
  expect_serves();
}

TEST_F(Service, AWatchdogThatIsAnsweredDoesNotBite) {
  drop_in("[Service]\nWatchdogSec=1\n");
  must("systemctl start faultlined");
  // While it has much to do, for longer than that.
  const Ran workers = run(std::string(kJoe) + "sh -c 'for i in 1 2 3 4 5 6; do " EXAMPLES_DIRECTORY
                                              "/cow_workers --workers 2 " BUILD_DIRECTORY
                                              "/daemon/faultlined >/dev/null || exit 1; done'");
  EXPECT_EQ(workers.code, 0) << workers.output;
  EXPECT_EQ(property("NRestarts"), "0");
}

// One thread, while all others work: the control thread answers, and says nothing to systemd.
TEST_F(Service, AWatchdogBitesWhereOneWorkerIsStuckAndItServesAgain) {
  drop_in("[Service]\nWatchdogSec=1\nRestartSec=0\n");
  expect_serves();
  const pid_t daemon = daemon_pid();
  ASSERT_GT(daemon, 0);
  pid_t worker = -1;
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(daemon) + "/task")) {
    std::ifstream in(entry.path() / "comm");
    std::string name;
    if (in >> name && name == "fault-0") worker = std::stoi(entry.path().filename().string());
  }
  ASSERT_GT(worker, 0);
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, worker, nullptr, nullptr), 0) << std::strerror(errno);
  ASSERT_EQ(::ptrace(PTRACE_INTERRUPT, worker, nullptr, nullptr), 0) << std::strerror(errno);
  int status = 0;
  ASSERT_EQ(::waitpid(worker, &status, __WALL), worker);
  const auto bitten = [this] {
    return must("journalctl --no-pager -o cat -u faultlined _PID=1").find("Watchdog timeout") !=
           std::string::npos;
  };
  EXPECT_TRUE(eventually(bitten, std::chrono::seconds(20)));
  ASSERT_EQ(::waitpid(worker, &status, __WALL), worker) << "whose tracer has to bury it";
  EXPECT_TRUE(
      eventually([this] { return property("NRestarts") == "1"; }, std::chrono::seconds(20)));
  const std::string told = journal();
  EXPECT_NE(told.find("fault worker 0 (thread "), std::string::npos) << told;
  EXPECT_EQ(property("Result"), "success") << "of the run that goes on";
  expect_serves();
}

TEST_F(Service, AWatchdogBitesWhereTheWholeProcessStands) {
  drop_in("[Service]\nWatchdogSec=1\nRestartSec=0\nTimeoutAbortSec=1\n");
  must("systemctl start faultlined");
  must("systemctl kill --signal STOP --kill-who main faultlined");
  EXPECT_TRUE(
      eventually([this] { return property("NRestarts") == "1"; }, std::chrono::seconds(20)));
  expect_serves();
}

TEST_F(Service, StopLeavesItsClientsTheirMemory) {
  must("systemctl start faultlined");
  must("systemd-run --unit holder --uid joe " SERVICE_CLIENT " hold /tmp/ready");
  ASSERT_TRUE(eventually([this] { return run("test -e /tmp/ready").code == 0; }));
  must("systemctl stop faultlined.service faultlined.socket");
  EXPECT_EQ(property("ActiveState"), "inactive");
  EXPECT_EQ(property("Result"), "success");
  EXPECT_EQ(property("ExecMainStatus"), "0");
  EXPECT_NE(run("test -e /run/faultline/faultlined.sock").code, 0);
  EXPECT_NE(journal().find("stopped; with 1 client still mapped"), std::string::npos) << journal();
  must("systemctl kill --signal USR1 holder");
  EXPECT_TRUE(eventually([this] {
    return must("journalctl --no-pager -o cat --unit holder").find("all is there") !=
           std::string::npos;
  })) << must("journalctl --no-pager -o cat --unit holder");
}

TEST_F(Service, AClientThatConnectsWhileItIsDownIsServedWhenItIsUp) {
  must("systemctl start faultlined");
  must("systemctl stop faultlined.service");
  expect_serves();
  EXPECT_EQ(property("ActiveState"), "active");
}

TEST_F(Service, TheJournalKnowsWhomALineIsAbout) {
  must("systemctl start faultlined");
  must(std::string(kJoe) +
       "python3 -c 'import socket; s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET); "
       "s.connect(\"/run/faultline/faultlined.sock\"); s.send(b\"nonsense\"); s.recv(1)'");
  const std::string uid = must("id -u joe");
  const std::string about = "journalctl --no-pager -o json -n 1 FAULTLINE_UID=" + uid;
  const auto line = nlohmann::json::parse(must(about), nullptr, false);
  ASSERT_FALSE(line.is_discarded());
  EXPECT_EQ(line["SYSLOG_IDENTIFIER"], "faultlined");
  EXPECT_EQ(line["PRIORITY"], "4");
  EXPECT_NE(line["MESSAGE"].get<std::string>().find("no request"), std::string::npos) << line;
  EXPECT_FALSE(line["FAULTLINE_PID"].is_null()) << line;
}

// The line that has the process has the object too, so that it is found by either.
TEST_F(Service, TheJournalKnowsWhichPageCouldNotBeSupplied) {
  must("systemctl start faultlined");
  const Ran killed = machine_->run(std::string(kJoe) + SERVICE_CLIENT " shrink /tmp/shrinks");
  EXPECT_NE(killed.code, 0) << killed.output;
  const auto line =
      nlohmann::json::parse(must("journalctl --no-pager -o json -n 1 --unit faultlined "
                                 "--grep SIGBUS"),
                            nullptr, false);
  ASSERT_FALSE(line.is_discarded());
  EXPECT_FALSE(line["FAULTLINE_OBJECT"].is_null()) << line;
  EXPECT_EQ(line["FAULTLINE_PAGE"], "1") << line;
  EXPECT_FALSE(line["FAULTLINE_SPACE"].is_null()) << line;
}

TEST_F(Service, AUserRunsOneOfHisOwn) {
  const std::string uid = must("id -u joe | tr -d '\\n'");
  must("systemctl start user@" + uid + ".service");
  const std::string as_joe = std::string(kJoe) + "env XDG_RUNTIME_DIR=/run/user/" + uid + " sh -c ";
  must(as_joe + "'systemctl --user daemon-reload && systemctl --user start faultlined.socket'");
  must("systemctl stop faultlined.socket faultlined.service");
  const Ran hello = run(as_joe + "'" EXAMPLES_DIRECTORY "/hello_region && faultctl status'");
  EXPECT_EQ(hello.code, 0) << hello.output;
  EXPECT_NE(hello.output.find("/run/user/" + uid + "/faultline/faultlined.sock"), std::string::npos)
      << hello.output;
  must(as_joe + "'systemctl --user reload faultlined.service'");
  must(as_joe + "'systemctl --user stop faultlined.service faultlined.socket'");
}

}  // namespace
}  // namespace faultline::testing
