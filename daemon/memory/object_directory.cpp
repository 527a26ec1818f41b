#include "daemon/memory/object_directory.hpp"

#include <unistd.h>

#include <algorithm>
#include <future>

#include "daemon/kernel/hole_guard.hpp"
#include "daemon/kernel/log.hpp"

namespace faultline::memory {

namespace {
constexpr PageCount kBringBackWindow{512};
}  // namespace

bool allows(const MemoryObject& object, Access access, Credentials who) {
  if (who.uid == 0) return true;
  unsigned bits = object.mode();
  if (who.uid == object.uid()) {
    bits >>= 6;
  } else if (who.gid == object.gid()) {
    bits >>= 3;
  }
  const unsigned needed = access == Access::read_write ? 06U : 04U;
  return (bits & needed) == needed;
}

bool valid_object_name(std::string_view name) {
  constexpr std::size_t kLongest = 128;
  const auto allowed_byte = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("._:@+-").find(c) != std::string_view::npos;
  };
  return !name.empty() && name.size() <= kLongest && name.front() != '.' &&
         std::all_of(name.begin(), name.end(), allowed_byte);
}

Status ObjectDirectory::start() {
  const std::lock_guard lock(mutex_);
  if (auto own = pagers_.of(::geteuid()); !own) return propagate(own);
  if (auto guard = kernel::HoleGuard::of_process(); !guard) return propagate(guard);
  return {};
}

Result<std::shared_ptr<MemoryObject>> ObjectDirectory::create(ObjectSpec spec) {
  if (!spec.name.empty() && !valid_object_name(spec.name)) {
    return fail(EINVAL,
                "creating an object: its name may hold only 1 to 128 of A-Z a-z 0-9 . _ : @ + -");
  }
  if (spec.content_size == ByteCount{0}) return fail(EINVAL, "creating an object of 0 bytes");
  const std::lock_guard lock(mutex_);
  if (spec.content_size > limits_.max_object_bytes) {
    refused_too_large();
    return fail(EFBIG, "creating an object of " + std::to_string(spec.content_size.value()) +
                           " bytes, where max_object_bytes is " +
                           std::to_string(limits_.max_object_bytes.value()));
  }
  if (!spec.name.empty() && named_.contains(spec.name)) {
    return fail(EEXIST, "creating object " + spec.name);
  }
  if (all_.size() >= limits_.max_objects) {
    forget_dead_locked();
    if (all_.size() >= limits_.max_objects) {
      ++too_many_;
      return fail(EUSERS, "the daemon allows " + std::to_string(limits_.max_objects) +
                              (limits_.max_objects == 1 ? " object" : " objects") +
                              " (max_objects)");
    }
  }
  const ObjectId id{next_id_};
  FilePager* pager = nullptr;
  const auto swap = spec.page_size == kBasePage ? swap_ : nullptr;
  if (spec.file || swap) {
    auto of_owner = pagers_.of(spec.uid);
    if (!of_owner) return propagate(of_owner);
    pager = *of_owner;
  }
  auto object = MemoryObject::create(id, std::move(spec), pager, swap);
  if (!object) return object;
  ++next_id_;
  all_.emplace(id, *object);
  if (!(*object)->name().empty()) named_.emplace((*object)->name(), *object);
  return object;
}

ObjectLimits ObjectDirectory::limits() const {
  const std::lock_guard lock(mutex_);
  return limits_;
}

void ObjectDirectory::set_limits(ObjectLimits limits) {
  const std::lock_guard lock(mutex_);
  limits_ = limits;
}

Result<std::shared_ptr<MemoryObject>> ObjectDirectory::find_locked(const std::string& name) const {
  if (!valid_object_name(name)) return fail(EINVAL, "looking up an object by a malformed name");
  const auto found = named_.find(name);
  if (found == named_.end()) return fail(ENOENT, "looking up object " + name);
  return found->second;
}

Result<std::shared_ptr<MemoryObject>> ObjectDirectory::open(const std::string& name, Access access,
                                                            Credentials who) const {
  const std::lock_guard lock(mutex_);
  auto object = find_locked(name);
  if (object && !allows(**object, access, who)) {
    return fail(EACCES,
                "opening object " + name +
                    (access == Access::read_write ? " for reading and writing" : " for reading"));
  }
  return object;
}

Result<std::shared_ptr<MemoryObject>> ObjectDirectory::unlink(const std::string& name,
                                                              Credentials who) {
  const std::lock_guard lock(mutex_);
  auto object = find_locked(name);
  if (!object) return object;
  if (who.uid != 0 && who.uid != (*object)->uid()) return fail(EACCES, "unlinking object " + name);
  named_.erase(name);
  return object;
}

void ObjectDirectory::bring_all_back(std::chrono::steady_clock::time_point deadline) {
  std::size_t left = 0;
  for (const auto& object : all()) {
    std::optional<PageIndex> page = object->next_swapped(PageIndex{});
    while (page && std::chrono::steady_clock::now() < deadline) {
      const auto came = std::make_shared<std::promise<void>>();
      const PageCount window =
          std::min(kBringBackWindow, PageIndex{} + object->page_count() - *page);
      if (object->populate(*page, window, [came](Supply) { came->set_value(); }) == PageCount{0} &&
          came->get_future().wait_until(deadline) != std::future_status::ready) {
        break;
      }
      // One that cannot be had is passed over.
      page = object->next_swapped(*page + PageCount{1});
    }
    left += object->swapped().value();
  }
  if (left > 0) log::error("{} pages are in the swap file alone, and are lost with it", left);
}

bool ObjectDirectory::stop(std::chrono::steady_clock::time_point deadline) {
  const std::lock_guard lock(mutex_);
  return pagers_.stop(deadline);
}

std::vector<std::shared_ptr<MemoryObject>> ObjectDirectory::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<MemoryObject>> objects;
  for (const auto& [id, weak] : all_) {
    if (auto object = weak.lock()) objects.push_back(std::move(object));
  }
  return objects;
}

ObjectDirectory::Refusals ObjectDirectory::refusals() const {
  const std::lock_guard lock(mutex_);
  return {too_many_, too_large_.load(std::memory_order_relaxed)};
}

std::shared_ptr<MemoryObject> ObjectDirectory::find(ObjectId id) const {
  const std::lock_guard lock(mutex_);
  const auto found = all_.find(id);
  return found == all_.end() ? nullptr : found->second.lock();
}

bool ObjectDirectory::linked(const MemoryObject& object) const {
  const std::lock_guard lock(mutex_);
  const auto found = named_.find(object.name());
  return found != named_.end() && found->second.get() == &object;
}

void ObjectDirectory::forget_dead_locked() {
  std::erase_if(all_, [](const auto& entry) { return entry.second.expired(); });
}

}  // namespace faultline::memory
