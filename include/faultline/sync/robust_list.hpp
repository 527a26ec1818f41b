// Parts of sync.hpp, not for its users: writing down which words the calling thread is about to
// change, in its fl_robust_list (wait.h). Must never leave a word unlisted while the thread owes
// something to those who wait there.
//
// Life of an entry:
//   1. enlist() appends the word, before the first step of a lock, a wait or a wake.
//   2. The thread does its work. If it dies here, each listed word that names it is set to
//      FL_ROBUST_OWNER_DIED, and at each listed word, whatever it holds, one who waits is woken.
//   3. delist() takes the word out: after the last step, be that an unlock, its wake, or giving up.
//
// So a word is listed for longer than it is owned, never shorter, and one list serves both for what
// the thread owns and for the wakes that it owes or has received and not yet used.
//
// Order: the list is read when the thread has stopped for good, by the daemon after the death of
// the process (the kernel's exit orders that), or by the thread itself as it ends. A thread is
// killed between two instructions: all before have happened, none after. So nothing but the order
// in the program matters, on every processor, and a signal fence, which binds the compiler alone,
// keeps it. No other thread reads the list while its owner runs.
#ifndef FAULTLINE_SYNC_ROBUST_LIST_HPP
#define FAULTLINE_SYNC_ROBUST_LIST_HPP

#include <atomic>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "faultline/error.hpp"
#include "faultline/faultline.h"
#include "faultline/wait.h"

namespace faultline::sync {

using word = std::atomic<std::uint32_t>;
static_assert(sizeof(word) == sizeof(std::uint32_t) && word::is_always_lock_free);

inline std::uint64_t address_of(const word& at) noexcept {
  return std::bit_cast<std::uintptr_t>(&at);
}

// The calling thread's, with room for one more. Throws error: as fl_robust_begin; ENOLCK
// FL_ROBUST_MAX words are listed.
[[gnu::noinline, gnu::cold]] inline fl_robust_thread make_room_in_list() {
  if (fl_robust_self.list == nullptr) detail::check(fl_robust_begin());
  if (fl_robust_self.list->count >= FL_ROBUST_MAX) {
    throw error(ENOLCK, "a thread can hold or wait for FL_ROBUST_MAX locks");
  }
  return fl_robust_self;
}

// Throws error, see make_room_in_list(); nothing is listed then.
inline fl_robust_thread enlist(const word& at) {
  fl_robust_thread self = fl_robust_self;
  if (self.list == nullptr || self.list->count >= FL_ROBUST_MAX) [[unlikely]] {
    self = make_room_in_list();
  }
  const std::uint64_t count = self.list->count;
  self.list->held[count] = address_of(at);
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the entry, before it counts
  self.list->count = count + 1;
  std::atomic_signal_fence(std::memory_order_seq_cst);  // listed, before anything is done
  return self;
}

// Whether the word is what was listed last.
inline bool is_last(const fl_robust_list* list, const word& at) noexcept {
  return list != nullptr && list->count != 0 && list->held[list->count - 1] == address_of(at);
}

// These look at the address alone: the word may be gone.
inline void delist_last(fl_robust_list& list) noexcept {
  std::atomic_signal_fence(std::memory_order_seq_cst);  // all is done, before it is not listed
  --list.count;
}
// Listed twice, it is listed once afterwards.
inline void delist(fl_robust_list& list, const word& at) noexcept {
  std::uint64_t i = list.count - 1;
  while (list.held[i] != address_of(at)) --i;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  list.held[i] = list.held[list.count - 1];
  delist_last(list);  // which is in the other's place by now, or was twice there
}

// For a word that is listed, as the last.
inline bool is_listed_twice(const fl_robust_list& list, const word& at) noexcept {
  for (std::uint64_t i = 0; i + 1 < list.count; ++i) {
    if (list.held[i] == address_of(at)) return true;
  }
  return false;
}

// Listed for a scope, by who does not own it afterwards.
class listed {
 public:
  explicit listed(const word& at) : list_(*enlist(at).list), at_(at) {}
  listed(const listed&) = delete;
  listed& operator=(const listed&) = delete;
  ~listed() { delist(list_, at_); }

 private:
  fl_robust_list& list_;
  const word& at_;
};

}  // namespace faultline::sync

#endif  // FAULTLINE_SYNC_ROBUST_LIST_HPP
