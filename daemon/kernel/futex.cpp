#include "daemon/kernel/futex.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstddef>

namespace faultline::kernel {

static_assert(sizeof(FutexWord) == sizeof(std::uint32_t) && FutexWord::is_always_lock_free);

void futex_wait(FutexWord& word, std::uint32_t expected,
                std::optional<std::chrono::nanoseconds> timeout) noexcept {
  timespec relative{};
  if (timeout) {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(*timeout);
    relative.tv_sec = seconds.count();
    relative.tv_nsec = (*timeout - seconds).count();
  }
  // Every way to return has the caller look again, so errno says nothing that it needs.
  (void)::syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, expected, timeout ? &relative : nullptr,
                  nullptr, 0);
}

void futex_wake_all(FutexWord& word) noexcept {
  (void)::syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

int futex_wake_shared(const FutexWord& word, int count, std::uint32_t mask) noexcept {
  const long woken = ::syscall(SYS_futex, &word, FUTEX_WAKE_BITSET, count, nullptr, nullptr, mask);
  return woken < 0 ? -errno : static_cast<int>(woken);
}

int futex_requeue_shared(const FutexWord& from, int wake, int move, const FutexWord& to) noexcept {
  const long done =
      ::syscall(SYS_futex, &from, FUTEX_REQUEUE, wake, static_cast<std::size_t>(move), &to, 0);
  return done < 0 ? -errno : static_cast<int>(done);
}

}  // namespace faultline::kernel
