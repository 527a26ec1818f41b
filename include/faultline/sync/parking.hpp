// Parts of sync.hpp, not for its users: how the primitives wait: until when, how long they look
// before they sleep, and through which calls. Must never hold an address of one process in memory
// that others map.
#ifndef FAULTLINE_SYNC_PARKING_HPP
#define FAULTLINE_SYNC_PARKING_HPP

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <ctime>
#include <limits>

#include "faultline/error.hpp"
#include "faultline/sync/robust_list.hpp"
#include "faultline/timeout.hpp"

namespace faultline::sync {

// When a wait ends by itself.
class deadline {
 public:
  constexpr deadline() noexcept = default;  // never
  template <detail::waitable_clock Clock, typename Duration>
  explicit deadline(std::chrono::time_point<Clock, Duration> then)
      : time_(detail::to_timespec(then.time_since_epoch())), flags_(detail::until_flag<Clock>) {}

  template <typename Rep, typename Period>
  static deadline after(std::chrono::duration<Rep, Period> at_most) {
    using Clock = std::chrono::steady_clock;
    constexpr double kCentury = 3e9;  // seconds; the clock's own time added, nanoseconds count them
    if (std::chrono::duration<double>(at_most).count() > kCentury) return {};
    if (at_most <= at_most.zero()) return deadline(Clock::time_point{});
    return deadline(Clock::now() + std::chrono::ceil<Clock::duration>(at_most));
  }

  // As fl_wait takes them.
  [[nodiscard]] const timespec* time() const noexcept { return flags_ == 0 ? nullptr : &time_; }
  [[nodiscard]] std::uint32_t flags() const noexcept { return flags_; }

 private:
  timespec time_{};
  std::uint32_t flags_ = 0;
};

// Where a primitive is, for tests that end a process there.
enum class stage : std::uint8_t {
  listed,    // the word is in the thread's list, nothing else has happened
  taken,     // the lock, or a unit of the semaphore, is this thread's
  sleeping,  // those who release know of this thread, which is about to sleep
  awake,     // a wake may have been used up
  released,  // the word is set, who waits has not been woken
  notified,  // who waits has been woken, the word is still listed
};

// What the primitives need of the system: their Platform. Tests have others, which count the calls,
// or end the process at a stage.
struct library {
  // As fl_wait.
  static int wait(const word& at, std::uint32_t expected, const deadline& until) noexcept {
    return fl_wait(&at, expected, until.time(), FL_WAIT_U32 | until.flags());
  }
  // As fl_wake. What it returns is of no use: whoever freed the word meanwhile waits no more.
  static void wake(const word& at, int count) noexcept { (void)fl_wake(&at, count); }
  static void reached(stage) noexcept {}
};
inline constexpr int kEverybody = std::numeric_limits<int>::max();

// How a sleep ended. look_again: the word differed, or a signal came.
enum class parked : std::uint8_t { woken, look_again, timed_out };

template <typename Platform>
parked park(const word& at, std::uint32_t expected, const deadline& until) {
  Platform::reached(stage::sleeping);
  const int result = Platform::wait(at, expected, until);
  if (result == 0) {
    Platform::reached(stage::awake);
    return parked::woken;
  }
  if (result == -ETIMEDOUT) return parked::timed_out;
  if (result != -EAGAIN && result != -EINTR) detail::check(result);
  return parked::look_again;
}

// Whether somebody else can change a word while this thread looks at it. What this process is bound
// to says nothing of the others.
inline bool has_processors() noexcept {
  static const bool several = ::sysconf(_SC_NPROCESSORS_ONLN) != 1;
  return several;
}
inline void pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}
// For a microsecond or so, which is less than going to sleep and being woken takes; with a
// condition, until it is true at most.
inline constexpr int kLingerPauses = 64;
inline void linger() noexcept {
  for (int i = 0; i < kLingerPauses; ++i) pause();
}
template <typename Condition>
void linger_until(Condition condition) noexcept {
  constexpr int kLookEvery = 8;
  for (int i = 0; i < kLingerPauses && !(i % kLookEvery == 0 && condition()); ++i) pause();
}

// Between a store and a load of another word. ThreadSanitizer knows no fences; that a word is
// changed by all who pass here orders them too, at the price of its cache line.
#if defined(__SANITIZE_THREAD__)
#define FAULTLINE_SYNC_NO_FENCES
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FAULTLINE_SYNC_NO_FENCES
#endif
#endif
inline void full_fence([[maybe_unused]] word& passed_by_all) noexcept {
#if defined(FAULTLINE_SYNC_NO_FENCES)
  passed_by_all.fetch_add(0, std::memory_order_seq_cst);
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}
#undef FAULTLINE_SYNC_NO_FENCES

}  // namespace faultline::sync

#endif  // FAULTLINE_SYNC_PARKING_HPP
