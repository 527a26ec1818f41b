// The C interface to waiting and waking. Must never take a lock or make a system call of its own
// where the kernel's futex does all there is to do.
#include <linux/futex.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <climits>

#include "faultline/faultline.h"
#include "libclient/failure.hpp"
#include "libclient/futex.hpp"
#include "libclient/place.hpp"
#include "libclient/timeout.hpp"

using faultline::client::failed;
using faultline::client::kTimeoutFlags;
using faultline::client::Place;
using faultline::client::place_of;
using faultline::client::Reading;
using faultline::client::Timeout;
using faultline::client::WordKind;
namespace futex = faultline::client::futex;

namespace {

constexpr std::uint32_t kSizeFlags = 3;

// A word, and the value that it should have.
struct Word {
  std::uintptr_t address = 0;
  std::uint64_t expected = 0;
  std::uint32_t size = FL_WAIT_U32;

  [[nodiscard]] unsigned bytes() const {
    constexpr std::array<unsigned, 4> kBytes{4, 1, 2, 8};
    return kBytes[size];
  }
  [[nodiscard]] bool aligned() const { return address % bytes() == 0; }
  [[nodiscard]] std::uint64_t mask() const {
    return size == FL_WAIT_U64 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * bytes())) - 1;
  }
};

// The 32 bits that the kernel compares, around a smaller word.
struct Container {
  explicit Container(const Word& word)
      : address(word.address & ~std::uintptr_t{3}),
        shift(8 * static_cast<unsigned>(word.address & 3)) {}

  [[nodiscard]] std::uint32_t load() const {
    return std::atomic_ref(*reinterpret_cast<std::uint32_t*>(address)).load();
  }
  // Whether the word has its value where the container has this one.
  [[nodiscard]] bool fits(const Word& word, std::uint32_t value) const {
    return ((value >> shift) & word.mask()) == (word.expected & word.mask());
  }

  std::uintptr_t address;
  unsigned shift;
};

const void* pointer(std::uintptr_t address) {
  return reinterpret_cast<const void*>(address);
}

WordKind kind_of(std::uintptr_t address) {
  const Reading reading;
  return place_of(reading, address).kind;
}

// Whether a wake of the word has nobody to find, and why it has: unknown, or nobody waits.
bool nobody_waits(std::uintptr_t address, WordKind& kind) {
  const Reading reading;
  const Place& place = place_of(reading, address);
  kind = place.kind;
  return kind == WordKind::shared && place.object->nobody_waits(place.offset + address % 4096);
}

// What futex_waitv(2) is told of a word at its own address.
futex_waitv at_its_address(std::uintptr_t address, std::uint32_t expected,
                           std::uint32_t flags = 0) {
  return {expected, address, FUTEX_32 | flags, 0};
}

// --- words of shared mappings: the kernel queues them by object and offset

long wait_for_32_bits(std::uintptr_t address, std::uint32_t expected, const Timeout& timeout,
                      std::uint32_t bitset) {
  const void* const word = pointer(address);
  if (timeout.given() == nullptr || !timeout.relative()) {
    const int clock = timeout.clock() == CLOCK_REALTIME ? FUTEX_CLOCK_REALTIME : 0;
    return futex::wait(word, FUTEX_WAIT_BITSET | clock, expected, timeout.given(), bitset);
  }
  return futex::wait(word, FUTEX_WAIT, expected, timeout.given());
}

