// The machine's pool of 2 MiB pages, as tests need it. Must never take away what others reserved.
#pragma once

#include <cstddef>

namespace faultline::testing {

inline constexpr std::size_t kHuge = std::size_t{2} << 20;

// That nobody has or was promised.
[[nodiscard]] std::size_t huge_pages_left();

// Sees to it that so many are left, where it may (vm.nr_hugepages); what it added goes back at the
// end.
class HugePages {
 public:
  explicit HugePages(std::size_t wanted);
  HugePages(const HugePages&) = delete;
  HugePages& operator=(const HugePages&) = delete;
  ~HugePages();

  // False: the test has to be skipped.
  [[nodiscard]] bool there() const { return there_; }

 private:
  std::size_t added_ = 0;
  bool there_ = false;
};

}  // namespace faultline::testing
