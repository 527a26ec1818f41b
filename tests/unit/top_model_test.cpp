// What top computes: rates between two answers, order, and which columns fit.
#include "tools/faultctl/top_model.hpp"

#include <gtest/gtest.h>

#include "tests/unit/top_answers.hpp"

namespace faultline::ctl {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

TopCell cell_of(const TopTable& table, std::uint64_t id, std::string_view column) {
  for (const TopRow& row : table.rows) {
    if (row.id == id) return row.cells.at(*column_named(table.columns, column));
  }
  ADD_FAILURE() << "no row " << id;
  return {};
}

std::vector<std::uint64_t> ids_sorted(const TopTable& table, std::string_view column,
                                      bool reversed = false) {
  TopTable sorted = table;
  sort(sorted, {*column_named(table.columns, column), reversed});
  std::vector<std::uint64_t> ids;
  for (const TopRow& row : sorted.rows) ids.push_back(row.id);
  return ids;
}

TEST(TopModel, ARateIsWhatWasCountedBetweenTwoLooks) {
  TopModel model;
  model.take_load(load_answer(kSecond, {{.id = 1, .minor = 100}}));
  EXPECT_EQ(model.seconds(), std::nullopt);
  EXPECT_EQ(cell_of(model.spaces(), 1, "faults").number, std::nullopt) << "seen once";
  model.take_load(load_answer(3 * kSecond, {{.id = 1, .minor = 150, .breaks = 8}}));
  EXPECT_EQ(model.seconds(), 2.0);
  EXPECT_EQ(cell_of(model.spaces(), 1, "faults").number, 25.0);
  EXPECT_EQ(cell_of(model.spaces(), 1, "breaks").number, 4.0);
  EXPECT_EQ(model.totals().rates.minor, 25.0);
  EXPECT_EQ(model.totals().rates.missing, 0.0);
}

// One that came meanwhile, one that went and came back, and a counter that went back.
TEST(TopModel, WhatWasSeenOnceHasNoRate) {
  TopModel model;
  model.take_load(load_answer(1 * kSecond, {{.id = 1, .minor = 9}, {.id = 3, .minor = 9}}));
  model.take_load(load_answer(2 * kSecond, {{.id = 2, .minor = 500}, {.id = 3, .minor = 4}}));
  EXPECT_EQ(cell_of(model.spaces(), 2, "faults").number, std::nullopt);
  EXPECT_EQ(cell_of(model.spaces(), 3, "faults").number, std::nullopt);
  model.take_load(load_answer(3 * kSecond, {{.id = 1, .minor = 9}, {.id = 2, .minor = 501}}));
  EXPECT_EQ(cell_of(model.spaces(), 1, "faults").number, std::nullopt);
  EXPECT_EQ(cell_of(model.spaces(), 2, "faults").number, 1.0);
}

TEST(TopModel, AnotherDaemonBeginsAnew) {
  TopModel model;
  model.take_load(load_answer(1 * kSecond, {{.id = 1, .minor = 5}}, 77));
  model.take_residency({{"spaces", {{{"id", 1}, {"resident_bytes", 8192}}}}});
  model.take_load(load_answer(2 * kSecond, {{.id = 1, .minor = 6}}, 78));
  EXPECT_EQ(cell_of(model.spaces(), 1, "faults").number, std::nullopt);
  EXPECT_EQ(cell_of(model.spaces(), 1, "resident").number, std::nullopt);
}

// Bytes in memory come seldom, and stay until they come again.
TEST(TopModel, ResidencyStaysUntilItComesAgain) {
  TopModel model;
  model.take_load(load_answer(1 * kSecond, {{.id = 1}, {.id = 2}}));
  EXPECT_EQ(cell_of(model.spaces(), 1, "resident").number, std::nullopt);
  model.take_residency({{"spaces", {{{"id", 1}, {"resident_bytes", 8192}}}}});
  EXPECT_EQ(cell_of(model.spaces(), 1, "resident").number, 8192.0);
  model.take_load(load_answer(2 * kSecond, {{.id = 1}, {.id = 2}}));
  EXPECT_EQ(cell_of(model.spaces(), 1, "resident").number, 8192.0);
  EXPECT_EQ(cell_of(model.spaces(), 2, "resident").number, std::nullopt);
  const auto json = model.to_json({.column = 0, .reversed = false});  // the last process first
  EXPECT_TRUE(json["top"]["spaces"][0]["resident_bytes"].is_null());
  EXPECT_EQ(json["top"]["spaces"][1]["resident_bytes"], 8192);
}

TEST(TopModel, SortsNumbersDownAndWordsUpAndTheUnknownLast) {
  TopModel model;
  const auto look = [](std::int64_t at, std::uint64_t by) {
    return load_answer(at, {{.id = 1, .minor = 5 * by, .broken_bytes = 1, .command = "b"},
                            {.id = 2, .minor = 9 * by, .broken_bytes = 3, .command = "c"},
                            {.id = 3, .minor = 7 * by, .broken_bytes = 1, .command = "a"}});
  };
  model.take_load(look(1 * kSecond, 0));
  model.take_load(look(2 * kSecond, 1));
  using Ids = std::vector<std::uint64_t>;
  EXPECT_EQ(ids_sorted(model.spaces(), "faults"), (Ids{2, 3, 1}));
  EXPECT_EQ(ids_sorted(model.spaces(), "faults", true), (Ids{1, 3, 2}));
  EXPECT_EQ(ids_sorted(model.spaces(), "copied"), (Ids{2, 1, 3})) << "equal ones by their ids";
  EXPECT_EQ(ids_sorted(model.spaces(), "command"), (Ids{3, 1, 2}));
  model.take_residency({{"spaces", {{{"id", 3}, {"resident_bytes", 1}}}}});
  EXPECT_EQ(ids_sorted(model.spaces(), "resident"), (Ids{3, 1, 2}));
  EXPECT_EQ(ids_sorted(model.spaces(), "resident", true), (Ids{3, 1, 2}));
}

// Every column has a name and a letter of its own, and no letter is one of top's commands.
TEST(TopModel, ColumnsAreToldApart) {
  for (const auto columns : {TopModel::space_columns(), TopModel::vma_columns()}) {
    for (std::size_t i = 0; i < columns.size(); ++i) {
      EXPECT_EQ(column_named(columns, columns[i].name), i);
      EXPECT_EQ(column_of_letter(columns, columns[i].letter), i);
      EXPECT_TRUE(columns[i].letter >= 'A' && columns[i].letter <= 'Z') << columns[i].name;
    }
  }
}

TEST(TopTable, WhatHasNoRoomGoesByItsRank) {
  TopModel model;
  model.take_load(load_answer(kSecond, {{.id = 1, .command = "a-command"}}));
  const TopTable& table = model.spaces();
  for (std::size_t width = 20; width < 140; ++width) {
    const TopLayout layout = lay_out(table, width);
    EXPECT_LE(row_line(table, layout, table.rows[0]).size(), width);
    EXPECT_LE(heading_line(table, layout).size(), width);
    EXPECT_EQ(layout.columns.front(), 0U) << "the process is the last to go";
  }
  EXPECT_EQ(lay_out(table, 1000).columns.size(), table.columns.size());
  EXPECT_EQ(heading_line(table, lay_out(table, 16)), " PID  FAULTS/S");
}

TEST(TopTable, ClipsByCharactersAndNotBytes) {
  EXPECT_EQ(clipped("größe", 3), "grö");
  EXPECT_EQ(clipped("abc", 9), "abc");
  EXPECT_EQ(clipped("abc", 0), "");
}

}  // namespace
}  // namespace faultline::ctl
