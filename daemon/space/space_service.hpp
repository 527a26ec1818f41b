// All address spaces and the workers that serve them, as the server uses them. Must never let two
// users share a worker: a client can hold its worker up in the kernel, by holding the lock of its
// own memory map, which every ioctl on its userfaultfd waits for.
//
// Answers come by callback, on the thread of the worker that has them.
//
// Locking: mutex_ guards the limits, the cookies, the users and their counts of spaces; nothing is
// called under it but the making of a user's workers. Leaf lock.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "daemon/epoch/domain.hpp"
#include "daemon/memory/eviction.hpp"
#include "daemon/space/event_feed.hpp"
#include "daemon/space/fault_worker.hpp"
#include "daemon/space/populate_job.hpp"
#include "daemon/space/space_observer.hpp"

namespace faultline::space {

// An address space as the other threads hold it.
struct SpaceRef {
  SpaceId id;
  FaultWorker* worker = nullptr;
  std::weak_ptr<AddressSpace> space;
  std::shared_ptr<HandleTable> handles;
  kernel::Userfaultfd::Features features;
  uid_t uid = 0;  // whose workers serve it
};

// What there is to show.
struct Overview {
  std::vector<SpaceSnapshot> spaces;  // that live
  FaultCounters total;                // since the daemon started, of spaces that are gone too
  epoch::Domain::Status reclamation;  // of all users: sums, and the oldest reader
};

// Of all users, since the daemon started.
struct SpaceTotals {
  FaultTotals faults;
  epoch::Domain::Status reclamation;  // sums, and the oldest reader
  std::size_t spaces = 0;
  std::size_t workers = 0;
  std::size_t letters = 0;  // that workers have not read
  // How often a limit was met.
  std::uint64_t refused_spaces = 0;
  std::uint64_t refused_users = 0;
};

// Where one address space maps an object.
struct ObjectMappings {
  SpaceId id;
  Owner owner;
  std::vector<Vma> vmas;  // not empty
};

class SpaceService final : public SpaceRegistry {
 public:
  struct Limits {
    unsigned workers_per_user = 1;
    std::size_t spaces_per_user = 4096;
    // Each has threads of their own.
    std::size_t users = 256;
  };

  // Who observes the spaces of a user; stays with them.
  using Observers = std::function<Result<SpaceObserver*>(uid_t)>;
  // Errors: as io_uring_setup(2).
  static Result<std::unique_ptr<SpaceService>> create(const Limits& limits,
                                                      Observers observers = nullptr);

  template <typename T>
  using Callback = std::function<void(Result<T>)>;

  // Takes a userfaultfd that a client made. Errors: as Userfaultfd::adopt; EINVAL and others where
  // the beacon is not a page of anonymous memory of the client's; EUSERS: a limit is reached.
  void attach_new(kernel::ForeignFd userfaultfd, Owner owner, Vaddr beacon,
                  Callback<SpaceRef> done);
  // Finds the space of a fork child. Errors: ENOENT no such cookie; EACCES another uid's.
  Result<SpaceRef> attach_forked(const wire::Cookie& cookie, Owner owner);

