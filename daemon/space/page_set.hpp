// A set of page numbers of a fixed range, a bit each. Costs, in memory and in time, what was ever
// set, not the size of the range: a query of a mapping of terabytes must not stop a fault worker.
// Not thread-safe.
//
// A set of up to one block, 32768 pages, is a plain vector: sixty thousand mappings of a page each
// must not take a mapping of the daemon's each. A larger one is a single sparse mapping: its blocks
// of bits, a page of memory each, and behind them a number for each block.
//
// Invariant: a block's number is how many of its bits are set, and total_ is their sum. So a block
// whose number is 0 holds no bit, and is neither read nor copied; one that lies in a range whole is
// counted without being read; and so is the whole range.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/kernel/mapped_memory.hpp"
#include "daemon/kernel/units.hpp"

namespace faultline::space {

class PageSet {
 public:
  // Pages are numbered from first on.
  static Result<PageSet> create(PageIndex first, PageCount size);
  // A copy of what is set.
  [[nodiscard]] Result<PageSet> clone() const;

  [[nodiscard]] bool contains(PageIndex page) const;
  // Each returns how many of the pages it changed.
  PageCount insert(PageIndex first, PageCount count);
  PageCount erase(PageIndex first, PageCount count);
  [[nodiscard]] PageCount count(PageIndex first, PageCount count) const;

 private:
  // Bits [begin, end) of one block, counted from the set's first.
  struct Part {
    std::uint64_t block;
    std::uint64_t begin;
    std::uint64_t end;
  };

  PageSet(PageIndex first, PageCount size) : first_(first), size_(size) {}
  [[nodiscard]] bool small() const;
  [[nodiscard]] std::uint64_t blocks() const;
  [[nodiscard]] std::uint64_t* words();
  [[nodiscard]] const std::uint64_t* words() const;
  [[nodiscard]] std::uint16_t* numbers() const;  // of a set that is not small
  // How many bits are set in the block.
  [[nodiscard]] std::uint64_t number(std::uint64_t block) const;
  [[nodiscard]] bool whole(const Part& part) const;
  // Calls visit(Part) for every block that the range touches.
  template <typename Visit>
  void each_part(PageIndex first, PageCount count, Visit visit) const;
  [[nodiscard]] std::uint64_t count(const Part& part) const;

  PageIndex first_;
  PageCount size_;
  std::uint64_t total_ = 0;
  std::vector<std::uint64_t> small_words_;
  kernel::MappedMemory mapping_;
};

}  // namespace faultline::space
