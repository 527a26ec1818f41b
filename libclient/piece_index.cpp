#include "libclient/piece_index.hpp"

#include <algorithm>
#include <memory>

#include "libclient/fork.hpp"
#include "libclient/pin_ledger.hpp"

namespace faultline::client {

void PieceIndex::make_current() {
  {
    const Reading reading;
    if (current(reading) != nullptr) return;
  }
  // The state comes first: what changes while the books are read makes the index stale.
  std::unique_ptr<PieceIndex> index{new PieceIndex(places_state.load(std::memory_order_seq_cst))};
  for (const auto& connection : all_connections()) {
    PinLedger* const ledger = connection->ledger();
    const std::uint64_t ledger_number = ledger == nullptr ? 0 : ledger->number();
    connection->mappings().each_usable([&](std::uintptr_t start, const Piece& piece) {
      index->pieces_.push_back({.start = start,
                                .end = start + piece.length,
                                .object = piece.object.get(),
                                .frames = piece.frames.get(),
                                .offset = piece.object->size() - piece.to_object_end,
                                .ledger = ledger,
                                .ledger_number = ledger_number,
                                .shared = piece.shared,
                                .writable = piece.writable});
    });
  }
  std::ranges::sort(index->pieces_, {}, &IndexedPiece::start);
  const PieceIndex* const before = published.exchange(index.release(), std::memory_order_seq_cst);
  if (before != nullptr) give_back_later(std::unique_ptr<const Retirable>(before));
}

}  // namespace faultline::client
