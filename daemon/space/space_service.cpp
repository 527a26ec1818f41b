#include "daemon/space/space_service.hpp"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "daemon/kernel/log_budget.hpp"

namespace faultline::space {

namespace {

tl::unexpected<Error> gone_error() {
  return fail(ESRCH, "reaching an address space that is gone");
}

// How long a mapping may wait for the client's other threads to come to the end of a fork or an
// unmap.
constexpr std::chrono::seconds kMapWithin{5};

}  // namespace

std::size_t SpaceService::User::spaces() const {
  std::size_t sum = 0;
  for (const Member& member : members) sum += member.spaces;
  return sum;
}

SpaceService::Member& SpaceService::User::least_loaded() {
  return *std::min_element(members.begin(), members.end(),
                           [](const Member& a, const Member& b) { return a.spaces < b.spaces; });
}

Result<std::unique_ptr<SpaceService>> SpaceService::create(const Limits& limits) {
  std::unique_ptr<SpaceService> service{new SpaceService(limits)};
  // Most daemons serve their own user; and where no ring can be made, now is the time to say so.
  const std::lock_guard lock(service->mutex_);
  if (auto own = service->user_locked(::geteuid()); !own) return propagate(own);
  return service;
}

Result<SpaceService::User*> SpaceService::user_locked(uid_t uid) {
  const auto found = users_.find(uid);
  if (found != users_.end()) return &found->second;
  if (users_.size() >= limits_.users) {
    return fail(EUSERS, "serving more than " + std::to_string(limits_.users) + " users");
  }
  User user;
  for (unsigned i = 0; i < limits_.workers_per_user; ++i) {
    auto worker = FaultWorker::create(i, *this);
    if (!worker) return propagate(worker);
    user.members.push_back({std::move(*worker), 0});
  }
  return &users_.emplace(uid, std::move(user)).first->second;
}

std::vector<FaultWorker*> SpaceService::workers() const {
  const std::lock_guard lock(mutex_);
  std::vector<FaultWorker*> all;
  for (const auto& [uid, user] : users_) {
    for (const Member& member : user.members) all.push_back(member.worker.get());
  }
  return all;
}

std::size_t SpaceService::worker_count() const {
  return workers().size();
}

bool SpaceService::stop(std::chrono::steady_clock::time_point deadline) {
  const std::vector<FaultWorker*> all = workers();
  for (FaultWorker* worker : all) worker->begin_stop();
  bool ended = true;
  for (FaultWorker* worker : all) ended = worker->join_until(deadline) && ended;
  return ended;
}

void SpaceService::place(std::shared_ptr<AddressSpace> space) {
  FaultWorker* worker = nullptr;
  bool too_many = false;
  {
    const std::lock_guard lock(mutex_);
    User& user = users_.at(space->owner().uid);  // its own, or its parent's, who has workers
    too_many = user.spaces() >= limits_.spaces_per_user;
    Member& member = user.least_loaded();
    ++member.spaces;
    worker = member.worker.get();
    known_.emplace(space->cookie(), Known{space, &member, space->owner().uid, space->handles(),
                                          space->features(), space->id()});
  }
  if (too_many) {
    kernel::log_budget_of(space->owner().uid)
        .log(spdlog::level::err, "uid {} has {} address spaces: a further fork child is not served",
             space->owner().uid, limits_.spaces_per_user);
  }
  // A child forked while the daemon stops: its worker may have ended already.
  const bool placed = too_many ? worker->turn_away(space) : worker->take(space);
  if (!placed) space->retire();
}

void SpaceService::gone(const AddressSpace& space) {
  const std::lock_guard lock(mutex_);
  const auto found = known_.find(space.cookie());
  if (found == known_.end()) return;
  --found->second.member->spaces;
  known_.erase(found);
}

std::size_t SpaceService::space_count() const {
  const std::lock_guard lock(mutex_);
  return known_.size();
}

void SpaceService::attach_new(kernel::ForeignFd userfaultfd, Owner owner, Vaddr beacon,
                              Callback<SpaceRef> done) {
  FaultWorker* worker = nullptr;
  {
    const std::lock_guard lock(mutex_);
    auto user = user_locked(owner.uid);
    if (!user) return done(propagate(user));
    if ((*user)->spaces() >= limits_.spaces_per_user) {
      return done(fail(EUSERS, "connecting beyond max_spaces_per_user, " +
                                   std::to_string(limits_.spaces_per_user)));
    }
    worker = (*user)->least_loaded().worker.get();
  }
  // On a worker, because the ioctls wait for the client's memory map, which the client can hold
  // long.
  auto fd = std::make_shared<kernel::ForeignFd>(std::move(userfaultfd));
  worker->post([this, fd, owner, beacon, done = std::move(done)] {
    auto uffd = kernel::Userfaultfd::adopt(std::move(*fd));
    if (!uffd) {
      done(propagate(uffd));
      return true;
    }
    if (auto watched = uffd->register_anonymous_range(beacon, kBasePage.bytes()); !watched) {
      done(propagate(watched));
      return true;
    }
    auto space = std::make_shared<AddressSpace>(next_space_id(), owner, std::move(*uffd),
                                                std::make_shared<HandleTable>(), beacon);
    const wire::Cookie cookie = space->cookie();
    place(std::move(space));
    done(attach_forked(cookie, owner));
    return true;
  });
}

Result<SpaceRef> SpaceService::attach_forked(const wire::Cookie& cookie, Owner owner) {
  SpaceRef ref;
  {
    const std::lock_guard lock(mutex_);
    const auto found = known_.find(cookie);
    if (found == known_.end()) return fail(ENOENT, "looking up an address space by its cookie");
    const Known& known = found->second;
    // A child may have changed its uid since the fork; only root may speak for another.
    if (owner.uid != known.uid && owner.uid != 0 && known.uid != 0) {
      return fail(EACCES, "attaching to an address space of another user");
    }
    ref =
        SpaceRef{known.id, known.member->worker.get(), known.space, known.handles, known.features};
  }
  ref.worker->post([weak = ref.space, pid = owner.pid] {
    if (const auto space = weak.lock()) space->set_pid(pid);
    return true;
  });
  return ref;
}

void SpaceService::map(const SpaceRef& ref, MapRequest request, std::function<void(Status)> done) {
  const auto give_up = std::chrono::steady_clock::now() + kMapWithin;
  ref.worker->post([weak = ref.space, request = std::move(request), done = std::move(done),
                    give_up] {
    const auto space = weak.lock();
    if (!space) {
      done(gone_error());
      return true;
    }
    Status mapped = space->map(request);
    if (!mapped && mapped.error().code() == EAGAIN && std::chrono::steady_clock::now() < give_up) {
      return false;
    }
    done(std::move(mapped));
    return true;
  });
}

void SpaceService::vma_at(const SpaceRef& ref, Vaddr address, Callback<VmaSnapshot> done) {
  ref.worker->post([weak = ref.space, address, done = std::move(done)] {
    const auto space = weak.lock();
    done(space ? space->vma_at(address) : Result<VmaSnapshot>(gone_error()));
    return true;
  });
}

void SpaceService::snapshot(const SpaceRef& ref, Callback<SpaceSnapshot> done) {
  ref.worker->post([weak = ref.space, done = std::move(done)] {
    const auto space = weak.lock();
    done(space ? Result<SpaceSnapshot>(space->snapshot()) : Result<SpaceSnapshot>(gone_error()));
    return true;
  });
}

std::function<void()> SpaceService::overview(std::function<void(Overview)> done) {
  struct Gathering {
    std::mutex mutex;
    Overview all;
    std::size_t missing = 0;
    std::function<void(Overview)> done;  // empty once it was called
  };
  const auto answer = [](Gathering& gathering, bool anyway) {
    std::unique_lock lock(gathering.mutex);
    if (!gathering.done || (gathering.missing > 0 && !anyway)) return;
    const auto answer_once = std::exchange(gathering.done, nullptr);
    gathering.all.silent_workers = gathering.missing;
    Overview all = std::move(gathering.all);
    lock.unlock();
    answer_once(std::move(all));
  };
  const std::vector<FaultWorker*> asked = workers();
  auto gathering = std::make_shared<Gathering>();
  gathering->missing = asked.size();
  gathering->done = std::move(done);
  for (FaultWorker* worker : asked) {
    worker->post([gathering, worker, answer] {
      {
        const std::lock_guard lock(gathering->mutex);
        gathering->all.total += worker->past();
        for (const auto& space : worker->spaces()) {
          gathering->all.total += space->counters();
          if (!space->dead()) gathering->all.spaces.push_back(space->snapshot());
        }
        --gathering->missing;
      }
      answer(*gathering, false);
      return true;
    });
  }
  return [gathering, answer] { answer(*gathering, true); };
}

void SpaceService::session_closed(const SpaceRef& ref) {
  ref.worker->post([weak = ref.space] {
    if (const auto space = weak.lock()) space->session_closed();
    return true;
  });
}

}  // namespace faultline::space
