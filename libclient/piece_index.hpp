// What all books of mappings say, for look-ups without a lock: which object an address shows, and
// what may be done there. Must never be used where a book has changed since it was made, nor
// outside a Reading.
//
// An index is made by whoever needs one and finds none that is current, and is never changed. It is
// of one state of all books (places_state); who uses it may ask afterwards whether that state has
// stayed, and no change has begun.
#pragma once

#include <cstdint>
#include <vector>

#include "libclient/frame_view.hpp"
#include "libclient/object_view.hpp"
#include "libclient/place.hpp"
#include "libclient/reading.hpp"

namespace faultline::client {

class PinLedger;

struct IndexedPiece {
  std::uintptr_t start = 0;
  std::uintptr_t end = 0;
  const ObjectView* object = nullptr;
  const FrameView* frames = nullptr;  // of a private mapping; null where it was not opened
  std::uint64_t offset = 0;           // of start, in the object, bytes
  PinLedger* ledger = nullptr;        // of its connection; null where it has none yet
  std::uint64_t ledger_number = 0;
  bool shared = false;
  bool writable = false;

  [[nodiscard]] std::uint64_t offset_of(std::uintptr_t address) const {
    return offset + (address - start);
  }
  struct Pages {
    std::uint64_t first;
    std::uint64_t count;
    unsigned shift;
    [[nodiscard]] std::uint64_t bytes() const { return count << shift; }
  };
  // Of the object, that [from, to) touches; not empty.
  [[nodiscard]] Pages pages_of(std::uintptr_t from, std::uintptr_t to) const {
    const unsigned shift = object->page_shift();
    const std::uint64_t first = offset_of(from) >> shift;
    return {first, (offset_of(to - 1) >> shift) - first + 1, shift};
  }
};

class PieceIndex final : public Retirable {
 public:
  // The one that is current; null where there is none.
  [[nodiscard]] static const PieceIndex* current(const Reading&) {
    const PieceIndex* const index = published.load(std::memory_order_acquire);
    return index != nullptr && index->still_current() ? index : nullptr;
  }
  // Makes one where there is none; it may be so no longer when this returns. Throws bad_alloc.
  static void make_current();

  // Null where no piece holds the address.
  [[nodiscard]] const IndexedPiece* find(std::uintptr_t address) const {
    std::size_t first = 0;
    std::size_t count = pieces_.size();
    while (count > 1) {
      const std::size_t half = count / 2;
      if (pieces_[first + half].start <= address) first += half;
      count -= half;
    }
    if (count == 0) return nullptr;
    const IndexedPiece& piece = pieces_[first];
    return piece.start <= address && address < piece.end ? &piece : nullptr;
  }
  // After a pin was published, true means that whatever changes the mappings later finds the pin
  // (faultline/wire/ledger.hpp). In this order: a change is under way until its state is there.
  [[nodiscard]] bool still_current() const {
    return changes_under_way.load(std::memory_order_acquire) == 0 &&
           places_state.load(std::memory_order_acquire) == state_;
  }

 private:
  explicit PieceIndex(std::uint64_t state) : state_(state) {}

  // NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): of all books
  static inline constinit std::atomic<const PieceIndex*> published{nullptr};

  const std::uint64_t state_;
  std::vector<IndexedPiece> pieces_;  // by their starts
};

}  // namespace faultline::client
