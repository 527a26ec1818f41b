// Rows of numbers with names: what top shows, before it is laid out. Must never know of a terminal,
// nor of a daemon.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace faultline::ctl {

enum class Unit : std::uint8_t { number, bytes, rate, words };

struct TopColumn {
  std::string_view name;  // as --sort takes it, and JSON has it
  std::string_view heading;
  char letter = 0;  // the key that sorts by it
  Unit unit = Unit::number;
  // Where there is no room for all, those of the highest rank go first.
  std::uint8_t rank = 0;
};

// A number that may not be known yet, or words.
struct TopCell {
  std::optional<double> number;
  std::string words;
};

struct TopRow {
  std::uint64_t id = 0;  // the same row, the next time
  std::uint32_t pid = 0;
  std::vector<TopCell> cells;  // one a column
};

struct TopTable {
  std::span<const TopColumn> columns;
  std::vector<TopRow> rows;
};

struct TopOrder {
  std::size_t column = 0;
  bool reversed = false;
};

// The largest number, or the first word in the alphabet, is first; what is not known is last, even
// reversed. Equal rows are in the order of their ids.
void sort(TopTable& table, const TopOrder& order);

// Nothing where there is none of that name.
std::optional<std::size_t> column_named(std::span<const TopColumn> columns, std::string_view name);
std::optional<std::size_t> column_of_letter(std::span<const TopColumn> columns, char letter);

// As a person reads it; "-" where it is not known.
std::string text_of(const TopCell& cell, Unit unit);

// Columns as wide as their widest cell, with as many columns as fit, and which these are.
struct TopLayout {
  std::vector<std::size_t> columns;
  std::vector<std::size_t> widths;  // of those
};
TopLayout lay_out(const TopTable& table, std::size_t width);
// One line, as wide as it comes.
std::string heading_line(const TopTable& table, const TopLayout& layout);
std::string row_line(const TopTable& table, const TopLayout& layout, const TopRow& row);

// At most so many characters of UTF-8 text, each taken for one column wide.
std::string clipped(std::string_view text, std::size_t columns);

}  // namespace faultline::ctl
