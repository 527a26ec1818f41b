#include "daemon/wait/client.hpp"

#include "daemon/wait/brokered_wait.hpp"

namespace faultline::wait {

void Client::tell(const BrokeredWait& wait) {
  told.push_back({wait.address, wait.outcome == 0});
  channel->complete({wait.user_data, wait.outcome, 0});
  const std::size_t untaken = channel->not_taken() + channel->kept();
  while (told.size() > untaken) told.pop_front();
}

std::deque<Client::Told> Client::take_untaken() {
  const std::size_t untaken = channel->not_taken() + channel->kept();
  while (told.size() > untaken) told.pop_front();
  std::erase_if(told, [](const Told& completion) { return !completion.woken; });
  return std::exchange(told, {});
}

}  // namespace faultline::wait
