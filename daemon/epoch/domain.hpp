// An SRCU domain: readers that may sleep, and callbacks that run once no reader can still see what
// they free. Must never make a reader wait, lock, or write where another reader writes.
//
// Life of what is read here:
//   1. A writer makes it, and publishes a pointer to it with a release store.
//   2. A reader opens a Section, loads the pointer (acquire), and uses what it finds until the
//      Section ends. It may sleep meanwhile, which holds back everything that is retired meanwhile.
//   3. The writer publishes a world without it. Only then it retires it: the other way round, a
//      reader could find it after the grace period had begun.
//   4. A grace period begins later than that and ends when every section that was open has ended.
//   5. The domain's reclaimer, a thread that the first retire() starts, runs the callback.
//
// Locking: registry_mutex_ guards slots_, and is held by a thread's first section in the domain;
// reclaim_mutex_ -> grace_mutex_ (one grace period at a time); reclaim_mutex_ -> cycle_mutex_,
// which guards the counters of cycles. Sections and retire() take none. Callbacks run with
// reclaim_mutex_ held: no barrier() in them. The orderings are argued in docs/epoch.md.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "daemon/kernel/futex.hpp"
#include "daemon/kernel/tally.hpp"

namespace faultline::epoch {

class Domain {
 public:
  // Part of what is to be retired, so that retiring allocates nothing and cannot fail. `run` is
  // called once, on the reclaimer, after a grace period; `next` belongs to the domain from retire()
  // to there.
  struct Callback {
    Callback* next = nullptr;
    void (*run)(Callback&) noexcept = nullptr;

    // What the callback is a part of, for `run`.
    template <typename T>
    T& owner() noexcept {
      return static_cast<T&>(*this);  // NOLINT(cppcoreguidelines-pro-type-static-cast-downcast)
    }
  };

  // A grace period that waits longer than this for a reader is logged, and again whenever that
  // doubles.
  static constexpr std::chrono::milliseconds kStuckAfter{1000};

  // Where a grace period is, for tests that drive readers against it.
  enum class GraceStep {
    snapshot_taken,  // it is known which sections to wait for
    before_sleep,    // the reader was told to wake us, and had not left yet
  };
  struct Options {
    std::chrono::milliseconds stuck_after = kStuckAfter;
    bool membarrier = true;  // false: readers fence for themselves, as where the kernel refuses it
    std::function<void(GraceStep)> hook;
  };

  class Section;

  // The name is for the log and for the reclaimer's thread (10 characters of it).
  explicit Domain(std::string name);
  Domain(std::string name, Options options);
  Domain(const Domain&) = delete;
  Domain& operator=(const Domain&) = delete;
  // Runs every callback, those that callbacks queue included. No section may be open, and no other
  // thread may be in a call. Not from one of its own callbacks. Blocks.
  ~Domain();

  // Has the callback run after a grace period. Any thread, inside a Section and inside a callback
  // too. Never blocks, and runs nothing itself.
  void retire(Callback& callback) noexcept;

  // Blocks until every section that was open at the call has ended. Not inside a section of this
  // domain.
  void synchronize();

  // Blocks until every callback that was retired before the call, by whatever thread, has run.
  // Callbacks that those queue are not included. Not inside a section of this domain, nor in its
  // callbacks.
  void barrier();

  struct Status {
    std::size_t pending = 0;  // callbacks that wait
    std::uint64_t grace_periods = 0;
    std::uint64_t callbacks_run = 0;
    // How long a grace period has been waiting for the reader that holds it up; 0 where none does.
    std::chrono::nanoseconds oldest_section{0};
    pid_t oldest_thread = 0;
    kernel::Durations grace;  // how long each grace period took
  };
  // Any thread; never blocks. Each figure is exact, but they are not of one moment.
  [[nodiscard]] Status status() const;

 private:
  static constexpr std::size_t kCacheLine = 64;

  // Callbacks that wait: pushed by whoever retires, taken all at once by the reclaimer.
  struct Queue {
    std::atomic<Callback*> head{nullptr};
    std::atomic<std::uint64_t> retired{0};
    // How many were pushed before, ever.
    std::uint64_t push(Callback& callback) noexcept;
  };

  // What a thread has in a domain. Thread and domain each hold it, and may end in either order; a
  // slot that its thread left is given to the next one.
  // NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding): the padding is the point
  struct alignas(kCacheLine) Slot {
    // The reader's own line: others look at it once a grace period.
    std::atomic<std::uint64_t> sequence{0};  // odd inside a section
    std::uint32_t depth = 0;                 // sections within each other; the owner's alone
    bool fenced = false;                     // no membarrier: the reader fences for itself
    std::atomic<pid_t> thread{0};
    // Everybody else's line: readers look at it as each section ends.
    alignas(kCacheLine) kernel::FutexWord waited{0};  // 1: who leaves resets it, and wakes
    std::uint64_t awaited = 0;  // the sequence that is waited for to change; grace_mutex_
    Slot* next = nullptr;       // all slots of the domain; constant once it is in the list
    std::atomic<bool> owned{true};
    std::atomic<bool> domain_ended{false};
    Queue queue;

