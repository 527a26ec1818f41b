// Answers of a daemon as top is given them, with what a test is about.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace faultline::ctl {

struct SomeSpace {
  std::uint64_t id = 1;
  std::uint64_t minor = 0;
  std::uint64_t breaks = 0;
  std::uint64_t broken_bytes = 0;
  std::string command = "worker";
  std::uint64_t waiting_faults = 0;
  std::uint64_t pages_mapped = 0;
};

inline nlohmann::json faults(std::uint64_t minor) {
  return {{"missing", 0}, {"minor", minor}, {"write_protect", 0}, {"writes", 0}};
}

// pid: of the daemon.
inline nlohmann::json load_answer(std::int64_t time_ns, const std::vector<SomeSpace>& spaces,
                                  std::uint64_t pid = 77, std::uint64_t poisoned = 0,
                                  std::uint64_t oldest_reader_ms = 0) {
  nlohmann::json shown = nlohmann::json::array();
  std::uint64_t minor = 0;
  std::uint64_t breaks = 0;
  for (const SomeSpace& space : spaces) {
    minor += space.minor;
    breaks += space.breaks;
    shown.push_back({{"id", space.id},
                     {"pid", 1000 + space.id},
                     {"uid", 5},
                     {"command", space.command},
                     {"faults", faults(space.minor)},
                     {"breaks", space.breaks},
                     {"mapped_bytes", 1 << 20},
                     {"broken_bytes", space.broken_bytes},
                     {"pages_mapped", space.pages_mapped},
                     {"pages_copied", 0},
                     {"poisoned_pages", 0},
                     {"waiting_faults", space.waiting_faults},
                     {"waits", 2},
                     {"pins", 3}});
  }
  return {{"time_ns", time_ns},
          {"status",
           {{"version", "1.2.3"},
            {"pid", pid},
            {"uptime_seconds", 3725},
            {"workers", 2},
            {"sessions", 4},
            {"spaces", spaces.size()},
            {"objects", 1},
            {"object_bytes", 4096},
            {"swap_bytes", 0},
            {"swapped_bytes", 0},
            {"kept_waits", 0},
            {"waiting_faults", 0},
            {"pins", 0},
            {"pinned_bytes", 0},
            {"poisoned_pages", poisoned},
            {"reclamation", {{"oldest_reader_ms", oldest_reader_ms}}},
            {"breaks", breaks},
            {"faults", faults(minor)}}},
          {"spaces", shown}};
}

}  // namespace faultline::ctl
