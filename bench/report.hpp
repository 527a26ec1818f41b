// Figures, what they are to reach, and the two ways to show them: a table and JSON.
// Must never drop a sample: the JSON holds all of them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace faultline::bench {

struct Target {
  enum class Of { ratio, faultline };
  enum class Goal { at_least, at_most, below };
  Of of = Of::ratio;
  Goal goal = Goal::at_least;
  double limit = 0;
  bool stretch = false;  // to be tried for; nothing fails without it
};

struct Result {
  std::string name;
  std::string unit;
  std::string placement;           // which CPUs who might run on
  std::string against = "kernel";  // what Faultline is compared with
  std::vector<double> kernel;      // its samples, one a round; empty where it has no such thing
  std::vector<double> faultline;   // the same rounds
  std::vector<Target> targets;
  std::vector<std::string> notes;
};

// Of a sorted or unsorted sample; 0 of none.
double quantile(std::vector<double> samples, double q);
double median(const std::vector<double>& samples);

// faultline / kernel of every round.
std::vector<double> pair_ratios(const Result& result);
bool met(const Result& result, const Target& target);

std::string table(const std::vector<Result>& results);
nlohmann::json to_json(const std::vector<Result>& results);

}  // namespace faultline::bench
