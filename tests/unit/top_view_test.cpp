// What top's screen says and what its keys do, without a terminal.
#include "tools/faultctl/top_view.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/top_answers.hpp"

namespace faultline::ctl {
namespace {

using std::chrono::milliseconds;

constexpr std::int64_t kSecond = 1'000'000'000;

class TopViewTest : public ::testing::Test {
 protected:
  void SetUp() override { look(1); }

  // Processes 1 to 5; the later one faults more.
  void look(std::int64_t second) {
    std::vector<SomeSpace> spaces;
    for (std::uint64_t id = 1; id <= 5; ++id) {
      spaces.push_back({.id = id, .minor = id * static_cast<std::uint64_t>(second)});
    }
    model_.take_load(load_answer(second * kSecond, spaces));
  }
  bool press(TopKey key) { return view_.press({key}); }
  bool press(char letter) { return view_.press({TopKey::letter, letter}); }
  std::vector<TopLine> screen(std::size_t rows = 24, std::size_t columns = 100) {
    return view_.compose(model_, trouble_, rows, columns);
  }
  // What the line of that style says; empty where there is none.
  std::string line(TopStyle style) {
    for (const TopLine& one : screen()) {
      if (one.style == style) return one.text;
    }
    return "";
  }
  bool says(const std::string& words) {
    return std::ranges::any_of(
        screen(), [&](const TopLine& one) { return one.text.find(words) != std::string::npos; });
  }

  TopModel model_;
  TopView view_{{*column_named(TopModel::space_columns(), "faults"), false}, milliseconds(2000)};
  std::string trouble_;
};

TEST_F(TopViewTest, TheHeaderTellsTheDaemonAndTheOrder) {
  look(2);
  EXPECT_TRUE(says("faultlined 1.2.3, pid 77, up 1:02:05, 2 fault workers"));
  EXPECT_TRUE(says("faults 15.0/s"));
  EXPECT_TRUE(says("sorted by FAULTS/S, every 2 s"));
}

TEST_F(TopViewTest, TheSelectionStaysWithItsProcess) {
  look(2);
  (void)screen();
  EXPECT_TRUE(press(TopKey::home));
  EXPECT_TRUE(line(TopStyle::selected).find("1005") != std::string::npos) << "most faults";
  EXPECT_TRUE(press('r'));
  (void)screen();
  EXPECT_TRUE(line(TopStyle::selected).find("1005") != std::string::npos) << "now it is last";
  EXPECT_TRUE(press(TopKey::up));
  EXPECT_TRUE(line(TopStyle::selected).find("1004") != std::string::npos);
}

TEST_F(TopViewTest, LettersAndAnglesChooseTheColumn) {
  EXPECT_TRUE(press('C'));
  EXPECT_TRUE(says("sorted by COPIED"));
  EXPECT_TRUE(press('<'));
  EXPECT_TRUE(says("sorted by RESIDENT"));
  EXPECT_TRUE(press('>'));
  EXPECT_TRUE(press('r'));
  EXPECT_TRUE(says("sorted by COPIED, reversed"));
  EXPECT_TRUE(press('Z'));
  EXPECT_TRUE(says("no such key"));
  for (int i = 0; i < 40; ++i) EXPECT_TRUE(press('>'));
  EXPECT_TRUE(says("sorted by COMMAND")) << "there is nothing behind the last";
}

TEST_F(TopViewTest, EnterShowsAProcessAndBackspaceGoesBack) {
  look(2);
  (void)screen();
  EXPECT_TRUE(press(TopKey::home));
  EXPECT_TRUE(press(TopKey::enter));
  EXPECT_EQ(view_.chosen(), 1005U);
  EXPECT_TRUE(says("mappings of 1005"));
  EXPECT_TRUE(says("START-END"));
  EXPECT_TRUE(press(TopKey::back));
  EXPECT_EQ(view_.chosen(), std::nullopt);
  EXPECT_TRUE(says("COMMAND"));
}

TEST_F(TopViewTest, PauseIntervalAndQuit) {
  EXPECT_TRUE(press('+'));
  EXPECT_EQ(view_.interval(), milliseconds(5000));
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(press('-'));
  EXPECT_EQ(view_.interval(), milliseconds(250));
  EXPECT_TRUE(press('p'));
  EXPECT_TRUE(view_.paused());
  EXPECT_TRUE(says("PAUSED"));
  EXPECT_TRUE(press('h'));
  EXPECT_TRUE(says("faultctl top: keys"));
  EXPECT_TRUE(press('x')) << "any key leaves the help";
  EXPECT_FALSE(says("faultctl top: keys"));
  EXPECT_FALSE(press('q'));
}

// However small the terminal is: never more lines than it has, and the chosen row among them where
// any is.
TEST_F(TopViewTest, FitsEveryTerminal) {
  (void)screen();
  EXPECT_TRUE(press(TopKey::end));
  for (std::size_t rows = 0; rows < 20; ++rows) {
    for (const std::size_t columns : {1U, 20U, 79U, 300U}) {
      const auto lines = screen(rows, columns);
      ASSERT_LE(lines.size(), rows);
      const auto selected = std::ranges::count(lines, TopStyle::selected, &TopLine::style);
      EXPECT_EQ(selected, rows > 6 ? 1 : 0) << rows << " rows";
    }
  }
}

TEST_F(TopViewTest, ADaemonThatWentIsSaid) {
  trouble_ = "connecting to the daemon: Connection refused";
  EXPECT_NE(line(TopStyle::warning).find("NO DAEMON"), std::string::npos);
  EXPECT_TRUE(says("1005")) << "what was known stays";
}

}  // namespace
}  // namespace faultline::ctl
