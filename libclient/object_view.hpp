// What this process sees of an object without asking: its board (faultline/wire/board.hpp), and
// where words are waited for by page, the object's own pages, read-only. Must never be read but
// within a Reading, unless the reader keeps it alive.
//
// The pages are there for futex(2) alone. A private page that nobody wrote to is the object's, but
// a futex call on a writable private mapping would copy it first; through a mapping that cannot be
// written the kernel finds the queue of the object's word.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "faultline/wire/board.hpp"
#include "faultline/wire/protocol.hpp"
#include "faultline/wire/unique_fd.hpp"
#include "libclient/reading.hpp"

namespace faultline::client {

class ObjectView final : public Retirable {
 public:
  // Throws Failure: as mmap(2).
  static std::shared_ptr<const ObjectView> open(const wire::ObjectReply& object,
                                                const UniqueFd& board);
  ~ObjectView() override;
  ObjectView(const ObjectView&) = delete;
  ObjectView& operator=(const ObjectView&) = delete;

  [[nodiscard]] std::uint64_t size() const { return size_; }  // bytes
  [[nodiscard]] std::uint64_t id() const { return id_; }
  [[nodiscard]] unsigned page_shift() const { return page_shift_; }
  // The object's word at an offset, for futex(2); null where no mapping needed it.
  [[nodiscard]] const std::byte* word(std::uint64_t offset) const {
    const std::byte* const pages = pages_.load(std::memory_order_acquire);
    return pages == nullptr ? nullptr : pages + offset;
  }
  [[nodiscard]] bool has_pages() const { return pages_.load(std::memory_order_acquire) != nullptr; }
  // Takes over a mapping of all of the object, which the daemon serves. False: there is one.
  bool take_pages(const std::byte* pages) const {
    const std::byte* none = nullptr;
    return pages_.compare_exchange_strong(none, pages, std::memory_order_acq_rel);
  }
  // Whether nobody can be waiting for the word at an offset, and a wake so be left out. Who asks
  // has stored before what the waiter looks at; see board.hpp for why no fence is needed in
  // between.
  [[nodiscard]] bool nobody_waits(std::uint64_t offset) const {
    if (!counted_) return false;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    return counts()[wire::wait_bucket(offset)].load(std::memory_order_acquire) == 0;
  }
  [[nodiscard]] bool counted() const { return counted_; }
  // Whether the page at an offset is in memory. It may be gone a moment later.
  [[nodiscard]] bool resident(std::uint64_t offset) const {
    return is_resident(states()[offset >> page_shift_].load(std::memory_order_acquire));
  }
  // Whether all of some pages are.
  [[nodiscard]] bool all_resident(std::uint64_t first, std::uint64_t count) const {
    const std::atomic<std::uint8_t>* const entries = states();
    const std::uint64_t end = first + count;
    std::uint64_t at = first;
    for (; at < end && at % sizeof(std::uint64_t) != 0; ++at) {
      if (!is_resident(entries[at].load(std::memory_order_acquire))) return false;
    }
    // Eight entries at a time: the daemon changes them one by one, and a load of the eight sees
    // each as it was at one moment.
    constexpr std::uint64_t kEach = 0x0101010101010101;
    for (; at + sizeof(std::uint64_t) <= end; at += sizeof(std::uint64_t)) {
      const auto* const eight = reinterpret_cast<const std::uint64_t*>(entries + at);
      if ((__atomic_load_n(eight, __ATOMIC_ACQUIRE) & (kEach * wire::kStateMask)) !=
          kEach * wire::kStateResident) {
        return false;
      }
    }
    for (; at < end; ++at) {
      if (!is_resident(entries[at].load(std::memory_order_acquire))) return false;
    }
    return true;
  }

 private:
  ObjectView(const wire::ObjectReply& object, std::byte* board, std::size_t board_bytes)
      : board_(board),
        board_bytes_(board_bytes),
        size_(object.size),
        id_(object.object_id),
        page_shift_(static_cast<unsigned>(std::countr_zero(object.page_size))),
        counted_(object.counted_waits != 0) {}
  [[nodiscard]] static bool is_resident(std::uint8_t entry) {
    return (entry & wire::kStateMask) == wire::kStateResident;
  }
  [[nodiscard]] const std::atomic<std::uint32_t>* counts() const {
    return reinterpret_cast<const std::atomic<std::uint32_t>*>(board_);
  }
  [[nodiscard]] const std::atomic<std::uint8_t>* states() const {
    return reinterpret_cast<const std::atomic<std::uint8_t>*>(board_ + wire::kBoardStates);
  }

  std::byte* board_;
  std::size_t board_bytes_;
  mutable std::atomic<const std::byte*> pages_{nullptr};
  std::uint64_t size_;
  std::uint64_t id_;
  unsigned page_shift_;
  bool counted_;
};

}  // namespace faultline::client
