#include "tools/faultctl/check.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "tools/faultctl/failure.hpp"
#include "tools/faultctl/health.hpp"
#include "tools/faultctl/query.hpp"

namespace faultline::ctl {

namespace {

using nlohmann::json;

json look(const std::vector<std::string>& socket_paths) {
  wire::AdminRequest question;
  question.query = wire::AdminQuery::load;
  question.flags = wire::kAdminNoResidency;
  return ask(socket_paths, question);
}

}  // namespace

bool check(const std::vector<std::string>& socket_paths, const Check& how) {
  json now;
  std::vector<std::string> found;
  try {
    const json before = look(socket_paths);
    // What happens in between is what is looked for: nothing tells that it does not.
    std::this_thread::sleep_for(how.window);
    now = look(socket_paths);
    found = ailments(before, now);
  } catch (const Unreachable& nobody) {
    if (!how.as_json) print(fmt::format("UNREACHABLE - {}\n", nobody.what()));
    throw;
  }
  const json& status = now.at("status");
  if (how.as_json) {
    const json out = {{"schema", kSchema},
                      {"check",
                       {{"healthy", found.empty()},
                        {"reasons", found},
                        {"version", status.at("version")},
                        {"pid", status.at("pid")},
                        {"uptime_seconds", status.at("uptime_seconds")},
                        {"sessions", status.at("sessions")},
                        {"spaces", status.at("spaces")},
                        {"waiting_faults", status.at("waiting_faults")},
                        {"poisoned_pages", status.at("poisoned_pages")},
                        {"oldest_reader_ms", status.at("reclamation").at("oldest_reader_ms")}}}};
    print(out.dump(2) + "\n");
    return found.empty();
  }
  const auto value = [](const json& of) { return of.get<std::uint64_t>(); };
  const std::string what =
      found.empty()
          ? fmt::format("faultlined {}, pid {}, up {} s", status.at("version").get<std::string>(),
                        value(status.at("pid")), value(status.at("uptime_seconds")))
          : fmt::format("{}", fmt::join(found, "; "));
  print(fmt::format("{} - {} | sessions={} spaces={} waiting_faults={} poisoned_pages={}\n",
                    found.empty() ? "HEALTHY" : "DEGRADED", what, value(status.at("sessions")),
                    value(status.at("spaces")), value(status.at("waiting_faults")),
                    value(status.at("poisoned_pages"))));
  return found.empty();
}

}  // namespace faultline::ctl
