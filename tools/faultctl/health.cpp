#include "tools/faultctl/health.hpp"

#include <fmt/format.h>

#include <cstdint>
#include <map>

namespace faultline::ctl {

namespace {

using nlohmann::json;

constexpr std::uint64_t kLongReaderMs = 5000;

std::uint64_t number(const json& from, const char* field) {
  return from.at(field).get<std::uint64_t>();
}

// All that answering a fault changes.
std::uint64_t progress(const json& space) {
  return number(space, "pages_mapped") + number(space, "pages_copied") + number(space, "breaks") +
         number(space, "poisoned_pages");
}

void stuck_faults(const json& before, const json& now, std::vector<std::string>& found) {
  std::map<std::uint64_t, const json*> spaces;
  for (const json& space : before.at("spaces")) spaces[number(space, "id")] = &space;
  for (const json& space : now.at("spaces")) {
    const auto was = spaces.find(number(space, "id"));
    if (was == spaces.end() || number(*was->second, "waiting_faults") == 0) continue;
    const std::uint64_t waiting = number(space, "waiting_faults");
    if (waiting == 0 || progress(space) != progress(*was->second)) continue;
    found.push_back(fmt::format("{} faults of process {} wait and none is answered", waiting,
                                number(space, "pid")));
  }
}

}  // namespace

std::vector<std::string> ailments(const json& before, const json& now) {
  std::vector<std::string> found;
  const json& status = now.at("status");
  const std::uint64_t reader = number(status.at("reclamation"), "oldest_reader_ms");
  if (reader >= kLongReaderMs) {
    found.push_back(fmt::format("a reader has held reclamation up for {} ms", reader));
  }
  stuck_faults(before, now, found);
  const std::uint64_t poisoned = number(status, "poisoned_pages");
  const std::uint64_t poisoned_before = number(before.at("status"), "poisoned_pages");
  if (poisoned > poisoned_before) {
    found.push_back(fmt::format("{} pages more could not be supplied", poisoned - poisoned_before));
  }
  return found;
}

}  // namespace faultline::ctl
