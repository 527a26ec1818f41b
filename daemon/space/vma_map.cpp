#include "daemon/space/vma_map.hpp"

#include <cassert>
#include <utility>

namespace faultline::space {

VmaMap::Tree::const_iterator VmaMap::first_overlapping(Vaddr start) const {
  auto it = by_start_.upper_bound(start);
  if (it != by_start_.begin() && std::prev(it)->second.end > start) --it;
  return it;
}

const Vma* VmaMap::find(Vaddr address) const {
  const auto it = first_overlapping(address);
  return it != by_start_.end() && it->second.contains(address) ? &it->second : nullptr;
}

VmaMap::Tree::const_iterator VmaMap::put(Vma vma) {
  ++vma.activity->pieces;
  const Vaddr start = vma.start;
  return by_start_.emplace(start, std::move(vma)).first;
}

std::vector<Vma> VmaMap::overlapping(Vaddr start, Vaddr end) const {
  std::vector<Vma> pieces;
  if (start == end) return pieces;
  for (auto it = first_overlapping(start); it != by_start_.end() && it->first < end; ++it) {
    pieces.push_back(it->second.part(start, end));
  }
  return pieces;
}

std::vector<Vma> VmaMap::remove(Vaddr start, Vaddr end) {
  std::vector<Vma> removed;
  if (start == end) return removed;
  auto it = first_overlapping(start);
  while (it != by_start_.end() && it->first < end) {
    const Vma whole = it->second;
    it = by_start_.erase(it);
    --whole.activity->pieces;
    removed.push_back(whole.part(start, end));
    if (whole.start < start) put(whole.part(whole.start, start));
    if (whole.end > end) it = put(whole.part(end, whole.end));
  }
  return removed;
}

std::vector<Vma> VmaMap::insert(Vma vma) {
  assert(vma.start < vma.end);
  std::vector<Vma> replaced = remove(vma.start, vma.end);
  put(std::move(vma));
  return replaced;
}

}  // namespace faultline::space
