#include "libclient/mapping_book.hpp"

#include <array>
#include <charconv>
#include <iterator>
#include <tuple>

namespace faultline::client {

namespace {

// What follows `before` by its bytes and is of its kind.
bool goes_on(std::uintptr_t start, const Piece& before, std::uintptr_t next, const Piece& after) {
  const auto kind = [](const Piece& piece) {
    return std::tuple(piece.mapping, piece.content, piece.shared, piece.may_write, piece.writable);
  };
  return start + before.length == next &&
         before.to_object_end - before.length == after.to_object_end && kind(before) == kind(after);
}

}  // namespace

std::string words_of(MapRange range) {
  std::array<char, 16> digits{};
  const auto written = std::to_chars(digits.data(), digits.data() + digits.size(), range.start, 16);
  return std::to_string(range.length) + " bytes at address 0x" +
         std::string(digits.data(), written.ptr);
}

std::string words_of_failed(std::uint64_t pages) {
  return ", where " + std::to_string(pages * 4096) + " bytes could not be had";
}

MappingBook::Pieces::const_iterator MappingBook::holding(std::uintptr_t address) const {
  auto it = pieces_.upper_bound(address);
  if (it == pieces_.begin()) return it;
  const auto before = std::prev(it);
  return before->first + before->second.length > address ? before : it;
}

bool MappingBook::whole_pages(MapRange range) const {
  const auto first = find(range.start);
  const auto last = find(range.end() - 1);
  return (first == pieces_.end() || range.start % first->second.page == 0) &&
         (last == pieces_.end() || range.end() % last->second.page == 0);
}

Piece MappingBook::part(MapRange range) const {
  const auto it = holding(range.start);
  if (it == pieces_.end() || it->first > range.start ||
      it->first + it->second.length < range.end()) {
    return {};
  }
  Piece piece = it->second;
  piece.to_object_end -= range.start - it->first;
  piece.length = range.length;
  return piece;
}

void MappingBook::cut(std::uintptr_t at) {
  const auto it = holding(at);
  if (it == pieces_.end() || it->first >= at) return;
  const std::size_t before = at - it->first;
  Piece after = it->second;
  after.length -= before;
  after.to_object_end -= before;
  const auto whole = pieces_.find(it->first);
  pieces_.emplace_hint(std::next(whole), at, after);
  whole->second.length = before;
}

void MappingBook::cut_at(MapRange range) {
  cut(range.start);
  cut(range.end());
}

void MappingBook::forget(MapRange range) noexcept {
  pieces_.erase(pieces_.lower_bound(range.start), pieces_.lower_bound(range.end()));
}

void MappingBook::put(Pieces fresh) noexcept {
  pieces_.merge(fresh);
}

void MappingBook::join(MapRange range) noexcept {
  auto it = pieces_.lower_bound(range.start);
  if (it != pieces_.begin()) --it;
  while (it != pieces_.end()) {
    const auto next = std::next(it);
    if (next == pieces_.end() || next->first > range.end()) return;
    if (goes_on(it->first, it->second, next->first, next->second)) {
      it->second.length += next->second.length;
      if (it->second.framed != next->second.framed) {
        it->second.framed = 0;
        it->second.frames.reset();
      }
      pieces_.erase(next);
    } else {
      it = next;
    }
  }
}

}  // namespace faultline::client
