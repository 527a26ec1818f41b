#include "tools/faultctl/doctor.hpp"

#include <iterator>
#include <nlohmann/json.hpp>

#include "tools/faultctl/daemon_probe.hpp"
#include "tools/faultctl/failure.hpp"
#include "tools/faultctl/machine_probe.hpp"

namespace faultline::ctl {

bool doctor(const std::vector<std::string>& socket_paths, bool as_json) {
  DaemonProbe daemon = probe_daemon(socket_paths);
  Findings findings = probe_machine(daemon.reached);
  std::ranges::move(daemon.findings, std::back_inserter(findings));
  const Verdict worst = worst_of(findings);
  if (as_json) {
    const nlohmann::json out = {
        {"schema", kSchema},
        {"doctor", {{"verdict", name_of(worst)}, {"findings", to_json(findings)}}}};
    print(out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  } else {
    print(to_text(findings));
  }
  return worst != Verdict::problem;
}

}  // namespace faultline::ctl
