// The VMAs of one address space: disjoint half-open intervals in order. Must never hold two that
// overlap. Keeps the number of pieces in the activities of its VMAs, which therefore must be in no
// other VmaMap. Not thread-safe: its address space's worker alone uses it.
#pragma once

#include <map>
#include <vector>

#include "daemon/space/vma.hpp"

namespace faultline::space {

class VmaMap {
 public:
  VmaMap() = default;
  VmaMap(VmaMap&&) = default;
  VmaMap& operator=(VmaMap&&) = default;
  VmaMap(const VmaMap&) = delete;
  VmaMap& operator=(const VmaMap&) = delete;
  ~VmaMap() = default;

  // Null where no VMA holds the address. Valid until the next change.
  [[nodiscard]] const Vma* find(Vaddr address) const;
  // Whatever stood in its place is removed and returned.
  std::vector<Vma> insert(Vma vma);
  // Cuts [start, end) out; returns the pieces that were in it. Nothing is in an empty interval.
  std::vector<Vma> remove(Vaddr start, Vaddr end);
  // The pieces of VMAs in [start, end).
  [[nodiscard]] std::vector<Vma> overlapping(Vaddr start, Vaddr end) const;
  [[nodiscard]] std::size_t size() const { return by_start_.size(); }
  [[nodiscard]] bool empty() const { return by_start_.empty(); }

  [[nodiscard]] auto begin() const { return by_start_.begin(); }
  [[nodiscard]] auto end() const { return by_start_.end(); }

 private:
  using Tree = std::map<Vaddr, Vma>;
  [[nodiscard]] Tree::const_iterator first_overlapping(Vaddr start) const;
  Tree::const_iterator put(Vma vma);

  Tree by_start_;
};

}  // namespace faultline::space
