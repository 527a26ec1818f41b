#include "tests/system/scraping.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <sstream>

namespace faultline::testing {

namespace {

constexpr int kAnswerWithinMs = 10'000;
constexpr const char* kOpenMetrics = "Accept: application/openmetrics-text; version=1.0.0\r\n";

UniqueFd connected_to_path(const std::string& path) {
  UniqueFd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(static_cast<char*>(address.sun_path), sizeof(address.sun_path) - 1);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    ADD_FAILURE() << "connecting to " << path << ": " << std::strerror(errno);
  }
  return fd;
}

UniqueFd connected_to_url(const std::string& url) {
  const auto host_at = url.find("//") + 2;
  const auto slash = url.find('/', host_at);
  const auto colon = url.rfind(':', slash);
  std::string host = url.substr(host_at, colon - host_at);
  std::erase_if(host, [](char c) { return c == '[' || c == ']'; });
  const std::string port = url.substr(colon + 1, slash - colon - 1);
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) {
    ADD_FAILURE() << "no address: " << url;
    return UniqueFd{};
  }
  UniqueFd fd{::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  if (::connect(fd.get(), found->ai_addr, found->ai_addrlen) != 0) {
    ADD_FAILURE() << "connecting to " << url << ": " << std::strerror(errno);
  }
  ::freeaddrinfo(found);
  return fd;
}

}  // namespace

HttpConnection::HttpConnection(const std::string& where)
    : fd_(where.starts_with("unix:") ? connected_to_path(where.substr(5))
                                     : connected_to_url(where)) {}

bool HttpConnection::send(const std::string& bytes) const {
  std::size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t n = ::send(fd_.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return false;
    sent += static_cast<std::size_t>(n);
  }
  return true;
}

void HttpConnection::end_sending() const {
  EXPECT_EQ(::shutdown(fd_.get(), SHUT_WR), 0) << std::strerror(errno);
}

bool HttpConnection::fill() {
  pollfd readable{fd_.get(), POLLIN, 0};
  if (::poll(&readable, 1, kAnswerWithinMs) != 1) return false;
  std::array<char, 16'384> part{};
  const ssize_t got = ::recv(fd_.get(), part.data(), part.size(), 0);
  if (got <= 0) return false;
  received_.append(part.data(), static_cast<std::size_t>(got));
  return true;
}

HttpAnswer HttpConnection::receive(bool head) {
  HttpAnswer answer;
  std::size_t end = 0;
  while ((end = received_.find("\r\n\r\n")) == std::string::npos) {
    if (!fill()) return {};
  }
  std::istringstream lines(received_.substr(0, end));
  std::string line;
  std::getline(lines, line);
  int status = 0;
  if (std::sscanf(line.c_str(), "HTTP/1.%*d %d", &status) != 1) return {};
  while (std::getline(lines, line)) {
    std::string name = line.substr(0, line.find(':'));
    std::ranges::transform(name, name.begin(), [](char c) {
      return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    });
    line.erase(std::min(line.find('\r'), line.size()));
    answer.headers[name] = line.substr(std::min(line.find(": ") + 2, line.size()));
  }
  received_.erase(0, end + 4);
  const std::size_t length = head ? 0 : std::stoul(answer.headers["content-length"]);
  while (received_.size() < length) {
    if (!fill()) return {};
  }
  answer.body = received_.substr(0, length);
  received_.erase(0, length);
  answer.status = status;
  return answer;
}

bool HttpConnection::closed_within(std::chrono::milliseconds time) {
  const auto give_up = std::chrono::steady_clock::now() + time;
  std::array<char, 16'384> part{};
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        give_up - std::chrono::steady_clock::now());
    pollfd readable{fd_.get(), POLLIN, 0};
    if (left.count() <= 0 || ::poll(&readable, 1, static_cast<int>(left.count())) != 1)
      return false;
    if (::recv(fd_.get(), part.data(), part.size(), 0) <= 0) return true;
  }
}

std::string request(const std::string& line, const std::string& headers) {
  return line + "\r\nHost: test\r\n" + headers + "\r\n";
}

HttpAnswer get(const std::string& where, const std::string& headers) {
  HttpConnection connection(where);
  if (!connection.send(request("GET /metrics HTTP/1.1", headers))) return {};
  return connection.receive();
}

std::string metrics_of(const Daemon& daemon) {
  const std::string log = daemon.log();
  const std::string before = "metrics are at ";
  const auto at = log.find(before);
  if (at == std::string::npos) {
    ADD_FAILURE() << "it serves none:\n" << log;
    return {};
  }
  const auto start = at + before.size();
  return log.substr(start, log.find('\n', start) - start);
}

Scrape::Scrape(const std::string& where) {
  // What was gathered a moment ago may be what this is told. The daemon's own time tells: where it
  // has changed, the rest is of now.
  read(where);
  const double before = sum("faultline_cpu_seconds_total");
  EXPECT_TRUE(eventually([&] {
    read(where);
    return sum("faultline_cpu_seconds_total") != before;
  }));
}

void Scrape::read(const std::string& where) {
  const HttpAnswer answer = get(where, kOpenMetrics);
  EXPECT_EQ(answer.status, 200) << answer.body;
  EXPECT_TRUE(answer.body.ends_with("# EOF\n"));
  std::istringstream lines(answer.body);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with('#')) continue;
    const auto space = line.rfind(' ');
    samples_[line.substr(0, space)] = std::stod(line.substr(space + 1));
  }
}

double Scrape::operator[](const std::string& sample) const {
  const auto found = samples_.find(sample);
  if (found != samples_.end()) return found->second;
  ADD_FAILURE() << "no sample is called " << sample;
  return -1;
}

double Scrape::sum(const std::string& name, const std::vector<std::string>& labels) const {
  double sum = 0;
  bool any = false;
  for (const auto& [sample, value] : samples_) {
    if (sample.substr(0, sample.find('{')) != name) continue;
    const bool has_all = std::ranges::all_of(labels, [&](const std::string& label) {
      return sample.find("{" + label) != std::string::npos ||
             sample.find("," + label) != std::string::npos;
    });
    if (!has_all) continue;
    any = true;
    sum += value;
  }
  EXPECT_TRUE(any) << "no sample of " << name << " has these labels";
  return sum;
}

}  // namespace faultline::testing
