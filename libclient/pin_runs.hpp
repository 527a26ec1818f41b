// The runs of a pin's pages, as fl_pin_runs gives them: as long as pages, and frames, follow each
// other. Must never write more of them than there is room for, nor outlive the Reading of its
// index.
#pragma once

#include <cstddef>
#include <cstdint>

#include "faultline/pin.h"
#include "faultline/wire/ledger.hpp"
#include "libclient/piece_index.hpp"

namespace faultline::client {

class PinRuns {
 public:
  PinRuns(const PieceIndex& index, fl_pin_run* runs, std::size_t most)
      : index_(index), runs_(runs), most_(most) {}

  void add(const wire::PinSlot& slot);
  // Of all, whether or not there was room.
  [[nodiscard]] std::size_t count() const { return count_; }

 private:
  // Of the page at an address, which lies in a private mapping.
  [[nodiscard]] std::uint64_t frame_at(std::uintptr_t address) const;
  // Whether it is known of all pages there whose they are.
  [[nodiscard]] bool known(std::uintptr_t address, std::uint64_t first, std::uint64_t pages) const;
  void put(const fl_pin_run& run);

  const PieceIndex& index_;
  fl_pin_run* runs_;
  std::size_t most_;
  std::size_t count_ = 0;
  fl_pin_run last_{};
};

}  // namespace faultline::client
