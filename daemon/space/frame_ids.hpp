// The identity of each private page of a mapping: a number that no other page of the daemon's has
// had, but the same page in fork relatives, and two marks (faultline/wire/frames.hpp). Costs memory
// for what was ever set, as PageSet. Not thread-safe, but for a process that reads what is
// published.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <vector>

#include "daemon/kernel/mapped_memory.hpp"
#include "daemon/kernel/published_memory.hpp"
#include "daemon/kernel/units.hpp"
#include "faultline/wire/frames.hpp"

namespace faultline::space {

// 0: none, the page is the object's.
using FrameId = detail::Number<struct FrameIdTag>;

// One that was never given before. Thread-safe.
[[nodiscard]] FrameId new_frame_id();

class FrameIds {
 public:
  // Pages are numbered from first on. Errors: ENOMEM.
  static Result<FrameIds> create(PageIndex first, PageCount size);

  // The same, for one process to read, by the descriptor. Errors: ENOMEM, EMFILE.
  struct Published;
  static Result<Published> create_published(PageIndex first, PageCount size);

  [[nodiscard]] FrameId get(PageIndex page) const {
    return FrameId{entry(page) & wire::kFrameNumber};
  }
  [[nodiscard]] std::uint64_t entry(PageIndex page) const { return entries()[place(page)]; }
  void set(PageIndex page, FrameId id) { set_entry(page, id.value()); }
  void set_entry(PageIndex page, std::uint64_t entry) {
    // Release: who reads the entry finds what came before it.
    std::atomic_ref(entries()[place(page)]).store(entry, std::memory_order_release);
  }

 private:
  explicit FrameIds(PageIndex first) : first_(first) {}
  [[nodiscard]] std::size_t place(PageIndex page) const { return (page - first_).value(); }
  // Zeroed memory is an array of none.
  [[nodiscard]] std::uint64_t* entries() {
    if (published_) return reinterpret_cast<std::uint64_t*>(published_->data());
    return small_.empty() ? reinterpret_cast<std::uint64_t*>(mapping_.data()) : small_.data();
  }
  [[nodiscard]] const std::uint64_t* entries() const {
    return const_cast<FrameIds*>(this)->entries();
  }

  PageIndex first_;
  std::vector<std::uint64_t> small_;
  kernel::MappedMemory mapping_;
  std::optional<kernel::PublishedMemory> published_;
};

struct FrameIds::Published {
  FrameIds ids;
  UniqueFd fd;
};

}  // namespace faultline::space
