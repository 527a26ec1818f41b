// Metrics as text, as OpenMetrics 1.0.0 has it and as Prometheus had it before (0.0.4). Must never
// write a family, a label or a number in a way that a strict reader refuses.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "daemon/kernel/tally.hpp"

namespace faultline::admin {

enum class MetricType : std::uint8_t { counter, gauge, histogram, info };

struct Seconds {
  std::chrono::nanoseconds time;
};

// One line of a family, or all of one histogram.
struct MetricSample {
  using Labels = std::vector<std::pair<std::string, std::string>>;
  using Value = std::variant<std::uint64_t, Seconds, kernel::Durations>;
  Labels labels;
  Value value;
};

struct MetricFamily {
  std::string name;  // without _total, _bucket or _info; ends with its unit
  MetricType type = MetricType::gauge;
  std::string unit;  // seconds, bytes, or none
  std::string help;  // one sentence
  std::vector<MetricSample> samples;
};

enum class MetricFormat : std::uint8_t { openmetrics, prometheus_text };

[[nodiscard]] const char* content_type(MetricFormat format);
[[nodiscard]] std::string to_text(const std::vector<MetricFamily>& families, MetricFormat format);

// What the reader would rather have, from its Accept header; empty: it sent none.
[[nodiscard]] MetricFormat format_for(std::string_view accept);

}  // namespace faultline::admin
