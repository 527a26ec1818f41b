#include "daemon/server/reload.hpp"

#include <nlohmann/json.hpp>

#include "daemon/kernel/log.hpp"

namespace faultline::server {

namespace {
constexpr int kSchema = 1;
}

void Reloaded::log() const {
  for (const ChangedSetting& change : changed) {
    if (change.live) {
      log::info("setting {} = {}, was {}", change.name, change.to, change.from);
    } else {
      log::warn("setting {} = {} takes a restart; it stays {}", change.name, change.to,
                change.from);
    }
  }
  log::info("{} was read again: {}", file.string(),
            changed.empty() ? "nothing has changed" : "its changes are above");
}

std::string Reloaded::json() const {
  nlohmann::json taken = nlohmann::json::array();
  nlohmann::json waiting = nlohmann::json::array();
  for (const ChangedSetting& change : changed) {
    (change.live ? taken : waiting)
        .push_back({{"setting", change.name}, {"from", change.from}, {"to", change.to}});
  }
  return nlohmann::json{{"schema", kSchema},
                        {"reload",
                         {{"settings_file", file.string()},
                          {"changed", std::move(taken)},
                          {"takes_a_restart", std::move(waiting)}}}}
      .dump();
}

}  // namespace faultline::server
