// One connection to a daemon, asked one question after the other without waiting for an answer.
// Must never block for longer than connect(2) does.
//
// Life: without a connection -> ask() connects and greets -> asked, until the answer is taken ->
// connected, ready for the next question. Any failure leads back to the beginning.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "faultline/wire/protocol.hpp"
#include "tools/faultctl/connection.hpp"

namespace faultline::ctl {

class Inquiry {
 public:
  using Clock = std::chrono::steady_clock;
  explicit Inquiry(std::vector<std::string> socket_paths) : paths_(std::move(socket_paths)) {}

  // Not while it is busy. Throws Unreachable.
  void ask(const wire::AdminRequest& question);
  [[nodiscard]] bool busy() const { return asked_.has_value(); }
  // -1 without a connection.
  [[nodiscard]] int fd() const { return connection_ ? connection_->fd() : -1; }
  // When it is to be given up.
  [[nodiscard]] std::optional<Clock::time_point> give_up_at() const;

  // When there is something to read: nothing where that was not the answer yet. Throws Unreachable,
  // and Refused.
  std::optional<nlohmann::json> take();
  // How long the last answer took.
  [[nodiscard]] Clock::duration took() const { return took_; }
  // Throws Unreachable where the answer has not come in time.
  void check_time();
  void drop();

 private:
  std::vector<std::string> paths_;
  std::optional<Connection> connection_;
  std::optional<wire::AdminRequest> unsent_;  // until the daemon has greeted back
  std::optional<Clock::time_point> asked_;
  Clock::duration took_{0};
};

}  // namespace faultline::ctl
