// A robust mutex in memory that processes share. Must never make a system call where nobody waits.
//
// The word's states. "tid" is the owner's thread id; +W stands for FL_ROBUST_WAITERS, +D for
// FL_ROBUST_OWNER_DIED.
//   0              free
//   tid [+W]       owned
//   D [+W]         free; the last owner died with it
//   tid + D [+W]   owned, inconsistent: what it protects may be half done
//   gone [+W]      unrecoverable, for ever
// and who moves it from one to the next:
//   0 -> tid, D -> tid + D            lock
//   tid -> tid + W                    whoever is about to sleep
//   tid [+W] -> 0                     unlock, which wakes one at +W
//   tid [+D] [+W] -> D [+W]           the owner's death, by the daemon or the ending thread, which
//                                     wakes one
//   tid + D -> tid                    make_consistent
//   tid + D [+W] -> gone              unlock without it; wakes all
//
// Life of a lock:
//   1. The word is listed (robust_list.hpp), and 0 -> tid is tried.
//   2. Where that fails: look, for a moment; then set +W and sleep while the word stays as it is.
//   3. Once woken, whoever gets the lock sets +W with it: others may sleep, and nothing else tells
//      of them.
//   4. unlock: tid -> 0. With +W one is woken. Then the word is not listed any more.
//
// No wake is lost. If somebody sleeps on the word then it has +W, or someone awake has it listed
// and owes: an unlocker that took +W away and has not woken anybody yet, or one who was woken. Each
// pays: the unlocker by its wake (if that finds nobody, nobody sleeps: who set +W before the unlock
// and was not asleep yet is refused by fl_wait's comparison); who was woken by owning the lock
// with +W, or by going to sleep again, for which +W is set first, and that also where its time is
// over: only fl_wait says so. If one who owes dies, someone else is woken at the listed word, and
// owes instead. That is why the wake at a death must not depend on what the word holds: a third may
// own the lock by then, without +W.
//
// Memory order: acquire where the word becomes tid, release where it leaves it. A death orders as
// an unlock does: the daemon stores D after all that the dead did.
#ifndef FAULTLINE_SYNC_MUTEX_HPP
#define FAULTLINE_SYNC_MUTEX_HPP

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "faultline/error.hpp"
#include "faultline/sync/parking.hpp"

namespace faultline {

// owner_died: locked all the same, and inconsistent.
enum class lock_result : std::uint8_t { locked, owner_died };

// Works with std::unique_lock, std::scoped_lock and std::lock_guard. Not recursive. A thread can
// hold FL_ROBUST_MAX of them. Not for signal handlers.
//
// All that lock throw error: ENOTRECOVERABLE it was unlocked inconsistent; EDEADLK this thread owns
// it; ENOLCK this thread holds FL_ROBUST_MAX; as fl_robust_begin and, where they wait, fl_wait. The
// mutex is not locked then.
template <typename Platform>
class basic_mutex {
 public:
  constexpr basic_mutex() noexcept = default;
  basic_mutex(const basic_mutex&) = delete;
  basic_mutex& operator=(const basic_mutex&) = delete;
  ~basic_mutex() = default;

  // Blocks. The wrappers of the standard library drop what it returns: ask inconsistent() there.
  lock_result lock() {
    const fl_robust_thread self = sync::enlist(word_);
    Platform::reached(sync::stage::listed);
    std::uint32_t seen = 0;
    if (word_.compare_exchange_strong(seen, self.tid, std::memory_order_acquire,
                                      std::memory_order_relaxed)) [[likely]] {
      Platform::reached(sync::stage::taken);
      return lock_result::locked;
    }
    return *lock_contended(self, {});
  }

  // False where another thread owns it.
  bool try_lock() {
    const fl_robust_thread self = sync::enlist(word_);
    Platform::reached(sync::stage::listed);
    std::uint32_t seen = word_.load(std::memory_order_relaxed);
    if (take(seen, self.tid)) return true;
    sync::delist(*self.list, word_);
    if ((seen & kOwner) == kGone) fail(ENOTRECOVERABLE, kGoneText);
    return false;
  }

  // Blocks until the time is over, and returns false then.
  template <typename Rep, typename Period>
  bool try_lock_for(std::chrono::duration<Rep, Period> at_most) {
    return try_lock() || lock_until(sync::deadline::after(at_most));
  }
  // The clock is steady_clock or system_clock.
  template <detail::waitable_clock Clock, typename Duration>
  bool try_lock_until(std::chrono::time_point<Clock, Duration> then) {
    return try_lock() || lock_until(sync::deadline(then));
  }

  // Where this thread does not own the mutex: throws error EPERM (from a wrapper's destructor, that
  // ends the process). Inconsistent, it can never be locked again.
  void unlock() {
    const fl_robust_thread self = fl_robust_self;
    if (!sync::is_last(self.list, word_) || self.inconsistent != 0) [[unlikely]] {
      unlock_carefully(self);
      return;
    }
    const std::uint32_t before = word_.exchange(0, std::memory_order_release);
    if (before != self.tid) [[unlikely]] {
      Platform::reached(sync::stage::released);
      Platform::wake(word_, 1);
    }
    Platform::reached(sync::stage::notified);
    sync::delist_last(*self.list);
  }

