// What this process has mapped through the library, in pieces that the kernel can treat as one.
// Must never say that something is mapped which is not, so each change is written down under the
// lock under which the system call was made; and must need no memory once that call was made.
//
// Life of a change:
//   1. cut_at: pieces are cut in two where the range begins and ends. The only step that can fail;
//      what it did means nothing yet.
//   2. The system call.
//   3. forget, put, or a change of pieces(): only whole pieces are concerned, and nothing is
//   allocated.
//   4. join: what was cut for nothing is one piece again, as it is for the kernel.
//
// Locking: none; its owner holds a lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "libclient/frame_view.hpp"
#include "libclient/object_view.hpp"

namespace faultline::client {

struct MapRange {
  std::uintptr_t start = 0;
  std::size_t length = 0;

  [[nodiscard]] std::uintptr_t end() const { return start + length; }
  [[nodiscard]] bool overlaps(MapRange other) const {
    return start < other.end() && other.start < end();
  }
  friend bool operator==(MapRange, MapRange) = default;
};
// "N bytes at address 0xA", as /proc/PID/maps writes addresses.
[[nodiscard]] std::string words_of(MapRange range);
// ", where N bytes could not be had". pages: of 4 KiB, as the daemon counts them.
[[nodiscard]] std::string words_of_failed(std::uint64_t pages);

// What lies behind a mapping. none: in a fork child, the addresses of what it did not inherit.
enum class Content : std::uint8_t { zero, of_file, none };

// Part of a mapping: of one object, of one access.
struct Piece {
  std::size_t length = 0;           // bytes
  std::size_t page = 4096;          // bytes, of the object's pages
  std::uint64_t to_object_end = 0;  // bytes, from its start to the end of the object
  std::uint64_t mapping = 0;        // which fl_map it comes from
  Content content = Content::zero;
  bool shared = false;     // what is stored is the object's
  bool may_write = false;  // can be made writable
  bool writable = false;
  bool waits_by_page = false;
  std::shared_ptr<const ObjectView> object;
  // Which of the daemon's mappings its private pages are known by; 0: of more than one.
  std::uint64_t framed = 0;
  std::shared_ptr<const FrameView> frames;  // of that, where it was pinned; else null
};

class MappingBook {
 public:
  using Pieces = std::map<std::uintptr_t, Piece>;

  [[nodiscard]] const Pieces& pieces() const { return pieces_; }
  [[nodiscard]] Pieces& pieces() { return pieces_; }
  [[nodiscard]] bool empty() const { return pieces_.empty(); }

  // Whether all of the range is in pieces for which the condition holds. None holds no bytes.
  template <typename Condition>
  [[nodiscard]] bool all(MapRange range, Condition condition) const {
    std::uintptr_t covered = range.start;
    for (auto it = holding(range.start); it != pieces_.end() && covered < range.end(); ++it) {
      if (it->first > covered || !condition(it->second)) return false;
      covered = it->first + it->second.length;
    }
    return range.length != 0 && covered >= range.end();
  }
  // The piece that holds the address; the end of pieces() where none does.
  [[nodiscard]] Pieces::const_iterator find(std::uintptr_t address) const {
    const auto it = holding(address);
    return it != pieces_.end() && it->first <= address ? it : pieces_.end();
  }
  // Whether a range, all of which is in pieces, neither begins nor ends within a page of an object.
  [[nodiscard]] bool whole_pages(MapRange range) const;
  // The part of one piece that the range is, as a piece of its own; of length 0 where it lies in
  // none or in several.
  [[nodiscard]] Piece part(MapRange range) const;

  void cut_at(MapRange range);
  void forget(MapRange range) noexcept;
  // Takes them over; nothing may be where they are to be.
  void put(Pieces fresh) noexcept;
  // The pieces in and beside the range.
  void join(MapRange range) noexcept;

 private:
  // The first piece that ends after the address.
  [[nodiscard]] Pieces::const_iterator holding(std::uintptr_t address) const;
  void cut(std::uintptr_t at);

  Pieces pieces_;
};

}  // namespace faultline::client
