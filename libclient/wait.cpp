// The C interface to waiting and waking. Must never take a lock or make a system call of its own
// where the kernel's futex does all there is to do.
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/single_threaded.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <span>
#include <vector>

#include "faultline/faultline.h"
#include "libclient/failure.hpp"
#include "libclient/futex.hpp"
#include "libclient/place.hpp"
#include "libclient/slot_wait.hpp"
#include "libclient/timeout.hpp"
#include "libclient/word.hpp"

using faultline::client::Container;
using faultline::client::failed;
using faultline::client::kSizeFlags;
using faultline::client::kTimeoutFlags;
using faultline::client::Place;
using faultline::client::place_of;
using faultline::client::Reading;
using faultline::client::Timeout;
using faultline::client::Word;
using faultline::client::WordKind;
namespace futex = faultline::client::futex;

namespace {

const void* pointer(std::uintptr_t address) {
  return reinterpret_cast<const void*>(address);
}

WordKind kind_of(std::uintptr_t address) {
  const Reading reading;
  return place_of(reading, address).kind;
}

// What there is to do for a word, as far as can be told without asking.
enum class Way {
  nothing,  // nobody waits
  kernel,   // the kernel's queue of the word itself does
  daemon,
};

Way way_to_wake(std::uintptr_t address) {
  const Reading reading;
  const Place& place = place_of(reading, address);
  if (place.kind != WordKind::shared) return Way::daemon;
  const std::uint64_t offset = place.offset + address % 4096;
  if (place.object->nobody_waits(offset)) return Way::nothing;
  // Of a page that is in no memory the kernel's wake would bring one there.
  return address % 4 == 0 && place.object->resident(offset) ? Way::kernel : Way::daemon;
}

// A thread that is the only one can have no memory taken away while it waits. Others can, and are
// told so through the daemon, which takes one more word to wait for.
bool alone() {
  return __libc_single_threaded != 0;
}

Way way_to_wait(const Word& word) {
  const Reading reading;
  const Place& place = place_of(reading, word.address);
  if (place.kind != WordKind::shared || word.address % 4 != 0) return Way::daemon;
  const bool here = place.object->resident(place.offset) && !place.object->counted();
  return here && alone() ? Way::kernel : Way::daemon;
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
    const auto seen = around.load();
    if (!seen) return -EFAULT;
    if (!around.fits(word, *seen)) return -EAGAIN;
    const long ended = futex::wait(pointer(around.address), FUTEX_WAIT_BITSET | clock, *seen,
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

void refuse_unless(bool right, const char* otherwise) {
  if (!right) throw faultline::client::Failure(EINVAL, otherwise);
}
constexpr const char* kBadFlags =
    "waiting with unknown flags, or with both FL_WAIT_ABSOLUTE and FL_WAIT_REALTIME";
// All else that makes a wait invalid was refused before.
long unless_bad_time(long waited) {
  refuse_unless(waited != -EINVAL,
                "waiting with a time-out whose tv_sec is below 0, or tv_nsec not below 1000000000");
  return waited;
}
constexpr const char* kUnaligned = "an address that is no multiple of its word's size";

bool known_flags(std::uint32_t flags, std::uint32_t known) {
  return (flags & ~known) == 0 && (flags & kTimeoutFlags) != kTimeoutFlags;
}

long wait_for(const Word& word, const timespec* given, std::uint32_t flags, std::uint32_t bitset) {
  refuse_unless(known_flags(flags, kSizeFlags | kTimeoutFlags), kBadFlags);
  refuse_unless(word.aligned(), kUnaligned);
  refuse_unless(bitset != 0, "waiting for no bit, or waking none");
  Timeout timeout(given, flags & kTimeoutFlags);
  if (way_to_wait(word) == Way::kernel) return wait_shared(word, timeout, bitset);
  if (const int error = timeout.settle(); error != 0) return error;
  return faultline::client::wait_for_words(std::span(&word, 1), timeout, bitset);
}

long wake_at(std::uintptr_t address, int count, std::uint32_t bitset) {
  refuse_unless(count >= 0, "waking a negative number of waiters");
  refuse_unless(bitset != 0, "waiting for no bit, or waking none");
  switch (way_to_wake(address)) {
    case Way::nothing:
      return 0;
    case Way::kernel:
      return count == 0 ? 0 : futex::wake(pointer(address), count, bitset);
    case Way::daemon:
      break;
  }
  return faultline::client::wake_word(address, count, bitset);
}

// Whether whoever waits for the words is the kernel's to find, and to move. Waits that are counted
// have to be counted where they are moved to.
bool kernel_has_both(std::uintptr_t from, std::uintptr_t to) {
  const Reading reading;
  const auto of_kernel = [&](std::uintptr_t address) {
    const Place& place = place_of(reading, address);
    return place.kind == WordKind::shared && !place.object->counted();
  };
  return of_kernel(from) && of_kernel(to);
}

long requeue_at(const void* address, int operation, std::uint32_t expected, int wake, int requeue,
                const void* target) {
  const auto from = reinterpret_cast<std::uintptr_t>(address);
  const auto to = reinterpret_cast<std::uintptr_t>(target);
  refuse_unless(wake >= 0 && requeue >= 0, "waking or moving a negative number of waiters");
  refuse_unless(from % 4 == 0 && to % 4 == 0, kUnaligned);
  if (kernel_has_both(from, to)) {
    return futex::two(address, operation, static_cast<std::uint32_t>(wake),
                      static_cast<std::uint32_t>(requeue), target, expected);
  }
  // The looks have the pages come that are in no memory, as a requeue of the kernel's does: with
  // the one the waits of other processes come to the kernel's queue, and at the other they are
  // looked for there.
  (void)Word{to}.look();
  const int looked = Word{from, expected}.look();
  if (looked == -EFAULT || (looked != 0 && operation == FUTEX_CMP_REQUEUE)) return looked;
  return faultline::client::requeue_word(from, wake, requeue, to);
}

// Whether the word can be written to; its page is there, and this process's own, then.
bool make_writable(void* target) {
  const auto page = reinterpret_cast<std::uintptr_t>(target) & ~std::uintptr_t{4095};
  return ::madvise(reinterpret_cast<void*>(page), 4096, MADV_POPULATE_WRITE) == 0;
}

// As the kernel does it, linux/futex.h: FUTEX_OP. Returns whether the old value compared; -ENOSYS
// an unknown operation; -EFAULT.
int change_word(void* target, std::uint32_t operation) {
  if (!make_writable(target)) return -EFAULT;
  const bool shift = (operation & (std::uint32_t{FUTEX_OP_OPARG_SHIFT} << 28)) != 0;
  const auto sign_extended = [](std::uint32_t twelve_bits) {
    return static_cast<std::uint32_t>(static_cast<std::int32_t>(twelve_bits << 20) >> 20);
  };
  std::uint32_t argument = sign_extended((operation >> 12) & 0xfff);
  if (shift) argument = std::uint32_t{1} << (argument & 31);
  const std::uint32_t compared = sign_extended(operation & 0xfff);
  const std::atomic_ref word(*static_cast<std::uint32_t*>(target));
  std::uint32_t old = 0;
  switch ((operation >> 28) & 7) {
    case FUTEX_OP_SET:
      old = word.exchange(argument);
      break;
    case FUTEX_OP_ADD:
      old = word.fetch_add(argument);
      break;
    case FUTEX_OP_OR:
      old = word.fetch_or(argument);
      break;
    case FUTEX_OP_ANDN:
      old = word.fetch_and(~argument);
      break;
    case FUTEX_OP_XOR:
      old = word.fetch_xor(argument);
      break;
    default:
      return -ENOSYS;
  }
  const auto value = static_cast<std::int32_t>(old);
  const auto than = static_cast<std::int32_t>(compared);
  switch ((operation >> 24) & 0xf) {
    case FUTEX_OP_CMP_EQ:
      return value == than ? 1 : 0;
    case FUTEX_OP_CMP_NE:
      return value != than ? 1 : 0;
    case FUTEX_OP_CMP_LT:
      return value < than ? 1 : 0;
    case FUTEX_OP_CMP_LE:
      return value <= than ? 1 : 0;
    case FUTEX_OP_CMP_GT:
      return value > than ? 1 : 0;
    case FUTEX_OP_CMP_GE:
      return value >= than ? 1 : 0;
    default:
      return -ENOSYS;
  }
}

long wake_op_at(const void* address, int wake, void* target, int target_wake,
                std::uint32_t operation) {
  refuse_unless(wake >= 0 && target_wake >= 0, "waking a negative number of waiters");
  const auto from = reinterpret_cast<std::uintptr_t>(address);
  const auto to = reinterpret_cast<std::uintptr_t>(target);
  refuse_unless(from % 4 == 0 && to % 4 == 0, kUnaligned);
  // The kernel wakes one for a count of 0.
  if (wake > 0 && target_wake > 0 && kernel_has_both(from, to)) {
    return futex::two(address, FUTEX_WAKE_OP, static_cast<std::uint32_t>(wake),
                      static_cast<std::uint32_t>(target_wake), target, operation);
  }
  for (const std::uintptr_t word : {from, to}) {
    if (kind_of(word) == WordKind::unknown) faultline::client::expect_mapping_at(word);
  }
  const int compared = change_word(target, operation);
  if (compared < 0) return compared;
  const long woken = wake_at(from, wake, futex::kAnyBit);
  if (woken < 0 || compared == 0) return woken;
  const long there = wake_at(to, target_wake, futex::kAnyBit);
  return there < 0 ? there : woken + there;
}

long wait_for_any(const fl_waiter* waiters, unsigned count, const timespec* given,
                  std::uint32_t flags) {
  refuse_unless(waiters != nullptr && count > 0 && count <= FL_WAITV_MAX,
                "waiting for no words, or for more than FL_WAITV_MAX");
  refuse_unless(known_flags(flags, kTimeoutFlags), kBadFlags);
  Timeout timeout(given, flags);
  if (const int error = timeout.settle(); error != 0) return error;
  std::vector<Word> words;
  words.reserve(count);
  for (const fl_waiter& waiter : std::span(waiters, count)) {
    const Word word{reinterpret_cast<std::uintptr_t>(waiter.address), waiter.expected,
                    waiter.flags & kSizeFlags};
    refuse_unless(word.aligned(), kUnaligned);
    refuse_unless((waiter.flags & ~kSizeFlags) == 0 && waiter.reserved == 0,
                  "a fl_waiter with flags that are no size, or with a reserved that is not 0");
    words.push_back(word);
  }
  return faultline::client::wait_for_words(words, timeout, futex::kAnyBit);
}

// The C interface's result of one of the above.
template <typename Body>
int answer(const char* attempted, Body body) noexcept {
  long result = 0;
  const int thrown = faultline::client::guarded_quick([&] { result = body(); });
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
    return std::min(unless_bad_time(wait_for(word, timeout, flags, bitset)), 0L);
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
  return answer("changing a word and waking",
                [&] { return wake_op_at(address, wake, target, target_wake, operation); });
}

int fl_waitv(const fl_waiter* waiters, unsigned count, const struct timespec* timeout,
             uint32_t flags) {
  return answer("waiting for any of several words",
                [&] { return unless_bad_time(wait_for_any(waiters, count, timeout, flags)); });
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
