// An object's map, drawn: as SVG and as text.
#include <gtest/gtest.h>

#include "tools/faultctl/failure.hpp"
#include "tools/faultctl/map_svg.hpp"
#include "tools/faultctl/map_text.hpp"

namespace faultline::ctl {
namespace {

using nlohmann::json;

// Twelve pages in three cells: all in memory; half; one of them poisoned.
json answer() {
  const json none = {0, 0, 0};
  return {{"map",
           {{"object", 3},
            {"object_name", "a<b>&\"c'"},
            {"size", 12 * 4096},
            {"page_size", 4096},
            {"pages", 12},
            {"bucket_pages", 4},
            {"buckets", 3},
            {"states",
             {{"resident", {4, 2, 0}},
              {"dirty", none},
              {"filling", none},
              {"evicting", none},
              {"swapped", none},
              {"lost", none},
              {"poisoned", {0, 0, 1}},
              {"absent", {0, 2, 3}}}},
            {"mapped_by", {2, 1, 0}},
            {"pinned", {1, 0, 0}},
            {"mappings",
             {{{"pid", 42},
               {"space", 7},
               {"uid", 0},
               {"command", "<script>"},
               {"mapped", {4, 4, 0}},
               {"private", {4, 1, 0}},
               {"pinned", {1, 0, 0}}}}},
            {"others", 1},
            {"left_out", 0}}}};
}

std::size_t times(const std::string& text, const std::string& word) {
  std::size_t n = 0;
  for (auto at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++n;
  return n;
}

TEST(MapSvg, SaysWhatEachCellHolds) {
  const std::string svg = map_svg(ObjectMap::from(answer()));
  EXPECT_NE(svg.find("pages 4 to 7 (16.0 KiB from 16.0 KiB): 2 in memory, 2 never in memory"),
            std::string::npos)
      << svg;
  EXPECT_NE(svg.find("1 cannot be supplied"), std::string::npos);
  EXPECT_NE(svg.find("mapped by 2 processes"), std::string::npos);
  EXPECT_NE(svg.find("4 pages mapped, 1 its own copies, 0 pinned"), std::string::npos);
  EXPECT_NE(svg.find("and 1 processes of other users"), std::string::npos);
  EXPECT_EQ(times(svg, "class=\"private\""), 3U) << "two cells, and the legend";
}

TEST(MapSvg, ANameIsNeverMarkup) {
  const std::string svg = map_svg(ObjectMap::from(answer()));
  EXPECT_EQ(svg.find("<script>"), std::string::npos);
  EXPECT_NE(svg.find("42 &lt;script&gt;"), std::string::npos);
  EXPECT_NE(svg.find("a&lt;b&gt;&amp;&quot;c&apos;"), std::string::npos);
  EXPECT_EQ(xml_escaped(std::string("a\x01z", 3)), "az");
}

// What looks the same side by side is drawn once, so that a large object is no large file.
TEST(MapSvg, EqualCellsAreOne) {
  json all_absent = answer();
  json& map = all_absent["map"];
  const std::vector<std::uint64_t> zeroes(1000, 0);
  for (auto& [state, counts] : map["states"].items()) counts = zeroes;
  map["states"]["absent"] = std::vector<std::uint64_t>(1000, 4);
  map["mapped_by"] = zeroes;
  map["pinned"] = zeroes;
  map["mappings"] = json::array();
  map["pages"] = 4000;
  map["buckets"] = 1000;
  const std::string svg = map_svg(ObjectMap::from(all_absent));
  EXPECT_EQ(times(svg, "<g>"), 2U) << "the object's and the sharing";
  EXPECT_NE(svg.find("pages 0 to 3999"), std::string::npos);
}

TEST(MapText, AMixedCellShowsItsShareAndAPoisonedOneIsSeen) {
  const std::string text = map_text(ObjectMap::from(answer()));
  EXPECT_NE(text.find("the object           |#5!|"), std::string::npos) << text;
  EXPECT_NE(text.find("mapped by            |21.|"), std::string::npos) << text;
  EXPECT_NE(text.find("pinned               |P  |"), std::string::npos) << text;
  EXPECT_NE(text.find("42 <script>          |#2 |"), std::string::npos) << text;
}

TEST(ObjectMap, RefusesWhatIsNoMap) {
  json wrong = answer();
  wrong["map"]["pinned"] = {1};
  EXPECT_THROW((void)ObjectMap::from(wrong), Unreachable);
  wrong = answer();
  wrong["map"]["bucket_pages"] = 0;
  EXPECT_THROW((void)ObjectMap::from(wrong), Unreachable);
  wrong = answer();
  wrong["map"].erase("states");
  EXPECT_THROW((void)ObjectMap::from(wrong), Unreachable);
}

}  // namespace
}  // namespace faultline::ctl
