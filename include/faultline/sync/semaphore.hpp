// A counting semaphore in memory that processes share. Must never make a system call to acquire
// what is there, or to release where nobody waits.
//
// The word: the count; FL_ROBUST_NO_THREAD, so that no count looks like a lock's owner; and +W
// (FL_ROBUST_WAITERS) where somebody may sleep.
//
// Life of an acquisition:
//   1. Where the count is not 0, it becomes one less, and that is all.
//   2. Else the word is listed (robust_list.hpp); +W is set, and the thread sleeps while the word
//   stays
//      as it is.
//   3. Once woken, whoever acquires sets +W with it, as others may sleep, and wakes one more where
//      the count is not 0 then.
// release() adds, and takes +W away in the same step; where +W was there it has the word listed,
// and wakes as many as it added.
//
// No wake is lost. If somebody sleeps on the word, then it has +W, or someone awake has it listed
// and owes: a releaser between its two steps, or one who was woken. And if somebody sleeps while
// the count is not 0, then someone awake owes. The releaser pays by its wakes: if they find fewer
// than there are units, nobody sleeps (who set +W before and was not asleep yet is refused by
// fl_wait's comparison). Who was woken pays by step 3, or by going to sleep again, with +W and the
// count at 0. A release that finds no +W need not wake: if somebody sleeps, someone awake owes, and
// step 3 finds what was added. If one who owes dies, another is woken at the listed word, and owes
// instead.
//
// Memory order: release where it is added to, acquire where it is taken from.
#ifndef FAULTLINE_SYNC_SEMAPHORE_HPP
#define FAULTLINE_SYNC_SEMAPHORE_HPP

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "faultline/sync/parking.hpp"

namespace faultline {

// What a process that dies has acquired is not given back: who gives what to whom is the program's.
template <typename Platform>
class basic_semaphore {
 public:
  // The most that it counts.
  static constexpr std::uint32_t max() noexcept { return kCount; }

  constexpr basic_semaphore() noexcept = default;
  // At most max().
  constexpr explicit basic_semaphore(std::uint32_t count) noexcept
      : word_(count | FL_ROBUST_NO_THREAD) {}
  basic_semaphore(const basic_semaphore&) = delete;
  basic_semaphore& operator=(const basic_semaphore&) = delete;
  ~basic_semaphore() = default;

  // Blocks while the count is 0. Throws error: as fl_robust_begin and fl_wait; ENOLCK the thread
  // holds FL_ROBUST_MAX locks. Nothing is acquired then.
  void acquire() {
    if (!try_acquire()) (void)acquire_until({});
  }
  // False where the count is 0.
  bool try_acquire() noexcept {
    std::uint32_t seen = word_.load(std::memory_order_relaxed);
    return take(seen, 0);
  }
  // False where the time was over first.
  template <typename Rep, typename Period>
  bool try_acquire_for(std::chrono::duration<Rep, Period> at_most) {
    return try_acquire() || acquire_until(sync::deadline::after(at_most));
  }
  // The clock is steady_clock or system_clock.
  template <detail::waitable_clock Clock, typename Duration>
  bool try_acquire_until(std::chrono::time_point<Clock, Duration> then) {
    return try_acquire() || acquire_until(sync::deadline(then));
  }

  // Throws error, and adds nothing: EOVERFLOW the count would be more than max(); where somebody
  // may wait as fl_robust_begin, and ENOLCK the thread holds FL_ROBUST_MAX locks.
  void release(std::uint32_t units = 1) {
    std::uint32_t seen = word_.load(std::memory_order_relaxed);
    while ((seen & FL_ROBUST_WAITERS) == 0) {
      if (add(seen, units)) return;
    }
    const sync::listed entry(word_);
    while (!add(seen, units)) {
    }
    Platform::reached(sync::stage::released);
    if ((seen & FL_ROBUST_WAITERS) != 0) Platform::wake(word_, static_cast<int>(units));
    Platform::reached(sync::stage::notified);
  }

 private:
  static constexpr std::uint32_t kCount = FL_ROBUST_NO_THREAD - 1;

  // `seen` is what the word holds: before it was changed, or now where it was not.
  bool take(std::uint32_t& seen, std::uint32_t with) noexcept {
    while ((seen & kCount) != 0) {
      if (word_.compare_exchange_weak(seen, (seen - 1) | with, std::memory_order_acquire,
                                      std::memory_order_relaxed)) {
        Platform::reached(sync::stage::taken);
        return true;
      }
    }
    return false;
  }
  bool add(std::uint32_t& seen, std::uint32_t units) {
    if (units > kCount - (seen & kCount)) {
      throw error(EOVERFLOW, "releasing more than a semaphore can count");
    }
    const std::uint32_t more = ((seen & kCount) + units) | FL_ROBUST_NO_THREAD;
    return word_.compare_exchange_weak(seen, more, std::memory_order_release,
                                       std::memory_order_relaxed);
  }

  [[gnu::noinline]] bool acquire_until(const sync::deadline& until) {
    const sync::listed entry(word_);
    Platform::reached(sync::stage::listed);
    std::uint32_t waiters = 0;  // W from the first wake on
    for (;;) {
      if (sync::has_processors()) {
        sync::linger_until([&] { return (word_.load(std::memory_order_relaxed) & kCount) != 0; });
      }
      std::uint32_t seen = word_.load(std::memory_order_relaxed);
      if (take(seen, waiters)) {
        const bool more = (seen & kCount) > 1;
        if (waiters != 0 && more) Platform::wake(word_, 1);
        return true;
      }
      const std::uint32_t contended = seen | FL_ROBUST_WAITERS | FL_ROBUST_NO_THREAD;
      if (seen != contended &&
          !word_.compare_exchange_weak(seen, contended, std::memory_order_relaxed)) {
        continue;
      }
      const auto result = sync::park<Platform>(word_, contended, until);
      if (result == sync::parked::timed_out) return false;
      if (result == sync::parked::woken) waiters = FL_ROBUST_WAITERS;
    }
  }

  sync::word word_{0};
};

// 4 bytes; those of zeroes are one with a count of 0.
using semaphore = basic_semaphore<sync::library>;

static_assert(sizeof(semaphore) == 4 && std::is_standard_layout_v<semaphore>);

}  // namespace faultline

#endif  // FAULTLINE_SYNC_SEMAPHORE_HPP
