#include "libclient/timeout.hpp"

#include <limits>

#include "libclient/futex.hpp"

namespace faultline::client {

int Timeout::settle() {
  if (given_ == nullptr || settled_) return 0;
  // The kernel looks at the time before it looks at the word, which has another value.
  static constexpr std::uint32_t kWord = 0;
  const long looked = futex::wait(&kWord, FUTEX_WAIT_PRIVATE, 1, given_);
  if (looked != -EAGAIN) return static_cast<int>(looked);
  until_ = *given_;
  settled_ = true;
  if (!relative()) return 0;
  timespec now{};
  (void)::clock_gettime(CLOCK_MONOTONIC, &now);  // cannot fail
  constexpr long kSecond = 1'000'000'000;
  const long nanoseconds = until_.tv_nsec + now.tv_nsec;
  until_.tv_nsec = nanoseconds % kSecond;
  if (__builtin_add_overflow(until_.tv_sec, now.tv_sec + nanoseconds / kSecond, &until_.tv_sec)) {
    until_.tv_sec = std::numeric_limits<time_t>::max();
  }
  return 0;
}

bool Timeout::passed() const {
  if (given_ == nullptr) return false;
  timespec now{};
  (void)::clock_gettime(clock(), &now);
  return now.tv_sec > until_.tv_sec ||
         (now.tv_sec == until_.tv_sec && now.tv_nsec >= until_.tv_nsec);
}

}  // namespace faultline::client
