#include "tools/faultctl/finding.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace faultline::ctl {

const char* name_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::ok:
      return "ok";
    case Verdict::warning:
      return "warning";
    case Verdict::problem:
      break;
  }
  return "problem";
}

Verdict worst_of(const Findings& findings) {
  const auto worst = std::ranges::max_element(findings, {}, &Finding::verdict);
  return worst == findings.end() ? Verdict::ok : worst->verdict;
}

nlohmann::json to_json(const Findings& findings) {
  nlohmann::json list = nlohmann::json::array();
  for (const Finding& finding : findings) {
    list.push_back({{"subject", finding.subject},
                    {"verdict", name_of(finding.verdict)},
                    {"detail", finding.detail},
                    {"fix", finding.fix}});
  }
  return list;
}

std::string to_text(const Findings& findings) {
  std::size_t widest = 0;
  for (const Finding& finding : findings) widest = std::max(widest, finding.subject.size());
  std::string text;
  for (const Finding& finding : findings) {
    text += fmt::format("{:<8} {:<{}}  {}\n", name_of(finding.verdict), finding.subject, widest,
                        finding.detail);
    if (!finding.fix.empty())
      text += fmt::format("{:<8} {:<{}}  fix: {}\n", "", "", widest, finding.fix);
  }
  return text;
}

}  // namespace faultline::ctl
