#include "daemon/space/space_service.hpp"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <set>
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

void add(epoch::Domain::Status& sum, const epoch::Domain::Status& status) {
  sum.pending += status.pending;
  sum.grace_periods += status.grace_periods;
  sum.callbacks_run += status.callbacks_run;
  sum.grace += status.grace;
  if (status.oldest_section > sum.oldest_section) {
    sum.oldest_section = status.oldest_section;
    sum.oldest_thread = status.oldest_thread;
  }
}

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
    ++refused_users_;
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

std::vector<kernel::WatchedThread> SpaceService::threads() const {
  const std::lock_guard lock(mutex_);
  std::vector<kernel::WatchedThread> all;
  for (const auto& [uid, user] : users_) {
    for (const Member& member : user.members) all.push_back({member.worker->pulse(), uid});
  }
  return all;
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
  std::size_t most = 0;
  bool too_many = false;
  {
    const std::lock_guard lock(mutex_);
    User& user = users_.at(space->owner().uid);  // its own, or its parent's, who has workers
    most = limits_.spaces_per_user;
    too_many = user.spaces() >= most;
    refused_spaces_ += too_many ? 1 : 0;
    Member& member = user.least_loaded();
    ++member.spaces;
    worker = member.worker.get();
    known_.emplace(space->cookie(), Known{space, &member, space->owner().uid, space->handles(),
                                          space->features(), space->id()});
  }
  if (too_many) {
    kernel::log_budget_of(space->owner().uid)
        .log(log::Level::error, {.uid = space->owner().uid},
             "uid {} has {} address spaces: a further fork child is not served", space->owner().uid,
             most);
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

void SpaceService::set_spaces_per_user(std::size_t most) {
  const std::lock_guard lock(mutex_);
  limits_.spaces_per_user = most;
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
      ++refused_spaces_;
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

void SpaceService::publish_frames(const SpaceRef& ref, Vaddr address,
                                  Callback<AddressSpace::Frames> done) {
  ref.worker->post([weak = ref.space, address, done = std::move(done)] {
    const auto space = weak.lock();
    done(space ? space->publish_frames(address) : Result<AddressSpace::Frames>(gone_error()));
    return true;
  });
}

void SpaceService::populate(const SpaceRef& ref, VaRange range, bool write,
                            std::function<void()> ended,
                            const Callback<std::shared_ptr<PopulateJob>>& done) {
  const auto space = ref.space.lock();
  if (!space) return done(gone_error());
  if (!space->covers(range)) {
    return done(fail(ENOENT, "populating a range of which not all is mapped"));
  }
  if (!space->whole_pages(range)) {
    return done(fail(EINVAL, "populating a range that begins or ends within a page of 2 MiB"));
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

// How many spaces have not yet been made sure of.
class SpaceService::StoreStop {
 public:
  void begin_one() {
    const std::lock_guard lock(mutex_);
    ++left_;
  }
  void end_one(bool sure) {
    const std::lock_guard lock(mutex_);
    all_sure_ = all_sure_ && sure;
    if (--left_ == 0) ended_.notify_all();
  }
  [[nodiscard]] bool wait(std::chrono::steady_clock::time_point deadline) {
    std::unique_lock lock(mutex_);
    const bool ended = ended_.wait_until(lock, deadline, [this] { return left_ == 0; });
    return ended && all_sure_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  std::size_t left_ = 0;
  bool all_sure_ = true;
};

bool SpaceService::stop_stores(const std::shared_ptr<memory::MemoryObject>& object,
                               std::vector<memory::PageRun> pages,
                               std::chrono::steady_clock::time_point deadline) {
  const auto runs = std::make_shared<const std::vector<memory::PageRun>>(std::move(pages));
  const auto stop = std::make_shared<StoreStop>();
  std::set<SpaceId> asked;
  for (;;) {
    std::vector<std::pair<FaultWorker*, std::shared_ptr<AddressSpace>>> spaces;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [cookie, known] : known_) {
        if (!asked.insert(known.id).second) continue;
        if (auto space = known.space.lock()) spaces.emplace_back(known.member->worker.get(), space);
      }
    }
    std::erase_if(spaces,
                  [&](const auto& each) { return !each.second->may_store(*object, *runs); });
    // A child that was forked meanwhile, before its parent was protected, is found in the next
    // round.
    if (spaces.empty()) return true;
    for (auto& [worker, space] : spaces) {
      stop->begin_one();
      worker->post([stop, object, runs, deadline, weak = std::weak_ptr(space)] {
        const auto there = weak.lock();
        const Status stopped = there ? there->stop_stores(*object, *runs) : Status{};
        const int error = stopped ? 0 : stopped.error().code();
        if (error == EAGAIN && std::chrono::steady_clock::now() < deadline) return false;
        stop->end_one(error == 0 || error == ESRCH);
        return true;
      });
    }
    spaces.clear();  // or the last reference to one that ends could be this thread's
    if (!stop->wait(deadline)) return false;
  }
}

void SpaceService::drop_swapped(const SpaceRef& ref, VaRange range, Callback<bool> done) {
  const auto again = std::make_shared<bool>(false);
  command(
      ref,
      [range, again](AddressSpace& space) -> Status {
        if (!space.covers(range)) {
          return fail(ENOENT, "discarding a range of which not all is mapped");
        }
        bool settled = true;
        for (const Vma& vma : space.mapped_in(range)) {
          if (vma.sharing != Sharing::shared || !vma.may_write) {
            return fail(ENOENT, "discarding a range of which not all is mapped shared");
          }
          settled = vma.object->drop_swapped(vma.first, vma.pages()) && settled;
        }
        if (settled) return {};
        *again = true;
        return fail(EAGAIN, "discarding pages on their way to or from the swap file");
      },
      [again, done = std::move(done)](Status status) {
        done(status ? Result<bool>(*again) : Result<bool>(propagate(status)));
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

std::vector<std::shared_ptr<AddressSpace>> SpaceService::spaces_locked() const {
  std::vector<std::shared_ptr<AddressSpace>> spaces;
  for (const auto& [cookie, known] : known_) {
    if (auto space = known.space.lock()) spaces.push_back(std::move(space));
  }
  return spaces;
}

std::vector<ObjectMappings> SpaceService::mappings_of(const memory::MemoryObject& object) const {
  std::vector<std::shared_ptr<AddressSpace>> spaces;
  {
    const std::lock_guard lock(mutex_);
    spaces = spaces_locked();
  }
  std::vector<ObjectMappings> all;
  for (const auto& space : spaces) {
    if (space->dead()) continue;
    auto vmas = space->mapped_of(object);
    if (!vmas.empty()) all.push_back({space->id(), space->owner(), std::move(vmas)});
  }
  return all;
}

Overview SpaceService::overview() const {
  Overview overview;
  std::vector<std::shared_ptr<AddressSpace>> spaces;
  {
    const std::lock_guard lock(mutex_);
    overview.total = past_;
    spaces = spaces_locked();
    for (const auto& [uid, user] : users_) {
      add(overview.reclamation, user.domain->status());
    }
  }
  for (const auto& space : spaces) {
    overview.total += space->counters();
    if (!space->dead()) overview.spaces.push_back(space->snapshot());
  }
  return overview;
}

SpaceTotals SpaceService::totals() const {
  SpaceTotals totals;
  std::vector<const FaultWorker*> workers;
  std::vector<const epoch::Domain*> domains;
  {
    // Neither ever goes: they are summed up without the lock, which connecting clients want.
    const std::lock_guard lock(mutex_);
    totals.spaces = known_.size();
    totals.refused_spaces = refused_spaces_;
    totals.refused_users = refused_users_;
    for (const auto& [uid, user] : users_) {
      domains.push_back(user.domain.get());
      for (const Member& member : user.members) workers.push_back(member.worker.get());
    }
  }
  totals.workers = workers.size();
  for (const epoch::Domain* domain : domains) add(totals.reclamation, domain->status());
  for (const FaultWorker* worker : workers) {
    totals.faults += worker->totals();
    totals.letters += worker->letters();
  }
  return totals;
}

void SpaceService::session_closed(const SpaceRef& ref) {
  ref.worker->post([weak = ref.space] {
    if (const auto space = weak.lock()) space->session_closed();
    return true;
  });
}

}  // namespace faultline::space
