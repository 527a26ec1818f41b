// Where metrics may be read: a loopback address or a unix socket, and nowhere else, because the
// endpoint knows neither passwords nor encryption. Must never let another address pass.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <variant>

#include "daemon/kernel/error.hpp"

namespace faultline::server {

// An address of this machine's own, as the kernel writes it.
struct LoopbackAddress {
  std::string host;        // 127.0.0.1 or the like, or ::1
  std::uint16_t port = 0;  // 0: any that is free
};
using MetricsAddress = std::variant<LoopbackAddress, std::filesystem::path>;

// 127.0.0.1:9719, [::1]:9719 or unix:/run/faultline/metrics.sock. Errors: EINVAL, in words that
// need no errno and say what to do.
Result<MetricsAddress> parse_metrics_address(std::string_view text);

}  // namespace faultline::server
