// Waiting and waking for all users, as the server uses it. Must never let two users share a worker
// or a lot: each could hold the other's up, or swallow its wakes.
//
// Locking: mutex_ guards users_; nothing is called under it that takes another lock but to make a
// user. Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "daemon/space/space_service.hpp"
#include "daemon/wait/user_waits.hpp"

namespace faultline::wait {

class WaitService {
 public:
  explicit WaitService(std::shared_ptr<kernel::EventSignal> signal) : signal_(std::move(signal)) {}
  WaitService(const WaitService&) = delete;
  WaitService& operator=(const WaitService&) = delete;
  ~WaitService() = default;

  // Who observes the spaces of a user. Errors: as UserWaits::create.
  Result<space::SpaceObserver*> observer_of(uid_t uid);

  // A client's channel, and what it is to be sent.
  struct Opened {
    std::shared_ptr<Client> client;
    UniqueFd rings;
    UniqueFd doorbell;
    UniqueFd lot;
  };
  // uid: of the address space. Errors: as Channel::create.
  Result<Opened> open(uid_t uid, const space::SpaceRef& space, kernel::ForeignFd records);
  void close(const std::shared_ptr<Client>& client);

  // Where completions of the client can go. done: with the number of the target. Errors: EUSERS.
  void add_target(const std::shared_ptr<Client>& client, Target target,
                  std::function<void(Result<std::uint32_t>)> done);
  void remove_target(const std::shared_ptr<Client>& client, std::uint32_t number);

 private:
  Result<UserWaits*> user_locked(uid_t uid);
  UserWaits& user_of(const Client& client);

  const std::shared_ptr<kernel::EventSignal> signal_;
  AbsentWaits absent_;
  std::mutex mutex_;
  std::map<uid_t, std::unique_ptr<UserWaits>> users_;  // none is ever taken out
};

}  // namespace faultline::wait
