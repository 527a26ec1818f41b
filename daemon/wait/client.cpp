#include "daemon/wait/client.hpp"

#include "daemon/wait/brokered_wait.hpp"

namespace faultline::wait {

Woken::Woken(const BrokeredWait& wait)
    : object(wait.object),
      offset(wait.offset),
      space(wait.client->space_id),
      address(wait.address),
      in_page(wait.in_page),
      frame(wait.frame),
      mask(wait.mask),
      woken(wait.outcome == 0) {}

space::VmaRef Client::vma_at(Vaddr address) const {
  const auto mapped_in = space.lock();
  return mapped_in ? mapped_in->find(address) : space::VmaRef{};
}

bool Client::has(const space::Vma& vma, Vaddr address) const {
  const space::VmaRef now = vma_at(address);
  return now && now->activity == vma.activity;
}

void Client::tell(const BrokeredWait& wait) {
  told.emplace_back(wait);
  channel->complete({wait.user_data, wait.outcome, 0});
  const std::size_t untaken = channel->not_taken() + channel->kept();
  while (told.size() > untaken) told.pop_front();
}

std::deque<Woken> Client::take_untaken() {
  const std::size_t untaken = channel->not_taken() + channel->kept();
  while (told.size() > untaken) told.pop_front();
  std::erase_if(told, [](const Woken& completion) { return !completion.woken; });
  return std::exchange(told, {});
}

}  // namespace faultline::wait
