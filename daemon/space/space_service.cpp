#include "daemon/space/space_service.hpp"

#include <algorithm>
#include <utility>

namespace faultline::space {

namespace {

tl::unexpected<Error> gone_error() {
  return fail(ESRCH, "reaching an address space that is gone");
}

// How long a mapping may wait for the client's other threads to come to the end of a fork or an
// unmap.
constexpr std::chrono::seconds kMapWithin{5};

}  // namespace

Result<std::unique_ptr<SpaceService>> SpaceService::create(unsigned workers) {
  std::unique_ptr<SpaceService> service{new SpaceService()};
  service->load_.assign(workers, 0);
  for (unsigned i = 0; i < workers; ++i) {
    auto worker = FaultWorker::create(i, *service);
    if (!worker) return propagate(worker);
    service->workers_.push_back(std::move(*worker));
  }
  return service;
}

SpaceService::~SpaceService() {
  stop();
}

void SpaceService::stop() {
  for (auto& worker : workers_) worker->begin_stop();
  for (auto& worker : workers_) worker->join();
}

void SpaceService::place(std::shared_ptr<AddressSpace> space) {
  std::size_t chosen = 0;
  {
    const std::lock_guard lock(mutex_);
    chosen = static_cast<std::size_t>(
        std::distance(load_.begin(), std::min_element(load_.begin(), load_.end())));
    ++load_.at(chosen);
    known_.emplace(space->cookie(), Known{space, chosen, space->owner().uid, space->handles(),
                                          space->features(), space->id()});
  }
  // A child forked while the daemon stops: its worker may have ended already.
  if (!workers_.at(chosen)->take(space)) space->retire();
}

void SpaceService::gone(const AddressSpace& space) {
  const std::lock_guard lock(mutex_);
  const auto found = known_.find(space.cookie());
  if (found == known_.end()) return;
  --load_.at(found->second.worker);
  known_.erase(found);
}

std::size_t SpaceService::space_count() const {
  const std::lock_guard lock(mutex_);
  return known_.size();
}

void SpaceService::attach_new(UniqueFd userfaultfd, Owner owner, Vaddr beacon,
                              Callback<SpaceRef> done) {
  // On a worker, because the ioctls wait for the client's memory map, which the client can hold
  // long.
  FaultWorker& worker = *workers_.front();
  auto fd = std::make_shared<UniqueFd>(std::move(userfaultfd));
  worker.post([this, fd, owner, beacon, done = std::move(done)] {
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
    ref = SpaceRef{known.id, workers_.at(known.worker).get(), known.space, known.handles,
                   known.features};
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

void SpaceService::overview(std::function<void(Overview)> done) {
  struct Gathering {
    std::mutex mutex;
    Overview all;
    std::size_t missing = 0;
    std::function<void(Overview)> done;
  };
  auto gathering = std::make_shared<Gathering>();
  gathering->missing = workers_.size();
  gathering->done = std::move(done);
  for (auto& worker : workers_) {
    worker->post([gathering, from = worker.get()] {
      bool last = false;
      {
        const std::lock_guard lock(gathering->mutex);
        gathering->all.total += from->past();
        for (const auto& space : from->spaces()) {
          gathering->all.total += space->counters();
          if (!space->dead()) gathering->all.spaces.push_back(space->snapshot());
        }
        last = --gathering->missing == 0;
      }
      if (last) gathering->done(std::move(gathering->all));
      return true;
    });
  }
}

void SpaceService::session_closed(const SpaceRef& ref) {
  ref.worker->post([weak = ref.space] {
    if (const auto space = weak.lock()) space->session_closed();
    return true;
  });
}

}  // namespace faultline::space
