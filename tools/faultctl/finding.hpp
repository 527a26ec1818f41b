// What a doctor finds: whether one thing is as it should be, and what to do where it is not. Must
// never be bad without a fix.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace faultline::ctl {

enum class Verdict : std::uint8_t { ok, warning, problem };

struct Finding {
  std::string subject;
  Verdict verdict{};
  std::string detail;
  std::string fix;  // empty where all is well
};
using Findings = std::vector<Finding>;

const char* name_of(Verdict verdict);
// The worst of them.
Verdict worst_of(const Findings& findings);
nlohmann::json to_json(const Findings& findings);
std::string to_text(const Findings& findings);

}  // namespace faultline::ctl
