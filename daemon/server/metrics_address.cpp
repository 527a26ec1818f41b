#include "daemon/server/metrics_address.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <charconv>
#include <optional>

namespace faultline::server {

namespace {

constexpr std::string_view kUnix = "unix:";

enum class Reach : std::uint8_t { none, loopback, network };

Reach reach_of(const std::string& host, bool bracketed) {
  in6_addr six{};
  in_addr four{};
  if (bracketed) {
    if (::inet_pton(AF_INET6, host.c_str(), &six) != 1) return Reach::none;
    return IN6_IS_ADDR_LOOPBACK(&six) ? Reach::loopback : Reach::network;
  }
  if (::inet_pton(AF_INET, host.c_str(), &four) != 1) return Reach::none;
  return ntohl(four.s_addr) >> 24 == IN_LOOPBACKNET ? Reach::loopback : Reach::network;
}

tl::unexpected<Error> malformed(std::string_view text) {
  return fail(EINVAL, "setting metrics_listen to " + std::string(text) +
                          ", where 127.0.0.1:9719, [::1]:9719 or unix:/PATH is taken");
}

Result<MetricsAddress> unix_socket(std::string_view text, std::string_view path) {
  if (!path.starts_with('/') || path.ends_with('/')) return malformed(text);
  if (path.size() >= sizeof(sockaddr_un{}.sun_path)) {
    return fail(EINVAL, "setting metrics_listen to a path of " + std::to_string(path.size()) +
                            " characters, where a socket's has at most " +
                            std::to_string(sizeof(sockaddr_un{}.sun_path) - 1));
  }
  return std::filesystem::path(path);
}

}  // namespace

Result<MetricsAddress> parse_metrics_address(std::string_view text) {
  if (text.starts_with(kUnix)) return unix_socket(text, text.substr(kUnix.size()));
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) return malformed(text);
  const std::string_view digits = text.substr(colon + 1);
  LoopbackAddress address;
  const auto [stopped, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), address.port);
  if (error != std::errc{} || stopped != digits.data() + digits.size()) return malformed(text);
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.starts_with('[') && host.ends_with(']');
  if (bracketed) host = host.substr(1, host.size() - 2);
  address.host = host;
  switch (reach_of(address.host, bracketed)) {
    case Reach::none:
      return malformed(text);
    case Reach::network:
      return fail(EINVAL,
                  "setting metrics_listen to " + std::string(text) +
                      ", which others could reach, without a password and in plain text: only "
                      "loopback addresses and unix sockets are taken. Have a reverse proxy with "
                      "TLS listen there, in front of 127.0.0.1 (docs/metrics.md)");
    case Reach::loopback:
      break;
  }
  return address;
}

}  // namespace faultline::server
