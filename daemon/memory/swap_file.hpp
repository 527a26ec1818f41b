// Where the content of pages goes that were taken out of memory: slots of a page each in one file
// of the daemon's own, for all objects. Must never give a slot to two pages at a time.
//
// Its content is of use to this process alone: the file is emptied when it is opened, and nobody
// else opens it meanwhile.
//
// Locking: mutex_ guards which slots are taken; leaf lock. Thread-safe. Writing blocks for the file
// system; it is read by the pagers of the objects' owners (file_pager.hpp).
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <span>

#include "daemon/kernel/error.hpp"
#include "daemon/kernel/mapped_memory.hpp"
#include "daemon/kernel/ring.hpp"
#include "daemon/kernel/units.hpp"
#include "faultline/wire/unique_fd.hpp"

namespace faultline::memory {

using SlotIndex = faultline::detail::Number<struct SwapSlotTag>;

// A run of slots, one behind the other in the file.
struct SwapSlots {
  SlotIndex first;
  PageCount count;
  [[nodiscard]] SwapSlots part(PageCount skip, PageCount most) const {
    return {SlotIndex{first.value() + skip.value()}, std::min(most, count - skip)};
  }
  friend bool operator==(const SwapSlots&, const SwapSlots&) = default;
};

class SwapFile {
 public:
  static constexpr PageSize kSlot = kBasePage;

  // A directory gets a file without a name in it; a file is made, or emptied, with mode 0600.
  // Errors: of open(2); EINVAL not a regular file, another user's, or a limit below a page; EBUSY
  // another daemon's.
  static Result<std::shared_ptr<SwapFile>> open(const std::filesystem::path& path, ByteCount limit);

  // At most so many slots; fewer where no more are free side by side, none where the file is full.
  [[nodiscard]] SwapSlots take(PageCount most);
  void give_back(const SwapSlots& slots);

  // Returns how much of it was written, whole pages: less where a page of the source was not there
  // to be read, which is no error. Blocks until the disk has it: what it is written from can go
  // then. Errors: ENOSPC, EIO and the like.
  [[nodiscard]] Result<PageCount> write(const SwapSlots& slots,
                                        std::span<const std::byte> pages) const;
  // To read from.
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] static ByteCount offset_of(SlotIndex slot) {
    return kSlot.bytes(PageCount{slot.value()});
  }
  [[nodiscard]] kernel::Ring::Begin reads_begin() const { return reads_begin_; }

  [[nodiscard]] ByteCount limit() const { return kSlot.bytes(slots_); }
  [[nodiscard]] ByteCount used() const;

 private:
  SwapFile(UniqueFd fd, kernel::MappedMemory taken, PageCount slots, kernel::Ring::Begin begin)
      : fd_(std::move(fd)), taken_(std::move(taken)), slots_(slots), reads_begin_(begin) {}
  [[nodiscard]] std::span<std::uint64_t> words() const;
  // The first free slot of [from, to); to where there is none.
  [[nodiscard]] std::uint64_t free_locked(std::uint64_t from, std::uint64_t to) const;
  void set_locked(std::uint64_t slot, bool taken);
  [[nodiscard]] Status wait_for_disk(const SwapSlots& slots) const;

  UniqueFd fd_;
  mutable std::mutex writing_;  // before mutex_, which guards what follows
  mutable std::mutex mutex_;
  kernel::MappedMemory taken_;  // a bit a slot; sparse
  PageCount slots_;
  PageCount used_;
  std::uint64_t next_ = 0;  // where to look first
  kernel::Ring::Begin reads_begin_;
};

}  // namespace faultline::memory
