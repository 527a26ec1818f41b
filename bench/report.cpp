// Medians, ratios and how they are printed.
#include "bench/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <utility>

namespace faultline::bench {

namespace {

constexpr std::size_t kColumns = 10;
using Row = std::array<std::string, kColumns>;

const char* sign(Target::Goal goal) {
  switch (goal) {
    case Target::Goal::at_least:
      return ">=";
    case Target::Goal::at_most:
      return "<=";
    case Target::Goal::below:
      return "<";
  }
  return "?";
}

std::string number(double value) {
  if (value >= 1000) return fmt::format("{:.0f}", value);
  return value >= 100 ? fmt::format("{:.1f}", value) : fmt::format("{:.2f}", value);
}

double judged(const Result& result, const Target& target) {
  return median(target.of == Target::Of::ratio ? pair_ratios(result) : result.faultline);
}

Row row_of(const Result& result) {
  Row row{result.name, result.unit, "-", "-", number(median(result.faultline)),
          "-",         "-",         "-", "-", result.placement};
  if (!result.kernel.empty()) {
    const std::vector<double> ratios = pair_ratios(result);
    row[2] = result.against;
    row[3] = number(median(result.kernel));
    row[5] = fmt::format("{:.3f}", median(ratios));
    row[6] = fmt::format("{:.3f}..{:.3f}", quantile(ratios, 0), quantile(ratios, 1));
  }
  return row;
}

void judge(Row& row, const Result& result, const Target& target) {
  row[7] = fmt::format("{} {:g}{}", sign(target.goal), target.limit,
                       target.of == Target::Of::ratio ? "" : " " + result.unit);
  row[8] = met(result, target) ? "yes" : "no";
}

}  // namespace

double quantile(std::vector<double> samples, double q) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  const double place = q * static_cast<double>(samples.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, samples.size() - 1);
  return std::lerp(samples[below], samples[above], place - static_cast<double>(below));
}

double median(const std::vector<double>& samples) {
  return quantile(samples, 0.5);
}

std::vector<double> pair_ratios(const Result& result) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < std::min(result.kernel.size(), result.faultline.size()); ++i) {
    ratios.push_back(result.faultline[i] / result.kernel[i]);
  }
  return ratios;
}

bool met(const Result& result, const Target& target) {
  const double value = judged(result, target);
  switch (target.goal) {
    case Target::Goal::at_least:
      return value >= target.limit;
    case Target::Goal::at_most:
      return value <= target.limit;
    case Target::Goal::below:
      return value < target.limit;
  }
  return false;
}

std::string table(const std::vector<Result>& results) {
  std::vector<Row> rows{Row{"FIGURE", "UNIT", "AGAINST", "ITS", "FAULTLINE", "RATIO", "OF PAIRS",
                            "TARGET", "MET", "CPUS"}};
  for (const Result& result : results) {
    Row row = row_of(result);
    bool first = true;
    for (const Target& target : result.targets) {
      if (!std::exchange(first, false)) {
        rows.push_back(row);
        row = Row{};
        row[0] = target.stretch ? "  to try for" : "  also";
      }
      judge(row, result, target);
    }
    rows.push_back(row);
  }
  std::array<std::size_t, kColumns> widths{};
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < kColumns; ++i)
      widths.at(i) = std::max(widths.at(i), row.at(i).size());
  }
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < kColumns; ++i) {
      const bool is_number = i >= 3 && i <= 6;
      line += is_number ? fmt::format("{:>{}}  ", row.at(i), widths.at(i))
                        : fmt::format("{:<{}}  ", row.at(i), widths.at(i));
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  }
  text +=
      "Medians of the rounds; RATIO is the median of FAULTLINE / ITS of each round, OF PAIRS "
      "its least and most.\n";
  for (const Result& result : results) {
    for (const std::string& note : result.notes) {
      text += fmt::format("{}: {}\n", result.name, note);
    }
  }
  return text;
}

nlohmann::json to_json(const std::vector<Result>& results) {
  nlohmann::json all = nlohmann::json::array();
  for (const Result& result : results) {
    nlohmann::json targets = nlohmann::json::array();
    for (const Target& target : result.targets) {
      targets.push_back({{"of", target.of == Target::Of::ratio ? "ratio" : "faultline"},
                         {"goal", sign(target.goal)},
                         {"limit", target.limit},
                         {"stretch", target.stretch},
                         {"met", met(result, target)}});
    }
    nlohmann::json entry{
        {"name", result.name},
        {"unit", result.unit},
        {"placement", result.placement},
        {"against", result.against},
        {"faultline", {{"median", median(result.faultline)}, {"samples", result.faultline}}},
        {"targets", targets},
        {"notes", result.notes}};
    if (!result.kernel.empty()) {
      const std::vector<double> ratios = pair_ratios(result);
      entry["kernel"] = {{"median", median(result.kernel)}, {"samples", result.kernel}};
      entry["ratio"] = {{"median", median(ratios)},
                        {"min", quantile(ratios, 0)},
                        {"max", quantile(ratios, 1)},
                        {"samples", ratios}};
    }
    all.push_back(std::move(entry));
  }
  return all;
}

}  // namespace faultline::bench