  // Whether the last owner died with it, and nobody has made it consistent since. Asked by its
  // owner.
  [[nodiscard]] bool inconsistent() const noexcept {
    return (word_.load(std::memory_order_relaxed) & FL_ROBUST_OWNER_DIED) != 0;
  }
  // Says that the owner has put right what the mutex protects, as pthread_mutex_consistent(3).
  // Throws error: EINVAL it is not inconsistent, or not owned by this thread.
  void make_consistent() {
    const std::uint32_t seen = word_.load(std::memory_order_relaxed);
    if (!inconsistent() || fl_robust_self.list == nullptr ||
        (seen & kOwner) != fl_robust_self.tid) {
      fail(EINVAL, "making a mutex consistent that is not inconsistent, or not this thread's");
    }
    word_.fetch_and(~FL_ROBUST_OWNER_DIED, std::memory_order_relaxed);
    --fl_robust_self.inconsistent;
  }

 private:
  static constexpr std::uint32_t kOwner = FL_ROBUST_TID_MASK;
  static constexpr std::uint32_t kGone = kOwner;  // no thread has this id
  static constexpr const char* kGoneText =
      "locking a mutex that was unlocked before it was made consistent";

  [[noreturn, gnu::noinline, gnu::cold]] static void fail(int code, const char* text) {
    throw error(code, text);
  }

  // Where the word is free. `seen` is what it holds: before it was taken, or now that it is not
  // free.
  bool take(std::uint32_t& seen, std::uint32_t with) {
    while ((seen & kOwner) == 0) {
      if (word_.compare_exchange_weak(seen, seen | with, std::memory_order_acquire,
                                      std::memory_order_relaxed)) {
        Platform::reached(sync::stage::taken);
        if ((seen & FL_ROBUST_OWNER_DIED) != 0) ++fl_robust_self.inconsistent;
        return true;
      }
    }
    return false;
  }

  bool lock_until(const sync::deadline& until) {
    return lock_contended(sync::enlist(word_), until).has_value();
  }

  // The word is listed, and is so afterwards where it is locked. Nothing: the time is over.
  [[gnu::noinline]] std::optional<lock_result> lock_contended(fl_robust_thread self,
                                                              const sync::deadline& until) try {
    std::uint32_t waiters = 0;  // W from the first wake on
    bool patient = sync::has_processors();
    for (;;) {
      std::uint32_t seen = word_.load(std::memory_order_relaxed);
      if (take(seen, self.tid | waiters)) {
        return (seen & FL_ROBUST_OWNER_DIED) != 0 ? lock_result::owner_died : lock_result::locked;
      }
      if ((seen & kOwner) == kGone) {
        Platform::wake(word_, sync::kEverybody);  // who unlocked it may have died before doing so
        fail(ENOTRECOVERABLE, kGoneText);
      }
      if ((seen & kOwner) == self.tid && sync::is_listed_twice(*self.list, word_)) {
        fail(EDEADLK, "locking a mutex that this thread owns");
      }
      if (patient) {
        // One look after a while: a look takes the cache line from the owner, who needs it.
        sync::linger();
        patient = false;
        continue;
      }
      const std::uint32_t contended = seen | FL_ROBUST_WAITERS;
      if (seen != contended &&
          !word_.compare_exchange_weak(seen, contended, std::memory_order_relaxed)) {
        continue;
      }
      const auto result = sync::park<Platform>(word_, contended, until);
      if (result == sync::parked::timed_out) {
        sync::delist(*self.list, word_);
        return std::nullopt;
      }
      if (result == sync::parked::woken) waiters = FL_ROBUST_WAITERS;
      patient = sync::has_processors();
    }
  } catch (...) {
    sync::delist(*self.list, word_);
    throw;
  }

  // Of several in whatever order, or where one is inconsistent.
  [[gnu::noinline]] void unlock_carefully(fl_robust_thread self) {
    const std::uint32_t seen = word_.load(std::memory_order_relaxed);
    if (self.list == nullptr || (seen & kOwner) != self.tid) {
      fail(EPERM, "unlocking a mutex that this thread does not own");
    }
    const bool gone = (seen & FL_ROBUST_OWNER_DIED) != 0;
    const std::uint32_t before = word_.exchange(gone ? kGone : 0, std::memory_order_release);
    if ((before & FL_ROBUST_WAITERS) != 0) {
      Platform::reached(sync::stage::released);
      Platform::wake(word_, gone ? sync::kEverybody : 1);
    }
    if (gone) --fl_robust_self.inconsistent;
    Platform::reached(sync::stage::notified);
    sync::delist(*self.list, word_);
  }

  sync::word word_{0};
};

// 4 bytes; those of zeroes are one that is free.
using mutex = basic_mutex<sync::library>;

static_assert(sizeof(mutex) == 4 && std::is_standard_layout_v<mutex>);

}  // namespace faultline

#endif  // FAULTLINE_SYNC_MUTEX_HPP
