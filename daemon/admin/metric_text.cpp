#include "daemon/admin/metric_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <optional>

namespace faultline::admin {

namespace {

using Out = std::back_insert_iterator<std::string>;

constexpr std::uint64_t kSecond = 1'000'000'000;

const char* name_of(MetricType type, MetricFormat format) {
  switch (type) {
    case MetricType::counter:
      return "counter";
    case MetricType::histogram:
      return "histogram";
    case MetricType::info:
      return format == MetricFormat::openmetrics ? "info" : "gauge";
    case MetricType::gauge:
      break;
  }
  return "gauge";
}

const char* suffix_of(MetricType type) {
  if (type == MetricType::counter) return "_total";
  return type == MetricType::info ? "_info" : "";
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

// Exactly: a double has not the digits for years in nanoseconds.
std::string seconds(std::uint64_t ns) {
  std::string text = fmt::format("{}.{:09}", ns / kSecond, ns % kSecond);
  text.erase(std::max(text.find_last_not_of('0') + 1, text.find('.') + 2));
  return text;
}

// As readers write the same number themselves, which is how they compare it.
std::string bound(std::size_t i) {
  std::array<char, 32> text{};
  const double value = std::chrono::duration<double>(kernel::Durations::bound(i)).count();
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  std::string out(text.data(), error == std::errc{} ? end : text.data());
  if (out.find_first_of(".e") == std::string::npos) out += ".0";
  return out;
}

std::string in_braces(const MetricSample::Labels& labels, std::optional<std::string> le) {
  std::string out;
  for (const auto& [name, value] : labels) {
    fmt::format_to(Out(out), "{}{}=\"{}\"", out.empty() ? "" : ",", name, escaped(value));
  }
  if (le) fmt::format_to(Out(out), "{}le=\"{}\"", out.empty() ? "" : ",", *le);
  return out.empty() ? out : "{" + out + "}";
}

void write_histogram(std::string& text, const std::string& name, const MetricSample& sample,
                     const kernel::Durations& durations) {
  std::uint64_t below = 0;
  for (std::size_t i = 0; i < durations.buckets.size(); ++i) {
    below += durations.buckets.at(i);
    const std::string le = i < kernel::Durations::kBounds ? bound(i) : "+Inf";
    fmt::format_to(Out(text), "{}_bucket{} {}\n", name, in_braces(sample.labels, le), below);
  }
  const std::string labels = in_braces(sample.labels, std::nullopt);
  fmt::format_to(Out(text), "{}_sum{} {}\n{}_count{} {}\n", name, labels, seconds(durations.sum_ns),
                 name, labels, below);
}

void write_sample(std::string& text, const MetricFamily& family, const MetricSample& sample) {
  if (const auto* const durations = std::get_if<kernel::Durations>(&sample.value)) {
    return write_histogram(text, family.name, sample, *durations);
  }
  const auto* const time = std::get_if<Seconds>(&sample.value);
  fmt::format_to(Out(text), "{}{}{} {}\n", family.name, suffix_of(family.type),
                 in_braces(sample.labels, std::nullopt),
                 time != nullptr ? seconds(static_cast<std::uint64_t>(time->time.count()))
                                 : std::to_string(std::get<std::uint64_t>(sample.value)));
}

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// Takes what is before the separator off the text; all of it where there is none.
std::string_view next_part(std::string_view& text, char separator) {
  const auto at = std::min(text.find(separator), text.size());
  const std::string_view part = trimmed(text.substr(0, at));
  text.remove_prefix(std::min(at + 1, text.size()));
  return part;
}

bool same(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return std::ranges::equal(a, b, {}, lower, lower);
}

// In thousandths, as RFC 9110 has them: 0 to 1 with at most three digits behind the point.
int weight_of(std::string_view q) {
  double value = 0;
  const auto [end, error] = std::from_chars(q.data(), q.data() + q.size(), value);
  if (error != std::errc{} || end != q.data() + q.size() || !(value >= 0 && value <= 1)) return 0;
  return static_cast<int>(value * 1000);
}

}  // namespace

const char* content_type(MetricFormat format) {
  return format == MetricFormat::openmetrics
             ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
             : "text/plain; version=0.0.4; charset=utf-8";
}

std::string to_text(const std::vector<MetricFamily>& families, MetricFormat format) {
  std::string text;
  const bool open = format == MetricFormat::openmetrics;
  for (const MetricFamily& family : families) {
    // The older text knows no families that are called otherwise than their samples.
    const std::string name = family.name + (open ? "" : suffix_of(family.type));
    fmt::format_to(Out(text), "# TYPE {} {}\n", name, name_of(family.type, format));
    if (open && !family.unit.empty()) {
      fmt::format_to(Out(text), "# UNIT {} {}\n", name, family.unit);
    }
    fmt::format_to(Out(text), "# HELP {} {}\n", name, escaped(family.help));
    for (const MetricSample& sample : family.samples) write_sample(text, family, sample);
  }
  if (open) text += "# EOF\n";
  return text;
}

MetricFormat format_for(std::string_view accept) {
  int open = 0;
  int plain = 0;
  while (!accept.empty()) {
    std::string_view range = next_part(accept, ',');
    const std::string_view type = next_part(range, ';');
    int weight = 1000;
    bool known = true;
    while (!range.empty()) {
      std::string_view parameter = next_part(range, ';');
      const std::string_view name = next_part(parameter, '=');
      std::string_view value = trimmed(parameter);
      if (value.size() >= 2 && value.starts_with('"') && value.ends_with('"')) {
        value = value.substr(1, value.size() - 2);
      }
      if (same(name, "q")) weight = weight_of(value);
      if (same(name, "version")) known = value == "1.0.0" || value == "0.0.4";
    }
    if (!known) continue;
    if (same(type, "application/openmetrics-text")) open = std::max(open, weight);
    if (same(type, "text/plain")) plain = std::max(plain, weight);
  }
  return open > 0 && open >= plain ? MetricFormat::openmetrics : MetricFormat::prometheus_text;
}

}  // namespace faultline::admin
