#include "daemon/space/handle_table.hpp"

#include <algorithm>

namespace faultline::space {

HandleTable::~HandleTable() {
  clear();
}

void HandleTable::clear() {
  std::map<std::uint64_t, OpenObject> last;  // destroyed after the lock is released
  const std::lock_guard lock(mutex_);
  for (auto& [handle, open] : open_) open.object->count_handle(-1);
  last.swap(open_);
}

Result<std::uint64_t> HandleTable::add(OpenObject object) {
  const std::lock_guard lock(mutex_);
  if (open_.size() >= kMaxHandles) {
    return fail(EMFILE, "opening more than " + std::to_string(kMaxHandles) + " objects");
  }
  object.object->count_handle(1);
  const std::uint64_t handle = next_++;
  open_.emplace(handle, std::move(object));
  return handle;
}

Result<OpenObject> HandleTable::find(std::uint64_t handle) const {
  const std::lock_guard lock(mutex_);
  const auto found = open_.find(handle);
  if (found == open_.end())
    return fail(EBADF, "looking up object handle " + std::to_string(handle));
  return found->second;
}

std::shared_ptr<memory::MemoryObject> HandleTable::find_inode(std::uint64_t inode) const {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(open_.begin(), open_.end(), [inode](const auto& entry) {
    return entry.second.object->memfd().inode() == inode;
  });
  return found == open_.end() ? nullptr : found->second.object;
}

Result<OpenObject> HandleTable::close(std::uint64_t handle) {
  const std::lock_guard lock(mutex_);
  const auto found = open_.find(handle);
  if (found == open_.end()) return fail(EBADF, "closing object handle " + std::to_string(handle));
  OpenObject closed = std::move(found->second);
  closed.object->count_handle(-1);
  open_.erase(found);
  return closed;
}

std::shared_ptr<HandleTable> HandleTable::clone() const {
  auto copy = std::make_shared<HandleTable>();
  const std::lock_guard lock(mutex_);
  copy->next_ = next_;
  copy->open_ = open_;
  for (auto& [handle, open] : copy->open_) open.object->count_handle(1);
  return copy;
}

}  // namespace faultline::space
