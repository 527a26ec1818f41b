// The session channel: how a client asks for what must be quick or may last, without a packet. Two
// pieces of shared memory, both believed in nothing by the daemon, which copies an entry before it
// looks at it.
//
// The rings, a memfd of the daemon's, one for each session:
//   submissions  the client fills entries [head, tail), stores tail (release), and where the daemon
//                sleeps, writes to the doorbell. The daemon copies them, and stores head (release).
//   completions  of asynchronous requests, the other way round. What finds no room waits in the
//                daemon, which sets completions_wait; a client that has read rings the doorbell
//                then.
// Sleeping: the daemon stores daemon_sleeps = 1, passes a full fence, and looks at tail once more;
// the client stores tail, passes a full fence, and looks at daemon_sleeps. One of the two sees the
// other.
//
// The thread records, a memfd of the client's (sealed against shrinking), one for each process: one
// record a thread, but for the first, whose tid says how many have been in use. The answer to a
// request that a thread waits for goes into its record. Besides, a thread writes down there what
// the daemon must know should the process die, or its memory change: which words it waits for by
// itself, and which locks it holds.
//
// Life of a thread's wait by itself, in the kernel:
//   1. It writes the words' addresses, then their number (waiting), and passes a full fence.
//   2. It looks at the generation of what it will queue at (lot.hpp), and at `end`, and waits in
//   the
//      kernel for as long as both stay the same.
//   3. The daemon, having taken the memory away, changes that generation, passes a full fence, and
//      looks for threads that wait there: their end_reason is set, and end_of to what `waiting` was
//      before it looked, then `end` changed and woken. Who waits for something else by then sees by
//      end_of that it is not meant.
//   So who looked at the generation before is seen in 3, and who did not waits in vain for nothing.
//   4. It sets waiting to 0.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace faultline::wire {

inline constexpr std::uint32_t kSubmissions = 1024;  // powers of two
inline constexpr std::uint32_t kCompletions = 4096;

enum class ChannelOp : std::uint16_t {
  none = 0,
  // address. Answers: what the word is waited for at, WordPlace in values[0], and where values[1]
  // and values[2] say.
  resolve = 1,
  // address, count, mask. Answers: how many were woken.
  wake = 2,
  // address, expected, size, mask, until; delivery. Of several words that a thread waits for any
  // of, all but the last have kMoreWords. To a thread that waits for it (Delivery::record): first,
  // where the daemon cannot see the words' values, that it is queued (armed) and the thread is to
  // look itself; then the outcome, in values[0] which of the words it is of, and in values[1] 1
  // where it was to look. Otherwise: 0, when it is queued, and its number in values[0]; in
  // values[1] 1 where the caller is to look at the value, and to cancel it where that is another.
  // The outcome is a completion.
  wait = 3,
  // count: the number of a wait. Answers 0; -ENOENT where it is over. Its outcome comes all the
  // same. 0: what the thread itself waits for, which is answered instead.
  cancel = 4,
  // address, other_address, count, other_count. Answers: how many were woken or moved.
  requeue = 5,
  // address, expected: the length, flags: kPinForWriting. Answers 0 when the pages are resident and
  // mapped, which may take long; what the pins hold, the ledger says. Where some cannot be had, why
  // the first of them could not. With kPinWritten: the process has written to all private pages
  // there (frames.hpp), and nothing is brought.
  pin = 6,
};

enum class Delivery : std::uint16_t {
  record = 0,  // the thread that asked waits for it
  queue = 1,   // the session's completions
  target = 2,  // target: as Op::add_target answered
};

// What `answered` of a record says of the thread's request with that number.
constexpr std::uint32_t armed(std::uint32_t request) {
  return 2 * request;
}
constexpr std::uint32_t answered(std::uint32_t request) {
  return 2 * request + 1;
}
// Of wait: more words of the same fl_waitv follow.
inline constexpr std::uint16_t kMoreWords = 1U << 0;
// Of pin: private pages are to be the process's own.
inline constexpr std::uint16_t kPinForWriting = 1U << 2;
inline constexpr std::uint16_t kPinWritten = 1U << 3;
// Of cancel: the client takes the wait back, as if it had never been. Nothing is delivered, and a
// wake that came all the same goes to another who waits.
inline constexpr std::uint16_t kTakeBack = 1U << 1;

