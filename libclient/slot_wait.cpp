#include "libclient/slot_wait.hpp"

#include <linux/futex.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "libclient/asked_wait.hpp"
#include "libclient/connection.hpp"
#include "libclient/failure.hpp"
#include "libclient/fork.hpp"
#include "libclient/futex.hpp"
#include "libclient/place.hpp"
#include "libclient/wait_steps.hpp"
#include "libclient/waiting.hpp"

namespace faultline::client {

namespace {

using wire::ChannelOp;
using wire::WordPlace;

constexpr std::size_t kMostSlotsOfGroup = 4096;
constexpr unsigned kMostTriesOfGroup = 1000;
constexpr std::size_t kMostFutexesOfWord = 3;  // its queue, and a value of 64 bits

// Where the daemon said that a word is waited for. Holds while the slot is of that generation, and
// the places of that state.
struct Looked {
  std::uintptr_t address = 0;
  std::uint64_t state = 0;
  WordPlace place{};
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;
  bool away = false;             // its value is the daemon's to tell; not remembered
  const LotView* lot = nullptr;  // used within a Reading alone
};

constexpr unsigned kRememberedBits = 6;
using Remembered = std::array<Looked, std::size_t{1} << kRememberedBits>;
// A pointer, because the loader has little room for the thread-local memory of a library that
// dlopen(3) brings: some 1.6 KiB, for all of them.
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): each thread remembers its own
thread_local constinit Remembered* remembered __attribute__((tls_model("initial-exec"))) = nullptr;

struct AtThreadEnd {
  AtThreadEnd() = default;
  AtThreadEnd(const AtThreadEnd&) = delete;
  AtThreadEnd& operator=(const AtThreadEnd&) = delete;
  // A destructor that runs later may still wait or wake: it then begins anew.
  ~AtThreadEnd() { const std::unique_ptr<Remembered> last(std::exchange(remembered, nullptr)); }
};

Remembered& my_remembered() {
  if (remembered == nullptr) {
    static thread_local const AtThreadEnd until_then;
    remembered = std::make_unique<Remembered>().release();
  }
  return *remembered;
}

// Whether what was looked up still holds.
bool holds(const Reading&, const Looked& looked) {
  return looked.state == places_state.load(std::memory_order_acquire) &&
         (looked.slot == 0 ||
          (*looked.lot)[looked.slot].wake.load(std::memory_order_acquire) == looked.generation);
}

Looked look_up(std::uintptr_t address, Channel& channel) {
  wire::Submission asked;
  asked.op = ChannelOp::resolve;
  asked.address = address;
  Looked looked;
  looked.address = address;
  looked.state = places_state.load(std::memory_order_acquire);
  const Channel::Answer answer = channel.ask(asked);
  if (answer.result != 0) throw Failure(-answer.result, "looking a word up");
  looked.place = static_cast<WordPlace>(answer.values[0] & 0xff);
  looked.away = (answer.values[0] & wire::kAway) != 0;
  looked.slot = static_cast<std::uint32_t>(answer.values[1]);
  looked.generation = static_cast<std::uint32_t>(answer.values[2]);
  looked.lot = &channel.lot();
  return looked;
}

// The word's place, remembered or asked for.
Looked place_now(std::uintptr_t address) {
  // Words that are used together tend to be a multiple of a power of two apart.
  constexpr std::uint64_t kMix = 0x9e3779b97f4a7c15;
  Looked& last = my_remembered()[((address >> 2) * kMix) >> (64 - kRememberedBits)];
  if (last.address == address) {
    const Reading reading;
    if (holds(reading, last)) return last;
  }
  const Looked looked = look_up(address, *channel_for(address));
  if (!looked.away) last = looked;
  return looked;
}

// The words that are to be woken for it, its own first.
class Queues {
 public:
  enum class Found {
    yes,
    changed,  // it is not there any more
    by_daemon,
  };
  Found find(const Looked& looked) {
    count_ = 0;
    more_.clear();
    const Reading reading;
    if (!holds(reading, looked)) return Found::changed;
    if (looked.place == WordPlace::slot) return of_group(reading, looked);
    const Place& place = place_of(reading, looked.address);
    const bool queued_by_kernel = place.kind == WordKind::by_page &&
                                  place.object->resident(place.offset) && looked.address % 4 == 0;
    if (!queued_by_kernel) return Found::by_daemon;
    const std::byte* const word = place.object->word(place.offset + looked.address % 4096);
    if (word == nullptr) return Found::by_daemon;
    add(word);
    return Found::yes;
  }
  // Whether they are those of the word still; found before.
  [[nodiscard]] bool current(const Looked& looked) const {
    const Reading reading;
    if (!holds(reading, looked)) return false;
    return looked.place != WordPlace::slot ||
           (*looked.lot)[looked.slot].version.load(std::memory_order_acquire) == version_;
  }
  // Wakes at most count. Returns how many.
  [[nodiscard]] int wake(int count, std::uint32_t bitset) const {
    int woken = 0;
    for (std::size_t i = 0; i < count_ && woken < count; ++i) {
      const void* const word = i < first_.size() ? first_.at(i) : more_[i - first_.size()];
      woken += static_cast<int>(std::max(futex::wake(word, count - woken, bitset), 0L));
    }
    return woken;
  }

