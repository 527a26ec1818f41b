#include "tools/faultctl/top_plain.hpp"

#include <fmt/format.h>

#include <limits>

#include "tools/faultctl/table.hpp"

namespace faultline::ctl {

namespace {

std::string text_of(const std::optional<double>& rate) {
  return ctl::text_of(TopCell{rate, ""}, Unit::rate);
}

}  // namespace

std::string plain_refresh(const TopModel& model, const TopOrder& order) {
  const TopTotals& all = model.totals();
  std::string text = fmt::format(
      "faults/s {}  breaks/s {}  waiting {}  sessions {}  spaces {}  resident {}  swapped {}  "
      "waits {}  pins {}  workers {}\n",
      text_of(all.rates.faults), text_of(all.rates.breaks), all.waiting_faults, all.sessions,
      all.spaces, readable_bytes(all.resident_bytes), readable_bytes(all.swapped_bytes), all.waits,
      all.pins, all.workers);
  TopTable table = model.spaces();
  sort(table, order);
  const TopLayout layout = lay_out(table, std::numeric_limits<std::size_t>::max());
  text += heading_line(table, layout) + "\n";
  for (const TopRow& row : table.rows) text += row_line(table, layout, row) + "\n";
  return text + "\n";
}

std::string json_refresh(const TopModel& model, const TopOrder& order) {
  return model.to_json(order).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace faultline::ctl
