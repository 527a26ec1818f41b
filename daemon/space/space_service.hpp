// All address spaces and the workers that serve them, as the server uses them. Must never be called
// from a worker's thread where it says that it blocks.
//
// Answers come by callback, on the thread of the worker that has them.
//
// Locking: mutex_ guards the cookies and the counts of spaces; leaf lock.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "daemon/space/fault_worker.hpp"

namespace faultline::space {

// An address space as the other threads hold it.
struct SpaceRef {
  SpaceId id;
  FaultWorker* worker = nullptr;
  std::weak_ptr<AddressSpace> space;
  std::shared_ptr<HandleTable> handles;
  kernel::Userfaultfd::Features features;
};

// What all workers have to show.
struct Overview {
  std::vector<SpaceSnapshot> spaces;  // that live
  FaultCounters total;                // since the daemon started, of spaces that are gone too
};

class SpaceService final : public SpaceRegistry {
 public:
  static Result<std::unique_ptr<SpaceService>> create(unsigned workers);
  SpaceService(const SpaceService&) = delete;
  SpaceService& operator=(const SpaceService&) = delete;
  ~SpaceService() override;

  template <typename T>
  using Callback = std::function<void(Result<T>)>;

  // Takes a userfaultfd that a client made. Errors: as Userfaultfd::adopt; EINVAL and others where
  // the beacon is not a page of anonymous memory of the client's.
  void attach_new(UniqueFd userfaultfd, Owner owner, Vaddr beacon, Callback<SpaceRef> done);
  // Finds the space of a fork child. Errors: ENOENT no such cookie; EACCES another uid's.
  Result<SpaceRef> attach_forked(const wire::Cookie& cookie, Owner owner);

  void map(const SpaceRef& ref, MapRequest request, std::function<void(Status)> done);
  void vma_at(const SpaceRef& ref, Vaddr address, Callback<VmaSnapshot> done);
  void snapshot(const SpaceRef& ref, Callback<SpaceSnapshot> done);
  void overview(std::function<void(Overview)> done);
  void session_closed(const SpaceRef& ref);

  // Retires every space: no client is left blocked. Blocks.
  void stop();

  [[nodiscard]] std::size_t space_count() const;
  [[nodiscard]] std::size_t worker_count() const { return workers_.size(); }

  SpaceId next_space_id() override { return SpaceId{next_id_.fetch_add(1)}; }
  void place(std::shared_ptr<AddressSpace> space) override;
  void gone(const AddressSpace& space) override;

 private:
  struct Known {
    std::weak_ptr<AddressSpace> space;
    std::size_t worker = 0;
    uid_t uid = 0;
    std::shared_ptr<HandleTable> handles;
    kernel::Userfaultfd::Features features;
    SpaceId id;
  };
  SpaceService() = default;

  std::atomic<std::uint64_t> next_id_{1};
  mutable std::mutex mutex_;
  std::map<wire::Cookie, Known> known_;
  std::vector<std::size_t> load_;  // spaces of each worker
  std::vector<std::unique_ptr<FaultWorker>> workers_;
};

}  // namespace faultline::space
