#include "daemon/wait/wait_service.hpp"

#include <fcntl.h>

#include <future>
#include <utility>

#include "daemon/kernel/futex.hpp"

namespace faultline::wait {

namespace {

Result<UniqueFd> copy_of(int fd) {
  UniqueFd copy{::fcntl(fd, F_DUPFD_CLOEXEC, 0)};
  if (!copy) return fail_errno("duplicating a descriptor of a channel");
  return copy;
}

// Words move for as long as it takes to have the waits that hang on them queued elsewhere. Others
// may begin to before this one has its turn.
template <typename Wake>
Result<int> wake_settled(const WordTable& words, Wake wake) {
  const auto give_up = std::chrono::steady_clock::now() + WaitService::kSettleWithin;
  for (;;) {
    auto woken = wake();
    if (woken || woken.error().code() != EBUSY || !words.await_settled(give_up)) return woken;
    if (std::chrono::steady_clock::now() > give_up) return woken;
  }
}

}  // namespace

Result<UserWaits*> WaitService::user_locked(uid_t uid) {
  const auto found = users_.find(uid);
  if (found != users_.end()) return found->second.get();
  auto user = UserWaits::create(unqueued_, signal_);
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
  opened.client->home = space.worker;
  const auto of = space.space.lock();
  opened.client->reads = of ? of->message_reads() : std::make_shared<space::MessageReads>();
  opened.client->channel = std::move(*channel);
  opened.client->keeper = &user->worker().keeper();
  user->enter(opened.client);
  return opened;
}

void WaitService::close(const std::shared_ptr<Client>& client) {
  user_of(*client).leave(client);
}

bool WaitService::settle(std::chrono::steady_clock::time_point deadline) {
  // A worker reads its letters between requests, so this one comes after those under way.
  bool all = true;
  for (UserWaits* user : users_of(std::nullopt)) {
    auto done = std::make_shared<std::promise<void>>();
    auto settled = done->get_future();
    if (!user->worker().post([done] { done->set_value(); })) continue;
    all = settled.wait_until(deadline) == std::future_status::ready && all;
  }
  return all;
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

void WaitService::remove_target(const std::shared_ptr<Client>& client, std::uint32_t number,
                                std::function<void(Status)> done) {
  user_of(*client).worker().post([client, number, done = std::move(done)] {
    if (number >= client->targets.size() || !client->targets[number]) {
      return done(fail(ENOENT, "removing a target that there is not"));
    }
    client->targets[number].reset();
    done({});
  });
}

std::vector<UserWaits*> WaitService::users_of(std::optional<uid_t> only_of) const {
  std::vector<UserWaits*> users;
  const std::lock_guard lock(mutex_);
  for (const auto& [uid, user] : users_) {
    if (!only_of || *only_of == uid) users.push_back(user.get());
  }
  return users;
}

WaitService::Counts WaitService::counts() const {
  Counts counts;
  for (const UserWaits* user : users_of(std::nullopt)) {
    counts.clients += user->client_count();
    counts.kept += user->words().hooks();
    counts.totals += user->worker().totals();
    counts.letters += user->worker().letters();
  }
  return counts;
}

std::vector<kernel::WatchedThread> WaitService::threads() const {
  const std::lock_guard lock(mutex_);
  std::vector<kernel::WatchedThread> all;
  for (const auto& [uid, user] : users_) all.push_back({user->worker().pulse(), uid});
  return all;
}

ShownWaits WaitService::waits_of(uid_t uid, SpaceId space, std::size_t most) const {
  for (const UserWaits* user : users_of(uid)) {
    if (const auto client = user->client_of(space)) {
      return wait::waits_of(*client, user->words(), most);
    }
  }
  return {};
}

Result<int> WaitService::wake(memory::MemoryObject& object, ByteCount offset, int count) {
  const auto give_up = std::chrono::steady_clock::now() + kSettleWithin;
  for (;;) {
    const auto there = std::make_shared<std::promise<void>>();
    auto woken = unqueued_.wake_at_object(object, offset, count, kernel::kEveryBit,
                                          [there] { there->set_value(); });
    if (woken || woken.error().code() != EBUSY ||
        there->get_future().wait_until(give_up) != std::future_status::ready) {
      return woken;
    }
  }
}

Result<int> WaitService::wake(std::optional<uid_t> only_of, SpaceId space, Vaddr address,
                              int count) {
  for (UserWaits* user : users_of(only_of)) {
    if (user->client_of(space) == nullptr) continue;
    return wake_settled(user->words(), [&] { return user->words().wake(space, address, count); });
  }
  return fail(ESRCH, "waking in address space " + std::to_string(space.value()) +
                         ", which is none that you may see, or has no channel");
}

Result<int> WaitService::wake(std::optional<uid_t> only_of, space::FrameId frame,
                              std::uint64_t offset, int count) {
  int woken = 0;
  for (UserWaits* user : users_of(only_of)) {
    auto here = wake_settled(user->words(),
                             [&] { return user->words().wake(frame, offset, count - woken); });
    if (!here) return here;
    woken += *here;
  }
  return woken;
}

}  // namespace faultline::wait
