// Whether a daemon is well, from two looks at it. Must never call it ill for what it does not do by
// its set-up, which is a doctor's business.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace faultline::ctl {

// before and now: answers to AdminQuery::load, of one daemon. Each is a sentence; none: it is well.
std::vector<std::string> ailments(const nlohmann::json& before, const nlohmann::json& now);

}  // namespace faultline::ctl
