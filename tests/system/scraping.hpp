// Reads the daemon's metrics as a collector does, and speaks HTTP as a collector never would. Must
// never take a short or broken answer for a good one.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/system/harness.hpp"

namespace faultline::testing {

struct HttpAnswer {
  int status = 0;                              // 0: none came, or it was cut short
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};

// A connection to an endpoint, http://127.0.0.1:PORT/metrics or unix:PATH.
class HttpConnection {
 public:
  explicit HttpConnection(const std::string& where);

  // False: the other side has closed it.
  [[nodiscard]] bool send(const std::string& bytes) const;
  void end_sending() const;
  // The next answer. To a HEAD: without a body.
  [[nodiscard]] HttpAnswer receive(bool head = false);
  // Whether the other side closes it within the time, whatever else it sends before.
  [[nodiscard]] bool closed_within(std::chrono::milliseconds time);

 private:
  // More of what was sent; false at its end, and after ten seconds.
  bool fill();
  UniqueFd fd_;
  std::string received_;
};

// "GET /metrics HTTP/1.1" and the like, with these headers and the blank line.
std::string request(const std::string& line, const std::string& headers = "");
HttpAnswer get(const std::string& where, const std::string& headers = "");

// Where the daemon says that its metrics are.
std::string metrics_of(const Daemon& daemon);

// The samples of one scrape, by name and labels as they are written: x_total{kind="a"}. All of them
// were gathered after this was begun.
class Scrape {
 public:
  explicit Scrape(const std::string& where);
  // Fails the test where there is no such sample.
  [[nodiscard]] double operator[](const std::string& sample) const;
  // Of a counter by its labels: the sum of the samples that have all of them.
  [[nodiscard]] double sum(const std::string& name,
                           const std::vector<std::string>& labels = {}) const;

 private:
  void read(const std::string& where);
  std::map<std::string, double> samples_;
};

}  // namespace faultline::testing
