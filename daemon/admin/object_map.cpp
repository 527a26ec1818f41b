#include "daemon/admin/object_map.hpp"

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "daemon/admin/page_buckets.hpp"
#include "daemon/admin/report.hpp"
#include "daemon/kernel/process.hpp"

namespace faultline::admin {

namespace {

using memory::MemoryObject;
using memory::PageState;
using nlohmann::json;
using space::ObjectMappings;
using space::Vma;
using Counts = PageBuckets::Counts;
using Runs = std::vector<PageBuckets::Run>;

// How often the pages that parted are looked at, for all processes together: one that maps an
// object tens of thousands of times must not make others wait.
constexpr std::size_t kMostLooks = 1'000'000;

// How many pages of each bucket are in which state. An evicted page is lost to the page table,
// wherever its content went.
json states_of(MemoryObject& object, const PageBuckets& buckets) {
  Counts absent = buckets.none();
  Counts filling = absent;
  Counts resident = absent;
  Counts dirty = absent;
  Counts evicting = absent;
  Counts swapped = absent;
  Counts lost = absent;
  Counts poisoned = absent;
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    const PageBuckets::Run run = buckets.run(i);
    const memory::PageTally tally = object.pages().tally(run.first, run.count);
    absent[i] = tally.in(PageState::absent);
    filling[i] = tally.in(PageState::filling);
    dirty[i] = tally.dirty;
    resident[i] = tally.in(PageState::resident)-tally.dirty;
    evicting[i] = tally.in(PageState::evicting);
    poisoned[i] = tally.in(PageState::poisoned);
    // Looked at a moment later: of what comes back meanwhile one of the two knows nothing yet.
    const std::uint64_t gone = tally.in(PageState::lost);
    swapped[i] = std::min(object.swapped_in(run.first, run.count).value(), gone);
    lost[i] = gone - swapped[i];
  }
  return {{"absent", std::move(absent)},     {"filling", std::move(filling)},
          {"resident", std::move(resident)}, {"dirty", std::move(dirty)},
          {"evicting", std::move(evicting)}, {"swapped", std::move(swapped)},
          {"lost", std::move(lost)},         {"poisoned", std::move(poisoned)}};
}

Counts mapped_by(const ObjectMappings& space, const PageBuckets& buckets) {
  Runs runs;
  runs.reserve(space.vmas.size());
  for (const Vma& vma : space.vmas) runs.push_back({vma.first, vma.pages()});
  return buckets.covered(std::move(runs));
}

// Pages that are, or may by now be, the process's own; a page counts as often as it is mapped so.
// Nothing where there are more places to look at than looks are left.
std::optional<Counts> private_of(const ObjectMappings& space, const PageBuckets& buckets,
                                 std::size_t& looks) {
  Counts counts = buckets.none();
  for (const Vma& vma : space.vmas) {
    if (looks == 0) return std::nullopt;
    --looks;
    if (vma.sharing == space::Sharing::shared) continue;
    if (vma.activity->broken(vma.first, vma.pages()) == PageCount{0}) continue;
    buckets.each_part({vma.first, vma.pages()},
                      [&](std::size_t bucket, const PageBuckets::Run& part) {
                        if (looks == 0) return;
                        --looks;
                        counts[bucket] += vma.activity->broken(part.first, part.count).value();
                      });
  }
  if (looks == 0) return std::nullopt;
  return counts;
}

// What each process pins of the object, its own pages too, and what is held of the object itself.
struct Pinned {
  std::map<SpaceId, Runs> by_space;
  Runs held;
};

Pinned pinned_of(const MemoryObject& object, const pin::PinService& pins) {
  Pinned pinned;
  pins.pins_on(object, [&](SpaceId space, PageIndex first, PageCount count, bool own) {
    pinned.by_space[space].push_back({first, count});
    if (!own) pinned.held.push_back({first, count});
  });
  return pinned;
}

std::optional<json> band_of(const ObjectMappings& space, const PageBuckets& buckets, Counts mapped,
                            Runs pinned, std::size_t& looks) {
  auto own = private_of(space, buckets, looks);
  if (!own) return std::nullopt;
  return json{
      {"pid", space.owner.pid},
      {"space", space.id.value()},
      {"uid", space.owner.uid},
      {"command", space.owner.pid == 0 ? "" : kernel::process_name(space.owner.pid)},
      {"mapped", std::move(mapped)},
      {"private", std::move(*own)},
      {"pinned", buckets.covered(std::move(pinned))},
  };
}

}  // namespace

Result<std::string> object_map(const wire::AdminRequest& query, uid_t viewer,
                               const memory::ObjectDirectory& objects,
                               const space::SpaceService& spaces, const pin::PinService& pins) {
  const std::string name = query.object_name.data();  // terminated: checked when it came
  const auto object = find_shown(viewer, objects, name, ObjectId{query.object_id});
  if (!object) {
    return fail(ENOENT, "drawing object " +
                            (name.empty() ? std::to_string(query.object_id) : name) +
                            ", which is none that you may see");
  }
  if (query.buckets > wire::kMostMapBuckets) {
    return fail(EINVAL, "drawing an object in " + std::to_string(query.buckets) +
                            " buckets, where " + std::to_string(wire::kMostMapBuckets) +
                            " are the most");
  }
  const PageBuckets buckets(object->page_count(),
                            query.buckets == 0 ? wire::kMapBuckets : query.buckets);
  Counts mapped_by_spaces = buckets.none();
  Pinned pinned = pinned_of(*object, pins);
  json bands = json::array();
  std::size_t others = 0;
  std::size_t left_out = 0;
  std::size_t looks = kMostLooks;
  for (const ObjectMappings& space : spaces.mappings_of(*object)) {
    Counts mapped = mapped_by(space, buckets);
    for (std::size_t i = 0; i < mapped.size(); ++i) mapped_by_spaces[i] += mapped[i] != 0 ? 1U : 0U;
    if (!sees_all(viewer) && viewer != space.owner.uid) {
      ++others;
      continue;
    }
    std::optional<json> band;
    if (bands.size() < kMostBands) {
      band =
          band_of(space, buckets, std::move(mapped), std::move(pinned.by_space[space.id]), looks);
    }
    if (band) {
      bands.push_back(std::move(*band));
    } else {
      ++left_out;
    }
  }
  const json out = {
      {"schema", kSchema},
      {"map",
       {{"object", object->id().value()},
        {"object_name", object->name()},
        {"uid", object->uid()},
        {"size", object->size().value()},
        {"page_size", object->page_size().bytes().value()},
        {"from_file", object->from_file()},
        {"pages", object->page_count().value()},
        {"bucket_pages", buckets.pages_each().value()},
        {"buckets", buckets.size()},
        {"states", states_of(*object, buckets)},
        {"mapped_by", std::move(mapped_by_spaces)},
        {"pinned", buckets.covered(std::move(pinned.held))},
        {"mappings", std::move(bands)},
        {"others", others},
        {"left_out", left_out}}},
  };
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace faultline::admin