 private:
  void add(const void* word) {
    if (count_ < first_.size()) {
      first_.at(count_) = word;
    } else {
      more_.push_back(word);
    }
    ++count_;
  }
  Found of_group(const Reading& reading, const Looked& looked) {
    // The daemon, who links a group anew in no time, may stand still or be gone in the midst of it.
    for (unsigned tries = 0; tries < kMostTriesOfGroup; ++tries) {
      const wire::LotSlot& own = (*looked.lot)[looked.slot];
      const std::uint32_t version = own.version.load(std::memory_order_acquire);
      add(&own.wake);
      std::uint32_t next = own.next.load(std::memory_order_acquire);
      while (next != looked.slot && count_ < kMostSlotsOfGroup) {
        const wire::LotSlot& slot = (*looked.lot)[next];
        add(&slot.wake);
        next = slot.next.load(std::memory_order_acquire);
      }
      // Odd: the daemon links the group anew at this moment. Pairs with its increments before and
      // after.
      std::atomic_thread_fence(std::memory_order_acquire);
      if (version % 2 == 0 && own.version.load(std::memory_order_relaxed) == version) {
        version_ = version;
        // Those that are left out here are known to the daemon.
        return next == looked.slot ? Found::yes : Found::by_daemon;
      }
      if (!holds(reading, looked)) return Found::changed;
      count_ = 0;
      more_.clear();
    }
    return Found::by_daemon;
  }

  std::array<const void*, 8> first_{};
  std::size_t count_ = 0;
  std::vector<const void*> more_;
  std::uint32_t version_ = 0;  // of the group
};

// --- by itself, in the kernel

// The 32 bits at the word, or around it, with which it is as expected. Errors: -EAGAIN, -EFAULT.
long first_bits(const Word& word) {
  const auto low = static_cast<std::uint32_t>(word.expected);
  if (word.bytes() >= sizeof low) return low;
  const Container around(word);
  const auto seen = around.load();
  if (!seen) return -EFAULT;
  return around.fits(word, *seen) ? long{*seen} : -EAGAIN;
}

// What futex_waitv(2) is asked for, and which of the words each is of.
class Futexes {
 public:
  explicit Futexes(std::size_t words) {
    list_.reserve(kMostFutexesOfWord * words + 1);
    words_.reserve(kMostFutexesOfWord * words + 1);
  }
  void add(std::size_t word, std::uintptr_t address, std::uint32_t value, std::uint32_t flags = 0) {
    list_.push_back({value, address, FUTEX_32 | flags, 0});
    words_.push_back(word);
  }
  // Those that have the kernel compare the word's value. first: its first bits.
  void add_values(std::size_t index, const Word& word, std::uint32_t first) {
    add(index, word.address & ~std::uintptr_t{3}, first, FUTEX_PRIVATE_FLAG);
    if (word.size != FL_WAIT_U64) return;
    add(index, word.address + 4, static_cast<std::uint32_t>(word.expected >> 32),
        FUTEX_PRIVATE_FLAG);
  }
  [[nodiscard]] const std::vector<futex_waitv>& list() const { return list_; }
  [[nodiscard]] std::size_t word_of(std::size_t futex) const { return words_[futex]; }

 private:
  std::vector<futex_waitv> list_;
  std::vector<std::size_t> words_;
};

// Everything to wait for: a queue for each word, the thread's end, and the words' values. Returns
// 0; -EAGAIN, -EFAULT of a word; nothing where a place does not hold any more.
std::optional<int> gather(std::span<const Word> words, std::span<const Looked> places,
                          const wire::ThreadRecord& record, std::uint32_t end, Futexes& into) {
  std::vector<std::uint32_t> first(words.size());
  for (std::size_t i = 0; i < words.size(); ++i) {
    const long bits = first_bits(words[i]);
    if (bits < 0) return static_cast<int>(bits);
    first[i] = static_cast<std::uint32_t>(bits);
  }
  // Of several that were woken the kernel names the last: the first is for what is no wake.
  into.add(words.size(), reinterpret_cast<std::uintptr_t>(&record.end), end);
  {
    const Reading reading;
    for (std::size_t i = 0; i < words.size(); ++i) {
      if (places[i].place == WordPlace::word) {
        into.add(i, words[i].address, first[i]);
        continue;
      }
      if (!holds(reading, places[i])) return std::nullopt;
      const auto at = reinterpret_cast<std::uintptr_t>(&(*places[i].lot)[places[i].slot].wake);
      into.add(i, at, places[i].generation);
    }
  }
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (places[i].place == WordPlace::word && words[i].size != FL_WAIT_U64) continue;
    into.add_values(i, words[i], first[i]);
  }
  return 0;
}

