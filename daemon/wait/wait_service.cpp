#include "daemon/wait/wait_service.hpp"

#include <fcntl.h>

#include <utility>

namespace faultline::wait {

namespace {

Result<UniqueFd> copy_of(int fd) {
  UniqueFd copy{::fcntl(fd, F_DUPFD_CLOEXEC, 0)};
  if (!copy) return fail_errno("duplicating a descriptor of a channel");
  return copy;
}

}  // namespace

Result<UserWaits*> WaitService::user_locked(uid_t uid) {
  const auto found = users_.find(uid);
  if (found != users_.end()) return found->second.get();
  auto user = UserWaits::create(absent_, signal_);
  if (!user) return propagate(user);
  return users_.emplace(uid, std::move(*user)).first->second.get();
}

UserWaits& WaitService::user_of(const Client& client) {
  const std::lock_guard lock(mutex_);
  return *users_.at(client.uid);
}

Result<space::SpaceObserver*> WaitService::observer_of(uid_t uid) {
  const std::lock_guard lock(mutex_);
  auto user = user_locked(uid);
  if (!user) return propagate(user);
  return *user;
}

Result<WaitService::Opened> WaitService::open(uid_t uid, const space::SpaceRef& space,
                                              kernel::ForeignFd records) {
  UserWaits* user = nullptr;
  {
    const std::lock_guard lock(mutex_);
    auto known = user_locked(uid);
    if (!known) return propagate(known);
    user = *known;
  }
  auto channel = channel::Channel::create(std::move(records));
  if (!channel) return propagate(channel);
  auto doorbell = copy_of((*channel)->doorbell_fd());
  if (!doorbell) return propagate(doorbell);
  auto lot = copy_of(user->words().lot_fd());
  if (!lot) return propagate(lot);
  Opened opened{std::make_shared<Client>(), (*channel)->take_rings_fd(), std::move(*doorbell),
                std::move(*lot)};
  opened.client->space_id = space.id;
  opened.client->uid = uid;
  opened.client->space = space.space;
  opened.client->channel = std::move(*channel);
  opened.client->worker = &user->worker();
  user->enter(opened.client);
  return opened;
}

void WaitService::close(const std::shared_ptr<Client>& client) {
  user_of(*client).leave(client);
}

void WaitService::add_target(const std::shared_ptr<Client>& client, Target target,
                             std::function<void(Result<std::uint32_t>)> done) {
  auto shared = std::make_shared<Target>(std::move(target));
  user_of(*client).worker().post([client, shared = std::move(shared), done = std::move(done)] {
    auto& targets = client->targets;
    std::size_t place = 0;
    while (place < targets.size() && targets[place]) ++place;
    if (place == Client::kMostTargets) {
      return done(fail(EUSERS, "having completions sent to more than " +
                                   std::to_string(Client::kMostTargets) + " descriptors"));
    }
    if (place == targets.size()) targets.emplace_back();
    targets[place] = shared;
    done(static_cast<std::uint32_t>(place));
  });
}

void WaitService::remove_target(const std::shared_ptr<Client>& client, std::uint32_t number) {
  user_of(*client).worker().post([client, number] {
    if (number < client->targets.size()) client->targets[number].reset();
  });
}

}  // namespace faultline::wait
