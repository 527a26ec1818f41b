// The objects that one address space has open, and with what rights. Must never answer for a handle
// that the address space was not given. A fork child starts with a copy, as it does with file
// descriptors.
//
// Locking: mutex_ guards everything; leaf lock. Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "daemon/memory/object_directory.hpp"

namespace faultline::space {

struct OpenObject {
  std::shared_ptr<memory::MemoryObject> object;
  memory::Access access = memory::Access::read_only;
};

class HandleTable {
 public:
  static constexpr std::size_t kMaxHandles = 65'536;

  HandleTable() = default;
  HandleTable(const HandleTable&) = delete;
  HandleTable& operator=(const HandleTable&) = delete;
  ~HandleTable();

  // Errors: EMFILE.
  Result<std::uint64_t> add(OpenObject object);
  // Errors: EBADF.
  [[nodiscard]] Result<OpenObject> find(std::uint64_t handle) const;
  // Null where none of the objects has its memory there.
  [[nodiscard]] std::shared_ptr<memory::MemoryObject> find_inode(std::uint64_t inode) const;
  // Gives the object back: the last reference to it takes as long to go as its memory is large.
  // Errors: EBADF.
  [[nodiscard]] Result<OpenObject> close(std::uint64_t handle);
  void clear();
  [[nodiscard]] std::shared_ptr<HandleTable> clone() const;

 private:
  mutable std::mutex mutex_;
  std::uint64_t next_ = 1;
  std::map<std::uint64_t, OpenObject> open_;
};

}  // namespace faultline::space
