// This process's end of one connection's pin ledger (faultline/wire/ledger.hpp): slots to publish
// pins in, and the budget that they are paid from. Must never publish a pin that was not paid, nor
// be used in a fork child.
//
// Life of a ledger: opened by the first pin of its connection; closed when the connection ends,
// pins or not. The object itself stays, to be opened anew: threads remember it, and the number
// tells them which of its lives they mean.
//
// A thread has a share of the ledger it used last: a few free slots, and a budget, so that threads
// that pin need no lock and touch no cache line of each other's. What a share is short of it gets
// from the pool, under the lock; what the pool is short of, from other threads' budgets, and then
// from the daemon. At its end a thread gives all back.
//
// Locking: mutex_ guards free_slots_ and free_records_, and serialises who fills a share; leaf
// lock. The list of ledgers has a lock of its own, which comes before it. The fork hooks take that.
#pragma once

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "faultline/pin.h"
#include "faultline/wire/ledger.hpp"
#include "faultline/wire/packet.hpp"
#include "libclient/reading.hpp"

namespace faultline::client {

class PinLedger;

struct PinShare {
  static constexpr std::size_t kMostFree = 32;

  PinLedger* ledger = nullptr;
  std::uint64_t number = 0;  // of the ledger's life
  // Of the ledger's memory: used within a Reading, while the number is the ledger's.
  wire::PinThread* record = nullptr;
  wire::PinSlot* slots = nullptr;
  const wire::PinVerdict* verdicts = nullptr;
  const std::atomic<std::uint64_t>* clock = nullptr;
  std::uint32_t record_index = 0;
  // How many slots it gets when it has none: more each time, so that threads that pin little keep
  // none from those that pin much.
  std::uint32_t at_once = 1;
  std::uint32_t free_count = 0;
  std::array<std::uint32_t, kMostFree> free{};

  // Takes bytes from the budget. False: it has not so many, or somebody is about to take it.
  [[nodiscard]] bool pay(std::int64_t bytes) const {
    const Busy busy(*record);
    const std::int64_t has = record->budget.load(std::memory_order_relaxed);
    if (!busy.open() || has < bytes) return false;
    record->budget.store(has - bytes, std::memory_order_relaxed);
    return true;
  }
  // False: somebody is about to take the budget.
  [[nodiscard]] bool pay_back(std::int64_t bytes) const {
    const Busy busy(*record);
    if (!busy.open()) return false;
    const std::int64_t has = record->budget.load(std::memory_order_relaxed);
    record->budget.store(has + bytes, std::memory_order_relaxed);
    return true;
  }

 private:
  class Busy {
   public:
    explicit Busy(wire::PinThread& record) : record_(record), open_(enter(record)) {}
    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;
    ~Busy() {
      record_.busy.store(0, std::memory_order_release);
      // As in enter(): who takes budgets sees this store, or is seen here.
      std::atomic_signal_fence(std::memory_order_seq_cst);
      if (record_.closed.load(std::memory_order_relaxed) != 0) [[unlikely]]
        tell();
    }
    [[nodiscard]] bool open() const { return open_; }

   private:
    void tell() noexcept {
      // Between the store and the look at who waits.
      std::atomic_thread_fence(std::memory_order_seq_cst);
      record_.busy.notify_all();
    }
    [[nodiscard]] static bool enter(wire::PinThread& record) {
      record.busy.store(1, std::memory_order_relaxed);
      // Pairs with the barrier of who takes budgets; the compiler must not do the load first.
      std::atomic_signal_fence(std::memory_order_seq_cst);
      return record.closed.load(std::memory_order_acquire) == 0;
    }

    wire::PinThread& record_;
    bool open_;
  };
};
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): a thread's own
inline thread_local constinit PinShare my_pins __attribute__((tls_model("initial-exec")));

// What the daemon found of a slot's pin: an errno, or 0.
[[nodiscard]] inline int judged(const wire::PinVerdict& verdict, std::uint32_t use) {
  if (verdict.use.load(std::memory_order_acquire) != use) return 0;
  return verdict.error.load(std::memory_order_relaxed);
}

class PinLedger {
 public:
  // reply: of Op::open_ledger. Throws Failure.
  static PinLedger& open(const wire::Packet& reply);
  PinLedger(const PinLedger&) = delete;
  PinLedger& operator=(const PinLedger&) = delete;
  ~PinLedger() = default;
  void close();

