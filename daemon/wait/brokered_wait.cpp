#include "daemon/wait/brokered_wait.hpp"

#include "daemon/wait/wait_worker.hpp"

namespace faultline::wait {

BrokeredWait::BrokeredWait(WaitWorker& its_worker, std::shared_ptr<Client> its_client,
                           const wire::Submission& asked)
    : worker(its_worker),
      client(std::move(its_client)),
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
    worker.delivered(*this, result);
  } else {
    worker.left(*this, result);
  }
}

}  // namespace faultline::wait
