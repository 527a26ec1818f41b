// What the tests of the packages stand on: packages and a root, which tests/packages/prepare made,
// and the way into a machine of that root. Must never install anything on the machine that runs it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tests/service/machine.hpp"

namespace faultline::testing {

// The packages made of this build; older: the same under a smaller version.
std::vector<std::filesystem::path> packages(bool older = false);
// The one of a name among them.
std::filesystem::path package(const std::string& name, bool older = false);

class PackagesTest : public ::testing::Test {
 protected:
  void SetUp() override;
  // Where tests/packages/prepare made what it made.
  static std::filesystem::path directory();
};

// Those that need a machine: a Debian without anything of Faultline's, in which systemd runs.
class PackagesMachineTest : public PackagesTest {
 protected:
  void SetUp() override;
  // Copies the packages to /root/packages there.
  static void bring_packages(const Machine& machine, bool older = false);
  static std::filesystem::path root() { return directory() / "root"; }
};

}  // namespace faultline::testing
