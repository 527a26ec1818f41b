// A VMA: [start, end) of an address space mapped to pages of an object, and what happened in it.
// Must never be changed in place once it is in a VmaMap, but for its activity.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "daemon/kernel/units.hpp"
#include "daemon/memory/memory_object.hpp"
#include "daemon/space/fault_around.hpp"
#include "daemon/space/page_set.hpp"

namespace faultline::space {

enum class Sharing : std::uint8_t { shared, private_copy };

// What was done for faults, in one VMA or in a whole address space.
struct FaultCounters {
  std::uint64_t missing = 0;
  std::uint64_t minor = 0;
  std::uint64_t write_protect = 0;
  std::uint64_t writes = 0;
  std::uint64_t pages_mapped = 0;
  std::uint64_t pages_copied = 0;
  std::uint64_t breaks = 0;
  std::uint64_t ahead_copies = 0;
  std::uint64_t poisoned = 0;

  FaultCounters& operator+=(const FaultCounters& other) {
    missing += other.missing;
    minor += other.minor;
    write_protect += other.write_protect;
    writes += other.writes;
    pages_mapped += other.pages_mapped;
    pages_copied += other.pages_copied;
    breaks += other.breaks;
    ahead_copies += other.ahead_copies;
    poisoned += other.poisoned;
    return *this;
  }
};

// What happened in a mapping since it was made. The pieces that an unmap cuts it into go on sharing
// it. Belongs to one VmaMap.
struct VmaActivity {
  // How many VMAs of that VmaMap share it; kept by the VmaMap alone. 0: none is left.
  std::size_t pieces = 0;
  FaultCounters counters;
  FaultAround fault_around;
  // Pages that are, or may by now be, this address space's own: recorded before the client can
  // write. Made at the first break.
  std::optional<PageSet> broken;
  // The pages that broken is numbered over.
  PageIndex first;
  PageCount size;
};

struct Vma {
  Vaddr start;
  Vaddr end;
  std::shared_ptr<memory::MemoryObject> object;
  PageIndex first;  // the object's page at start
  Sharing sharing = Sharing::shared;
  bool writable = false;
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
};

}  // namespace faultline::space
