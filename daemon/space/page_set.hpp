// A set of page numbers of a fixed range, a bit each, taking memory only where bits were ever set.
// Not thread-safe.
#pragma once

#include <cstdint>

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
  PageSet(kernel::MappedMemory words, PageIndex first, PageCount size)
      : words_(std::move(words)), first_(first), size_(size) {}
  [[nodiscard]] std::uint64_t* words() const;
  // Calls visit(word index, mask) for every word that the range touches.
  template <typename Visit>
  void each_word(PageIndex first, PageCount count, Visit visit) const;

  kernel::MappedMemory words_;
  PageIndex first_;
  PageCount size_;
};

}  // namespace faultline::space
