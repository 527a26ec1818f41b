#include "daemon/admin/report.hpp"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "daemon/admin/pins.hpp"
#include "daemon/admin/waiters.hpp"
#include "daemon/kernel/process.hpp"

namespace faultline::admin {

namespace {

using nlohmann::json;
using space::SpaceSnapshot;
using space::VmaSnapshot;

constexpr mode_t kOthersRead = 0004;

// The pid is a guess, the uid is known.
std::optional<kernel::PageMap> page_map_of(pid_t pid, uid_t uid) {
  if (pid == 0) return std::nullopt;
  auto map = kernel::PageMap::open(pid, uid);
  if (!map) return std::nullopt;
  return std::move(*map);
}

// A page of the object that is swapped out leaves nothing in a page table: in a shared mapping
// there are marks alone. In a private one, all are swapped but those that are known to be poisoned.
std::uint64_t swapped_bytes(const kernel::ResidentPages& pages, const VmaSnapshot& snapshot) {
  if (snapshot.vma.sharing == space::Sharing::shared) return 0;
  const std::uint64_t bytes = kBasePage.bytes(pages.swapped_or_marked).value();
  const std::uint64_t poisoned =
      snapshot.vma.page_size().bytes().value() * snapshot.counters.poisoned;
  return bytes - std::min(bytes, poisoned);
}

void add_resident(wire::Stats& stats, const kernel::PageMap& map, const VmaSnapshot& snapshot) {
  const auto pages = map.scan(snapshot.vma.start, snapshot.vma.length());
  if (!pages) return;
  stats.shared_bytes += kBasePage.bytes(pages->shared).value();
  stats.private_bytes += kBasePage.bytes(pages->private_).value() + swapped_bytes(*pages, snapshot);
  stats.resident_bytes = stats.shared_bytes + stats.private_bytes;
}

wire::Stats counted(const space::FaultCounters& counters, std::uint64_t ahead_unused) {
  wire::Stats stats;
  stats.missing_faults = counters.missing;
  stats.minor_faults = counters.minor;
  stats.wp_faults = counters.write_protect;
  stats.write_faults = counters.writes;
  stats.pages_mapped = counters.pages_mapped;
  stats.pages_copied = counters.pages_copied;
  stats.breaks = counters.breaks;
  stats.ahead_copies = counters.ahead_copies;
  stats.ahead_unused = ahead_unused;
  stats.poisoned_pages = counters.poisoned;
  return stats;
}

wire::Stats stats_of_vma(const VmaSnapshot& snapshot, const std::optional<kernel::PageMap>& map) {
  wire::Stats stats = counted(snapshot.counters, snapshot.ahead_unused);
  stats.start = snapshot.vma.start.value();
  stats.length = snapshot.vma.length().value();
  stats.mappings = 1;
  if (map) add_resident(stats, *map, snapshot);
  return stats;
}

// Whether the kernel is asked what of a mapping is in memory, which costs milliseconds a GiB.
enum class Residency { asked, not_asked };

json to_json(const wire::Stats& stats, Residency residency) {
  json out = {
      {"mapped_bytes", stats.length},
      {"faults",
       {{"missing", stats.missing_faults},
        {"minor", stats.minor_faults},
        {"write_protect", stats.wp_faults},
        {"writes", stats.write_faults}}},
      {"pages_mapped", stats.pages_mapped},
      {"pages_copied", stats.pages_copied},
      {"breaks", stats.breaks},
      {"ahead_copies", stats.ahead_copies},
      {"ahead_unused", stats.ahead_unused},
      {"poisoned_pages", stats.poisoned_pages},
  };
  if (residency == Residency::asked) {
    out["resident_bytes"] = stats.resident_bytes;
    out["shared_bytes"] = stats.shared_bytes;
    out["private_bytes"] = stats.private_bytes;
  }
  return out;
}

json describe(const memory::MemoryObject& object, bool linked, std::size_t mappings) {
  return {
      {"id", object.id().value()},
      {"name", object.name()},
      {"uid", object.uid()},
      {"gid", object.gid()},
      {"mode", object.mode()},
      {"size", object.size().value()},
      {"content_size", object.content_size().value()},
      {"page_size", object.page_size().bytes().value()},
      {"resident_bytes", object.resident().value()},
      {"swapped_bytes", object.page_size().bytes(object.swapped()).value()},
      {"open_handles", object.handles()},
      {"mappings", mappings},
      {"linked", linked},
      {"from_file", object.from_file()},
      {"failed_fills", object.failed_fills()},
  };
}

// As /proc/PID/maps writes them. Nothing in an object is ever executable.
std::string perms_of(const space::Vma& vma) {
  return std::string(vma.writable ? "rw-" : "r--") +
         (vma.sharing == space::Sharing::shared ? "s" : "p");
}

const char* name_of(space::Advice advice) {
  switch (advice) {
    case space::Advice::sequential:
      return "sequential";
    case space::Advice::random:
      return "random";
    case space::Advice::normal:
      break;
  }
  return "normal";
}

json describe(const VmaSnapshot& snapshot, const std::optional<kernel::PageMap>& map,
              Residency residency) {
  const space::Vma& vma = snapshot.vma;
  json out = to_json(stats_of_vma(snapshot, map), residency);
  out["start"] = vma.start.value();
  out["end"] = vma.end.value();
  out["object"] = vma.object->id().value();
  out["object_name"] = vma.object->name();
  out["offset"] = vma.page_size().offset_of(vma.first).value();
  out["sharing"] = vma.sharing == space::Sharing::shared ? "shared" : "private";
  out["writable"] = vma.writable;
  out["perms"] = perms_of(vma);
  out["advice"] = name_of(vma.advice);
  out["broken_pages"] = snapshot.broken;
  out["broken_bytes"] = vma.page_size().bytes().value() * snapshot.broken;
  return out;
}

wire::Stats stats_of_space(const SpaceSnapshot& space, Residency residency) {
  wire::Stats stats = counted(space.counters, space.ahead_unused);
  const auto map =
      residency == Residency::asked ? page_map_of(space.owner.pid, space.owner.uid) : std::nullopt;
  for (const VmaSnapshot& snapshot : space.vmas) {
    stats.length += snapshot.vma.length().value();
    ++stats.mappings;
    if (map) add_resident(stats, *map, snapshot);
  }
  return stats;
}

// How many there are, without looking at each.
struct PinTotal {
  std::uint64_t pins = 0;
  std::uint64_t bytes = 0;
};

PinTotal pins_in(const pin::PinService& pins, SpaceId space) {
  const auto shown = pins.pins_of(space, 0);
  return shown ? PinTotal{shown->left_out, shown->pinned.value()} : PinTotal{};
}

std::uint64_t broken_bytes(const SpaceSnapshot& space) {
  std::uint64_t bytes = 0;
  for (const VmaSnapshot& vma : space.vmas) {
    bytes += vma.vma.page_size().bytes().value() * vma.broken;
  }
  return bytes;
}

// What belongs to a space, and is known elsewhere.
struct Beside {
  const wait::WaitService& waits;
  const pin::PinService& pins;
};

json describe(const SpaceSnapshot& space, Residency residency, const Beside& beside) {
  json out = to_json(stats_of_space(space, residency), residency);
  const PinTotal pins = pins_in(beside.pins, space.id);
  out["pins"] = pins.pins;
  out["pinned_bytes"] = pins.bytes;
  out["waits"] = beside.waits.waits_of(space.owner.uid, space.id, 0).left_out;
  out["broken_bytes"] = broken_bytes(space);
  out["id"] = space.id.value();
  out["pid"] = space.owner.pid;
  out["parent"] = space.owner.parent;
  out["uid"] = space.owner.uid;
  out["command"] = space.owner.pid == 0 ? "" : kernel::process_name(space.owner.pid);
  out["mappings"] = space.vmas.size();
  out["waiting_faults"] = space.waiting_faults;
  out["answering"] = space.answering;
  return out;
}

json status_report(const DaemonStatus& status, const memory::ObjectDirectory& objects,
                   const space::Overview& overview, uid_t viewer, const Beside& beside) {
  const wait::WaitService::Counts waits = beside.waits.counts();
  PinTotal pinned;
  std::size_t waiting_faults = 0;
  std::size_t of_viewer = 0;
  for (const SpaceSnapshot& space : overview.spaces) {
    const PinTotal pins = pins_in(beside.pins, space.id);
    pinned.pins += pins.pins;
    pinned.bytes += pins.bytes;
    waiting_faults += space.waiting_faults;
    if (space.owner.uid == viewer) ++of_viewer;
  }
  std::uint64_t resident = 0;
  const auto all = objects.all();
  for (const auto& object : all) resident += object->resident().value();
  const space::FaultCounters& total = overview.total;
  const memory::SwapFile* const swap = objects.swap();
  return {
      {"version", status.version},
      {"pid", ::getpid()},
      {"socket", status.socket_path},
      {"uptime_seconds", status.uptime.count()},
      {"workers", status.workers},
      {"sessions", status.sessions},
      {"watchers", status.watchers},
      {"spaces", overview.spaces.size()},
      {"channels", waits.clients},
      {"kept_waits", waits.kept},
      {"waiting_faults", waiting_faults},
      {"pins", pinned.pins},
      {"pinned_bytes", pinned.bytes},
      {"yours", {{"sessions", status.sessions_of_viewer}, {"spaces", of_viewer}}},
      {"limits",
       {{"objects", status.limits.objects},
        {"sessions", status.limits.sessions},
        {"sessions_per_user", status.limits.sessions_per_user},
        {"spaces_per_user", status.limits.spaces_per_user},
        {"pinned_bytes", beside.pins.limits().total.value()},
        {"pinned_bytes_per_user", beside.pins.limits().per_user.value()}}},
      {"objects", all.size()},
      {"object_bytes", resident},
      {"swap_bytes", swap == nullptr ? 0 : swap->limit().value()},
      {"swapped_bytes", swap == nullptr ? 0 : swap->used().value()},
      {"fork_events", status.fork_events},
      {"user_mode_only", status.user_mode_only},
      {"faults",
       {{"missing", total.missing},
        {"minor", total.minor},
        {"write_protect", total.write_protect},
        {"writes", total.writes}}},
      {"breaks", total.breaks},
      {"poisoned_pages", total.poisoned},
      {"reclamation",
       {{"pending", overview.reclamation.pending},
        {"grace_periods", overview.reclamation.grace_periods},
        {"freed", overview.reclamation.callbacks_run},
        {"oldest_reader_ms",
         std::chrono::duration_cast<std::chrono::milliseconds>(overview.reclamation.oldest_section)
             .count()},
        {"oldest_reader_thread", overview.reclamation.oldest_thread}}},
  };
}

json object_report(uid_t viewer, const memory::ObjectDirectory& objects,
                   const std::vector<SpaceSnapshot>& spaces) {
  std::map<ObjectId, std::size_t> mappings;
  for (const SpaceSnapshot& space : spaces) {
    for (const VmaSnapshot& vma : space.vmas) ++mappings[vma.vma.object->id()];
  }
  json list = json::array();
  for (const auto& object : objects.all()) {
    if (!shown_to(viewer, *object, objects)) continue;
    list.push_back(describe(*object, objects.linked(*object), mappings[object->id()]));
  }
  return list;
}

std::string no_client(std::uint32_t pid) {
  return "process " + std::to_string(pid) + ", which is no client that you may see";
}

}  // namespace

bool sees_all(uid_t viewer) {
  return viewer == 0 || viewer == ::geteuid();
}

bool shown_to(uid_t viewer, const memory::MemoryObject& object,
              const memory::ObjectDirectory& objects) {
  const bool open_to_all = objects.linked(object) && (object.mode() & kOthersRead) != 0;
  return sees_all(viewer) || viewer == object.uid() || open_to_all;
}

wire::Stats to_stats(const VmaSnapshot& vma, pid_t pid, uid_t uid) {
  return stats_of_vma(vma, page_map_of(pid, uid));
}

wire::Stats to_stats(const SpaceSnapshot& space) {
  return stats_of_space(space, Residency::asked);
}

std::shared_ptr<memory::MemoryObject> find_shown(uid_t viewer,
                                                 const memory::ObjectDirectory& objects,
                                                 const std::string& name, ObjectId id) {
  std::shared_ptr<memory::MemoryObject> found;
  for (auto& object : objects.all()) {
    if (!shown_to(viewer, *object, objects)) continue;
    if (!name.empty() && object->name() == name) return object;
    if (object->id() == id) found = object;
  }
  return found;
}

Result<std::string> answer(const wire::AdminRequest& query, uid_t viewer,
                           const DaemonStatus& status, const memory::ObjectDirectory& objects,
                           space::Overview overview, const wait::WaitService& waits,
                           const pin::PinService& pins) {
  if ((query.flags & ~wire::kAdminNoResidency) != 0) {
    return fail(EINVAL, "answering with unknown flags");
  }
  const auto residency =
      (query.flags & wire::kAdminNoResidency) != 0 ? Residency::not_asked : Residency::asked;
  const Beside beside{waits, pins};
  std::vector<SpaceSnapshot>& spaces = overview.spaces;
  json out;
  // Of the counters below, for who computes rates.
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  const bool load = query.query == wire::AdminQuery::load;
  if (load || query.query == wire::AdminQuery::status) {
    out["status"] = status_report(status, objects, overview, viewer, beside);
  }
  if (query.query == wire::AdminQuery::objects) {
    out["objects"] = object_report(viewer, objects, spaces);
  }
  std::erase_if(spaces, [viewer](const SpaceSnapshot& space) {
    return !sees_all(viewer) && viewer != space.owner.uid;
  });
  if (load || query.query == wire::AdminQuery::spaces) {
    out["spaces"] = json::array();
    for (const SpaceSnapshot& space : spaces) {
      out["spaces"].push_back(describe(space, residency, beside));
    }
  }
  if (query.query == wire::AdminQuery::vmas) {
    const auto pid = static_cast<pid_t>(query.pid);
    bool known = false;
    out["vmas"] = json::array();
    for (const SpaceSnapshot& space : spaces) {
      if (space.owner.pid != pid || pid == 0) continue;
      known = true;
      const auto map =
          residency == Residency::asked ? page_map_of(pid, space.owner.uid) : std::nullopt;
      for (const VmaSnapshot& vma : space.vmas) {
        out["vmas"].push_back(describe(vma, map, residency));
      }
    }
    if (!known) return fail(ESRCH, "looking for mappings of " + no_client(query.pid));
  }
  if (query.query == wire::AdminQuery::waiters) {
    const auto pid = static_cast<pid_t>(query.pid);
    bool known = pid == 0;
    WaiterReport report(waits, query);
    for (const SpaceSnapshot& space : spaces) {
      if (pid != 0 && space.owner.pid != pid) continue;
      known = true;
      report.add(space);
    }
    if (!known) return fail(ESRCH, "looking for waits of " + no_client(query.pid));
    report.finish(out);
  }
  if (query.query == wire::AdminQuery::pins) {
    const auto pid = static_cast<pid_t>(query.pid);
    bool known = pid == 0;
    out["pins"] = json::array();
    for (const SpaceSnapshot& space : spaces) {
      if (pid != 0 && space.owner.pid != pid) continue;
      known = true;
      if (json shown = pins_of(pins, space); !shown.is_null()) out["pins"].push_back(shown);
    }
    if (!known) return fail(ESRCH, "looking for pins of " + no_client(query.pid));
  }
  if (out.empty()) {
    return fail(EINVAL,
                "answering unknown query " + std::to_string(static_cast<unsigned>(query.query)));
  }
  out["schema"] = kSchema;
  out["time_ns"] = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace faultline::admin
