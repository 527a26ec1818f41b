// The pin ledger: where a process writes down which pages it has pinned, without asking. A memfd of
// the daemon's, one for each session, that the process writes; and the verdicts, that the daemon
// writes. What is in the ledger is believed in nothing: it holds pages in memory, of objects that
// the process has, up to what it was granted, and can do no more.
//
// Life of a pin of resident pages:
//   1. The process fills a free slot, and stores the object's number last (release). The pages are
//      held from then on.
//   2. It looks at the entries of the pages in the page table (board.hpp). Where one is not
//      resident, it stores 0 there, and asks the daemon to bring the pages; what it finds resident
//      after a look that followed the publishing stays.
//   3. To unpin, it stores 0 (release).
//
// The daemon, to take a page out of memory:
//   1. changes the page's entry to evicting;
//   2. has every processor that runs a client pass a barrier (membarrier(2),
//      MEMBARRIER_CMD_GLOBAL_EXPEDITED);
//   3. looks at the slots in use, of every process. Where one holds the page, the entry becomes
//      resident again.
// A process that publishes before that barrier is seen in 3, even if its processor did the look
// before the store. One that publishes after it finds the entry of 1. So the process needs no
// fence, which would be most of what a pin costs. Clients register for those barriers when they
// connect; fork children inherit that. A slot that changes while the daemon reads it was withdrawn,
// or was published after the barrier.
//
// The same goes for memory that is unmapped: the process looks whether its mappings have stayed
// after it has published, and the daemon, told of the unmapping, looks at the slots after a
// barrier.
//
// A verdict: the daemon took note that what a slot holds is mapped there no longer. use: of which
// pin, so that the next in the same slot is not meant.
//
// Budgets: bytes that may be pinned and are not. A thread takes from its own and gives back to it;
// what is in all budgets together and in the slots is what the daemon granted. Another thread, or
// the daemon, can take what a thread has: it raises `closed`, has all processors pass a barrier as
// above, takes the budget where the thread is not busy then, and lowers `closed`. The thread raises
// `busy` before it looks at `closed`, and touches its budget only where that is 0. Another thread
// waits for one that is busy, which looks at `closed` again when it is so no longer; the daemon
// does not, and leaves its budget.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace faultline::wire {

inline constexpr std::uint32_t kPinSlots = 65'536;
inline constexpr std::uint32_t kPinThreads = 4'096;
inline constexpr unsigned kPinClockMs = 100;

inline constexpr std::uint32_t kPinWrite = 1U << 0;
// Pages of the process's own, in a private mapping: the object's are not held.
inline constexpr std::uint32_t kPinOwn = 1U << 1;

struct alignas(64) PinSlot {
  std::atomic<std::uint64_t> object;   // its number; 0: the slot is free
  std::atomic<std::uint64_t> first;    // page of the object
  std::atomic<std::uint64_t> count;    // pages
  std::atomic<std::uint64_t> address;  // of the first
  std::atomic<std::uint64_t> since;    // as PinVerdicts::now
  std::atomic<std::uint32_t> use;      // counts the pins of this slot
  std::atomic<std::uint32_t> flags;
  std::atomic<std::uint32_t> next;   // the process's own: of the same pin
  std::atomic<std::uint64_t> bytes;  // the process's own: what it was paid
};
static_assert(sizeof(PinSlot) == 64);

// Why a pin was not had without the daemon.
enum class PinFallback : std::uint8_t {
  absent = 0,     // a page is in no memory, or on its way out or in
  not_own = 1,    // of a private mapping: not known to be the process's own already
  not_known = 2,  // the mapping was not known, or was being changed
  budget = 3,     // more than was granted so far
};
inline constexpr std::size_t kPinFallbacks = 4;

// Written by the thread that has it, but for `closed` and what was said of budgets.
struct alignas(64) PinThread {
  std::atomic<std::int64_t> budget;  // bytes
  std::atomic<std::uint32_t> busy;
  std::atomic<std::uint32_t> closed;  // how many are about to take the budget
  std::atomic<std::uint64_t> fast;
  std::atomic<std::uint64_t> slow;
  std::array<std::atomic<std::uint64_t>, kPinFallbacks> fallbacks;
};
static_assert(sizeof(PinThread) == 64);

struct PinLedger {
  alignas(64) std::atomic<std::uint32_t> slots_used;  // [0, slots_used) were ever used
  std::atomic<std::uint32_t> threads_used;
  alignas(64) std::atomic<std::int64_t> pool;  // a budget of no thread's
  std::array<PinThread, kPinThreads> threads;
  std::array<PinSlot, kPinSlots> slots;
};

struct PinVerdict {
  std::atomic<std::uint32_t> use;
  std::atomic<std::int32_t> error;  // a positive errno
};
struct PinVerdicts {
  // CLOCK_MONOTONIC, nanoseconds; the daemon stores it every kPinClockMs. To ask the clock would be
  // a fifth of what a pin costs.
  alignas(64) std::atomic<std::uint64_t> now;
  std::array<PinVerdict, kPinSlots> slots;
};

static_assert(std::is_standard_layout_v<PinLedger> && std::is_standard_layout_v<PinVerdicts>);

}  // namespace faultline::wire
