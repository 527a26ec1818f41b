// Waiting for a condition that others make true without a lock. Must never make a system call to
// notify where nobody waits.
//
// Life of a wait:
//   1. prepare_wait() counts the thread among the waiters and notes the epoch.
//   2. The caller looks at its condition again. True: cancel_wait().
//   3. False: wait() sleeps until the epoch is another.
// Life of a notification:
//   1. The caller makes the condition true.
//   2. notify_*() looks whether there are waiters. If so it begins a new epoch, and wakes.
//
// No notification is lost. Both sides store first and look then:
//   waiter                               notifier
//   W1 waiters_ + 1                      N1 the condition becomes true
//   W2 fence (seq_cst)                   N2 fence (seq_cst)
//   W3 epoch_ (acquire)                  N3 waiters_ = 0? nobody to notify
//   W4 the condition                     N4 epoch_ + 1 (release)
//   W5 sleep while epoch_ is W3's        N5 wake
// Without W2 and N2 each processor may do its load before its store is seen: W4 finds the condition
// false, N3 finds no waiter, and nobody wakes. With them one of the fences comes first, and what is
// before it is seen by what is after the other: N3 sees the waiter, or W4 the condition. If N3 sees
// the waiter, and W3 was before N4, then W5's comparison refuses to sleep, or the thread sleeps
// already and N5 finds it. If W3 was after N4, it saw its release, so W4 sees N1.
//
// A death: the word is listed (robust_list.hpp) while a thread waits or notifies, so one other
// waiter is woken instead of whoever died with a notification. Who dies as a waiter is counted for
// ever, and costs each notification a system call: no more.
#ifndef FAULTLINE_SYNC_EVENT_COUNT_HPP
#define FAULTLINE_SYNC_EVENT_COUNT_HPP

#include <chrono>
#include <cstdint>
#include <type_traits>

#include "faultline/sync/parking.hpp"

namespace faultline {

// What threads of several processes wait at until others have made a condition true.
template <typename Platform>
class basic_event_count {
 public:
  // What prepare_wait() noted: an epoch.
  class key {
    friend class basic_event_count;
    explicit key(std::uint32_t epoch) noexcept : epoch_(epoch) {}
    std::uint32_t epoch_;
  };

  constexpr basic_event_count() noexcept = default;
  basic_event_count(const basic_event_count&) = delete;
  basic_event_count& operator=(const basic_event_count&) = delete;
  ~basic_event_count() = default;

  // Begins a wait: look at the condition after it. Each is followed by one cancel_wait() or wait*()
  // of the same thread.
  [[nodiscard]] key prepare_wait() noexcept {
    waiters_.fetch_add(1, std::memory_order_relaxed);
    sync::full_fence(waiters_);
    return key{epoch_.load(std::memory_order_acquire)};
  }
  // Gives a wait up, because the condition was true.
  void cancel_wait() noexcept { waiters_.fetch_sub(1, std::memory_order_relaxed); }

  // Blocks until it is notified. Throws error: as fl_robust_begin and fl_wait; ENOLCK the thread
  // holds FL_ROBUST_MAX locks.
  void wait(key since) { (void)wait(since, sync::deadline{}); }
  // False where the time was over first.
  template <typename Rep, typename Period>
  bool wait_for(key since, std::chrono::duration<Rep, Period> at_most) {
    return wait(since, sync::deadline::after(at_most));
  }
  // The clock is steady_clock or system_clock.
  template <detail::waitable_clock Clock, typename Duration>
  bool wait_until(key since, std::chrono::time_point<Clock, Duration> then) {
    return wait(since, sync::deadline(then));
  }

  // One who waits. Does not block. Throws, where somebody waits, error as fl_robust_begin; ENOLCK
  // the thread holds FL_ROBUST_MAX locks.
  void notify_one() { notify(1); }
  // All who wait, as notify_one().
  void notify_all() { notify(sync::kEverybody); }

 private:
  template <typename>
  friend class basic_condition_variable;

  class counted {
   public:
    explicit counted(basic_event_count& in) noexcept : in_(in) {}
    counted(const counted&) = delete;
    counted& operator=(const counted&) = delete;
    ~counted() { in_.cancel_wait(); }

   private:
    basic_event_count& in_;
  };

  bool wait(key since, const sync::deadline& until) {
    const counted until_the_end(*this);
    const sync::listed entry(epoch_);
    Platform::reached(sync::stage::listed);
    return sleep(since, until);
  }

  [[nodiscard]] bool is_over(key since) const noexcept {
    return epoch_.load(std::memory_order_acquire) != since.epoch_;
  }

  // What wait() does once the word is listed.
  bool sleep(key since, const sync::deadline& until) {
    if (sync::has_processors()) sync::linger_until([&] { return is_over(since); });
    while (!is_over(since)) {
      if (sync::park<Platform>(epoch_, since.epoch_, until) == sync::parked::timed_out) {
        return is_over(since);
      }
    }
    return true;
  }

  void notify(int count) {
    sync::full_fence(waiters_);
    if (waiters_.load(std::memory_order_relaxed) == 0) return;
    const sync::listed entry(epoch_);
    std::uint32_t seen = epoch_.load(std::memory_order_relaxed);
    while (!epoch_.compare_exchange_weak(seen, next(seen), std::memory_order_release,
                                         std::memory_order_relaxed)) {
    }
    Platform::reached(sync::stage::released);
    Platform::wake(epoch_, count);
    Platform::reached(sync::stage::notified);
  }

  // 31 bits count, around FL_ROBUST_NO_THREAD: a carry goes through it.
  static constexpr std::uint32_t next(std::uint32_t epoch) noexcept {
    return ((epoch | FL_ROBUST_NO_THREAD) + 1) | FL_ROBUST_NO_THREAD;
  }

  sync::word epoch_{0};
  sync::word waiters_{0};
};

// 8 bytes; those of zeroes are one that nobody waits at.
using event_count = basic_event_count<sync::library>;

static_assert(sizeof(event_count) == 8 && std::is_standard_layout_v<event_count>);

}  // namespace faultline

#endif  // FAULTLINE_SYNC_EVENT_COUNT_HPP
