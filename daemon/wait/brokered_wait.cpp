#include "daemon/wait/brokered_wait.hpp"

namespace faultline::wait {

BrokeredWait::BrokeredWait(std::shared_ptr<Client> its_client, const wire::Submission& asked)
    : client(std::move(its_client)),
      user_data(asked.user_data),
      expected(asked.expected),
      address(asked.address),
      mask(asked.mask),
      record(asked.record),
      request(asked.request),
      delivery(asked.delivery),
      size(static_cast<std::uint8_t>(asked.size)) {}

void BrokeredWait::on_complete(int result) {
  if (state == State::delivering) {
    client->keeper->delivered(*this, result);
  } else {
    client->keeper->left(*this, result);
  }
}

}  // namespace faultline::wait
