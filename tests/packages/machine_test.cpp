// The packages in a Debian of their own, under a systemd of its own: from nothing installed to
// nothing left.
#include <fstream>
#include <sstream>

#include "tests/packages/packages.hpp"
#include "tests/places.hpp"

namespace faultline::testing {
namespace {

namespace fs = std::filesystem;

constexpr const char* kInstall =
    "cd /root/packages && DEBIAN_FRONTEND=noninteractive apt-get install -q -y ./*.deb";
constexpr const char* kUser = "setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/tmp ";

#define EXPECT_HOLDS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

std::string text_of(const fs::path& file) {
  std::ifstream in(file);
  return {std::istreambuf_iterator<char>(in), {}};
}

class Packages : public PackagesMachineTest {
 protected:
  // Files and directories, but for what a machine that runs makes, and the notes of apt and dpkg.
  static std::string files_of(const Machine& machine) {
    return machine.must(
        "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp "
        "-o -path /root/packages -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path "
        "/var/cache -o -path /var/log -o -path /var/tmp -o -path /var/lib/systemd/linger \\) "
        "-prune "
        "-o -print | LC_ALL=C sort");
  }
  static bool active(const Machine& machine, const std::string& unit) {
    return machine.run("systemctl is-active " + unit).code == 0;
  }
  static std::string main_pid(const Machine& machine) {
    return machine.must("systemctl show --value --property MainPID faultlined.service");
  }
  // As a user of the machine that is nobody in particular.
  static void expect_serves(const Machine& machine) {
    const Ran hello = machine.run(std::string(kUser) + "/root/hello");
    EXPECT_EQ(hello.code, 0) << hello.output
                             << machine.run("journalctl --no-pager -u faultlined.service").output;
    EXPECT_HOLDS(hello.output,
                 "parent: view \"written by the parent\", and \"a word from the child\"\n");
  }
};

std::string removed_from(const std::string& before, const std::string& after) {
  std::istringstream lines(after);
  std::string left;
  for (std::string line; std::getline(lines, line);) {
    if (before.find(line + "\n") == std::string::npos) left += line + "\n";
  }
  return left;
}

// What the README promises to who has the packages: two commands.
TEST_F(Packages, AreTwoCommandsFromTheReadmesProgram) {
  const Machine machine(root());
  ASSERT_TRUE(machine.booted()) << machine.console();
  bring_packages(machine);
  machine.must(kInstall);
  const Ran hello = machine.run(
      "cd /root && c++ -std=c++20 /usr/share/doc/faultline-doc/examples/hello_region.cpp "
      "$(pkg-config --cflags --libs faultline) -o hello && ./hello");
  EXPECT_EQ(hello.code, 0) << hello.output;
  EXPECT_EQ(hello.output,
            "child:  view \"the child's own copy\"\n"
            "parent: view \"written by the parent\", and \"a word from the child\"\n"
            "pages copied in the parent: 0\n");

  // And an outside project: C by pkg-config, C and C++ by CMake, with either library.
  for (const char* file : {"CMakeLists.txt", "outside.c", "outside.cpp"}) {
    machine.write(fs::path("/root/outside") / file,
                  text_of(fs::path(SOURCE_DIRECTORY "/tests/install") / file));
  }
  const std::string by_pkg_config = machine.must(
      "cd /root/outside && cc -std=c11 -pedantic-errors -Wall -Werror -o by_pkg_config outside.c "
      "$(pkg-config --cflags --libs faultline) && ./by_pkg_config");
  EXPECT_HOLDS(by_pkg_config, " works\n");
  machine.must("cd /root/outside && cmake -B build && cmake --build build");
  for (const char* program : {"outside_c", "outside_shared", "outside_static"}) {
    EXPECT_HOLDS(machine.must(std::string("/root/outside/build/") + program), " works\n");
  }

  EXPECT_HOLDS(machine.must("faultlined --check"), "userfaultfd");
  EXPECT_EQ(machine.run("faultctl status").code, 0);
  EXPECT_HOLDS(machine.must("ldconfig -p"), "libfaultline.so.1 ");
}

TEST_F(Packages, SetUpTheSocketAndTheDaemonComesWithItsFirstClient) {
  const Machine machine(root());
  ASSERT_TRUE(machine.booted()) << machine.console();
  bring_packages(machine);
  machine.must(kInstall);
  EXPECT_TRUE(active(machine, "faultlined.socket"));
  EXPECT_FALSE(active(machine, "faultlined.service")) << "nobody came yet";
  EXPECT_EQ(machine.must("systemctl is-enabled faultlined.socket"), "enabled\n");
  machine.must("getent passwd faultline");
  machine.must("getent group faultline");
  machine.must("faultctl status");
  EXPECT_TRUE(active(machine, "faultlined.service"));
  EXPECT_EQ(machine.must("systemctl --failed --no-legend --plain"), "");
  EXPECT_EQ(machine.must("dpkg --verify faultline libfaultline1 libfaultline-dev faultline-doc"),
            "");

  // The administrator's word stands: disabled stays so when the package is configured again.
  machine.must("systemctl disable --now faultlined.socket faultlined.service");
  machine.must("dpkg-reconfigure faultline");
  EXPECT_EQ(machine.run("systemctl is-enabled faultlined.socket").output, "disabled\n");
  EXPECT_FALSE(active(machine, "faultlined.socket"));
}

TEST_F(Packages, AreUpgradedUnderClientsThatKeepWhatTheyHave) {
  const Machine machine(root());
  ASSERT_TRUE(machine.booted()) << machine.console();
  bring_packages(machine, true);
  machine.must(kInstall);
  machine.write("/root/reader.c", text_of(SOURCE_DIRECTORY "/tests/packages/reader.c"));
  machine.must(
      "cd /root && cc -D_GNU_SOURCE -o reader reader.c $(pkg-config --cflags --libs faultline)");
  machine.must(
      "c++ -std=c++20 /usr/share/doc/faultline-doc/examples/hello_region.cpp "
      "$(pkg-config --cflags --libs faultline) -o /root/hello && chmod a+rx /root /root/hello");
  machine.must("printf '\\n# the administrator was here\\n' >>/etc/faultline/faultline.toml");

  // One that has memory, and waits.
  machine.write("/root/file", std::string(8192, 'f'));
  machine.must(
      "mkfifo /root/go && systemd-run --unit=reader --property=StandardInput=file:/root/go "
      "--property=StandardOutput=file:/root/said --property=StandardError=file:/root/said "
      "/root/reader /root/file && exec 3>/root/go && (sleep infinity >&3 2>&1 </dev/null &)");
  ASSERT_TRUE(eventually([&] { return machine.run("cat /root/said").output == "ready\n"; }))
      << machine.run("cat /root/said; systemctl status reader").output;
  const std::string before = main_pid(machine);
  ASSERT_NE(before, "0\n");

  bring_packages(machine);
  const std::string upgraded = machine.must(kInstall);
  EXPECT_HOLDS(upgraded, "4 upgraded");

  // The new daemon serves, without a moment at which nothing listened.
  const std::string after = main_pid(machine);
  EXPECT_NE(after, before);
  EXPECT_NE(after, "0\n");
  EXPECT_EQ(machine.must("readlink /proc/" + after.substr(0, after.find('\n')) + "/exe"),
            "/usr/sbin/faultlined\n")
      << "and not one that was deleted";
  expect_serves(machine);
  EXPECT_HOLDS(machine.must("cat /etc/faultline/faultline.toml"), "the administrator was here");

  // The old client has what docs/limits.md promises of a daemon that was stopped.
  machine.must("echo go >/root/go");
  ASSERT_TRUE(eventually([&] { return !active(machine, "reader.service"); }));
  EXPECT_EQ(
      machine.must("cat /root/said"),
      "ready\nmemory: shared, p\nstore: written\nthe file's page: SIGBUS\nconnection: EPIPE\n");
}

TEST_F(Packages, LeaveNothingBehindWhenTheyArePurged) {
  const Machine machine(root());
  ASSERT_TRUE(machine.booted()) << machine.console();
  bring_packages(machine);
  const std::string before = files_of(machine);
  machine.must(kInstall);
  machine.must("faultctl status");
  machine.must(
      "echo left >/etc/faultline/extra.toml && mkdir -p /var/lib/faultline && "
      "echo left >/var/lib/faultline/swap");

  machine.must("apt-get remove -q -y faultline");
  EXPECT_FALSE(active(machine, "faultlined.socket"));
  EXPECT_FALSE(active(machine, "faultlined.service"));
  machine.must("test -e /etc/faultline/faultline.toml && test -e /var/lib/faultline/swap");
  EXPECT_NE(machine.run("test -e /usr/sbin/faultlined").code, 0);

  // Installed again, it is as it was; removed and purged, it is as if it had never been.
  machine.must(kInstall);
  EXPECT_TRUE(active(machine, "faultlined.socket"));
  machine.must("faultctl status");
  machine.must(
      "apt-get purge -q -y --auto-remove faultline libfaultline1 libfaultline-dev faultline-doc");
  EXPECT_EQ(removed_from(before, files_of(machine)), "") << "left behind";
  EXPECT_EQ(removed_from(files_of(machine), before), "") << "taken along";
  EXPECT_EQ(machine.must("dpkg -l | grep -c faultline || true"), "0\n");
  EXPECT_EQ(machine.must("systemctl list-unit-files | grep -c faultline || true"), "0\n");
  EXPECT_NE(machine.run("test -e /run/faultline").code, 0);
  machine.must("getent passwd faultline");  // stays, as Debian's users of services do

  machine.must(kInstall);
  machine.must("faultctl status");
}

// A root that is no machine yet: an image that is being made.
TEST_F(Packages, InstallWhereNoSystemdRuns) {
  const Machine machine(root());
  ASSERT_TRUE(machine.booted()) << machine.console();
  machine.must(
      "mkdir -p /run/lower /run/up /run/image && mount -t tmpfs tmpfs /run/up && "
      "mkdir /run/up/upper /run/up/work && mount --bind / /run/lower && mount -t overlay -o "
      "lowerdir=/run/lower,upperdir=/run/up/upper,workdir=/run/up/work overlay /run/image && "
      "mount -t proc proc /run/image/proc && mount --rbind /dev /run/image/dev");
  for (const fs::path& path : packages()) {
    std::ifstream in(path, std::ios::binary);
    machine.write("/run/image/root/packages" / path.filename(),
                  std::string(std::istreambuf_iterator<char>(in), {}));
  }
  const auto in_image = [](const std::string& command) {
    return "chroot /run/image sh -c '" + command + "'";
  };
  machine.must(in_image(kInstall));
  machine.must(in_image("getent passwd faultline"));
  machine.must(in_image("test -L /etc/systemd/system/sockets.target.wants/faultlined.socket"));
  machine.must(in_image("test ! -e /run/faultline/faultlined.sock"));
  EXPECT_FALSE(active(machine, "faultlined.socket")) << "that is the machine's around it";
  machine.must(in_image("dpkg --configure -a && dpkg-reconfigure faultline"));
  machine.must(in_image("apt-get purge -q -y faultline"));
  machine.must(
      in_image("test ! -e /etc/faultline && "
               "test ! -L /etc/systemd/system/sockets.target.wants/faultlined.socket"));
}

// policy-rc.d is how an administrator forbids packages to start anything.
TEST_F(Packages, StartNothingWhereThePolicyForbidsIt) {
  const Machine machine(root());
  ASSERT_TRUE(machine.booted()) << machine.console();
  bring_packages(machine);
  machine.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0755);
  machine.must(kInstall);
  EXPECT_FALSE(active(machine, "faultlined.socket"));
  EXPECT_EQ(machine.must("systemctl is-enabled faultlined.socket"), "enabled\n");
}

}  // namespace
}  // namespace faultline::testing
