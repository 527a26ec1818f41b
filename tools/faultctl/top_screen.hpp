// A terminal that top has to itself, by curses. Must never be left in any other way than as it was
// found: whoever ends, ends by way of the destructor.
#pragma once

#include <memory>
#include <vector>

#include "tools/faultctl/top_view.hpp"

namespace faultline::ctl {

class TopScreen {
 public:
  // Null where standard input and output are no terminal that can be drawn on.
  static std::unique_ptr<TopScreen> open();
  TopScreen(const TopScreen&) = delete;
  TopScreen& operator=(const TopScreen&) = delete;
  ~TopScreen();

  [[nodiscard]] std::size_t rows() const;
  [[nodiscard]] std::size_t columns() const;
  void draw(const std::vector<TopLine>& lines);
  // What was pressed; TopKey::none when that is all.
  [[nodiscard]] TopPress read() const;
  // The terminal has another size.
  void resized();
  // Gives the terminal back, and takes it again.
  void leave();
  void come_back();

 private:
  struct Curses;
  explicit TopScreen(std::unique_ptr<Curses> curses);
  std::unique_ptr<Curses> curses_;
};

}  // namespace faultline::ctl