  // See the functions of AddressSpace. Where an event is under way they wait for it, but not for
  // ever: EAGAIN.
  void map(const SpaceRef& ref, MapRequest request, std::function<void(Status)> done);
  void protect(const SpaceRef& ref, VaRange range, bool writable, std::function<void(Status)> done);
  void advise(const SpaceRef& ref, VaRange range, Advice advice, std::function<void(Status)> done);
  void rediscover(const SpaceRef& ref, VaRange range, std::function<void(Status)> done);
  void guard_pages(const SpaceRef& ref, std::function<void(Status)> done);
  void publish_frames(const SpaceRef& ref, Vaddr address, Callback<AddressSpace::Frames> done);
  // Starts to make a range resident and to map it. ended is called once, on any thread.
  // Errors: ENOENT not all of it is mapped; ESRCH.
  void populate(const SpaceRef& ref, VaRange range, bool write, std::function<void()> ended,
                const Callback<std::shared_ptr<PopulateJob>>& done);
  // Has no client store to these pages of the object without being asked, see
  // AddressSpace::stop_stores. Blocks, at most until the deadline; false where not all could be
  // made sure of until then, or at all. Thread-safe.
  [[nodiscard]] bool stop_stores(const std::shared_ptr<memory::MemoryObject>& object,
                                 std::vector<memory::PageRun> pages,
                                 std::chrono::steady_clock::time_point deadline);
  // Drops what is in the swap file of the objects behind a range that is mapped shared, and calls
  // done: with true where the memory itself may have some of it again. Errors: ENOENT not all of it
  // is mapped shared; EAGAIN, ESRCH.
  void drop_swapped(const SpaceRef& ref, VaRange range, Callback<bool> done);
  // Calls it, on some thread, when every event that was read before has been carried out.
  void after_events(const SpaceRef& ref, std::function<void()> step);
  void vma_at(const SpaceRef& ref, Vaddr address, Callback<VmaSnapshot> done);
  void snapshot(const SpaceRef& ref, Callback<SpaceSnapshot> done);
  // Takes no worker's time and waits for none. Thread-safe.
  [[nodiscard]] Overview overview() const;
  // The same for who asks often: looks at no space. Thread-safe.
  [[nodiscard]] SpaceTotals totals() const;
  // Of all spaces that live; the same.
  [[nodiscard]] std::vector<ObjectMappings> mappings_of(const memory::MemoryObject& object) const;
  void session_closed(const SpaceRef& ref);

  // Retires every space: no client is left blocked. Blocks, at most until the deadline; false where
  // a client held its worker up, see FaultWorker::join_until.
  [[nodiscard]] bool stop(std::chrono::steady_clock::time_point deadline);

  // For processes that come from now on. Thread-safe.
  void set_spaces_per_user(std::size_t most);

  // Where to watch what happens in all of them.
  EventFeed& feed() { return feed_; }

  [[nodiscard]] std::size_t space_count() const;
  [[nodiscard]] std::size_t worker_count() const;
  [[nodiscard]] std::vector<kernel::WatchedThread> threads() const;

  SpaceId next_space_id() override { return SpaceId{next_id_.fetch_add(1)}; }
  void place(std::shared_ptr<AddressSpace> space) override;
  void gone(const AddressSpace& space) override;

 private:
  struct Member {
    std::unique_ptr<FaultWorker> worker;
    std::size_t spaces = 0;
  };
  // Its members stay as many as they were made, and where they are. A domain of its own, because a
  // worker that a client holds up within a section would hold back what others retire.
  struct User {
    std::unique_ptr<epoch::Domain> domain;
    SpaceObserver* observer = nullptr;
    std::vector<Member> members;
    [[nodiscard]] std::size_t spaces() const;
    [[nodiscard]] Member& least_loaded();
  };
  class StoreStop;
  struct Known {
    std::weak_ptr<AddressSpace> space;
    Member* member = nullptr;
    uid_t uid = 0;
    std::shared_ptr<HandleTable> handles;
    kernel::Userfaultfd::Features features;
    SpaceId id;
  };

  SpaceService(const Limits& limits, Observers observers)
      : limits_(limits), observers_(std::move(observers)) {}
  Result<User*> user_locked(uid_t uid);
  // Has the step done at home of the space, and answers with what it returns; again and again, for
  // a while, where it says EAGAIN.
  void command(const SpaceRef& ref, std::function<Status(AddressSpace&)> step,
               std::function<void(Status)> done);
  [[nodiscard]] std::vector<FaultWorker*> workers() const;
  [[nodiscard]] std::vector<std::shared_ptr<AddressSpace>> spaces_locked() const;

  Limits limits_;
  const Observers observers_;
  EventFeed feed_;  // outlives the workers, who publish
  std::atomic<std::uint64_t> next_id_{1};
  mutable std::mutex mutex_;
  std::map<wire::Cookie, Known> known_;
  FaultCounters past_;  // of spaces that are gone
  std::uint64_t refused_spaces_ = 0;
  std::uint64_t refused_users_ = 0;
  std::map<uid_t, User> users_;  // none is ever taken out: their workers are referred to
};

}  // namespace faultline::space