struct Submission {
  ChannelOp op{};
  Delivery delivery{};
  std::uint16_t flags = 0;
  std::uint16_t size = 0;     // of the word: FL_WAIT_U32 and so on
  std::uint32_t record = 0;   // of the thread that waits for the answer
  std::uint32_t request = 0;  // its number, not 0; where nobody waits 0
  std::uint64_t address = 0;
  std::uint64_t expected = 0;       // requeue: the target
  std::uint64_t user_data = 0;      // of a completion; requeue: how many are moved
  std::uint64_t until = 0;          // CLOCK_MONOTONIC, nanoseconds; 0: for ever
  std::uint32_t mask = 0xffffffff;  // the bitset
  std::uint32_t target = 0;         // of the delivery
  std::uint32_t count = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(Submission) == 64);

struct Completion {
  std::uint64_t user_data = 0;
  std::int32_t result = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(Completion) == 16);

// The client's and the daemon's in a cache line each.
// NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding)
struct alignas(64) RingIndexes {
  std::atomic<std::uint32_t> submission_tail;              // client
  std::atomic<std::uint32_t> completion_head;              // client
  alignas(64) std::atomic<std::uint32_t> submission_head;  // daemon, as all that follow
  std::atomic<std::uint32_t> completion_tail;
  std::atomic<std::uint32_t> daemon_sleeps;
  std::atomic<std::uint32_t> completions_wait;
};

struct Rings {
  RingIndexes indexes;
  std::array<Submission, kSubmissions> submissions;
  std::array<Completion, kCompletions> completions;
};

inline constexpr std::size_t kMostWords = 128;  // of one wait
inline constexpr std::uint32_t kWaitingAsked = 0x80000000;
inline constexpr std::uint32_t kWaitingCount = 0xff;
// The number of the wait, so that two waits of one thread can be told apart.
inline constexpr unsigned kWaitingNumberShift = 8;
inline constexpr std::uint32_t kWaitingNumbers = 1U << 23;
inline constexpr std::size_t kMostRobust = 64;

struct RobustList {
  std::atomic<std::uint64_t> pending;
  std::atomic<std::uint64_t> count;
  std::array<std::atomic<std::uint64_t>, kMostRobust> held;
};

struct alignas(64) ThreadRecord {
  std::atomic<std::uint32_t> tid;  // client: 0 where the record is nobody's
  // Client: how many of `words` it waits for, by itself in the kernel or, with kWaitingAsked,
  // through the daemon; besides, the wait's number.
  std::atomic<std::uint32_t> waiting;
  std::atomic<std::uint64_t> since;      // client: CLOCK_MONOTONIC, nanoseconds
  std::atomic<std::uint32_t> end;        // daemon: a futex word
  std::atomic<std::int32_t> end_reason;  // daemon: a negative errno
  std::atomic<std::uint32_t> end_of;     // daemon: what `waiting` was of the wait that is meant
  // Daemon: armed() or answered() of the thread's request, a futex word, stored after the answer.
  std::atomic<std::uint32_t> answered;
  std::atomic<std::int32_t> result;
  std::array<std::atomic<std::uint64_t>, 3> values;
  RobustList robust;                                         // client
  std::array<std::atomic<std::uint64_t>, kMostWords> words;  // client: addresses
};
static_assert(sizeof(ThreadRecord) <= 2048);
inline constexpr std::size_t kRecordBytes = 2048;
inline constexpr std::uint32_t kThreadRecords = 16384;
inline constexpr std::size_t kRecordsBytes = kRecordBytes * kThreadRecords;

static_assert(std::atomic<std::uint64_t>::is_always_lock_free &&
              std::atomic<std::uint32_t>::is_always_lock_free);
static_assert(std::is_standard_layout_v<Rings> && std::is_standard_layout_v<ThreadRecord>);

}  // namespace faultline::wire
