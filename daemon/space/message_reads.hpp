// Whether messages of an address space are being read, or have been and are not carried out yet.
// Must never cost who reads them more than an uncontended word, nor make anybody wait by itself.
//
// The kernel lets a client's thread go on within the read(2) that takes its event out (a fork, an
// unmap, a move): before whoever reads has seen the event, let alone carried it out. What that
// thread does next may need that. (Where it raises another event, as an mremap(2) does that also
// unmaps, the kernel may give both to one read, the second of which lets the thread go.) So a read
// begins here before the system call, and ends when all that it gave has been carried out, also
// what the rooms above make of it (space_observer.hpp).
//
// Who comes after an event finds its read under way, or over:
//   1. begin() is before the system call, and that before the client's thread goes on, by the lock
//      of the kernel's queue: whatever the client does next, and whoever learns of it from the
//      client through memory, by release and acquire, comes after begin(), and so cannot find an
//      older state of the word.
//   2. Where it finds that read over, by acquire, it has end()'s release behind it: it sees
//      everything that was carried out. It may find it over by what the next begin() wrote, which
//      is no part of end()'s release sequence: so begin() releases too, and comes after end() by
//      the order of the turns.
// So to come after every event that the client knows of, it is enough to look once: none is under
// way; or one is, and when that one is over, it is so. What is read later came later.
//
// States of the word, and who changes them: number, not under way -> under way (begin) -> under
// way, awaited (await) -> the next number, not under way (end). Who awaits it and who ends it
// change the word by one read-modify-write each: either end() sees that, or await() sees the end.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

namespace faultline::space {

class MessageReads {
 public:
  enum class Number : std::uint64_t {};

  // --- by whoever has the turn
  void begin() noexcept {
    word_.store(word_.load(std::memory_order_relaxed) | kUnderWay, std::memory_order_release);
  }
  // True: somebody awaits it, and is to be told.
  [[nodiscard]] bool end() noexcept {
    const std::uint64_t number = word_.load(std::memory_order_relaxed) >> kNumberShift;
    const std::uint64_t was =
        word_.exchange((number + 1) << kNumberShift, std::memory_order_acq_rel);
    return (was & kAwaited) != 0;
  }

  // --- by anybody
  // The read that is under way, whose end will be told. Nothing: whatever was read before has been
  // carried out.
  [[nodiscard]] std::optional<Number> await() noexcept {
    std::uint64_t seen = word_.load(std::memory_order_acquire);
    const Number number = number_of(seen);
    while ((seen & kUnderWay) != 0 && number_of(seen) == number) {
      if ((seen & kAwaited) != 0 ||
          word_.compare_exchange_weak(seen, seen | kAwaited, std::memory_order_acq_rel,
                                      std::memory_order_acquire)) {
        return number;
      }
    }
    return std::nullopt;
  }
  // Whether that one is over.
  [[nodiscard]] bool over(Number number) const noexcept {
    return number_of(word_.load(std::memory_order_acquire)) != number;
  }

 private:
  static constexpr std::uint64_t kUnderWay = 1;
  static constexpr std::uint64_t kAwaited = 2;
  static constexpr unsigned kNumberShift = 2;
  static Number number_of(std::uint64_t word) { return Number{word >> kNumberShift}; }

  std::atomic<std::uint64_t> word_{0};
};

}  // namespace faultline::space
