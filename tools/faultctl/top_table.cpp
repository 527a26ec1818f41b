#include "tools/faultctl/top_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "tools/faultctl/table.hpp"

namespace faultline::ctl {

namespace {

constexpr std::size_t kGap = 2;

bool continues_a_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U;
}

std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(
      std::ranges::count_if(text, [](char c) { return !continues_a_character(c); }));
}

std::string padded(const std::string& text, std::size_t width, bool left) {
  const std::size_t has = width_of(text);
  const std::string room(has < width ? width - has : 0, ' ');
  return left ? text + room : room + text;
}

bool flush_left(const TopColumn& column) {
  return column.unit == Unit::words;
}

}  // namespace

void sort(TopTable& table, const TopOrder& order) {
  const bool words = table.columns[order.column].unit == Unit::words;
  const auto before = [&](const TopRow& one, const TopRow& other) {
    const TopCell& a = one.cells[order.column];
    const TopCell& b = other.cells[order.column];
    if (words) {
      if (a.words != b.words) return (a.words < b.words) != order.reversed;
    } else if (a.number.has_value() != b.number.has_value()) {
      return a.number.has_value();
    } else if (a.number && *a.number != *b.number) {
      return (*a.number > *b.number) != order.reversed;
    }
    return one.id < other.id;
  };
  std::ranges::sort(table.rows, before);
}

std::optional<std::size_t> column_named(std::span<const TopColumn> columns, std::string_view name) {
  const auto found = std::ranges::find(columns, name, &TopColumn::name);
  if (found == columns.end()) return std::nullopt;
  return static_cast<std::size_t>(found - columns.begin());
}

std::optional<std::size_t> column_of_letter(std::span<const TopColumn> columns, char letter) {
  const auto found = std::ranges::find(columns, letter, &TopColumn::letter);
  if (letter == 0 || found == columns.end()) return std::nullopt;
  return static_cast<std::size_t>(found - columns.begin());
}

std::string text_of(const TopCell& cell, Unit unit) {
  if (unit == Unit::words) return cell.words.empty() ? "-" : cell.words;
  if (!cell.number) return "-";
  switch (unit) {
    case Unit::bytes:
      return readable_bytes(static_cast<std::uint64_t>(*cell.number));
    case Unit::rate:
      return fmt::format("{:.1f}", *cell.number);
    case Unit::number:
    case Unit::words:
      break;
  }
  return fmt::format("{:.0f}", *cell.number);
}

TopLayout lay_out(const TopTable& table, std::size_t width) {
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < table.columns.size(); ++i) {
    std::size_t widest = width_of(table.columns[i].heading);
    for (const TopRow& row : table.rows) {
      widest = std::max(widest, width_of(text_of(row.cells[i], table.columns[i].unit)));
    }
    widths.push_back(widest);
  }
  TopLayout layout;
  layout.columns.resize(table.columns.size());
  std::iota(layout.columns.begin(), layout.columns.end(), 0);
  const auto total = [&] {
    std::size_t sum = 0;
    for (const std::size_t column : layout.columns) sum += widths[column] + kGap;
    return sum == 0 ? 0 : sum - kGap;
  };
  while (layout.columns.size() > 1 && total() > width) {
    const auto least = std::ranges::max_element(
        layout.columns, {}, [&](std::size_t column) { return table.columns[column].rank; });
    layout.columns.erase(least);
  }
  for (const std::size_t column : layout.columns) layout.widths.push_back(widths[column]);
  return layout;
}

std::string heading_line(const TopTable& table, const TopLayout& layout) {
  std::string line;
  for (std::size_t i = 0; i < layout.columns.size(); ++i) {
    const TopColumn& column = table.columns[layout.columns[i]];
    line += padded(std::string(column.heading), layout.widths[i], flush_left(column));
    if (i + 1 < layout.columns.size()) line += std::string(kGap, ' ');
  }
  return line;
}

std::string row_line(const TopTable& table, const TopLayout& layout, const TopRow& row) {
  std::string line;
  for (std::size_t i = 0; i < layout.columns.size(); ++i) {
    const TopColumn& column = table.columns[layout.columns[i]];
    const bool last = i + 1 == layout.columns.size();
    const std::string text = text_of(row.cells[layout.columns[i]], column.unit);
    line += last && flush_left(column) ? text : padded(text, layout.widths[i], flush_left(column));
    if (!last) line += std::string(kGap, ' ');
  }
  return line;
}

std::string clipped(std::string_view text, std::size_t columns) {
  std::size_t end = 0;
  for (std::size_t seen = 0; end < text.size(); ++end) {
    if (continues_a_character(text[end])) continue;
    if (seen++ == columns) break;
  }
  return std::string(text.substr(0, end));
}

}  // namespace faultline::ctl
