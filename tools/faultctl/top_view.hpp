// What top's screen says, as lines of text with a style, and what its keys do. Must never touch a
// terminal.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/faultctl/top_model.hpp"

namespace faultline::ctl {

enum class TopKey : std::uint8_t {
  none,
  up,
  down,
  page_up,
  page_down,
  home,
  end,
  enter,
  back,
  letter,  // any other, see TopPress
};

struct TopPress {
  TopKey key = TopKey::none;
  char letter = 0;
};

enum class TopStyle : std::uint8_t { plain, title, heading, selected, warning, dim };

struct TopLine {
  std::string text;
  TopStyle style = TopStyle::plain;
};

class TopView {
 public:
  using Interval = std::chrono::milliseconds;

  TopView(const TopOrder& order, Interval interval) : space_order_(order), interval_(interval) {}

  // False: it is time to end.
  [[nodiscard]] bool press(const TopPress& press);

  // At most so many lines, each of any length.
  [[nodiscard]] std::vector<TopLine> compose(const TopModel& model, const std::string& trouble,
                                             std::size_t rows, std::size_t columns);

  [[nodiscard]] bool paused() const { return paused_; }
  [[nodiscard]] Interval interval() const { return interval_; }
  // The process whose mappings are shown; nothing while all processes are.
  [[nodiscard]] std::optional<std::uint32_t> chosen() const { return chosen_; }
  void leave_chosen() { chosen_.reset(); }

 private:
  [[nodiscard]] TopOrder& order() { return chosen_ ? vma_order_ : space_order_; }
  [[nodiscard]] std::span<const TopColumn> columns() const;
  void press_letter(char letter);
  void sort_by(std::size_t column);
  void move_to(std::size_t row);
  void enter();
  void compose_header(const TopModel& model, const std::string& trouble,
                      std::vector<TopLine>& lines) const;
  void compose_table(TopTable table, std::size_t rows, std::size_t columns,
                     std::vector<TopLine>& lines);
  [[nodiscard]] std::string order_in_words() const;

  TopOrder space_order_;
  TopOrder vma_order_{2, false};  // faults
  Interval interval_;
  bool paused_ = false;
  bool help_ = false;
  std::optional<std::uint32_t> chosen_;
  std::string message_;  // until the next key
  // The rows as they were last shown, and which of them is chosen: by its id, so that it stays so
  // wherever it goes.
  struct Shown {
    std::uint64_t id = 0;
    std::uint32_t pid = 0;
  };
  std::vector<Shown> shown_;
  std::uint64_t selected_ = 0;
  std::size_t at_ = 0;     // where the selected row is
  std::size_t first_ = 0;  // that is on the screen
  std::size_t page_ = 1;   // rows on the screen
};

}  // namespace faultline::ctl