// In several steps, where the kernel's compare is not the caller's.
long wait_for_other_bits(const Word& word, Timeout& timeout, std::uint32_t bitset) {
  if (const int error = timeout.settle(); error != 0) return error;
  if (word.size == FL_WAIT_U64) {
    const std::array both{
        at_its_address(word.address, static_cast<std::uint32_t>(word.expected)),
        at_its_address(word.address + 4, static_cast<std::uint32_t>(word.expected >> 32),
                       FUTEX_PRIVATE_FLAG)};
    return futex::wait_any(both.data(), both.size(), timeout.until(), timeout.clock());
  }
  const Container around(word);
  const int clock = timeout.clock() == CLOCK_REALTIME ? FUTEX_CLOCK_REALTIME : 0;
  for (;;) {
    const std::uint32_t seen = around.load();
    if (!around.fits(word, seen)) return -EAGAIN;
    const long ended = futex::wait(pointer(around.address), FUTEX_WAIT_BITSET | clock, seen,
                                   timeout.until(), bitset);
    // Another value: perhaps of the bytes beside the word alone.
    if (ended != -EAGAIN) return ended;
  }
}

long wait_shared(const Word& word, Timeout& timeout, std::uint32_t bitset) {
  if (word.size == FL_WAIT_U32 &&
      (timeout.given() == nullptr || !timeout.relative() || bitset == futex::kAnyBit)) {
    return wait_for_32_bits(word.address, static_cast<std::uint32_t>(word.expected), timeout,
                            bitset);
  }
  if (word.size == FL_WAIT_U32) {
    if (const int error = timeout.settle(); error != 0) return error;
    const int clock = timeout.clock() == CLOCK_REALTIME ? FUTEX_CLOCK_REALTIME : 0;
    return futex::wait(pointer(word.address), FUTEX_WAIT_BITSET | clock,
                       static_cast<std::uint32_t>(word.expected), timeout.until(), bitset);
  }
  return wait_for_other_bits(word, timeout, bitset);
}

// ---

long wait_for(const Word& word, const timespec* given, std::uint32_t flags, std::uint32_t bitset) {
  if ((flags & ~(kSizeFlags | kTimeoutFlags)) != 0 || (flags & kTimeoutFlags) == kTimeoutFlags ||
      !word.aligned() || bitset == 0) {
    return -EINVAL;
  }
  Timeout timeout(given, flags & kTimeoutFlags);
  switch (kind_of(word.address)) {
    case WordKind::shared:
      return wait_shared(word, timeout, bitset);
    case WordKind::own:
    case WordKind::by_page:
      return -ENOSYS;
    case WordKind::unknown:
      break;
  }
  return -EFAULT;
}

long wake_at(std::uintptr_t address, int count, std::uint32_t bitset) {
  if (count < 0 || bitset == 0) return -EINVAL;
  WordKind kind{};
  if (nobody_waits(address, kind) || count == 0) return 0;
  switch (kind) {
    case WordKind::shared:
      return futex::wake(pointer(address), count, bitset);
    case WordKind::own:
    case WordKind::by_page:
      return -ENOSYS;
    case WordKind::unknown:
      break;
  }
  return -EFAULT;
}

bool both_shared(const void* first, const void* second) {
  return kind_of(reinterpret_cast<std::uintptr_t>(first)) == WordKind::shared &&
         kind_of(reinterpret_cast<std::uintptr_t>(second)) == WordKind::shared;
}

long requeue_at(const void* address, int operation, std::uint32_t expected, int wake, int requeue,
                const void* target) {
  if (wake < 0 || requeue < 0) return -EINVAL;
  if (!both_shared(address, target)) return -EFAULT;
  return futex::two(address, operation, static_cast<std::uint32_t>(wake),
                    static_cast<std::uint32_t>(requeue), target, expected);
}

// The C interface's result of one of the above.
template <typename Body>
int answer(const char* attempted, Body body) noexcept {
  long result = 0;
  const int thrown = faultline::client::guarded([&] { result = body(); });
  if (thrown != 0) return thrown;
  return result < 0 ? failed(static_cast<int>(-result), attempted) : static_cast<int>(result);
}

}  // namespace

