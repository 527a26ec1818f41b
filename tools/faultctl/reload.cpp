#include "tools/faultctl/reload.hpp"

#include <fmt/format.h>

#include "tools/faultctl/connection.hpp"
#include "tools/faultctl/query.hpp"

namespace faultline::ctl {

namespace {

std::string to_text(const nlohmann::json& reload) {
  std::string text;
  const auto value = [](const nlohmann::json& of) {
    return of == "" ? std::string("none") : of.get<std::string>();
  };
  const auto add = [&](const nlohmann::json& change, const char* words) {
    text += fmt::format("{} = {}, {} {}\n", change["setting"].get<std::string>(),
                        value(change["to"]), words, value(change["from"]));
  };
  for (const auto& change : reload["changed"]) add(change, "was");
  for (const auto& change : reload["takes_a_restart"]) add(change, "takes a restart; it stays");
  if (text.empty()) {
    text = "nothing has changed in " + reload["settings_file"].get<std::string>() + "\n";
  }
  return text;
}

}  // namespace

void reload(const std::vector<std::string>& socket_paths, bool as_json) {
  Connection daemon(socket_paths);
  const nlohmann::json answer = text_of(daemon.ask(wire::Op::reload));
  print(as_json ? answer.dump(2) + "\n" : to_text(answer["reload"]));
}

}  // namespace faultline::ctl
