// Runs tests with objects of 2 MiB pages. Must never pass where the machine has none: it skips them
// all, and says so.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdint>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/system/huge_pages.hpp"

namespace faultline::testing {
namespace {

// What the hungriest test needs.
constexpr std::size_t kWanted = 1024;

class Pool : public ::testing::Environment {
  void SetUp() override {
    pages_.emplace(kWanted);
    if (!pages_->there()) {
      GTEST_SKIP() << "SKIPPED: " << kWanted << " pages of 2 MiB cannot be had (vm.nr_hugepages)";
    }
  }
  void TearDown() override { pages_.reset(); }

  std::optional<HugePages> pages_;
};

// Tests leave to the end of the process what they mapped. That is too late for the next one here:
// its pages are given back, and its addresses, which the library takes for its own, kept.
class Leftovers : public ::testing::EmptyTestEventListener {
  void OnTestEnd(const ::testing::TestInfo&) override {
    std::vector<std::pair<std::uintptr_t, std::uintptr_t>> left;
    std::ifstream smaps("/proc/self/smaps");
    std::pair<std::uintptr_t, std::uintptr_t> range;
    for (std::string line; std::getline(smaps, line);) {
      std::pair<std::uintptr_t, std::uintptr_t> here;
      char dash = 0;
      std::istringstream(line) >> std::hex >> here.first >> dash >> here.second;
      if (dash == '-' && here.second > here.first) range = here;
      if (line.starts_with("KernelPageSize:") && line.ends_with(" 2048 kB")) left.push_back(range);
    }
    for (const auto& [start, end] : left) {
      void* const kept = ::mmap(reinterpret_cast<void*>(start), end - start, PROT_NONE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
      EXPECT_NE(kept, MAP_FAILED);
    }
  }
};

}  // namespace
}  // namespace faultline::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  // gtest deletes both.
  ::testing::AddGlobalTestEnvironment(std::make_unique<faultline::testing::Pool>().release());
  ::testing::UnitTest::GetInstance()->listeners().Append(
      std::make_unique<faultline::testing::Leftovers>().release());
  return RUN_ALL_TESTS();
}
