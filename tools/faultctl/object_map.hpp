// The map of an object as the daemon tells it: equal stretches of pages (buckets), and how many
// pages of each are in which state, shared, copied and pinned. Must never be trusted to be what it
// says before from() has looked at it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace faultline::ctl {

enum class MapState : std::uint8_t {
  resident,
  dirty,
  filling,
  evicting,
  swapped,
  lost,
  poisoned,
  absent,
};
inline constexpr std::size_t kMapStates = 8;

struct MapStateWords {
  const char* name;   // in JSON
  const char* words;  // in a legend
  char letter;        // of a cell of nothing else
};
const MapStateWords& words_of(MapState state);

struct ObjectMap {
  using Counts = std::vector<std::uint64_t>;  // pages, by bucket
  struct Band {
    std::uint32_t pid = 0;
    std::uint64_t space = 0;
    std::string command;
    Counts mapped;
    Counts own;  // private pages
    Counts pinned;
  };
  std::uint64_t id = 0;
  std::string name;
  std::uint64_t size = 0;
  std::uint64_t page_size = 0;
  std::uint64_t pages = 0;
  std::uint64_t bucket_pages = 0;
  std::size_t buckets = 0;
  std::array<Counts, kMapStates> states;  // by MapState
  Counts mapped_by;                       // processes
  Counts pinned;
  std::vector<Band> bands;
  std::uint64_t others = 0;    // that map it and are not to be seen
  std::uint64_t left_out = 0;  // that map it and are not shown

  // Throws Unreachable where the answer is no map.
  static ObjectMap from(const nlohmann::json& answer);

  [[nodiscard]] const Counts& in(MapState state) const {
    return states.at(static_cast<std::size_t>(state));
  }
  [[nodiscard]] std::uint64_t first_page(std::size_t bucket) const { return bucket * bucket_pages; }
  [[nodiscard]] std::uint64_t pages_in(std::size_t bucket) const {
    return std::min(bucket_pages, pages - first_page(bucket));
  }
};

// "name (object 3)", or "object 3" without a name.
std::string title_of(const ObjectMap& map);
// "1234 worker", or "? (space 5)" where the process is not known.
std::string label_of(const ObjectMap::Band& band);

}  // namespace faultline::ctl
