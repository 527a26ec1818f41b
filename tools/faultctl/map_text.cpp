#include "tools/faultctl/map_text.hpp"

#include <fmt/format.h>

#include "tools/faultctl/table.hpp"

namespace faultline::ctl {

namespace {

constexpr std::size_t kLabel = 20;
constexpr std::size_t kLeastCells = 16;

std::string line(const std::string& label, const std::string& cells) {
  return fmt::format("{:<{}} |{}|\n", label.substr(0, kLabel), kLabel, cells);
}

// 0 to 9 for tenths.
char tenths(std::uint64_t pages, std::uint64_t of) {
  return static_cast<char>('0' + pages * 10 / of);
}

char object_cell(const ObjectMap& map, std::size_t bucket) {
  const std::uint64_t all = map.pages_in(bucket);
  // What is wrong must be seen however little of it there is.
  if (map.in(MapState::poisoned)[bucket] != 0) return words_of(MapState::poisoned).letter;
  for (std::size_t i = 0; i < kMapStates; ++i) {
    const auto state = static_cast<MapState>(i);
    if (map.in(state)[bucket] >= all) return words_of(state).letter;
  }
  const std::uint64_t in_memory = map.in(MapState::resident)[bucket] +
                                  map.in(MapState::dirty)[bucket] +
                                  map.in(MapState::evicting)[bucket];
  return in_memory >= all ? words_of(MapState::dirty).letter : tenths(in_memory, all);
}

char count_cell(std::uint64_t count) {
  if (count == 0) return '.';
  return count > 9 ? '+' : static_cast<char>('0' + count);
}

char process_cell(const ObjectMap& map, const ObjectMap::Band& band, std::size_t bucket) {
  if (band.mapped[bucket] == 0) return ' ';
  if (band.own[bucket] == 0) return '-';
  const std::uint64_t all = map.pages_in(bucket);
  return band.own[bucket] >= all ? '#' : tenths(band.own[bucket], all);
}

}  // namespace

std::size_t map_cells(std::size_t columns) {
  const std::size_t beside = kLabel + 3;
  return columns < beside + kLeastCells ? kLeastCells : columns - beside;
}

std::string map_text(const ObjectMap& map) {
  std::string text =
      fmt::format("{}: {}, {} pages of {}; a cell is {} pages, {}\n\n", title_of(map),
                  readable_bytes(map.size), map.pages, readable_bytes(map.page_size),
                  map.bucket_pages, readable_bytes(map.bucket_pages * map.page_size));
  const auto row = [&](const std::string& label, auto cell) {
    std::string cells;
    for (std::size_t i = 0; i < map.buckets; ++i) cells += cell(i);
    text += line(label, cells);
  };
  row("the object", [&](std::size_t i) { return object_cell(map, i); });
  row("mapped by", [&](std::size_t i) { return count_cell(map.mapped_by[i]); });
  row("pinned", [&](std::size_t i) { return map.pinned[i] == 0 ? ' ' : 'P'; });
  for (const ObjectMap::Band& band : map.bands) {
    row(label_of(band), [&](std::size_t i) { return process_cell(map, band, i); });
  }
  if (map.others != 0) text += fmt::format("and {} processes of other users\n", map.others);
  if (map.left_out != 0) text += fmt::format("and {} more processes\n", map.left_out);
  text += "\nthe object:";
  for (std::size_t i = 0; i < kMapStates; ++i) {
    const MapStateWords& state = words_of(static_cast<MapState>(i));
    text += fmt::format(" {} {}{}", state.letter, state.words, i + 1 < kMapStates ? "," : ";");
  }
  text +=
      "\n  0-9 tenths that are in memory"
      "\nprocesses: - mapped, # copies of its own, 0-9 tenths that are; mapped by: how many, + "
      "more "
      "than 9\n";
  return text;
}

}  // namespace faultline::ctl
