#include "daemon/server/helpers.hpp"

#include <future>
#include <system_error>
#include <thread>

#include "daemon/kernel/log.hpp"
#include "daemon/kernel/signals.hpp"

namespace faultline::server {

namespace {

namespace asio = boost::asio;

bool join_until(asio::thread_pool& pool, std::chrono::steady_clock::time_point deadline) {
  auto joined = std::make_shared<std::promise<void>>();
  std::thread([&pool, joined] {
    pool.join();
    joined->set_value();
  }).detach();
  return joined->get_future().wait_until(deadline) == std::future_status::ready;
}

}  // namespace

asio::thread_pool& Helpers::of(uid_t uid) {
  std::unique_ptr<asio::thread_pool>& pool = by_user_[uid];
  const kernel::SignalsBlocked none_for_it;
  try {
    if (!pool) pool = std::make_unique<asio::thread_pool>(1);
    return *pool;
  } catch (const std::system_error& error) {
    log::line(log::Level::error, {.uid = uid}, "making a thread for uid {}: {}", uid, error.what());
    return reports_;
  }
}

bool Helpers::stop(std::chrono::steady_clock::time_point deadline) {
  reports_.stop();
  settings_.stop();
  for (const auto& [uid, pool] : by_user_) {
    if (pool) pool->stop();
  }
  bool all = join_until(reports_, deadline);
  all = join_until(settings_, deadline) && all;
  for (const auto& [uid, pool] : by_user_) {
    if (!pool || join_until(*pool, deadline)) continue;
    log::line(log::Level::error, {.uid = uid}, "a file or a process of uid {} holds a helper up",
              uid);
    all = false;
  }
  return all;
}

}  // namespace faultline::server