  // Of this life; 0: closed.
  [[nodiscard]] std::uint64_t number() const { return number_.load(std::memory_order_acquire); }
  // Within a Reading, while its number is the one that was asked for before.
  [[nodiscard]] wire::PinSlot& slot(std::uint32_t index) const { return memory()->slots[index]; }
  [[nodiscard]] const wire::PinVerdict& verdict(std::uint32_t index) const {
    return verdicts_.load(std::memory_order_relaxed)->slots[index];
  }

  // Makes the calling thread's share this ledger's. Throws Failure: EUSERS too many threads.
  void attach();
  // A free slot; kPinSlots where none is left.
  [[nodiscard]] std::uint32_t take_slot(PinShare& share) {
    if (share.free_count == 0 && !fill_slots(share)) return wire::kPinSlots;
    return share.free[--share.free_count];
  }
  void give_slot(PinShare& share, std::uint32_t slot) {
    if (share.free_count == PinShare::kMostFree) spill_slots(share);
    share.free[share.free_count++] = slot;
  }
  // Has the share's budget hold so many bytes, from what others do not use; how many are missing
  // where they have not so many.
  [[nodiscard]] std::int64_t fill_budget(PinShare& share, std::int64_t bytes);
  // Puts back what a pin was paid.
  void refund(PinShare& share, std::int64_t bytes) {
    if (!share.pay_back(bytes)) put_into_pool(bytes);
  }
  // What the thread that ends a pin would keep, had it a share. Thread-safe.
  void give_to_all(std::uint32_t slot, std::int64_t bytes);
  // What the daemon granted.
  void put_into_pool(std::int64_t bytes) { memory()->pool.fetch_add(bytes); }

  // What was mapped in [start, end) lies at `to` now: what was pinned there has its new address.
  // The daemon, which the kernel tells, finds the one or the other (daemon/pin/ledger.cpp).
  void moved(std::uintptr_t start, std::uintptr_t end, std::uintptr_t to) const;

  // Sums over all threads.
  [[nodiscard]] fl_pin_stats statistics() const;

  // At a thread's end.
  static void give_back(PinShare& share);

  // Calls use(ledger) with the ledger of that number, which stays open meanwhile. Returns what that
  // returns; -EPIPE where it is closed, -ESTALE where it is the parent's of this fork child.
  template <typename Use>
  static int with(std::uint64_t number, Use use);

 private:
  friend class PinLedgers;
  class Memory;
  PinLedger() = default;
  [[nodiscard]] wire::PinLedger* memory() const { return memory_.load(std::memory_order_relaxed); }
  // What all threads have in their budgets. Under the lock.
  [[nodiscard]] std::int64_t take_budgets() const;
  [[nodiscard]] bool fill_slots(PinShare& share);
  void spill_slots(PinShare& share);

  std::atomic<std::uint64_t> number_{0};
  std::atomic<wire::PinLedger*> memory_{nullptr};
  std::atomic<const wire::PinVerdicts*> verdicts_{nullptr};
  std::unique_ptr<Memory> mapped_;
  std::mutex mutex_;
  std::vector<std::uint32_t> free_slots_;
  std::vector<std::uint32_t> free_records_;
};

// Every call holds the list's lock.
class PinLedgersLocked {
 public:
  PinLedgersLocked();
  PinLedgersLocked(const PinLedgersLocked&) = delete;
  PinLedgersLocked& operator=(const PinLedgersLocked&) = delete;
  ~PinLedgersLocked();
  // Null where there is none of that number.
  [[nodiscard]] static PinLedger* find(std::uint64_t number);
  [[nodiscard]] static bool inherited(std::uint64_t number);
};

template <typename Use>
int PinLedger::with(std::uint64_t number, Use use) {
  const PinLedgersLocked locked;
  PinLedger* const ledger = PinLedgersLocked::find(number);
  if (ledger != nullptr) return use(*ledger);
  return PinLedgersLocked::inherited(number) ? -ESTALE : -EPIPE;
}

// The fork hooks. In a child there are no ledgers.
void lock_pin_ledgers();
void unlock_pin_ledgers();
void forget_pin_ledgers();

}  // namespace faultline::client
