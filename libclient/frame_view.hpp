// What this process reads of its private pages in one mapping (faultline/wire/frames.hpp). Must
// never be read but within a Reading, unless the reader keeps it alive.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "faultline/wire/frames.hpp"
#include "faultline/wire/protocol.hpp"
#include "faultline/wire/unique_fd.hpp"
#include "libclient/reading.hpp"

namespace faultline::client {

class FrameView final : public Retirable {
 public:
  // Throws Failure: as mmap(2).
  static std::shared_ptr<const FrameView> open(const wire::OpenFramesReply& reply,
                                               const UniqueFd& frames);
  ~FrameView() override;
  // In a fork child, where those of before are not mapped.
  static void forget_all() { life.fetch_add(1); }
  FrameView(const FrameView&) = delete;
  FrameView& operator=(const FrameView&) = delete;

  // Pages of the object. What was grown since lies in no view.
  [[nodiscard]] bool covers(std::uint64_t first, std::uint64_t count) const {
    return first >= first_ && count <= count_ && first - first_ <= count_ - count;
  }
  [[nodiscard]] std::uint64_t entry(std::uint64_t page) const {
    return entries_[page - first_].load(std::memory_order_acquire);
  }
  // Whether the page is known to be this process's own already.
  [[nodiscard]] static bool sure(std::uint64_t entry) {
    return entry != 0 && (entry & wire::kFrameUnsure) == 0;
  }
  // Whether it stays what it is when this process writes to it.
  [[nodiscard]] static bool kept(std::uint64_t entry) {
    return sure(entry) && (entry & wire::kFrameGuarded) == 0;
  }
  // How many pages from first on, of count, are surely own as the first one is, or not, as that.
  [[nodiscard]] std::uint64_t run(std::uint64_t first, std::uint64_t count) const {
    const bool own = sure(entry(first));
    std::uint64_t alike = 1;
    while (alike < count && sure(entry(first + alike)) == own) ++alike;
    return alike;
  }

 private:
  FrameView(const wire::OpenFramesReply& reply, const std::atomic<std::uint64_t>* entries)
      : first_(reply.first_page),
        count_(reply.pages),
        entries_(entries),
        made_in_(life.load(std::memory_order_relaxed)) {}

  // Of this process: changes with a fork.
  // NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): a process has one
  static inline constinit std::atomic<std::uint64_t> life{0};

  std::uint64_t first_;
  std::uint64_t count_;
  const std::atomic<std::uint64_t>* entries_;
  std::uint64_t made_in_;
};

}  // namespace faultline::client
