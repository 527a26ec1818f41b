// What top knows: the last answers of the daemon and the ones before, so rates. Must never make a
// rate up: of what was seen once there is none.
//
// Bytes in memory come by answers of their own, less often than the counters, because the daemon
// walks page tables for them.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tools/faultctl/top_table.hpp"

namespace faultline::ctl {

// Of one thing that counts, between two looks at it.
struct TopRates {
  std::optional<double> faults;
  std::optional<double> missing;
  std::optional<double> minor;
  std::optional<double> write_protect;
  std::optional<double> breaks;
};

// Remembers what was counted before. A key that is not there any more is forgotten; a counter that
// went back belongs to something new, and has no rate.
class RateBook {
 public:
  // Begins a look, at this time of the daemon's clock.
  void begin(std::int64_t time_ns);
  // faults, breaks: as the daemon's answers have them.
  TopRates rates(std::uint64_t key, const nlohmann::json& faults, std::uint64_t breaks);
  // How long the look is after the one before.
  [[nodiscard]] std::optional<double> seconds() const { return seconds_; }

 private:
  struct Counts {
    std::uint64_t missing = 0;
    std::uint64_t minor = 0;
    std::uint64_t write_protect = 0;
    std::uint64_t breaks = 0;
  };
  std::map<std::uint64_t, Counts> before_;
  std::map<std::uint64_t, Counts> now_;
  std::optional<std::int64_t> time_ns_;
  std::optional<double> seconds_;
};

// The daemon as a whole. Counters are those of its status.
struct TopTotals {
  std::string version;
  std::uint64_t pid = 0;
  std::uint64_t uptime_seconds = 0;
  std::uint64_t workers = 0;
  std::uint64_t sessions = 0;
  std::uint64_t spaces = 0;
  std::uint64_t objects = 0;
  std::uint64_t resident_bytes = 0;
  std::uint64_t swapped_bytes = 0;
  std::uint64_t swap_bytes = 0;
  std::uint64_t waits = 0;
  std::uint64_t waiting_faults = 0;
  std::uint64_t pins = 0;
  std::uint64_t pinned_bytes = 0;
  std::uint64_t poisoned_pages = 0;
  TopRates rates;
};

class TopModel {
 public:
  static std::span<const TopColumn> space_columns();
  static std::span<const TopColumn> vma_columns();

  // Answers to AdminQuery::load, with kAdminNoResidency; to spaces without it; to vmas of the
  // chosen process with it and without.
  void take_load(const nlohmann::json& answer);
  void take_residency(const nlohmann::json& answer);
  void take_vmas(const nlohmann::json& answer);
  void take_vma_residency(const nlohmann::json& answer);
  // Another process's mappings from here on.
  void forget_vmas();

  [[nodiscard]] const TopTotals& totals() const { return totals_; }
  [[nodiscard]] const TopTable& spaces() const { return spaces_; }
  [[nodiscard]] const TopTable& vmas() const { return vmas_; }
  // Between the last two looks at the daemon.
  [[nodiscard]] std::optional<double> seconds() const { return space_rates_.seconds(); }

  // One refresh, as --json prints it, in this order.
  [[nodiscard]] nlohmann::json to_json(const TopOrder& order) const;

 private:
  TopTotals totals_;
  RateBook total_rates_;
  RateBook space_rates_;
  RateBook vma_rates_;
  std::map<std::uint64_t, std::uint64_t> resident_;      // by space
  std::map<std::uint64_t, std::uint64_t> vma_resident_;  // by start
  TopTable spaces_{space_columns(), {}};
  TopTable vmas_{vma_columns(), {}};
};

}  // namespace faultline::ctl
