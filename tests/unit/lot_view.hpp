// A lot as a client sees it, for tests: mapped read-only, and read as wire/lot.hpp says. Must never
// be given anything but the descriptor.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <vector>

#include "daemon/wait/lot.hpp"

namespace faultline::testing {

class LotView {
 public:
  explicit LotView(int fd) : memory_(::mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, fd, 0)) {
    EXPECT_NE(memory_, MAP_FAILED);
  }
  LotView(const LotView&) = delete;
  LotView& operator=(const LotView&) = delete;
  ~LotView() { ::munmap(memory_, kBytes); }

  [[nodiscard]] const wire::LotSlot& operator[](wait::SlotIndex slot) const {
    return static_cast<const wire::LotSlot*>(memory_)[slot.value()];
  }
  // The slot, and then the others of its group.
  [[nodiscard]] std::vector<wait::SlotIndex> group_of(wait::SlotIndex slot) const {
    for (;;) {
      const std::uint32_t version = (*this)[slot].version.load(std::memory_order_acquire);
      std::vector group{slot};
      // Once around, unless it changes meanwhile.
      for (wait::SlotIndex at = next(slot); at != slot && group.size() < kMostOfGroup;
           at = next(at)) {
        group.push_back(at);
      }
#if defined(__SANITIZE_THREAD__)
      // Which knows no fences; a read-only mapping has no other way to order two loads.
      const std::uint32_t after = (*this)[slot].version.load(std::memory_order_seq_cst);
#else
      std::atomic_thread_fence(std::memory_order_acquire);
      const std::uint32_t after = (*this)[slot].version.load(std::memory_order_relaxed);
#endif
      if (version % 2 == 0 && after == version) return group;
    }
  }

 private:
  static constexpr std::size_t kBytes = std::size_t{wire::kLotSlots} * sizeof(wire::LotSlot);
  static constexpr std::size_t kMostOfGroup = 4096;
  [[nodiscard]] wait::SlotIndex next(wait::SlotIndex slot) const {
    return wait::SlotIndex{(*this)[slot].next.load(std::memory_order_acquire)};
  }

  void* memory_;
};

}  // namespace faultline::testing
