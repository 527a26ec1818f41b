// top where there is no terminal: a table, or a JSON object, each refresh. Must never print a rate
// that is not one: the first refresh is an interval after the start.
#pragma once

#include <string>

#include "tools/faultctl/top_model.hpp"

namespace faultline::ctl {

// With an empty line behind it.
std::string plain_refresh(const TopModel& model, const TopOrder& order);
// On one line.
std::string json_refresh(const TopModel& model, const TopOrder& order);

}  // namespace faultline::ctl
