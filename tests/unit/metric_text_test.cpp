// Metrics as text, letter by letter, and which text a reader would rather have.
#include "daemon/admin/metric_text.hpp"

#include <gtest/gtest.h>

#include <string>

namespace faultline::admin {
namespace {

std::vector<MetricFamily> some() {
  kernel::Durations durations;
  durations.buckets.at(0) = 2;
  durations.buckets.back() = 1;
  durations.sum_ns = 9'000'000'700;
  return {
      {"x_build", MetricType::info, "", "Which.", {{{{"version", "1\"\\\n2"}}, std::uint64_t{1}}}},
      {"x_things",
       MetricType::counter,
       "",
       "Things.",
       {{{{"kind", "a"}, {"way", "b"}}, std::uint64_t{7}}}},
      {"x_time_seconds",
       MetricType::gauge,
       "seconds",
       "When.",
       {{{}, Seconds{std::chrono::nanoseconds{1'700'000'000'123'456'780}}}}},
      {"x_took_seconds",
       MetricType::histogram,
       "seconds",
       "How long.",
       {{{{"kind", "a"}}, durations}}},
  };
}

TEST(MetricText, IsOpenMetrics) {
  const std::string text = to_text(some(), MetricFormat::openmetrics);
  EXPECT_EQ(text.substr(0, text.find("# TYPE x_took")),
            "# TYPE x_build info\n# HELP x_build Which.\n"
            "x_build_info{version=\"1\\\"\\\\\\n2\"} 1\n"
            "# TYPE x_things counter\n# HELP x_things Things.\n"
            "x_things_total{kind=\"a\",way=\"b\"} 7\n"
            "# TYPE x_time_seconds gauge\n# UNIT x_time_seconds seconds\n"
            "# HELP x_time_seconds When.\nx_time_seconds 1700000000.12345678\n");
  EXPECT_NE(text.find("x_took_seconds_bucket{kind=\"a\",le=\"5.12e-07\"} 2\n"), std::string::npos);
  EXPECT_NE(text.find("x_took_seconds_bucket{kind=\"a\",le=\"+Inf\"} 3\n"
                      "x_took_seconds_sum{kind=\"a\"} 9.0000007\n"
                      "x_took_seconds_count{kind=\"a\"} 3\n# EOF\n"),
            std::string::npos);
}

// There a family is called as its samples are, there are no units, and nothing marks the end.
TEST(MetricText, IsWhatPrometheusHadBefore) {
  const std::string text = to_text(some(), MetricFormat::prometheus_text);
  EXPECT_NE(text.find("# TYPE x_build_info gauge\n# HELP x_build_info Which.\nx_build_info{"),
            std::string::npos);
  EXPECT_NE(text.find("# TYPE x_things_total counter\n# HELP x_things_total Things.\nx_things_t"),
            std::string::npos);
  EXPECT_EQ(text.find("UNIT"), std::string::npos);
  EXPECT_EQ(text.find("EOF"), std::string::npos);
}

TEST(MetricText, IsTheOneThatTheReaderAsksFor) {
  const auto open = MetricFormat::openmetrics;
  const auto plain = MetricFormat::prometheus_text;
  EXPECT_EQ(format_for(""), plain);
  EXPECT_EQ(format_for("*/*"), plain);
  EXPECT_EQ(format_for("text/plain"), plain);
  EXPECT_EQ(format_for("application/openmetrics-text"), open);
  EXPECT_EQ(format_for("Application/OpenMetrics-Text ; Version=\"1.0.0\"; charset=utf-8"), open);
  EXPECT_EQ(format_for("application/openmetrics-text; version=0.0.1"), plain);
  EXPECT_EQ(format_for("application/openmetrics-text; q=0"), plain);
  EXPECT_EQ(format_for("application/openmetrics-text;q=0.4, text/plain;q=0.5"), plain);
  EXPECT_EQ(format_for("text/plain;version=0.0.4;q=0.5,application/openmetrics-text"), open);
  // As a Prometheus of Debian 12 asks.
  EXPECT_EQ(format_for("application/openmetrics-text;version=1.0.0,application/openmetrics-text;"
                       "version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"),
            open);
  // What no reader sends is no reason to fail.
  for (const char* nonsense : {";", ",,,", "application/openmetrics-text;q=high", ";q=1;=;\"",
                               "application/openmetrics-text;q=nan"}) {
    EXPECT_EQ(format_for(nonsense), plain) << nonsense;
  }
}

}  // namespace
}  // namespace faultline::admin
