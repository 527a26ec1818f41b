// Lets a thread look at what another may take away at that moment, without a lock: what is taken
// away is given back only when nobody can still look at it. Must never hold a thread up, and never
// need memory to give some back.
//
// A thread marks that it looks, by a store that no other thread waits for (Reading), and looks only
// at what it finds published then. Who takes something away unpublishes it and gives it to
// give_back_later(). From time to time, when more is taken away:
//   1. membarrier(2) (MEMBARRIER_CMD_PRIVATE_EXPEDITED) has every running thread of this process
//      pass a barrier. Who marked itself before it is seen to look; who does so after it finds only
//      what is published now.
//   2. Where nobody is seen to look, all that was taken away before is given back. Else it stays
//      until the next time.
//
// (A thread that is at its very end, in the destructors of its own objects, is not seen any more.)
//
// A fork child starts with the one thread that it has.
#pragma once

#include <atomic>
#include <memory>

namespace faultline::client {

struct ReadingMark {
  std::atomic<bool> looks{false};
  bool known = false;
};
// Without a call to find it. The linker makes an LEA of the ADD that finds it, where it can, and an
// LEA sets no flags for the look for null that UndefinedBehaviorSanitizer has after it.
#if defined(__SANITIZE_ADDRESS__)
#define FAULTLINE_TLS_MODEL
#else
#define FAULTLINE_TLS_MODEL __attribute__((tls_model("initial-exec")))
#endif
// Written by its own thread alone.
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): a thread's own
inline thread_local constinit ReadingMark reading_mark FAULTLINE_TLS_MODEL;
#undef FAULTLINE_TLS_MODEL

void introduce_thread();

// Nothing that blocks, nor another of these, within.
class Reading {
 public:
  Reading() {
    if (!reading_mark.known) introduce_thread();
    reading_mark.looks.store(true, std::memory_order_relaxed);
    // Pairs with the barrier of give_back_later(): the processor may do the following loads first,
    // but not over that barrier; the compiler must not.
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;
  ~Reading() { reading_mark.looks.store(false, std::memory_order_release); }
};

// What can be taken away.
class Retirable {
 public:
  Retirable() = default;
  Retirable(const Retirable&) = delete;
  Retirable& operator=(const Retirable&) = delete;
  virtual ~Retirable() = default;

 private:
  friend class Readers;
  std::unique_ptr<const Retirable> next_;
};

// Takes over what is no longer published. Thread-safe.
void give_back_later(std::unique_ptr<const Retirable> taken) noexcept;

// The fork hooks.
void lock_readers();
void unlock_readers();
void forget_other_readers();

}  // namespace faultline::client