extern "C" {

int fl_wait(const void* address, uint64_t expected, const struct timespec* timeout,
            uint32_t flags) {
  return fl_wait_bitset(address, expected, timeout, flags, FL_WAIT_ANY);
}

int fl_wait_bitset(const void* address, uint64_t expected, const struct timespec* timeout,
                   uint32_t flags, uint32_t bitset) {
  return answer("waiting for a word", [&] {
    const Word word{reinterpret_cast<std::uintptr_t>(address), expected, flags & kSizeFlags};
    return std::min(wait_for(word, timeout, flags, bitset), 0L);
  });
}

int fl_wake(const void* address, int count) {
  return fl_wake_bitset(address, count, FL_WAIT_ANY);
}

int fl_wake_bitset(const void* address, int count, uint32_t bitset) {
  return answer("waking at a word",
                [&] { return wake_at(reinterpret_cast<std::uintptr_t>(address), count, bitset); });
}

int fl_requeue(const void* address, int wake, int requeue, const void* target) {
  return answer("moving those who wait for a word",
                [&] { return requeue_at(address, FUTEX_REQUEUE, 0, wake, requeue, target); });
}

int fl_cmp_requeue(const void* address, uint32_t expected, int wake, int requeue,
                   const void* target) {
  return answer("moving those who wait for a word", [&] {
    return requeue_at(address, FUTEX_CMP_REQUEUE, expected, wake, requeue, target);
  });
}

int fl_wake_op(const void* address, int wake, void* target, int target_wake, uint32_t operation) {
  return answer("changing a word and waking", [&]() -> long {
    if (wake < 0 || target_wake < 0) return -EINVAL;
    if (!both_shared(address, target)) return -EFAULT;
    return futex::two(address, FUTEX_WAKE_OP, static_cast<std::uint32_t>(wake),
                      static_cast<std::uint32_t>(target_wake), target, operation);
  });
}

int fl_waitv(const fl_waiter* waiters, unsigned count, const struct timespec* timeout,
             uint32_t flags) {
  return answer("waiting for any of several words", [&]() -> long {
    if (waiters == nullptr || count == 0 || count > FL_WAITV_MAX || (flags & ~kTimeoutFlags) != 0 ||
        (flags & kTimeoutFlags) == kTimeoutFlags) {
      return -EINVAL;
    }
    Timeout until(timeout, flags);
    if (const int error = until.settle(); error != 0) return error;
    std::array<futex_waitv, FL_WAITV_MAX> words{};
    for (unsigned i = 0; i < count; ++i) {
      const auto address = reinterpret_cast<std::uintptr_t>(waiters[i].address);
      const Word word{address, waiters[i].expected, waiters[i].flags & kSizeFlags};
      if (!word.aligned() || waiters[i].reserved != 0 || (waiters[i].flags & ~kSizeFlags) != 0) {
        return -EINVAL;
      }
      if (kind_of(address) != WordKind::shared) return -EFAULT;
      words.at(i) = at_its_address(address, static_cast<std::uint32_t>(word.expected));
    }
    return futex::wait_any(words.data(), count, until.until(), until.clock());
  });
}

int fl_lock_pi(void* address, const struct timespec* timeout) {
  return answer("locking a word with priority inheritance", [&]() -> long {
    if (kind_of(reinterpret_cast<std::uintptr_t>(address)) != WordKind::shared) return -ENOSYS;
    return futex::wait(address, FUTEX_LOCK_PI, 0, timeout);
  });
}

int fl_trylock_pi(void* address) {
  return answer("trying to lock a word with priority inheritance", [&]() -> long {
    if (kind_of(reinterpret_cast<std::uintptr_t>(address)) != WordKind::shared) return -ENOSYS;
    return futex::wait(address, FUTEX_TRYLOCK_PI, 0, nullptr);
  });
}

int fl_unlock_pi(void* address) {
  return answer("unlocking a word with priority inheritance", [&]() -> long {
    if (kind_of(reinterpret_cast<std::uintptr_t>(address)) != WordKind::shared) return -ENOSYS;
    return futex::wait(address, FUTEX_UNLOCK_PI, 0, nullptr);
  });
}

}  // extern "C"
