// What became of the faults that one thread answered, and how long each took. Must never cost a
// fault more than a few additions to memory that no other thread writes.
//
// Each worker has one, and says so at its start (Use); what the engine does on its thread is added
// there. A thread that has none answers no faults: it counts nothing.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "daemon/kernel/tally.hpp"

namespace faultline::space {

// As the kernel told of it. Of the beacon: a fault at the page that a fork child is known by.
enum class FaultClass : std::uint8_t { missing, minor, write_protect, beacon };
inline constexpr std::size_t kFaultClasses = 4;

// What became of a fault each time that it was looked at. It ends with one of the first four, and
// has any number of the others before.
enum class FaultResult : std::uint8_t {
  installed,        // its page was mapped, copied, or made writable
  already_present,  // another answer was first; whoever slept was woken
  discarded,  // woken and nothing else: unmapped meanwhile, too many wait, the process is gone
  error,      // poisoned: SIGBUS
  deferred,   // an event is under way, or memory is short
  waits,      // for its page to come from its file or from the swap file
};
inline constexpr std::size_t kFaultResults = 6;
constexpr bool ends(FaultResult result) {
  return result != FaultResult::deferred && result != FaultResult::waits;
}

// Who asked for pages that were put into a client's page tables.
enum class PageSource : std::uint8_t {
  demand,        // the page that faulted
  fault_around,  // the object's pages beside it
  ahead_copy,    // private copies beside it
  populate,      // fl_populate, and pins of pages that were not there
};
inline constexpr std::size_t kPageSources = 4;

inline constexpr std::size_t kReadOrWrite = 2;

// What all of them come to.
struct FaultTotals {
  template <typename T>
  using ByClass = std::array<T, kFaultClasses>;

  ByClass<std::array<std::uint64_t, kReadOrWrite>> raised{};
  ByClass<std::array<std::array<std::uint64_t, kFaultResults>, kReadOrWrite>> answers{};
  ByClass<kernel::Durations> latency{};
  std::array<std::uint64_t, kPageSources> pages{};
  std::uint64_t breaks = 0;
  std::uint64_t poisoned = 0;     // pages
  std::uint64_t came_back = 0;    // faults that had waited for their page
  std::uint64_t tried_again = 0;  // deferred ones, or dropped with their address space
  FaultTotals& operator+=(const FaultTotals& other);

  [[nodiscard]] std::uint64_t of(FaultResult result) const;
  // Right now. Who adds may be between two additions.
  [[nodiscard]] std::uint64_t waiting() const;
  [[nodiscard]] std::uint64_t deferred() const;
};

class alignas(kernel::kTallyLine) FaultTally {
 public:
  // While it lives, what this thread does is added to the tally.
  class Use {
   public:
    explicit Use(FaultTally& tally) noexcept;
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    ~Use();
  };
  // The calling thread's; null where it has none.
  [[nodiscard]] static FaultTally* mine() noexcept { return current; }

  // --- the one thread that uses it

  void raised(FaultClass fault, bool write) noexcept {
    raised_.at(index(fault)).at(index(write)).add();
  }
  void answered(FaultClass fault, bool write, FaultResult result) noexcept {
    answers_.at(index(fault)).at(index(write)).at(index(result)).add();
  }
  void took(FaultClass fault, std::chrono::nanoseconds time) noexcept {
    latency_.at(index(fault)).add(time);
  }
  void pages(PageSource source, std::uint64_t count) noexcept {
    if (count != 0) pages_.at(index(source)).add(count);
  }
  void broke(std::uint64_t pages) noexcept { breaks_.add(pages); }
  void poisoned(std::uint64_t pages) noexcept { poisoned_.add(pages); }
  void came_back() noexcept { came_back_.add(); }
  void tried_again(std::uint64_t faults) noexcept { tried_again_.add(faults); }

  // --- any thread

  [[nodiscard]] FaultTotals totals() const;

 private:
  template <typename Enum>
  static constexpr std::size_t index(Enum value) {
    return static_cast<std::size_t>(value);
  }
  // NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): each thread's own
  static constinit thread_local FaultTally* current;

  template <typename T>
  using ByClass = std::array<T, kFaultClasses>;
  ByClass<std::array<kernel::Tally, kReadOrWrite>> raised_{};
  ByClass<std::array<std::array<kernel::Tally, kFaultResults>, kReadOrWrite>> answers_{};
  ByClass<kernel::DurationTally> latency_{};
  std::array<kernel::Tally, kPageSources> pages_{};
  kernel::Tally breaks_;
  kernel::Tally poisoned_;
  kernel::Tally came_back_;
  kernel::Tally tried_again_;
};

}  // namespace faultline::space
