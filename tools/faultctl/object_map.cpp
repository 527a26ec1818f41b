#include "tools/faultctl/object_map.hpp"

#include <fmt/format.h>

#include <cerrno>

#include "tools/faultctl/failure.hpp"
#include "tools/faultctl/table.hpp"

namespace faultline::ctl {

namespace {

using nlohmann::json;

constexpr std::array<MapStateWords, kMapStates> kWords{{
    {"resident", "in memory", '#'},
    {"dirty", "in memory, stored to", '*'},
    {"filling", "being read", '+'},
    {"evicting", "being evicted", '-'},
    {"swapped", "in the swap file", 's'},
    {"lost", "was in memory, and is not", 'o'},
    {"poisoned", "cannot be supplied", '!'},
    {"absent", "never in memory", '.'},
}};

[[noreturn]] void malformed() {
  throw Unreachable::in_words(EPROTO, "the daemon's answer is malformed");
}

ObjectMap::Counts counts_in(const json& list, std::size_t buckets) {
  auto counts = list.get<ObjectMap::Counts>();
  if (counts.size() != buckets) malformed();
  return counts;
}

}  // namespace

const MapStateWords& words_of(MapState state) {
  return kWords.at(static_cast<std::size_t>(state));
}

ObjectMap ObjectMap::from(const json& answer) {
  try {
    const json& told = answer.at("map");
    ObjectMap map;
    told.at("object").get_to(map.id);
    map.name = printable(told.at("object_name").get<std::string>());
    told.at("size").get_to(map.size);
    told.at("page_size").get_to(map.page_size);
    told.at("pages").get_to(map.pages);
    told.at("bucket_pages").get_to(map.bucket_pages);
    told.at("buckets").get_to(map.buckets);
    if (map.bucket_pages == 0 || map.buckets == 0 ||
        map.buckets != (map.pages + map.bucket_pages - 1) / map.bucket_pages) {
      malformed();
    }
    for (std::size_t i = 0; i < kMapStates; ++i) {
      map.states.at(i) = counts_in(told.at("states").at(kWords.at(i).name), map.buckets);
    }
    map.mapped_by = counts_in(told.at("mapped_by"), map.buckets);
    map.pinned = counts_in(told.at("pinned"), map.buckets);
    for (const json& mapping : told.at("mappings")) {
      Band band;
      mapping.at("pid").get_to(band.pid);
      mapping.at("space").get_to(band.space);
      band.command = printable(mapping.at("command").get<std::string>());
      band.mapped = counts_in(mapping.at("mapped"), map.buckets);
      band.own = counts_in(mapping.at("private"), map.buckets);
      band.pinned = counts_in(mapping.at("pinned"), map.buckets);
      map.bands.push_back(std::move(band));
    }
    told.at("others").get_to(map.others);
    told.at("left_out").get_to(map.left_out);
    return map;
  } catch (const json::exception&) {
    malformed();
  }
}

std::string title_of(const ObjectMap& map) {
  return map.name.empty() ? fmt::format("object {}", map.id)
                          : fmt::format("{} (object {})", map.name, map.id);
}

std::string label_of(const ObjectMap::Band& band) {
  return band.pid == 0 ? fmt::format("? (space {})", band.space)
                       : fmt::format("{} {}", band.pid, band.command);
}

}  // namespace faultline::ctl
