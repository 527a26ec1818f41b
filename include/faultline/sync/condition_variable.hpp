// A condition variable for faultline::mutex, in memory that processes share. Must never be waited
// for with two mutexes at once.
//
// It is an event count whose condition changes under a mutex:
//   1. wait() prepares to wait while the mutex is locked, so that whoever changes the condition
//      under it afterwards finds a waiter, and begins another epoch.
//   2. It unlocks, sleeps until the epoch is another, and locks again.
//   3. Its word stays listed until the mutex is locked: if the thread dies as it waits for the
//   mutex,
//      the notification that it had goes to another waiter.
// The argument that no notification is lost is the event count's; here the mutex orders already
// what the fences order there.
#ifndef FAULTLINE_SYNC_CONDITION_VARIABLE_HPP
#define FAULTLINE_SYNC_CONDITION_VARIABLE_HPP

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <type_traits>

#include "faultline/sync/event_count.hpp"
#include "faultline/sync/mutex.hpp"

namespace faultline {

// As std::condition_variable, which says what is not said here. A wait may end without a
// notification. After a wait ask the mutex whether it is inconsistent: its owner may have died
// meanwhile.
//
// All that wait throw error: as basic_mutex::lock, and the lock is not owned then; as
// basic_mutex::unlock and as fl_wait, and it is.
template <typename Platform>
class basic_condition_variable {
 public:
  // How the mutex is held by those who wait.
  using lock_type = std::unique_lock<basic_mutex<Platform>>;

  constexpr basic_condition_variable() noexcept = default;
  basic_condition_variable(const basic_condition_variable&) = delete;
  basic_condition_variable& operator=(const basic_condition_variable&) = delete;
  ~basic_condition_variable() = default;

  // Until it is notified, or without.
  void wait(lock_type& lock) { (void)wait(lock, sync::deadline{}); }
  // Until the predicate, asked with the mutex locked, holds.
  template <typename Predicate>
  void wait(lock_type& lock, Predicate predicate) {
    while (!predicate()) wait(lock);
  }

  // For at most so long.
  template <typename Rep, typename Period>
  std::cv_status wait_for(lock_type& lock, std::chrono::duration<Rep, Period> at_most) {
    return status(wait(lock, sync::deadline::after(at_most)));
  }
  // Whether the predicate holds.
  template <typename Rep, typename Period, typename Predicate>
  bool wait_for(lock_type& lock, std::chrono::duration<Rep, Period> at_most, Predicate predicate) {
    return wait(lock, sync::deadline::after(at_most), predicate);
  }

  // The clock is steady_clock or system_clock.
  template <detail::waitable_clock Clock, typename Duration>
  std::cv_status wait_until(lock_type& lock, std::chrono::time_point<Clock, Duration> then) {
    return status(wait(lock, sync::deadline(then)));
  }
  // Whether the predicate holds.
  template <detail::waitable_clock Clock, typename Duration, typename Predicate>
  bool wait_until(lock_type& lock, std::chrono::time_point<Clock, Duration> then,
                  Predicate predicate) {
    return wait(lock, sync::deadline(then), predicate);
  }

  // One who waits, as event_count's.
  void notify_one() { event_.notify_one(); }
  // All who wait, as event_count's.
  void notify_all() { event_.notify_all(); }

 private:
  static std::cv_status status(bool notified) noexcept {
    return notified ? std::cv_status::no_timeout : std::cv_status::timeout;
  }

  // False where the time was over first. The lock is locked again, whatever is thrown by the sleep.
  bool wait(lock_type& lock, const sync::deadline& until) {
    const sync::listed entry(event_.epoch_);
    const auto since = event_.prepare_wait();
    const typename basic_event_count<Platform>::counted until_the_end(event_);
    lock.unlock();
    Platform::reached(sync::stage::listed);
    bool notified = false;
    try {
      notified = event_.sleep(since, until);
    } catch (...) {
      lock.lock();
      throw;
    }
    lock.lock();
    return notified;
  }
  template <typename Predicate>
  bool wait(lock_type& lock, const sync::deadline& until, Predicate& predicate) {
    while (!predicate()) {
      if (!wait(lock, until)) return predicate();
    }
    return true;
  }

  basic_event_count<Platform> event_;
};

// 8 bytes; those of zeroes are one that nobody waits for.
using condition_variable = basic_condition_variable<sync::library>;

static_assert(sizeof(condition_variable) == 8 && std::is_standard_layout_v<condition_variable>);

}  // namespace faultline

#endif  // FAULTLINE_SYNC_CONDITION_VARIABLE_HPP
