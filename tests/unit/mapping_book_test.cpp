// The library's book of what it mapped: what it says of any range, against a list of single pages.
#include "libclient/mapping_book.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <optional>
#include <random>
#include <span>

#include "tests/unit/seed.hpp"

namespace faultline::client {
namespace {

constexpr std::size_t kPage = 4096;
constexpr auto kAny = [](const Piece&) { return true; };

MapRange pages(std::size_t first, std::size_t count) {
  return {(first + 1) * kPage, count * kPage};
}

Piece piece_of(std::uint64_t mapping, std::size_t count, std::size_t to_end) {
  Piece piece;
  piece.length = count * kPage;
  piece.to_object_end = to_end * kPage;
  piece.mapping = mapping;
  piece.may_write = true;
  return piece;
}

void put(MappingBook& book, std::size_t first, const Piece& piece) {
  book.put({{pages(first, 0).start, piece}});
}

TEST(MappingBook, KnowsWhatIsAllMapped) {
  MappingBook book;
  put(book, 2, piece_of(1, 3, 3));
  put(book, 5, piece_of(2, 2, 9));
  EXPECT_TRUE(book.all(pages(2, 5), kAny)) << "over two pieces";
  EXPECT_TRUE(book.all(pages(3, 3), kAny));
  EXPECT_FALSE(book.all(pages(1, 2), kAny));
  EXPECT_FALSE(book.all(pages(6, 2), kAny));
  EXPECT_FALSE(book.all(pages(0, 1), kAny));
  EXPECT_FALSE(book.all(pages(2, 0), kAny));
  const auto second = [](const Piece& piece) { return piece.mapping == 2; };
  EXPECT_TRUE(book.all(pages(5, 2), second));
  EXPECT_FALSE(book.all(pages(4, 2), second));
}

TEST(MappingBook, APartKnowsHowFarItsObjectGoes) {
  MappingBook book;
  put(book, 2, piece_of(1, 3, 10));
  const Piece part = book.part(pages(3, 2));
  EXPECT_EQ(part.length, 2 * kPage);
  EXPECT_EQ(part.to_object_end, 9 * kPage);
  EXPECT_EQ(book.part(pages(4, 2)).length, 0U) << "past its end";
  EXPECT_EQ(book.part(pages(1, 2)).length, 0U) << "before its start";
  EXPECT_EQ(book.pieces().size(), 1U);
}

// What is cut and not changed is one piece again; what differs stays apart.
TEST(MappingBook, JoinsWhatBelongsTogetherAndNothingElse) {
  MappingBook book;
  put(book, 0, piece_of(1, 8, 8));
  put(book, 8, piece_of(2, 2, 2));
  book.cut_at(pages(3, 2));
  EXPECT_EQ(book.pieces().size(), 4U);
  book.join(pages(3, 2));
  EXPECT_EQ(book.pieces().size(), 2U) << "another mapping is another piece";
  book.cut_at(pages(3, 2));
  book.pieces().at(pages(3, 0).start).writable = true;
  book.join(pages(3, 2));
  EXPECT_EQ(book.pieces().size(), 4U);
  book.pieces().at(pages(3, 0).start).writable = false;
  book.join(pages(3, 2));
  EXPECT_EQ(book.pieces().size(), 2U);
}

TEST(MappingBook, PartsOfOneMappingInAnotherOrderStayApart) {
  MappingBook book;
  put(book, 0, piece_of(1, 2, 6));
  put(book, 2, piece_of(1, 2, 8));
  book.join(pages(0, 4));
  EXPECT_EQ(book.pieces().size(), 2U);
}

// Every page on its own.
struct Model {
  struct Page {
    std::uint64_t mapping;
    std::size_t to_end;
    bool writable;
    friend bool operator==(const Page&, const Page&) = default;
  };
  static constexpr std::size_t kPages = 48;
  std::array<std::optional<Page>, kPages> all;

  void expect_same(const MappingBook& book) const {
    std::array<std::optional<Page>, kPages> seen;
    for (const auto& [start, piece] : book.pieces()) {
      const std::size_t first = start / kPage - 1;
      for (std::size_t i = 0; i < piece.length / kPage; ++i) {
        ASSERT_FALSE(seen.at(first + i)) << "pieces overlap at page " << first + i;
        seen.at(first + i) = Page{piece.mapping, piece.to_object_end / kPage - i, piece.writable};
      }
    }
    for (std::size_t i = 0; i < kPages; ++i) EXPECT_EQ(seen.at(i), all.at(i)) << "page " << i;
  }
};

// One change of the range, in the book and in the model.
void change(MappingBook& book, Model& model, std::size_t first, std::size_t count,
            std::uint64_t draw, std::uint64_t step) {
  const MapRange range = pages(first, count);
  const std::size_t to_end = count + draw % 5;
  const bool writable = draw % 2 != 0;
  const std::span changed = std::span(model.all).subspan(first, count);
  book.cut_at(range);
  switch (draw / 8 % 4) {
    case 0:
      book.forget(range);
      put(book, first, piece_of(step, count, to_end));
      for (std::size_t i = 0; i < count; ++i) changed[i] = Model::Page{step, to_end - i, false};
      break;
    case 1:
      book.forget(range);
      for (auto& page : changed) page.reset();
      break;
    case 2:
      for (auto& [start, piece] : book.pieces()) {
        if (range.overlaps({start, piece.length})) piece.writable = writable;
      }
      for (auto& page : changed) {
        if (page) page->writable = writable;
      }
      break;
    default:
      break;
  }
  book.join(range);
}

TEST(MappingBook, SaysTheSameAsAListOfPages) {
  std::mt19937_64 random(testing::announce_seed());
  MappingBook book;
  Model model;
  for (std::uint64_t step = 0; step < 3000 && !::testing::Test::HasFailure(); ++step) {
    const std::size_t first = random() % Model::kPages;
    const std::size_t count = 1 + random() % (Model::kPages - first);
    const std::span chosen = std::span(model.all).subspan(first, count);
    EXPECT_EQ(book.all(pages(first, count), kAny),
              std::all_of(chosen.begin(), chosen.end(), [](const auto& page) { return !!page; }));
    change(book, model, first, count, random(), step);
    model.expect_same(book);
    MappingBook joined = book;
    for (const auto& [start, piece] : book.pieces()) joined.join({start, piece.length});
    EXPECT_EQ(joined.pieces().size(), book.pieces().size()) << "something was left to join";
  }
}

}  // namespace
}  // namespace faultline::client
