// What the daemon tells of itself: JSON for faultctl, counters for clients. Must never show one
// user what belongs to another: root and the daemon's own user see all, everybody else only what is
// theirs.
//
// Walks page tables of clients (PAGEMAP_SCAN), milliseconds a GiB: not for the control thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "daemon/memory/object_directory.hpp"
#include "daemon/pin/pin_service.hpp"
#include "daemon/space/space_service.hpp"
#include "daemon/wait/wait_service.hpp"
#include "faultline/wire/protocol.hpp"

namespace faultline::admin {

// Of every answer.
inline constexpr int kSchema = 1;

// What the daemon was told not to go beyond.
struct DaemonLimits {
  std::size_t objects = 0;
  std::size_t sessions = 0;
  std::size_t sessions_per_user = 0;
  std::size_t spaces_per_user = 0;
};

struct DaemonStatus {
  std::string version;
  std::string socket_path;
  std::size_t workers = 0;
  std::size_t sessions = 0;
  std::size_t sessions_of_viewer = 0;
  DaemonLimits limits;
  std::size_t watchers = 0;
  std::chrono::seconds uptime{0};
  bool user_mode_only = false;
  bool fork_events = false;
};

// Whether a user is shown what belongs to others.
[[nodiscard]] bool sees_all(uid_t viewer);

// Whether he is shown the object: his own, or one that all may open by its name.
[[nodiscard]] bool shown_to(uid_t viewer, const memory::MemoryObject& object,
                            const memory::ObjectDirectory& objects);

// Of those that he may see, by its name or else by its id; null where there is none.
[[nodiscard]] std::shared_ptr<memory::MemoryObject> find_shown(
    uid_t viewer, const memory::ObjectDirectory& objects, const std::string& name, ObjectId id);

// The JSON text, described in docs/faultctl.md. Errors: EINVAL an unknown query, or flag; ESRCH
// vmas or waiters of a process that has none here, or none that viewer may see.
Result<std::string> answer(const wire::AdminRequest& query, uid_t viewer,
                           const DaemonStatus& status, const memory::ObjectDirectory& objects,
                           space::Overview overview, const wait::WaitService& waits,
                           const pin::PinService& pins);

// As libfaultline shows them. Bytes are 0 where the process is gone, and where it is not one that
// the user may look into.
wire::Stats to_stats(const space::VmaSnapshot& vma, pid_t pid, uid_t uid);
wire::Stats to_stats(const space::SpaceSnapshot& space);

}  // namespace faultline::admin
