#include "daemon/wait/deliveries.hpp"

#include <algorithm>
#include <cerrno>
#include <iterator>

#include "daemon/kernel/log_budget.hpp"

namespace faultline::wait {

bool Deliveries::send(BrokeredWait& wait) {
  switch (wait.delivery) {
    case wire::Delivery::queue:
      wait.client->tell(wait);
      announce_to(wait.client);
      return true;
    case wire::Delivery::target:
      if (wait.target->kind == Target::Kind::ring) {
        wait.state = BrokeredWait::State::delivering;
        ring_.message(wait, wait.target->fd.get(), wait.user_data, wait.outcome);
        return false;
      }
      if (auto done = signal_->signal(wait.target->fd); !done) {
        kernel::log_budget_of(wait.client->uid)
            .log(log::Level::error, {.uid = wait.client->uid, .error = done.error().code()},
                 "a client waits in vain: {}", done.error().message());
      }
      return true;
    case wire::Delivery::record:
      break;  // told with all the words of its thread
  }
  return true;
}

bool Deliveries::delivered(BrokeredWait& wait, int result) {
  wait.state = BrokeredWait::State::over;
  if (result == -EOVERFLOW || result == -ENOMEM || result == -EAGAIN) {
    undelivered_.push_back(&wait);
    return false;
  }
  if (result < 0) {
    kernel::log_budget_of(wait.client->uid)
        .log(log::Level::error, {.uid = wait.client->uid, .error = -result},
             "a completion for a client's io_uring is lost: {}",
             std::generic_category().message(-result));
    if (wait.outcome == 0) wakes_.hand_on(Woken(wait));
  }
  return true;
}

std::vector<BrokeredWait*> Deliveries::take_undelivered_of(const Client& client) {
  const auto theirs = std::stable_partition(
      undelivered_.begin(), undelivered_.end(),
      [&](const BrokeredWait* wait) { return wait->client.get() != &client; });
  std::vector<BrokeredWait*> taken(theirs, undelivered_.end());
  undelivered_.erase(theirs, undelivered_.end());
  return taken;
}

void Deliveries::announce_to(const std::shared_ptr<Client>& client) {
  if (to_be_told_.empty() || to_be_told_.back() != client) to_be_told_.push_back(client);
}

void Deliveries::announce() {
  for (const auto& client : to_be_told_) client->channel->announce();
  to_be_told_.clear();
}

}  // namespace faultline::wait
