// Asks a daemon one question and reads its answer whole. Must never be where an answer is made to
// look well.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "faultline/wire/packet.hpp"
#include "faultline/wire/protocol.hpp"

namespace faultline::ctl {

// The text that came with an answer. Throws Unreachable where there is none.
nlohmann::json text_of(const wire::Packet& answer);
// The daemon is the first that listens at one of the paths. Throws Unreachable and Refused.
nlohmann::json ask(const std::vector<std::string>& socket_paths,
                   const wire::AdminRequest& question);

}  // namespace faultline::ctl