// One try. Nothing: what was looked up did not hold any more.
std::optional<long> wait_in_kernel(MyRecord& mine, std::span<const Word> words,
                                   std::span<const Looked> places, const Timeout& timeout) {
  wire::ThreadRecord& record = *mine.record;
  const std::uint32_t end = record.end.load(std::memory_order_acquire);
  const Waiting waiting(mine, words, 0);
  Futexes futexes(words.size());
  const auto gathered = gather(words, places, record, end, futexes);
  if (!gathered) return std::nullopt;
  if (*gathered != 0) return *gathered;
  reached(WaitStep::before_wait);
  const long woken =
      futex::wait_any(futexes.list().data(), static_cast<unsigned>(futexes.list().size()),
                      timeout.until(), timeout.clock());
  const bool ended = record.end.load(std::memory_order_acquire) != end;
  // Besides the daemon, a raw futex(2) user of this process may have woken the word itself.
  const std::size_t word =
      woken < 0 ? words.size() : futexes.word_of(static_cast<std::size_t>(woken));
  if (word < words.size()) return static_cast<long>(word);
  if (woken >= 0 || (woken == -EAGAIN && ended)) {
    if (!waiting.meant()) return std::nullopt;
    return record.end_reason.load(std::memory_order_relaxed);
  }
  if (woken != -EAGAIN) return woken;
  const int looked = look_at(words);
  return looked != 0 ? std::optional<long>(looked) : std::nullopt;
}

// Whether the thread can wait for the words by itself, and where.
bool find_places(std::span<const Word> words, std::span<Looked> places) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    {
      const Reading reading;
      const Place& place = place_of(reading, words[i].address);
      if (place.kind == WordKind::shared) {
        places[i].place = WordPlace::word;
        const bool queued_by_kernel = place.object->resident(place.offset) &&
                                      !place.object->counted() && words[i].address % 4 == 0;
        if (!queued_by_kernel) return false;
        continue;
      }
    }
    places[i] = place_now(words[i].address);
    if (places[i].away || places[i].place == WordPlace::object) return false;
  }
  return true;
}

// woken: how many so far.
long wake_wherever_it_is(std::uintptr_t address, int count, std::uint32_t bitset, int& woken) {
  Queues queues;
  for (;;) {
    const Looked looked = place_now(address);
    if (woken == count) return woken;
    const auto found =
        looked.place == WordPlace::word ? Queues::Found::by_daemon : queues.find(looked);
    if (found == Queues::Found::changed) continue;
    if (found == Queues::Found::by_daemon) {
      wire::Submission asked;
      asked.op = ChannelOp::wake;
      asked.address = address;
      asked.count = static_cast<std::uint32_t>(count - woken);
      asked.mask = bitset;
      const int answer = channel_for(address)->ask(asked).result;
      return answer < 0 && woken == 0 ? answer : woken + std::max(answer, 0);
    }
    reached(WaitStep::before_wake);
    woken += queues.wake(count - woken, bitset);
    reached(WaitStep::after_wake);
    // Where the word, or a relative's of its group, is waited for elsewhere by now, some may have
    // been moved before they were woken here.
    if (woken == count || queues.current(looked)) return woken;
  }
}

}  // namespace

std::shared_ptr<Channel> channel_for(std::uintptr_t address) {
  const auto connection = connection_of(address);
  if (connection) return connection->channel();
  // In no book: plain system calls may have moved a mapping there. Each daemon knows its own.
  for (const auto& any : all_connections()) {
    if (any->broken()) continue;
    wire::Submission asked;
    asked.op = ChannelOp::resolve;
    asked.address = address;
    auto channel = any->channel();
    if (channel->ask(asked).result == 0) return channel;
  }
  throw Failure(EFAULT, "waiting or waking at an address that is in no mapping");
}

long wait_for_words(std::span<const Word> words, const Timeout& timeout, std::uint32_t bitset) {
  // The kernel's queues know no bitset of a wait for several words, and a slot's is one.
  const bool few = kMostFutexesOfWord * words.size() + 1 <= FL_WAITV_MAX;
  if (bitset != futex::kAnyBit || !few)
    return wait_through_daemon(*channel_for(words.front().address), words, timeout, bitset);
  MyRecord& mine = my_known_record();
  std::vector<Looked> places(words.size());
  for (;;) {
    if (!find_places(words, places))
      return wait_through_daemon(*channel_for(words.front().address), words, timeout, bitset);
    if (const auto ended = wait_in_kernel(mine, words, places, timeout)) return *ended;
  }
}

long wake_word(std::uintptr_t address, int count, std::uint32_t bitset) {
  int woken = 0;
  try {
    return wake_wherever_it_is(address, count, bitset, woken);
  } catch (const Failure&) {
    // Those who were woken have been, though the memory is gone by now.
    if (woken == 0) throw;
    return woken;
  }
}

void expect_mapping_at(std::uintptr_t address) {
  (void)channel_for(address);
}

long requeue_word(std::uintptr_t address, int wake, int requeue, std::uintptr_t target) {
  wire::Submission asked;
  asked.op = ChannelOp::requeue;
  asked.address = address;
  asked.expected = target;
  asked.count = static_cast<std::uint32_t>(wake);
  asked.user_data = static_cast<std::uint64_t>(requeue);
  return channel_for(address)->ask(asked).result;
}

}  // namespace faultline::client
