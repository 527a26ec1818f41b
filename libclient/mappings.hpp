// The mappings of one connection in this process: the system calls that change them, and what is
// known of them. Must never touch memory that fl_map did not map, but for what a caller asked to be
// replaced.
//
// The kernel tells the daemon of unmapping, moving and discarding, and holds the caller until the
// daemon has read it. What it does not tell (access, growth) is the caller's to say.
//
// Locking: a lock of its own, held over each system call with its entry in the book, so that a call
// of another thread finds what the book says. Leaf lock; the fork hooks take it by lock().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "libclient/mapping_book.hpp"
#include "libclient/place.hpp"

namespace faultline::client {

struct RemapRequest {
  MapRange old;
  std::size_t length = 0;  // the new one
  bool may_move = false;
  bool keep_old = false;  // mapped, empty of private pages
  std::uintptr_t to = 0;  // 0: where the kernel likes
};

class Mappings {
 public:
  // Writes down what was mapped just now. holder: kept while anything is mapped.
  void add(MapRange range, Piece piece, std::shared_ptr<const void> holder);
  // Moves what was mapped just now to an address, in place of whatever is there, and writes it
  // down. Throws Failure: as mremap(2).
  void add_at(std::uintptr_t address, MapRange fresh, Piece piece,
              std::shared_ptr<const void> holder);

  // Of what was mapped just now through another connection: nothing of ours can be there any more.
  void forget(MapRange range);

  // All of these throw Failure: EINVAL where part of the range is no mapping of ours, or it begins
  // or ends within a page of an object.
  void unmap(MapRange range);
  // EACCES where part of it cannot be made writable; ENOMEM.
  void protect(MapRange range, bool writable);
  // EBUSY locked pages.
  void discard_copies(MapRange range);
  // EINVAL private; EACCES read-only; EBUSY locked pages.
  void discard_content(MapRange range);
  // EBUSY locked pages.
  void make_cold(MapRange range);
  // Where it is then. EINVAL past the object's end, or not one mapping; as mremap(2).
  // moved: called with that where it is elsewhere, before anybody else can map anything.
  std::uintptr_t remap(const RemapRequest& request,
                       const std::function<void(std::uintptr_t)>& moved);
  void require_mapped(MapRange range);
  // Where a word at the address lies. What it points at is used within a Reading alone.
  [[nodiscard]] Place place(std::uintptr_t address);
  // EACCES where part of it is read-only.
  void require_writable(MapRange range);
  // Opens the frames of the private mapping at an address, where they are not: ask(address) has the
  // daemon publish them. False: nothing was changed. Not under the lock.
  template <typename Ask>
  bool open_frames(std::uintptr_t address, Ask ask) {
    const std::uint64_t framed = framed_without(address);
    if (framed == 0) return false;
    set_frames(framed, ask(address));
    return true;
  }
  // Calls visit(start, piece) for each piece that this process can use, under the lock.
  template <typename Visit>
  void each_usable(Visit visit) {
    const std::lock_guard lock(mutex_);
    for (const auto& [start, piece] : book_.pieces()) {
      if (piece.content != Content::none) visit(start, piece);
    }
  }

  // The number of a mapping that is made now.
  [[nodiscard]] static std::uint64_t new_mapping();

  // For the fork hooks. What follows is called under the lock, in a child or before a fork.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }
  [[nodiscard]] bool maps_files() const;
  [[nodiscard]] bool waits_by_page() const;
  // In a child: its private pages are others.
  void forget_frames();
  // Any access raises SIGBUS from then on.
  void poison_mappings_of_files() const;
  // Of what was not inherited, the addresses are kept, without access.
  void reserve_mappings_of_files();

 private:
  void require_mapped_locked(MapRange range) const;
  // Throws Failure: EINVAL. The range is mapped.
  void require_whole_pages_locked(MapRange range) const;
  // By which mapping its pages are known, whose frames are not open; or 0.
  [[nodiscard]] std::uint64_t framed_without(std::uintptr_t address);
  void set_frames(std::uint64_t framed, const std::shared_ptr<const FrameView>& frames);
  // Calls madvise for each piece that the condition holds for.
  template <typename Condition>
  void madvise_locked(MapRange range, int advice, const char* attempted, Condition condition);

  std::mutex mutex_;  // guards all
  MappingBook book_;
  std::shared_ptr<const void> holder_;
};

}  // namespace faultline::client
