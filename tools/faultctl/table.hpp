// Lays answers of the daemon out for people. Must never be what a script has to parse: that is
// --json.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace faultline::ctl {

// Without anything that a terminal would obey.
std::string printable(std::string text);
// 4.0 KiB and the like.
std::string readable_bytes(std::uint64_t bytes);

std::string show_status(const nlohmann::json& answer);
std::string show_objects(const nlohmann::json& answer);
std::string show_spaces(const nlohmann::json& answer);
std::string show_vmas(const nlohmann::json& answer);
std::string show_waiters(const nlohmann::json& answer);
std::string show_pins(const nlohmann::json& answer);

}  // namespace faultline::ctl
