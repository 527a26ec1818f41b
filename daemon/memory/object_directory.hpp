// Every object of the daemon: by name for those who open one, all of them for those who look. Must
// never give out an object to somebody whom its owner and mode do not allow.
//
// Lifetime: a named object is held here until it is unlinked; beyond that, objects live by their
// handles and mappings alone.
//
// Locking: mutex_ guards everything; leaf lock.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/memory/memory_object.hpp"

namespace faultline::memory {

// Who asks, as the socket says.
struct Credentials {
  uid_t uid = 0;
  gid_t gid = 0;
};

enum class Access { read_only, read_write };

// Whether an object's owner and mode let somebody open it so by its name.
[[nodiscard]] bool allows(const MemoryObject& object, Access access, Credentials who);

struct ObjectLimits {
  ByteCount max_object_bytes{std::uint64_t{4} << 40};
  std::size_t max_objects = 65'536;
};

// 1 to 128 of A-Z a-z 0-9 . _ : @ + - and no leading dot.
[[nodiscard]] bool valid_object_name(std::string_view name);

class ObjectDirectory {
 public:
  explicit ObjectDirectory(ObjectLimits limits) : limits_(limits) {}

  // Gets ready for the objects of the daemon's own user, which most are. Errors: as
  // io_uring_setup(2).
  Status start();
  // Call before there are objects: where their pages go that leave memory.
  void set_swap(std::shared_ptr<SwapFile> swap) { swap_ = std::move(swap); }
  // Null where there is none.
  [[nodiscard]] const SwapFile* swap() const { return swap_.get(); }
  // Errors: EINVAL, EEXIST, EFBIG, EUSERS, and what memfd_create(2), mmap(2) and io_uring_setup(2)
  // say.
  Result<std::shared_ptr<MemoryObject>> create(ObjectSpec spec);
  // Errors: EINVAL, ENOENT, EACCES.
  Result<std::shared_ptr<MemoryObject>> open(const std::string& name, Access access,
                                             Credentials who) const;
  // Gives the object back: the last reference to it takes as long to go as its memory is large.
  // Errors: EINVAL, ENOENT, EACCES.
  [[nodiscard]] Result<std::shared_ptr<MemoryObject>> unlink(const std::string& name,
                                                             Credentials who);

  // Brings back into memory what is in the swap file, as far as that can be done until then.
  // Blocks.
  void bring_all_back(std::chrono::steady_clock::time_point deadline);

  // Waits for the files that are being read, when nobody wants pages any more; false where one did
  // not answer until then: this object must then not be destroyed.
  [[nodiscard]] bool stop(std::chrono::steady_clock::time_point deadline);

  [[nodiscard]] std::vector<std::shared_ptr<MemoryObject>> all() const;
  // Null where there is none.
  [[nodiscard]] std::shared_ptr<MemoryObject> find(ObjectId id) const;
  // Whether the object can still be opened by its name.
  [[nodiscard]] bool linked(const MemoryObject& object) const;
  [[nodiscard]] ObjectLimits limits() const;
  // For objects that are made from now on. Thread-safe.
  void set_limits(ObjectLimits limits);

  // How often each limit was met by somebody who wanted an object.
  struct Refusals {
    std::uint64_t max_objects = 0;
    std::uint64_t max_object_bytes = 0;
  };
  [[nodiscard]] Refusals refusals() const;
  // For who finds out before anything is made that the object would be too large.
  void refused_too_large() { too_large_.fetch_add(1, std::memory_order_relaxed); }

 private:
  Result<std::shared_ptr<MemoryObject>> find_locked(const std::string& name) const;
  void forget_dead_locked();

  ObjectLimits limits_;
  std::atomic<std::uint64_t> too_large_{0};
  mutable std::mutex mutex_;
  std::uint64_t too_many_ = 0;
  std::uint64_t next_id_ = 1;
  FilePagers pagers_;
  std::shared_ptr<SwapFile> swap_;
  std::map<std::string, std::shared_ptr<MemoryObject>> named_;
  std::map<ObjectId, std::weak_ptr<MemoryObject>> all_;
};

}  // namespace faultline::memory
