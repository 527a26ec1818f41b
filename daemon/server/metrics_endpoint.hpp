// Serves metrics by HTTP: GET and HEAD of /metrics, on a thread of its own. Must never have
// anything but that thread wait for a reader, nor keep more than kMostConnections.
//
// Life of a connection: accepted; a request is read; it is answered; and so on while the reader
// likes and keeps the times below. Where there is no room for another, the one that has been there
// longest goes: a scrape that comes with its request is done at once, so it is the idle and the
// slow that lose their place.
//
// The counters are gathered at most once in kFreshFor, however many ask.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/admin/metric_text.hpp"
#include "daemon/server/metrics_address.hpp"

namespace faultline::server {

class MetricsEndpoint {
 public:
  static constexpr std::size_t kMostConnections = 64;
  // None loses its place to another before that.
  static constexpr std::chrono::milliseconds kPlaceFor{200};
  static constexpr std::chrono::seconds kRequestWithin{10};
  static constexpr std::chrono::seconds kAnswerWithin{10};
  static constexpr std::uint32_t kMostHeader = 8192;
  static constexpr std::chrono::milliseconds kFreshFor{100};

  using Gather = std::function<std::vector<admin::MetricFamily>()>;

  // Listens when it returns; gather is called on its thread. A unix socket has mode 0660, and the
  // group. Errors: EADDRINUSE and others of bind(2); as listen_at(); EAGAIN no thread.
  static Result<std::unique_ptr<MetricsEndpoint>> create(const MetricsAddress& address,
                                                         std::optional<gid_t> group, Gather gather);
  MetricsEndpoint(const MetricsEndpoint&) = delete;
  MetricsEndpoint& operator=(const MetricsEndpoint&) = delete;
  // Ends its connections and its thread.
  ~MetricsEndpoint();

  // Its URL, or the path of its socket.
  [[nodiscard]] std::string where() const;

 private:
  class Listener;
  explicit MetricsEndpoint(std::unique_ptr<Listener> listener);

  std::unique_ptr<Listener> listener_;
};

}  // namespace faultline::server
