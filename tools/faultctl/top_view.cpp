#include "tools/faultctl/top_view.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "tools/faultctl/table.hpp"

namespace faultline::ctl {

namespace {

using std::chrono::milliseconds;

constexpr std::array kIntervals{milliseconds(250),    milliseconds(500),   milliseconds(1'000),
                                milliseconds(2'000),  milliseconds(5'000), milliseconds(10'000),
                                milliseconds(30'000), milliseconds(60'000)};

std::string rate(const std::optional<double>& value) {
  return value ? fmt::format("{:.1f}/s", *value) : "-";
}

std::string up_for(std::uint64_t seconds) {
  constexpr std::uint64_t kDay = 86'400;
  const std::string clock =
      fmt::format("{}:{:02}:{:02}", seconds % kDay / 3600, seconds / 60 % 60, seconds % 60);
  return seconds < kDay ? clock : fmt::format("{} d {}", seconds / kDay, clock);
}

std::vector<TopLine> help_lines(std::span<const TopColumn> columns) {
  std::vector<TopLine> lines = {
      {"faultctl top: keys", TopStyle::title},
      {"  Up Down PgUp PgDn Home End   choose a row (j, k too)"},
      {"  Enter                        the mappings of that process"},
      {"  Backspace Esc                back to all processes"},
      {"  < >                          sort by the column before, behind"},
      {"  r                            reverse the order"},
      {"  + -                          a longer, a shorter interval"},
      {"  p, space                     pause, go on"},
      {"  h ?                          this page, and away again"},
      {"  q                            quit"},
      {""},
      {"Sort by a column with its letter:", TopStyle::title},
  };
  std::string line;
  for (const TopColumn& column : columns) {
    line += fmt::format("  {} {:<12}", column.letter, column.heading);
    if (line.size() < 48) continue;
    lines.push_back({line});
    line.clear();
  }
  if (!line.empty()) lines.push_back({line});
  lines.push_back({""});
  lines.push_back({"RESIDENT is asked for less often than the rest: the kernel has to look."});
  return lines;
}

}  // namespace

std::span<const TopColumn> TopView::columns() const {
  return chosen_ ? TopModel::vma_columns() : TopModel::space_columns();
}

bool TopView::press(const TopPress& press) {
  if (press.key != TopKey::none) message_.clear();
  if (help_ && press.key != TopKey::none && press.letter != 'q') {
    help_ = false;
    return true;
  }
  const std::size_t last = shown_.empty() ? 0 : shown_.size() - 1;
  switch (press.key) {
    case TopKey::none:
      break;
    case TopKey::up:
      move_to(at_ == 0 ? 0 : at_ - 1);
      break;
    case TopKey::down:
      move_to(at_ + 1);
      break;
    case TopKey::page_up:
      move_to(at_ < page_ ? 0 : at_ - page_);
      break;
    case TopKey::page_down:
      move_to(at_ + page_);
      break;
    case TopKey::home:
      move_to(0);
      break;
    case TopKey::end:
      move_to(last);
      break;
    case TopKey::enter:
      enter();
      break;
    case TopKey::back:
      chosen_.reset();
      break;
    case TopKey::letter:
      if (press.letter == 'q') return false;
      press_letter(press.letter);
      break;
  }
  return true;
}

void TopView::press_letter(char letter) {
  switch (letter) {
    case 'h':
    case '?':
      help_ = true;
      return;
    case 'j':
      return move_to(at_ + 1);
    case 'k':
      return move_to(at_ == 0 ? 0 : at_ - 1);
    case 'p':
    case ' ':
      paused_ = !paused_;
      return;
    case 'r':
      order().reversed = !order().reversed;
      return;
    case '+': {
      const auto longer = std::ranges::upper_bound(kIntervals, interval_);
      if (longer != kIntervals.end()) interval_ = *longer;
      return;
    }
    case '-': {
      const auto at = std::ranges::lower_bound(kIntervals, interval_);
      if (at != kIntervals.begin()) interval_ = *std::prev(at);
      return;
    }
    case '<':
      if (order().column > 0) sort_by(order().column - 1);
      return;
    case '>':
      if (order().column + 1 < columns().size()) sort_by(order().column + 1);
      return;
    default:
      break;
  }
  if (const auto column = column_of_letter(columns(), letter)) {
    sort_by(*column);
  } else {
    message_ = "no such key; h for help";
  }
}

void TopView::sort_by(std::size_t column) {
  order() = {column, false};
}

void TopView::move_to(std::size_t row) {
  if (shown_.empty()) return;
  at_ = std::min(row, shown_.size() - 1);
  selected_ = shown_[at_].id;
}

void TopView::enter() {
  if (chosen_ || shown_.empty()) return;
  const std::uint32_t pid = shown_[at_].pid;
  if (pid == 0) {
    message_ = "this fork child has neither faulted nor connected yet: its process is not known";
    return;
  }
  chosen_ = pid;
  at_ = 0;
  first_ = 0;
  shown_.clear();
}

std::string TopView::order_in_words() const {
  const TopOrder& by = chosen_ ? vma_order_ : space_order_;
  return fmt::format("sorted by {}{}", columns()[by.column].heading,
                     by.reversed ? ", reversed" : "");
}

void TopView::compose_header(const TopModel& model, const std::string& trouble,
                             std::vector<TopLine>& lines) const {
  const TopTotals& all = model.totals();
  lines.push_back({fmt::format("faultctl top: faultlined {}, pid {}, up {}, {} fault workers",
                               all.version, all.pid, up_for(all.uptime_seconds), all.workers),
                   TopStyle::title});
  lines.push_back(
      {fmt::format("faults {} (missing {}, minor {}, wp {}), breaks {}, {} waiting",
                   rate(all.rates.faults), rate(all.rates.missing), rate(all.rates.minor),
                   rate(all.rates.write_protect), rate(all.rates.breaks), all.waiting_faults)});
  const std::string swap = all.swap_bytes == 0
                               ? "no swap file"
                               : fmt::format("{} swapped of {}", readable_bytes(all.swapped_bytes),
                                             readable_bytes(all.swap_bytes));
  lines.push_back({fmt::format("objects {} with {} resident, {}", all.objects,
                               readable_bytes(all.resident_bytes), swap)});
  lines.push_back({fmt::format("sessions {}, spaces {}, waits kept {}, pins {} ({}), poisoned {}",
                               all.sessions, all.spaces, all.waits, all.pins,
                               readable_bytes(all.pinned_bytes), all.poisoned_pages)});
  if (!trouble.empty()) {
    lines.push_back({"NO DAEMON, looking for one: " + trouble, TopStyle::warning});
  } else if (!message_.empty()) {
    lines.push_back({message_, TopStyle::warning});
  } else {
    lines.push_back(
        {fmt::format("{}{}, every {:g} s{}",
                     chosen_ ? fmt::format("mappings of {}, ", *chosen_) : "", order_in_words(),
                     static_cast<double>(interval_.count()) / 1000, paused_ ? ", PAUSED" : ""),
         paused_ ? TopStyle::warning : TopStyle::dim});
  }
}

void TopView::compose_table(TopTable table, std::size_t rows, std::size_t columns,
                            std::vector<TopLine>& lines) {
  sort(table, order());
  shown_.clear();
  for (const TopRow& row : table.rows) shown_.push_back({row.id, row.pid});
  const auto still = std::ranges::find(shown_, selected_, &Shown::id);
  if (still != shown_.end()) {
    at_ = static_cast<std::size_t>(still - shown_.begin());
  } else {
    move_to(at_);
  }
  const TopLayout layout = lay_out(table, columns);
  lines.push_back({heading_line(table, layout), TopStyle::heading});
  page_ = std::max<std::size_t>(rows, 1);
  first_ = std::min(first_, at_);
  if (at_ >= first_ + page_) first_ = at_ + 1 - page_;
  const std::size_t end = std::min(table.rows.size(), first_ + rows);
  for (std::size_t i = first_; i < end; ++i) {
    lines.push_back(
        {row_line(table, layout, table.rows[i]), i == at_ ? TopStyle::selected : TopStyle::plain});
  }
  if (table.rows.empty()) {
    lines.push_back({chosen_ ? "  no mappings" : "  no processes to see", TopStyle::dim});
  }
}

std::vector<TopLine> TopView::compose(const TopModel& model, const std::string& trouble,
                                      std::size_t rows, std::size_t columns) {
  std::vector<TopLine> lines;
  if (help_) {
    lines = help_lines(this->columns());
  } else {
    compose_header(model, trouble, lines);
    const std::size_t above = lines.size() + 1;  // and the headings
    compose_table(chosen_ ? model.vmas() : model.spaces(), rows > above ? rows - above : 0, columns,
                  lines);
  }
  if (lines.size() > rows) lines.resize(rows);
  return lines;
}

}  // namespace faultline::ctl
