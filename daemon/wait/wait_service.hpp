// Waiting and waking for all users, as the server uses it. Must never let two users share a worker
// or a lot: each could hold the other's up, or swallow its wakes.
//
// Locking: mutex_ guards users_; nothing is called under it that takes another lock but to make a
// user. Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "daemon/space/space_service.hpp"
#include "daemon/wait/shown_wait.hpp"
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
  // Returns when everything that clients had asked for before they were closed has been carried
  // out: from then on the spaces of clients that are closed are used no more. False where a worker
  // has not come so far until the deadline.
  [[nodiscard]] bool settle(std::chrono::steady_clock::time_point deadline);

  // Where completions of the client can go. done: with the number of the target. Errors: EUSERS.
  void add_target(const std::shared_ptr<Client>& client, Target target,
                  std::function<void(Result<std::uint32_t>)> done);
  // done: on the worker. ENOENT there is none of that number.
  void remove_target(const std::shared_ptr<Client>& client, std::uint32_t number,
                     std::function<void(Status)> done);

  // --- for those who look, and for rescue; on a thread that may block

  // How long a wake waits for words that are moving.
  static constexpr std::chrono::milliseconds kSettleWithin{1000};

  struct Counts {
    std::size_t clients = 0;  // address spaces with a channel
    std::size_t kept = 0;     // waits that the daemon keeps
    WaitTotals totals;        // of all that it has kept
    std::size_t letters = 0;  // that its workers have not read
  };
  [[nodiscard]] Counts counts() const;
  [[nodiscard]] std::vector<kernel::WatchedThread> threads() const;
  // As waits_of(client, ...); nothing where the space has no channel.
  [[nodiscard]] ShownWaits waits_of(uid_t uid, SpaceId space, std::size_t most) const;

  // Wakes at most count who wait for the object's word, whoever's they are. Returns how many.
  // Blocks for kSettleWithin at most, where the word's page has to come back first: EBUSY then.
  [[nodiscard]] Result<int> wake(memory::MemoryObject& object, ByteCount offset, int count);
  // The same for words in private memory; only_of: among the address spaces of this user alone.
  // Errors: EBUSY a page of the user's was about to part for kSettleWithin; ESRCH no such space
  // that has a channel.
  Result<int> wake(std::optional<uid_t> only_of, SpaceId space, Vaddr address, int count);
  Result<int> wake(std::optional<uid_t> only_of, space::FrameId frame, std::uint64_t offset,
                   int count);

 private:
  [[nodiscard]] std::vector<UserWaits*> users_of(std::optional<uid_t> only_of) const;
  Result<UserWaits*> user_locked(uid_t uid);
  UserWaits& user_of(const Client& client);

  const std::shared_ptr<kernel::EventSignal> signal_;
  UnqueuedWaits unqueued_;
  mutable std::mutex mutex_;
  std::map<uid_t, std::unique_ptr<UserWaits>> users_;  // none is ever taken out
};

}  // namespace faultline::wait
