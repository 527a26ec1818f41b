#include "tools/faultctl/top_model.hpp"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "tools/faultctl/failure.hpp"
#include "tools/faultctl/table.hpp"

namespace faultline::ctl {

namespace {

using nlohmann::json;

constexpr double kNsPerSecond = 1e9;

// In the order of the cells that are made below. The letters are no commands of top's own.
constexpr std::array kSpaceColumns{
    TopColumn{"pid", "PID", 'P', Unit::number, 0},
    TopColumn{"uid", "UID", 'U', Unit::number, 9},
    TopColumn{"faults", "FAULTS/S", 'F', Unit::rate, 1},
    TopColumn{"missing", "MISSING/S", 'M', Unit::rate, 10},
    TopColumn{"minor", "MINOR/S", 'N', Unit::rate, 11},
    TopColumn{"write_protect", "WP/S", 'W', Unit::rate, 12},
    TopColumn{"breaks", "BREAKS/S", 'B', Unit::rate, 5},
    TopColumn{"mapped", "MAPPED", 'A', Unit::bytes, 8},
    TopColumn{"resident", "RESIDENT", 'R', Unit::bytes, 3},
    TopColumn{"copied", "COPIED", 'C', Unit::bytes, 4},
    TopColumn{"waits", "WAITS", 'T', Unit::number, 6},
    TopColumn{"pins", "PINS", 'I', Unit::number, 7},
    TopColumn{"command", "COMMAND", 'O', Unit::words, 2},
};

constexpr std::array kVmaColumns{
    TopColumn{"range", "START-END", 'A', Unit::words, 0},
    TopColumn{"perms", "PERMS", 'E', Unit::words, 7},
    TopColumn{"faults", "FAULTS/S", 'F', Unit::rate, 1},
    TopColumn{"missing", "MISSING/S", 'M', Unit::rate, 9},
    TopColumn{"minor", "MINOR/S", 'N', Unit::rate, 10},
    TopColumn{"write_protect", "WP/S", 'W', Unit::rate, 11},
    TopColumn{"breaks", "BREAKS/S", 'B', Unit::rate, 5},
    TopColumn{"size", "SIZE", 'S', Unit::bytes, 6},
    TopColumn{"resident", "RESIDENT", 'R', Unit::bytes, 3},
    TopColumn{"copied", "COPIED", 'C', Unit::bytes, 4},
    TopColumn{"object", "OBJECT", 'I', Unit::number, 8},
    TopColumn{"name", "NAME", 'O', Unit::words, 2},
};

std::uint64_t number(const json& from, const char* field) {
  return from.at(field).get<std::uint64_t>();
}

TopCell cell(std::optional<double> value) {
  return {value, ""};
}
TopCell cell(std::uint64_t value) {
  return {static_cast<double>(value), ""};
}
TopCell cell(std::string words) {
  return {std::nullopt, printable(std::move(words))};
}

TopCell found_in(const std::map<std::uint64_t, std::uint64_t>& bytes, std::uint64_t key) {
  const auto found = bytes.find(key);
  return found == bytes.end() ? TopCell{} : cell(found->second);
}

// Null where it is not known.
json to_json(const TopCell& cell, Unit unit) {
  if (unit == Unit::words) return cell.words;
  if (!cell.number) return nullptr;
  if (unit == Unit::rate) return *cell.number;
  return static_cast<std::uint64_t>(*cell.number);
}

json to_json(const std::optional<double>& rate) {
  return rate ? json(*rate) : json(nullptr);
}

// As the fields of JSON are called, which say what they count.
std::string field_of(const TopColumn& column) {
  switch (column.unit) {
    case Unit::bytes:
      return std::string(column.name) + "_bytes";
    case Unit::rate:
      return std::string(column.name) + "_per_second";
    case Unit::number:
    case Unit::words:
      break;
  }
  return std::string(column.name);
}

}  // namespace

void RateBook::begin(std::int64_t time_ns) {
  seconds_.reset();
  if (time_ns_ && time_ns > *time_ns_) {
    seconds_ = static_cast<double>(time_ns - *time_ns_) / kNsPerSecond;
  }
  time_ns_ = time_ns;
  before_ = std::exchange(now_, {});
}

TopRates RateBook::rates(std::uint64_t key, const json& faults, std::uint64_t breaks) {
  const Counts now{number(faults, "missing"), number(faults, "minor"),
                   number(faults, "write_protect"), breaks};
  now_[key] = now;
  const auto found = before_.find(key);
  TopRates rates;
  if (found == before_.end() || !seconds_) return rates;
  const Counts& before = found->second;
  const bool went_back = now.missing < before.missing || now.minor < before.minor ||
                         now.write_protect < before.write_protect || now.breaks < before.breaks;
  if (went_back) return rates;
  const auto rate = [this](std::uint64_t from, std::uint64_t to) {
    return static_cast<double>(to - from) / *seconds_;
  };
  rates.missing = rate(before.missing, now.missing);
  rates.minor = rate(before.minor, now.minor);
  rates.write_protect = rate(before.write_protect, now.write_protect);
  rates.breaks = rate(before.breaks, now.breaks);
  rates.faults = *rates.missing + *rates.minor + *rates.write_protect;
  return rates;
}

std::span<const TopColumn> TopModel::space_columns() {
  return kSpaceColumns;
}

std::span<const TopColumn> TopModel::vma_columns() {
  return kVmaColumns;
}

void TopModel::take_load(const json& answer) {
  const json& status = answer.at("status");
  const auto time_ns = answer.at("time_ns").get<std::int64_t>();
  totals_.version = status.at("version").get<std::string>();
  // Another daemon counts anew.
  const std::uint64_t pid = number(status, "pid");
  if (pid != totals_.pid) {
    total_rates_ = {};
    space_rates_ = {};
    resident_.clear();
    forget_vmas();
  }
  totals_.pid = pid;
  totals_.uptime_seconds = number(status, "uptime_seconds");
  totals_.workers = number(status, "workers");
  totals_.sessions = number(status, "sessions");
  totals_.spaces = number(status, "spaces");
  totals_.objects = number(status, "objects");
  totals_.resident_bytes = number(status, "object_bytes");
  totals_.swapped_bytes = number(status, "swapped_bytes");
  totals_.swap_bytes = number(status, "swap_bytes");
  totals_.waits = number(status, "kept_waits");
  totals_.waiting_faults = number(status, "waiting_faults");
  totals_.pins = number(status, "pins");
  totals_.pinned_bytes = number(status, "pinned_bytes");
  totals_.poisoned_pages = number(status, "poisoned_pages");
  total_rates_.begin(time_ns);
  totals_.rates = total_rates_.rates(0, status.at("faults"), number(status, "breaks"));

  space_rates_.begin(time_ns);
  spaces_.rows.clear();
  std::map<std::uint64_t, std::uint64_t> still_there;
  for (const json& space : answer.at("spaces")) {
    const std::uint64_t id = number(space, "id");
    const TopRates rates = space_rates_.rates(id, space.at("faults"), number(space, "breaks"));
    if (const auto known = resident_.find(id); known != resident_.end()) still_there.insert(*known);
    TopRow row;
    row.id = id;
    row.pid = static_cast<std::uint32_t>(number(space, "pid"));
    // Of a fork child that is not known yet there is no pid.
    row.cells = {row.pid == 0 ? TopCell{} : cell(std::uint64_t{row.pid}),
                 cell(number(space, "uid")),
                 cell(rates.faults),
                 cell(rates.missing),
                 cell(rates.minor),
                 cell(rates.write_protect),
                 cell(rates.breaks),
                 cell(number(space, "mapped_bytes")),
                 found_in(resident_, id),
                 cell(number(space, "broken_bytes")),
                 cell(number(space, "waits")),
                 cell(number(space, "pins")),
                 cell(space.at("command").get<std::string>())};
    spaces_.rows.push_back(std::move(row));
  }
  resident_ = std::move(still_there);
}

void TopModel::take_residency(const json& answer) {
  const std::size_t column = *column_named(kSpaceColumns, "resident");
  resident_.clear();
  for (const json& space : answer.at("spaces")) {
    resident_[number(space, "id")] = number(space, "resident_bytes");
  }
  for (TopRow& row : spaces_.rows) row.cells[column] = found_in(resident_, row.id);
}

void TopModel::take_vmas(const json& answer) {
  vma_rates_.begin(answer.at("time_ns").get<std::int64_t>());
  vmas_.rows.clear();
  for (const json& vma : answer.at("vmas")) {
    const std::uint64_t start = number(vma, "start");
    const TopRates rates = vma_rates_.rates(start, vma.at("faults"), number(vma, "breaks"));
    TopRow row;
    row.id = start;
    row.cells = {cell(fmt::format("{:012x}-{:012x}", start, number(vma, "end"))),
                 cell(vma.at("perms").get<std::string>()),
                 cell(rates.faults),
                 cell(rates.missing),
                 cell(rates.minor),
                 cell(rates.write_protect),
                 cell(rates.breaks),
                 cell(number(vma, "mapped_bytes")),
                 found_in(vma_resident_, start),
                 cell(number(vma, "broken_bytes")),
                 cell(number(vma, "object")),
                 cell(vma.at("object_name").get<std::string>())};
    vmas_.rows.push_back(std::move(row));
  }
}

void TopModel::take_vma_residency(const json& answer) {
  const std::size_t column = *column_named(kVmaColumns, "resident");
  vma_resident_.clear();
  for (const json& vma : answer.at("vmas")) {
    vma_resident_[number(vma, "start")] = number(vma, "resident_bytes");
  }
  for (TopRow& row : vmas_.rows) row.cells[column] = found_in(vma_resident_, row.id);
}

void TopModel::forget_vmas() {
  vma_rates_ = {};
  vma_resident_.clear();
  vmas_.rows.clear();
}

json TopModel::to_json(const TopOrder& order) const {
  TopTable sorted = spaces_;
  sort(sorted, order);
  json spaces = json::array();
  for (const TopRow& row : sorted.rows) {
    json one = {{"space", row.id}};
    for (std::size_t i = 0; i < sorted.columns.size(); ++i) {
      const TopColumn& column = sorted.columns[i];
      one[field_of(column)] = ctl::to_json(row.cells[i], column.unit);
    }
    spaces.push_back(std::move(one));
  }
  const TopTotals& all = totals_;
  return {
      {"schema", kSchema},
      {"top",
       {{"seconds", ctl::to_json(seconds())},
        {"daemon",
         {{"version", all.version},
          {"pid", all.pid},
          {"uptime_seconds", all.uptime_seconds},
          {"workers", all.workers},
          {"sessions", all.sessions},
          {"spaces", all.spaces},
          {"objects", all.objects},
          {"resident_bytes", all.resident_bytes},
          {"swapped_bytes", all.swapped_bytes},
          {"waits", all.waits},
          {"waiting_faults", all.waiting_faults},
          {"pins", all.pins},
          {"pinned_bytes", all.pinned_bytes},
          {"poisoned_pages", all.poisoned_pages},
          {"faults_per_second", ctl::to_json(all.rates.faults)},
          {"missing_per_second", ctl::to_json(all.rates.missing)},
          {"minor_per_second", ctl::to_json(all.rates.minor)},
          {"write_protect_per_second", ctl::to_json(all.rates.write_protect)},
          {"breaks_per_second", ctl::to_json(all.rates.breaks)}}},
        {"spaces", std::move(spaces)}}},
  };
}

}  // namespace faultline::ctl
