// Threads for what may block: looking at a client's file, walking a client's page tables, giving
// the memory of an object back. Must never let one user's work wait for another's: each user's is
// done by a thread of its own.
//
// of() and stop() on the control thread only.
#pragma once

#include <sys/types.h>

#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <map>
#include <memory>

namespace faultline::server {

class Helpers {
 public:
  // The thread that works for this user. Lives as long as this.
  boost::asio::thread_pool& of(uid_t uid);
  // For reports on all users at once. They leave out whoever does not answer, so they seldom meet
  // one who holds them up.
  boost::asio::thread_pool& reports() { return reports_; }

  // For reading the settings again, one time after the other. No client has work done there.
  boost::asio::thread_pool& settings() { return settings_; }

  // Waits for what has begun, and drops the rest; false where something did not come to an end
  // until then: this object must then not be destroyed.
  [[nodiscard]] bool stop(std::chrono::steady_clock::time_point deadline);

 private:
  boost::asio::thread_pool reports_{2};
  boost::asio::thread_pool settings_{1};
  std::map<uid_t, std::unique_ptr<boost::asio::thread_pool>> by_user_;
};

}  // namespace faultline::server
