// Takes pages of objects out of memory, a batch at a time: what an object's own part of that is
// (memory/eviction.hpp), and what concerns every address space that maps it. Must never wait for a
// client for longer than kProtectWithin, nor have others wait so long for a page.
//
// evict blocks: for the homes of address spaces, for the swap file, for the lock of an object's
// memfd. So it is for a thread that may be held up.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "daemon/memory/eviction.hpp"
#include "daemon/memory/page_holds.hpp"
#include "daemon/space/space_service.hpp"

namespace faultline::space {

class Evictor {
 public:
  // Of one batch: who wants one of them waits for as long as all of them take.
  static constexpr PageCount kBatch{1024};
  // A client that holds the lock of its memory map up keeps pages from being evicted, and nobody
  // who wants one of them waiting for longer.
  static constexpr std::chrono::milliseconds kProtectWithin{1000};

  // holds: null where nobody holds pages. Refers to them.
  explicit Evictor(SpaceService& spaces, memory::PageHolds* holds = nullptr)
      : spaces_(spaces), holds_(holds) {}

  // Takes out what can go of at most kBatch pages, and says what became of them. Thread-safe.
  [[nodiscard]] memory::EvictionCounts evict(const std::shared_ptr<memory::MemoryObject>& object,
                                             PageIndex first, PageCount count,
                                             memory::WhichPages which);
  // From here on nothing is evicted. Waits for what is under way; false where that has not ended
  // until then.
  [[nodiscard]] bool stop(std::chrono::steady_clock::time_point deadline);
  [[nodiscard]] bool stopped() const;
  // What became of all pages so far.
  [[nodiscard]] memory::EvictionCounts totals() const;

 private:
  [[nodiscard]] bool enter();
  void leave(const memory::EvictionCounts& counts);

  SpaceService& spaces_;
  memory::PageHolds* const holds_;
  mutable std::mutex mutex_;  // guards the rest; leaf lock
  std::condition_variable left_;
  unsigned under_way_ = 0;
  bool stopping_ = false;
  memory::EvictionCounts totals_;
};

}  // namespace faultline::space
