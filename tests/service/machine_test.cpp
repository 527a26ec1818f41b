// The machine that the other tests here stand on: it boots, is apart from what is outside, and
// goes.
#include "tests/service/machine.hpp"

#include <sys/stat.h>

namespace faultline::testing {
namespace {

class MachineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string missing = Machine::missing(); !missing.empty()) {
      GTEST_SKIP() << "NO TEST OF THE SERVICE: there can be no machine here without " << missing;
    }
  }
};

TEST_F(MachineTest, RunsSystemdAsItsProcess1) {
  const Machine machine;
  ASSERT_TRUE(machine.booted());
  EXPECT_EQ(machine.must("cat /proc/1/comm"), "systemd\n");
  EXPECT_EQ(machine.must("hostname"), "machine\n");
  const std::string failed = machine.must("systemctl --failed --no-legend --plain");
  EXPECT_EQ(failed, "") << machine.must("journalctl --no-pager | tail -n 50");
}

TEST_F(MachineTest, WhatItWritesIsGoneWithIt) {
  struct stat before {};
  ASSERT_EQ(::stat("/dev/userfaultfd", &before), 0);
  {
    const Machine machine;
    ASSERT_TRUE(machine.booted());
    machine.write("/etc/written-there", "a word\n");
    EXPECT_EQ(machine.must("cat /etc/written-there"), "a word\n");
    machine.must("chmod 0606 /dev/userfaultfd");
  }
  EXPECT_FALSE(std::filesystem::exists("/etc/written-there"));
  struct stat after {};
  ASSERT_EQ(::stat("/dev/userfaultfd", &after), 0);
  EXPECT_EQ(before.st_mode, after.st_mode);
}

TEST_F(MachineTest, CannotChangeTheKernelOutside) {
  const Machine machine;
  ASSERT_TRUE(machine.booted());
  EXPECT_NE(machine.run("sysctl -w vm.nr_hugepages=1").code, 0);
  EXPECT_NE(machine.run("echo 1 > /proc/sys/vm/nr_hugepages").code, 0);
}

}  // namespace
}  // namespace faultline::testing
