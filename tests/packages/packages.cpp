#include "tests/packages/packages.hpp"

#include <fstream>
#include <sstream>

#include "tests/places.hpp"

namespace faultline::testing {

namespace fs = std::filesystem;

namespace {

std::string text_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace

fs::path PackagesTest::directory() {
  return BUILD_DIRECTORY "/packages-test";
}

std::vector<fs::path> packages(bool older) {
  std::vector<fs::path> found;
  const fs::path where = fs::path(BUILD_DIRECTORY "/packages-test") / (older ? "old" : "new");
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(where, ignored)) {
    if (entry.path().extension() == ".deb") found.push_back(entry.path());
  }
  return found;
}

fs::path package(const std::string& name, bool older) {
  for (const fs::path& path : packages(older)) {
    if (path.filename().string().starts_with(name + "_")) return path;
  }
  ADD_FAILURE() << "there is no package " << name;
  return {};
}

void PackagesTest::SetUp() {
  if (packages().empty() && fs::exists(directory() / "missing")) {
    GTEST_SKIP() << "NO TEST OF THE PACKAGES: " << text_of(directory() / "missing");
  }
  ASSERT_FALSE(packages().empty()) << "run " SOURCE_DIRECTORY "/tests/packages/prepare first";
}

void PackagesMachineTest::SetUp() {
  if (const std::string missing = Machine::missing(); !missing.empty()) {
    GTEST_SKIP() << "NO TEST OF THE PACKAGES: there can be no machine here without " << missing;
  }
  if (fs::exists(directory() / "missing")) {
    GTEST_SKIP() << "NO TEST OF THE PACKAGES: " << text_of(directory() / "missing");
  }
  PackagesTest::SetUp();
  ASSERT_TRUE(fs::exists(root())) << "run " SOURCE_DIRECTORY "/tests/packages/prepare first";
}

void PackagesMachineTest::bring_packages(const Machine& machine, bool older) {
  machine.must("rm -rf /root/packages");
  for (const fs::path& path : packages(older)) {
    machine.write("/root/packages" / path.filename(), text_of(path));
  }
}

}  // namespace faultline::testing
