// libfaultline in C++20: the functions of wait.h that block, on std::atomic words in mapped memory.
// Header only; included by faultline.hpp, whose conventions hold.
//
// What a wait may well come to is its result. Thrown is what no correct program meets, or what it
// cannot go on after: words beyond FL_WAITV_MAX, the daemon gone, its limits reached.
#ifndef FAULTLINE_WAIT_HPP
#define FAULTLINE_WAIT_HPP

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <optional>
#include <span>
#include <type_traits>

#include "faultline/faultline.hpp"
#include "faultline/timeout.hpp"

namespace faultline {

// What a wait came to.
enum class wait_result {
  woken,
  value_changed,  // the word did not hold what was expected
  timed_out,
  interrupted,  // by a signal's handler
  unmapped,     // the word's memory is mapped no more, or never was
  discarded,    // the private page that held the word was
};

// A word in a mapping: 1, 2, 4 or 8 bytes of which each pattern is one value.
template <typename T>
concept waitable = (std::integral<T> || std::is_enum_v<T>)&&std::atomic<T>::is_always_lock_free &&
                   sizeof(std::atomic<T>) == sizeof(T);
// Of those between which waiters can be moved.
template <typename T>
concept requeueable = waitable<T> && sizeof(T) == 4;

// A wake meets the waits with which it has a bit in common.
enum class wait_bits : std::uint32_t { any = FL_WAIT_ANY };

namespace detail {

template <waitable T>
constexpr std::uint32_t wait_size() {
  switch (sizeof(T)) {
    case 1:
      return FL_WAIT_U8;
    case 2:
      return FL_WAIT_U16;
    case 4:
      return FL_WAIT_U32;
    default:
      return FL_WAIT_U64;
  }
}

// Bits beyond the word's size are not looked at.
template <waitable T>
std::uint64_t wait_bytes(T expected) {
  return static_cast<std::uint64_t>(expected);
}

inline wait_result to_result(int returned) {
  switch (returned) {
    case -EAGAIN:
      return wait_result::value_changed;
    case -ETIMEDOUT:
      return wait_result::timed_out;
    case -EINTR:
      return wait_result::interrupted;
    case -EFAULT:
      return wait_result::unmapped;
    case -ECANCELED:
      return wait_result::discarded;
    default:
      check(returned);
      return wait_result::woken;
  }
}

template <waitable T>
wait_result wait_at(const std::atomic<T>& word, T expected, const timespec* timeout,
                    std::uint32_t flags, wait_bits bits) {
  return to_result(fl_wait_bitset(&word, wait_bytes(expected), timeout, flags | wait_size<T>(),
                                  static_cast<std::uint32_t>(bits)));
}

inline int counted(int returned) {
  check(returned);
  return returned;
}

}  // namespace detail

// --- one word

// Waits until the word is woken, unless it does not hold what is expected. Blocks.
template <waitable T>
[[nodiscard]] wait_result wait(const std::atomic<T>& word, std::type_identity_t<T> expected,
                               wait_bits bits = wait_bits::any) {
  return detail::wait_at<T>(word, expected, nullptr, 0, bits);
}
// For at most so long.
template <waitable T, typename Rep, typename Period>
[[nodiscard]] wait_result wait_for(const std::atomic<T>& word, std::type_identity_t<T> expected,
                                   std::chrono::duration<Rep, Period> at_most,
                                   wait_bits bits = wait_bits::any) {
  const timespec timeout = detail::to_timespec(at_most);
  return detail::wait_at<T>(word, expected, &timeout, 0, bits);
}
// Until then: a time of steady_clock, or of system_clock, which may be set meanwhile.
template <waitable T, detail::waitable_clock Clock, typename Duration>
[[nodiscard]] wait_result wait_until(const std::atomic<T>& word, std::type_identity_t<T> expected,
                                     std::chrono::time_point<Clock, Duration> then,
                                     wait_bits bits = wait_bits::any) {
  const timespec timeout = detail::to_timespec(then.time_since_epoch());
  return detail::wait_at<T>(word, expected, &timeout, detail::until_flag<Clock>, bits);
}

// Wakes at most count who wait for the word. Returns how many.
template <waitable T>
int wake(const std::atomic<T>& word, int count = 1, wait_bits bits = wait_bits::any) {
  return detail::counted(fl_wake_bitset(&word, count, static_cast<std::uint32_t>(bits)));
}
// Wakes all who wait for the word. Returns how many.
template <waitable T>
int wake_all(const std::atomic<T>& word, wait_bits bits = wait_bits::any) {
  return wake(word, INT_MAX, bits);
}

// Wakes at most `waken`, and has at most `moved` more wait for the word at target instead. Returns
// how many that were, together.
template <requeueable T, requeueable U>
int requeue(const std::atomic<T>& word, int waken, int moved, const std::atomic<U>& target) {
  return detail::counted(fl_requeue(&word, waken, moved, &target));
}
// The same, but nothing where the word does not hold what is expected.
template <requeueable T, requeueable U>
[[nodiscard]] std::optional<int> requeue_if(const std::atomic<T>& word,
                                            std::type_identity_t<T> expected, int waken, int moved,
                                            const std::atomic<U>& target) {
  const auto value = static_cast<std::uint32_t>(detail::wait_bytes(expected));
  const int done = fl_cmp_requeue(&word, value, waken, moved, &target);
  if (done == -EAGAIN) return std::nullopt;
  return detail::counted(done);
}

// --- any of several words

// One of the words that any is waited for of; 1 to FL_WAITV_MAX of them.
template <waitable T>
[[nodiscard]] fl_waiter awaited(const std::atomic<T>& word, std::type_identity_t<T> expected) {
  return {&word, detail::wait_bytes(expected), detail::wait_size<T>(), 0};
}

// What a wait for any of several words came to.
struct any_result {
  wait_result result{};   // how it ended
  std::size_t index = 0;  // of the word that was woken
  friend bool operator==(const any_result&, const any_result&) = default;
};

namespace detail {
inline any_result wait_any(std::span<const fl_waiter> words, const timespec* timeout,
                           std::uint32_t flags) {
  const auto count = std::min<std::size_t>(words.size(), FL_WAITV_MAX + 1);  // which is refused
  const int woken = fl_waitv(words.data(), static_cast<unsigned>(count), timeout, flags);
  return {to_result(woken), woken < 0 ? 0 : static_cast<std::size_t>(woken)};
}
}  // namespace detail

// Waits until one of the words is woken, unless one does not hold what is expected. Blocks.
[[nodiscard]] inline any_result wait_any(std::span<const fl_waiter> words) {
  return detail::wait_any(words, nullptr, 0);
}
// For at most so long.
template <typename Rep, typename Period>
[[nodiscard]] any_result wait_any_for(std::span<const fl_waiter> words,
                                      std::chrono::duration<Rep, Period> at_most) {
  const timespec timeout = detail::to_timespec(at_most);
  return detail::wait_any(words, &timeout, 0);
}
// Until then: a time of steady_clock, or of system_clock, which may be set meanwhile.
template <detail::waitable_clock Clock, typename Duration>
[[nodiscard]] any_result wait_any_until(std::span<const fl_waiter> words,
                                        std::chrono::time_point<Clock, Duration> then) {
  const timespec timeout = detail::to_timespec(then.time_since_epoch());
  return detail::wait_any(words, &timeout, detail::until_flag<Clock>);
}

}  // namespace faultline

#endif  // FAULTLINE_WAIT_HPP
