#include "tests/system/huge_pages.hpp"

#include <filesystem>
#include <fstream>

namespace faultline::testing {

namespace {

constexpr const char* kPool = "/sys/kernel/mm/hugepages/hugepages-2048kB/";

std::size_t read(const char* name) {
  std::size_t pages = 0;
  std::ifstream(std::filesystem::path(kPool) / name) >> pages;
  return pages;
}

// Without those that go by themselves once they are free.
std::size_t kept() {
  return read("nr_hugepages") - read("surplus_hugepages");
}

void resize(std::size_t pages) {
  std::ofstream(std::filesystem::path(kPool) / "nr_hugepages") << pages << std::flush;
}

}  // namespace

std::size_t huge_pages_left() {
  const std::size_t free = read("free_hugepages");
  const std::size_t promised = read("resv_hugepages");
  return free > promised ? free - promised : 0;
}

HugePages::HugePages(std::size_t wanted) {
  const std::size_t before = kept();
  const std::size_t left = huge_pages_left();
  if (left < wanted) {
    resize(read("nr_hugepages") + wanted - left);
    added_ = kept() - before;
  }
  there_ = huge_pages_left() >= wanted;
}

HugePages::~HugePages() {
  if (added_ > 0) resize(kept() - added_);
}

}  // namespace faultline::testing
