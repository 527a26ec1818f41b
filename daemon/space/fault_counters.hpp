// What was done for faults, in one mapping or in a whole address space. Must never cost a fault
// more than a few additions.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace faultline::space {

struct FaultCounters {
  std::uint64_t missing = 0;
  std::uint64_t minor = 0;
  std::uint64_t write_protect = 0;
  std::uint64_t writes = 0;
  std::uint64_t pages_mapped = 0;
  std::uint64_t pages_copied = 0;
  std::uint64_t breaks = 0;
  std::uint64_t ahead_copies = 0;
  std::uint64_t poisoned = 0;

  FaultCounters& operator+=(const FaultCounters& other);
};

inline constexpr std::array kFaultCounterFields{
    &FaultCounters::missing, &FaultCounters::minor,        &FaultCounters::write_protect,
    &FaultCounters::writes,  &FaultCounters::pages_mapped, &FaultCounters::pages_copied,
    &FaultCounters::breaks,  &FaultCounters::ahead_copies, &FaultCounters::poisoned,
};
static_assert(sizeof(FaultCounters) == kFaultCounterFields.size() * sizeof(std::uint64_t));

inline FaultCounters& FaultCounters::operator+=(const FaultCounters& other) {
  for (const auto field : kFaultCounterFields) this->*field += other.*field;
  return *this;
}

// The same, added to by several threads. Each field is exact; a sum may see one without another.
class SharedFaultCounters {
 public:
  void add(const FaultCounters& done) {
    for (std::size_t i = 0; i < kFaultCounterFields.size(); ++i) {
      const std::uint64_t n = done.*kFaultCounterFields.at(i);
      if (n != 0) sums_.at(i).fetch_add(n, std::memory_order_relaxed);
    }
  }
  [[nodiscard]] FaultCounters sum() const {
    FaultCounters sum;
    for (std::size_t i = 0; i < kFaultCounterFields.size(); ++i) {
      sum.*kFaultCounterFields.at(i) = sums_.at(i).load(std::memory_order_relaxed);
    }
    return sum;
  }

 private:
  std::array<std::atomic<std::uint64_t>, kFaultCounterFields.size()> sums_{};
};

}  // namespace faultline::space
