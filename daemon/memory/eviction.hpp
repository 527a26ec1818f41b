// Takes some pages of one object out of memory. Must never take out what somebody can still store
// to, or what is nowhere else.
//
// Life of an eviction:
//   1. begin: the pages' entries become evicting. From here on nobody maps them, and who wants one
//      waits for the end of this.
//   2. Whoever evicts asks who holds pages, and gives those up (keep).
//   3. It sees to it that nobody can store to the rest: they are write-protected wherever they are
//      mapped shared, and who would map them now finds them evicting.
//   4. take_out: what has no other copy is written to the swap file. Then the pages are taken out
//      of the memfd, and so out of every mapping; then their entries become lost, and who waits is
//      told to ask again.
//   Or, at any time before 4, the rest is given up (keep_all, the destructor): the entries become
//   resident again, and who waits is told.
// docs/eviction.md has the argument why no store is lost.
//
// An object has one at a time. Its functions are called by one thread; take_out blocks, for the
// swap file and for the lock of the memfd.
//
// Locking: what others see of it is guarded by the object's claims_mutex_.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "daemon/memory/memory_object.hpp"

namespace faultline::memory {

// What became of the pages that were in memory when they were asked to leave.
struct EvictionCounts {
  std::uint64_t evicted = 0;     // out of memory now
  std::uint64_t swapped = 0;     // of them, into the swap file
  std::uint64_t referenced = 0;  // not cold, where only cold ones were asked for
  std::uint64_t pinned = 0;
  std::uint64_t dirty = 0;      // there is no swap file, and no file has what they hold
  std::uint64_t busy = 0;       // could not be made sure of in time, or are being evicted already
  std::uint64_t swap_full = 0;  // the swap file has no room for them
  std::uint64_t failed = 0;     // the swap file could not be written
  EvictionCounts& operator+=(const EvictionCounts& other);
};

struct PageRun {
  PageIndex first;
  PageCount count;
};

enum class WhichPages : std::uint8_t { all, cold };

class Eviction final : public PageClaim {
 public:
  using Reason = std::uint64_t EvictionCounts::*;

  // Of the resident pages of a range. Null where none can leave: counts says why.
  static std::unique_ptr<Eviction> begin(const std::shared_ptr<MemoryObject>& object,
                                         PageIndex first, PageCount count, WhichPages which,
                                         EvictionCounts& counts);
  // Gives up what is left.
  ~Eviction() override;
  Eviction(const Eviction&) = delete;
  Eviction& operator=(const Eviction&) = delete;

  [[nodiscard]] bool empty() const { return pages_.empty(); }
  // The pages that are to leave, in order.
  [[nodiscard]] std::vector<PageRun> runs() const;
  void keep(PageIndex first, PageCount count, Reason why);
  void keep_all(Reason why);
  void take_out();

 private:
  // A page that leaves, and where its content goes.
  struct Leaving {
    PageIndex page;
    bool to_swap = false;
    bool written = false;
    bool kept = false;
    SlotIndex slot{};
  };
  Eviction(std::shared_ptr<MemoryObject> object, PageIndex first, PageCount count,
           EvictionCounts& counts);
  // Calls each(first, past) for every run of pages that follow each other and that the condition
  // holds for: places in pages_.
  void for_runs(const std::function<bool(const Leaving&)>& condition,
                const std::function<void(std::size_t, std::size_t)>& each) const;
  void keep_marked(Reason why);
  void end_if_empty_locked();
  void choose_where_to();
  void write(std::size_t first, std::size_t past);
  void punch(std::size_t first, std::size_t past);
  void finish();

  const std::shared_ptr<MemoryObject> object_;
  EvictionCounts& counts_;
  std::vector<Leaving> pages_;  // in order
};

}  // namespace faultline::memory
