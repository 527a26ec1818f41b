// The identity of each private page of a mapping: a number that no other page of the daemon's has
// had, but the same page in fork relatives. Costs memory for what was ever set, as PageSet. Not
// thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "daemon/kernel/mapped_memory.hpp"
#include "daemon/kernel/units.hpp"

namespace faultline::space {

// 0: none, the page is the object's.
using FrameId = detail::Number<struct FrameIdTag>;

// One that was never given before. Thread-safe.
[[nodiscard]] FrameId new_frame_id();

class FrameIds {
 public:
  // Pages are numbered from first on. Errors: ENOMEM.
  static Result<FrameIds> create(PageIndex first, PageCount size);

  [[nodiscard]] FrameId get(PageIndex page) const { return FrameId{entries()[place(page)]}; }
  void set(PageIndex page, FrameId id) { entries()[place(page)] = id.value(); }

 private:
  explicit FrameIds(PageIndex first) : first_(first) {}
  [[nodiscard]] std::size_t place(PageIndex page) const { return (page - first_).value(); }
  // Zeroed memory is an array of none.
  [[nodiscard]] std::uint64_t* entries() {
    return small_.empty() ? reinterpret_cast<std::uint64_t*>(mapping_.data()) : small_.data();
  }
  [[nodiscard]] const std::uint64_t* entries() const {
    return const_cast<FrameIds*>(this)->entries();
  }

  PageIndex first_;
  std::vector<std::uint64_t> small_;
  kernel::MappedMemory mapping_;
};

}  // namespace faultline::space
