// Lays answers of the daemon out for people. Must never be what a script has to parse: that is
// --json.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace faultline::ctl {

std::string show_status(const nlohmann::json& answer);
std::string show_objects(const nlohmann::json& answer);
std::string show_spaces(const nlohmann::json& answer);
std::string show_vmas(const nlohmann::json& answer);

}  // namespace faultline::ctl
