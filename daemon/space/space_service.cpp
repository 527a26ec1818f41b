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

// How long a command may wait for the client's other threads to come to the end of a fork or an
// unmap.
constexpr std::chrono::seconds kRestWithin{5};

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

Result<std::unique_ptr<SpaceService>> SpaceService::create(const Limits& limits,
                                                           Observers observers) {
  std::unique_ptr<SpaceService> service{new SpaceService(limits, std::move(observers))};
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
  user.domain = std::make_unique<epoch::Domain>("uid " + std::to_string(uid));
  user.observer = &nobody_observes();
  if (observers_) {
    auto observer = observers_(uid);
    if (!observer) return propagate(observer);
    user.observer = *observer;
  }
  for (unsigned i = 0; i < limits_.workers_per_user; ++i) {
    auto worker = FaultWorker::create(i, *this);
    if (!worker) return propagate(worker);
    user.members.push_back({std::move(*worker), 0});
  }
  for (const Member& member : user.members) {
    std::vector<FaultWorker*> siblings;
    for (const Member& other : user.members) {
      if (&other != &member) siblings.push_back(other.worker.get());
    }
    member.worker->set_siblings(std::move(siblings));
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
  past_ += space.counters();
  known_.erase(found);
}

std::size_t SpaceService::space_count() const {
  const std::lock_guard lock(mutex_);
  return known_.size();
}

void SpaceService::attach_new(kernel::ForeignFd userfaultfd, Owner owner, Vaddr beacon,
                              Callback<SpaceRef> done) {
  FaultWorker* worker = nullptr;
  epoch::Domain* domain = nullptr;
  SpaceObserver* observer = nullptr;
  {
    const std::lock_guard lock(mutex_);
    auto user = user_locked(owner.uid);
    if (!user) return done(propagate(user));
    if ((*user)->spaces() >= limits_.spaces_per_user) {
      return done(fail(EUSERS, "connecting beyond max_spaces_per_user, " +
                                   std::to_string(limits_.spaces_per_user)));
    }
    worker = (*user)->least_loaded().worker.get();
    domain = (*user)->domain.get();
    observer = (*user)->observer;
  }
  // On a worker, because the ioctls wait for the client's memory map, which the client can hold
  // long.
  auto fd = std::make_shared<kernel::ForeignFd>(std::move(userfaultfd));
  worker->post([this, fd, owner, beacon, domain, observer, done = std::move(done)] {
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
                                                std::make_shared<HandleTable>(), beacon,
                                                Surroundings{*domain, feed_, *observer});
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
    ref = SpaceRef{known.id, known.member->worker.get(), known.space, known.handles, known.features,
                   known.uid};
  }
  ref.worker->post([weak = ref.space, pid = owner.pid] {
    if (const auto space = weak.lock()) space->set_pid(pid);
    return true;
  });
  return ref;
}

void SpaceService::command(const SpaceRef& ref, std::function<Status(AddressSpace&)> step,
                           std::function<void(Status)> done) {
  const auto give_up = std::chrono::steady_clock::now() + kRestWithin;
  ref.worker->post([weak = ref.space, step = std::move(step), done = std::move(done), give_up] {
    const auto space = weak.lock();
    Status result = space ? step(*space) : Status(gone_error());
    if (!result && result.error().code() == EAGAIN && std::chrono::steady_clock::now() < give_up) {
      return false;
    }
    done(std::move(result));
    return true;
  });
}

void SpaceService::map(const SpaceRef& ref, MapRequest request, std::function<void(Status)> done) {
  command(
      ref, [request = std::move(request)](AddressSpace& space) { return space.map(request); },
      std::move(done));
}

void SpaceService::protect(const SpaceRef& ref, VaRange range, bool writable,
                           std::function<void(Status)> done) {
  command(
      ref, [range, writable](AddressSpace& space) { return space.protect(range, writable); },
      std::move(done));
}

void SpaceService::advise(const SpaceRef& ref, VaRange range, Advice advice,
                          std::function<void(Status)> done) {
  command(
      ref, [range, advice](AddressSpace& space) { return space.advise(range, advice); },
      std::move(done));
}

void SpaceService::rediscover(const SpaceRef& ref, VaRange range,
                              std::function<void(Status)> done) {
  command(
      ref, [range](AddressSpace& space) { return space.rediscover(range); }, std::move(done));
}

void SpaceService::guard_pages(const SpaceRef& ref, std::function<void(Status)> done) {
  command(
      ref, [](AddressSpace& space) { return space.guard_pages(); }, std::move(done));
}

void SpaceService::populate(const SpaceRef& ref, VaRange range, bool write,
                            std::function<void()> ended,
                            const Callback<std::shared_ptr<PopulateJob>>& done) {
  const auto space = ref.space.lock();
  if (!space) return done(gone_error());
  if (!space->covers(range)) {
    return done(fail(ENOENT, "populating a range of which not all is mapped"));
  }
  done(RangePopulateJob::start(*ref.worker, space, range, write, std::move(ended)));
}

void SpaceService::after_events(const SpaceRef& ref, std::function<void()> step) {
  ref.worker->post([weak = ref.space, step = std::move(step)] {
    if (const auto space = weak.lock()) space->after_events();
    step();
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
    done(space ? Result<SpaceSnapshot>(space->settled_snapshot())
               : Result<SpaceSnapshot>(gone_error()));
    return true;
  });
}

Overview SpaceService::overview() const {
  Overview overview;
  std::vector<std::shared_ptr<AddressSpace>> spaces;
  {
    const std::lock_guard lock(mutex_);
    overview.total = past_;
    for (const auto& [cookie, known] : known_) {
      if (auto space = known.space.lock()) spaces.push_back(std::move(space));
    }
    for (const auto& [uid, user] : users_) {
      const epoch::Domain::Status status = user.domain->status();
      overview.reclamation.pending += status.pending;
      overview.reclamation.grace_periods += status.grace_periods;
      overview.reclamation.callbacks_run += status.callbacks_run;
      if (status.oldest_section > overview.reclamation.oldest_section) {
        overview.reclamation.oldest_section = status.oldest_section;
        overview.reclamation.oldest_thread = status.oldest_thread;
      }
    }
  }
  for (const auto& space : spaces) {
    overview.total += space->counters();
    if (!space->dead()) overview.spaces.push_back(space->snapshot());
  }
  return overview;
}

void SpaceService::session_closed(const SpaceRef& ref) {
  ref.worker->post([weak = ref.space] {
    if (const auto space = weak.lock()) space->session_closed();
    return true;
  });
}

}  // namespace faultline::space
