#include "daemon/space/fault_tally.hpp"

#include <algorithm>

namespace faultline::space {

namespace {

// What began and has not ended. The two are read one after the other, and written by two threads.
std::uint64_t left_of(std::uint64_t began, std::uint64_t ended) {
  return began - std::min(began, ended);
}

}  // namespace

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables)
constinit thread_local FaultTally* FaultTally::current = nullptr;

FaultTally::Use::Use(FaultTally& tally) noexcept {
  current = &tally;
}

FaultTally::Use::~Use() {
  current = nullptr;
}

FaultTotals FaultTally::totals() const {
  FaultTotals totals;
  // What ends first: it began before.
  totals.came_back = came_back_.value();
  totals.tried_again = tried_again_.value();
  for (std::size_t fault = 0; fault < kFaultClasses; ++fault) {
    for (std::size_t write = 0; write < kReadOrWrite; ++write) {
      totals.raised.at(fault).at(write) = raised_.at(fault).at(write).value();
      for (std::size_t result = 0; result < kFaultResults; ++result) {
        totals.answers.at(fault).at(write).at(result) =
            answers_.at(fault).at(write).at(result).value();
      }
    }
    totals.latency.at(fault) = latency_.at(fault).value();
  }
  for (std::size_t source = 0; source < kPageSources; ++source) {
    totals.pages.at(source) = pages_.at(source).value();
  }
  totals.breaks = breaks_.value();
  totals.poisoned = poisoned_.value();
  return totals;
}

FaultTotals& FaultTotals::operator+=(const FaultTotals& other) {
  for (std::size_t fault = 0; fault < kFaultClasses; ++fault) {
    for (std::size_t write = 0; write < kReadOrWrite; ++write) {
      raised.at(fault).at(write) += other.raised.at(fault).at(write);
      for (std::size_t result = 0; result < kFaultResults; ++result) {
        answers.at(fault).at(write).at(result) += other.answers.at(fault).at(write).at(result);
      }
    }
    latency.at(fault) += other.latency.at(fault);
  }
  for (std::size_t source = 0; source < kPageSources; ++source) {
    pages.at(source) += other.pages.at(source);
  }
  breaks += other.breaks;
  poisoned += other.poisoned;
  came_back += other.came_back;
  tried_again += other.tried_again;
  return *this;
}

std::uint64_t FaultTotals::of(FaultResult result) const {
  std::uint64_t sum = 0;
  for (const auto& by_access : answers) {
    for (const auto& by_result : by_access) sum += by_result.at(static_cast<std::size_t>(result));
  }
  return sum;
}

std::uint64_t FaultTotals::waiting() const {
  return left_of(of(FaultResult::waits), came_back);
}

std::uint64_t FaultTotals::deferred() const {
  return left_of(of(FaultResult::deferred), tried_again);
}

}  // namespace faultline::space
