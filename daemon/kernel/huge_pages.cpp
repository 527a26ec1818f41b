#include "daemon/kernel/huge_pages.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <fstream>

namespace faultline::kernel {

Result<HugePagePool> huge_page_pool() {
  bool known = true;
  const auto read = [&](const char* name) {
    std::ifstream in(std::string("/sys/kernel/mm/hugepages/hugepages-2048kB/") + name);
    std::uint64_t pages = 0;
    known = static_cast<bool>(in >> pages) && known;
    return PageCount{pages};
  };
  HugePagePool pool;
  pool.total = read("nr_hugepages");
  pool.free = read("free_hugepages");
  pool.reserved = read("resv_hugepages");
  const PageCount overcommit = read("nr_overcommit_hugepages");
  const PageCount surplus = read("surplus_hugepages");
  pool.may_grow = overcommit - std::min(overcommit, surplus);
  if (!known) return fail(ENOENT, "looking at /sys/kernel/mm/hugepages/hugepages-2048kB");
  return pool;
}

std::string describe_huge_pages() {
  const auto pool = huge_page_pool();
  if (!pool) return "the kernel has no pages of 2 MiB";
  return fmt::format("{} of {} pages of 2 MiB are left", pool->left().value(), pool->total.value());
}

}  // namespace faultline::kernel
