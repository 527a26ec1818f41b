// Pieces of mappings whose removal was reported while a fork that began before it may not have been
// reported yet: its child has them still, and looks for them here at its first fault. Must never
// grow without a bound: a client can move and unmap for ever while it keeps an event under way.
//
// What is dropped for want of room is dropped oldest first. A child that had it gets SIGBUS there
// from then on, as in every range that the daemon does not know.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <vector>

#include "daemon/space/vma.hpp"

namespace faultline::space {

class DepartedVmas {
 public:
  static constexpr std::size_t kMost = 65'536;

  void add(const std::vector<Vma>& gone) {
    pieces_.insert(pieces_.end(), gone.begin(), gone.end());
    while (pieces_.size() > kMost) drop_oldest();
  }

  // A place between what was added before and what will be.
  [[nodiscard]] std::uint64_t mark() const { return dropped_ + pieces_.size(); }
  void drop_before(std::uint64_t mark) {
    while (dropped_ < mark && !pieces_.empty()) drop_oldest();
  }
  void clear() { drop_before(mark()); }

  // The newest that holds the address; null where none does. Valid until the next change.
  [[nodiscard]] const Vma* find(Vaddr address) const {
    const auto found = std::find_if(pieces_.rbegin(), pieces_.rend(),
                                    [&](const Vma& piece) { return piece.contains(address); });
    return found == pieces_.rend() ? nullptr : &*found;
  }

  [[nodiscard]] bool empty() const { return pieces_.empty(); }
  [[nodiscard]] auto begin() const { return pieces_.begin(); }  // oldest first
  [[nodiscard]] auto end() const { return pieces_.end(); }

 private:
  void drop_oldest() {
    pieces_.pop_front();
    ++dropped_;
  }

  std::deque<Vma> pieces_;
  std::uint64_t dropped_ = 0;
};

}  // namespace faultline::space
