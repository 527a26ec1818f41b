// Tells the service manager how the daemon is: a line of status, and, where it watches us, that we
// are alive: when this thread runs, and every worker has gone round its loop since it was asked.
// Must never say so for a worker that is stuck, and never be silent because a client holds its own
// worker up: that hurts its user alone.
//
// A clock ticks kTicks times in the manager's interval. A worker is asked at each tick, and is
// stuck when it has not answered by the second. So a daemon that gets stuck is silent for an
// interval at most two ticks later; and one that was just slow has ticks left to say it.
//
// Runs on the control thread alone.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "daemon/kernel/log_budget.hpp"
#include "daemon/kernel/pulse.hpp"

namespace faultline::server {

class Supervision {
 public:
  static constexpr int kTicks = 5;
  static constexpr std::chrono::seconds kStatusEvery{5};

  struct Sources {
    std::function<std::vector<kernel::WatchedThread>()> workers;
    std::function<std::string()> status;
  };

  Supervision(boost::asio::io_context& control, Sources sources)
      : clock_(control), sources_(std::move(sources)) {}

  // Starts the clock, where there is a manager to tell.
  void start();
  void stop();

 private:
  void tick();
  void tell_status();
  [[nodiscard]] bool all_go_round();

  boost::asio::steady_timer clock_;
  const Sources sources_;
  std::chrono::microseconds every_{};
  bool watched_ = false;
  std::set<const kernel::Pulse*> stuck_;  // workers stay as long as the daemon
  std::chrono::steady_clock::time_point status_due_{};
  std::string last_status_;
  kernel::LogBudget log_{1};
};

}  // namespace faultline::server
