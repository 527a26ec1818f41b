// The machine's pool of 2 MiB pages (hugetlbfs). Must never be relied on: what is free now may be
// taken a moment later, so it explains a failure, and foretells none.
#pragma once

#include <string>

#include "daemon/kernel/error.hpp"
#include "daemon/kernel/units.hpp"

namespace faultline::kernel {

struct HugePagePool {
  PageCount total;
  PageCount free;
  PageCount reserved;  // of the free ones, promised to somebody
  // That the kernel may still add to the pool by itself (vm.nr_overcommit_hugepages).
  PageCount may_grow;

  // That nobody was promised.
  [[nodiscard]] PageCount left() const {
    return (free > reserved ? free - reserved : PageCount{}) + may_grow;
  }
};

// As of now; reads five small files of sysfs. Errors: ENOENT where the kernel has no such pages.
[[nodiscard]] Result<HugePagePool> huge_page_pool();

// How an administrator gets more of them.
inline constexpr const char* kHowToReserve =
    "reserve more with sysctl vm.nr_hugepages (or hugepages=N on the kernel's command line)";

// "N of M pages of 2 MiB are left", for a message.
[[nodiscard]] std::string describe_huge_pages();

}  // namespace faultline::kernel