    void enter() noexcept {
      if (depth++ != 0) return;
      const std::uint64_t odd = sequence.load(std::memory_order_relaxed) + 1;
      // Before whatever the section reads (A in docs/epoch.md). The processor's part is the
      // membarrier of the grace period; the compiler's is the signal fence.
#if defined(__SANITIZE_THREAD__)
      (void)sequence.exchange(odd, std::memory_order_seq_cst);
#else
      sequence.store(odd, std::memory_order_relaxed);
      if (fenced) [[unlikely]] {
        std::atomic_thread_fence(std::memory_order_seq_cst);
      }
      std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
    }
    void leave() noexcept {
      if (--depth != 0) return;
      const std::uint64_t even = sequence.load(std::memory_order_relaxed) + 1;
      // After whatever the section read (B), and before the look at `waited` (C).
#if defined(__SANITIZE_THREAD__)
      (void)sequence.exchange(even, std::memory_order_seq_cst);
#else
      sequence.store(even, std::memory_order_release);
      if (fenced) [[unlikely]] {
        std::atomic_thread_fence(std::memory_order_seq_cst);
      }
      std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
      if (waited.load(std::memory_order_relaxed) != 0) [[unlikely]] {
        wake_waiter();
      }
    }
    void wake_waiter() noexcept;
  };

  // The last domains that this thread was in. Their ids are never used again, so that an entry of a
  // domain that has ended is never found.
  struct CachedSlot {
    std::uint64_t domain = 0;
    Slot* slot = nullptr;
  };
  static constexpr std::size_t kCachedSlots = 16;
  class ThreadSlots;
  // NOLINTBEGIN(cppcoreguidelines-avoid-non-const-global-variables): each thread's own
  static constinit thread_local std::array<CachedSlot, kCachedSlots> cached_slots;
  static constinit thread_local ThreadSlots* thread_slots;
  static constinit thread_local const Domain* running_callbacks;  // whose callbacks run here
  // NOLINTEND(cppcoreguidelines-avoid-non-const-global-variables)

  // This thread's slot; attaches the thread where it has none. Terminates without memory for it.
  Slot& slot() noexcept {
    const CachedSlot& cached = cached_slots[id_ % kCachedSlots];
    if (cached.domain == id_) [[likely]] {
      return *cached.slot;
    }
    return attach();
  }
  Slot& attach() noexcept;
  [[nodiscard]] Slot* attached() const noexcept;  // none: null
  [[nodiscard]] bool inside_section() const noexcept;

  void order_readers() const noexcept;
  void wait_for_readers();
  void sleep_until_left(Slot& slot);
  void report_stuck(const Slot& slot, std::chrono::nanoseconds waited) const;

  bool rouse() noexcept;
  void reclaim();
  bool cycle();
  [[nodiscard]] Callback* take_all() noexcept;
  [[nodiscard]] bool hurried();
  [[nodiscard]] bool anything_queued() const noexcept;
  [[nodiscard]] std::size_t pending() const noexcept;

  const std::uint64_t id_;
  const std::string name_;
  const Options options_;
  const bool membarrier_;

  std::mutex registry_mutex_;
  std::vector<std::shared_ptr<Slot>> slots_;
  std::atomic<Slot*> first_slot_{nullptr};  // the same, for who must not lock
  Queue spare_queue_;                       // of threads that have no slot

  std::mutex grace_mutex_;
  std::atomic<std::uint64_t> grace_started_{0};
  std::atomic<std::uint64_t> grace_ended_{0};
  kernel::DurationTally grace_took_;            // written with grace_mutex_ held
  std::atomic<std::int64_t> waiting_since_{0};  // steady clock, ns; 0: no grace period sleeps
  std::atomic<pid_t> waiting_for_{0};

  enum Reclaimer : std::uint32_t {
    kUnstarted,  // -> kAwake by the first retire(); and back where no thread can be had
    kAwake,      // looks at all queues before it sleeps
    kGathering,  // <-> kAwake; a moment, for more to come: for a whole batch, or who waits, to wake
    kAsleep,     // <-> kAwake; for the next retire() to wake
  };
  kernel::FutexWord reclaimer_{kUnstarted};
  std::thread thread_;
  std::mutex reclaim_mutex_;
  std::atomic<std::uint64_t> callbacks_run_{0};

  std::mutex cycle_mutex_;
  std::condition_variable cycle_ended_;
  std::uint64_t cycles_started_ = 0;
  std::uint64_t cycles_ended_ = 0;
  std::uint64_t cycles_wanted_ = 0;
  bool stopping_ = false;
};

// A reader's section. May sleep. Sections nest, also those of different domains; each ends on the
// thread that began it. Not for the destructors of thread_local objects. No lock, no fence:
// some 2.5 ns. The first section of a thread in a domain allocates 128 bytes, without which the
// process ends.
class Domain::Section {
 public:
  explicit Section(Domain& domain) noexcept : slot_(domain.slot()) { slot_.enter(); }
  Section(const Section&) = delete;
  Section& operator=(const Section&) = delete;
  ~Section() { slot_.leave(); }

 private:
  Slot& slot_;
};

}  // namespace faultline::epoch
