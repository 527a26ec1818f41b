// A VMA: [start, end) of an address space mapped to pages of an object. A value: once it is in a
// VmaTree it must never be changed, but for its activity; a change makes another one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "daemon/kernel/units.hpp"
#include "daemon/memory/memory_object.hpp"
#include "daemon/space/vma_activity.hpp"

namespace faultline::space {

enum class Sharing : std::uint8_t { shared, private_copy };

// Whole pages of a client's memory.
struct VaRange {
  Vaddr start;
  ByteCount length;
  [[nodiscard]] Vaddr end() const { return start + length; }
};

struct Vma {
  Vaddr start;
  Vaddr end;
  std::shared_ptr<memory::MemoryObject> object;
  PageIndex first;  // the object's page at start
  Sharing sharing = Sharing::shared;
  // As the library last said. mprotect(2) is not reported, and nothing is decided by this: the
  // kernel checks every access before it asks us.
  bool writable = false;
  // Whether stores through it can be the object's: of a shared mapping.
  bool may_write = false;
  Advice advice = Advice::normal;
  std::shared_ptr<VmaActivity> activity;

  [[nodiscard]] PageSize page_size() const { return object->page_size(); }
  [[nodiscard]] ByteCount length() const { return end - start; }
  [[nodiscard]] PageCount pages() const { return page_size().pages(length()); }
  [[nodiscard]] bool contains(Vaddr a) const { return a >= start && a < end; }
  [[nodiscard]] PageIndex page_at(Vaddr a) const {
    return first + page_size().pages(page_size().round_down(a) - start);
  }
  [[nodiscard]] Vaddr address_of(PageIndex page) const {
    return start + page_size().bytes(page - first);
  }
  [[nodiscard]] PageIndex end_page() const { return first + pages(); }
  // The part of this VMA in [from, to), which must overlap it.
  [[nodiscard]] Vma part(Vaddr from, Vaddr to) const {
    Vma piece = *this;
    piece.start = from < start ? start : from;
    piece.end = to > end ? end : to;
    piece.first = page_at(piece.start);
    return piece;
  }
  [[nodiscard]] Vma moved_to(Vaddr there) const {
    Vma moved = *this;
    moved.start = there;
    moved.end = there + length();
    return moved;
  }
  // Whether the two are pieces of one mapping that a single VMA could show.
  [[nodiscard]] bool continues_in(const Vma& next) const {
    return end == next.start && activity == next.activity && end_page() == next.first &&
           sharing == next.sharing && may_write == next.may_write && writable == next.writable &&
           advice == next.advice;
  }
};

// The part of a shared VMA that shows some of these pages of the object; nothing where none does.
inline std::optional<Vma> shared_part(const Vma& vma, const memory::MemoryObject& object,
                                      PageIndex first, PageCount count) {
  if (vma.sharing != Sharing::shared || vma.object.get() != &object) return std::nullopt;
  const PageIndex from = std::max(first, vma.first);
  const PageIndex to = std::min(first + count, vma.end_page());
  if (from >= to) return std::nullopt;
  const Vaddr start = vma.address_of(from);
  return vma.part(start, start + vma.page_size().bytes(to - from));
}

}  // namespace faultline::space
