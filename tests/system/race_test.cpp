// Faults that race operations on the memory they are in: each ends as the kernel's own would. It
// sees what was mapped there at some moment of the race, or SIGSEGV where nothing was or the access
// was not allowed; never another object's bytes, made-up zeroes, SIGBUS, or no end.
//
// Every test runs in a process of its own, with one thread that operates and several that fault
// all over the range. A test goes on until all endings that there can be were seen.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <optional>
#include <sstream>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "tests/system/racing.hpp"
#include "tests/unit/holes.hpp"
#include "tests/unit/seed.hpp"

namespace faultline::testing {
namespace {

constexpr std::size_t kPages = 16;                     // that are raced for
constexpr std::size_t kWindows = kHugePages ? 3 : 24;  // of an object, each as large
constexpr std::size_t kBytes = kPages * kPage;
constexpr std::size_t kGap = 8;  // pages between what is mapped
constexpr int kDontUnmap = 4;    // MREMAP_DONTUNMAP, not in every libc's headers

bool vacant(const std::byte* page) {
  unsigned char resident = 0;
  return ::mincore(const_cast<std::byte*>(page), 1, &resident) != 0 && errno == ENOMEM;
}

struct Kind {
  const char* name;
  bool from_file;
  Through through;
  [[nodiscard]] bool shared() const { return through == Through::shared; }
  [[nodiscard]] std::uint32_t flags() const {
    return (shared() ? FL_MAP_SHARED : FL_MAP_PRIVATE) | FL_MAP_WRITE;
  }
};

class Arena;

// Where accesses may end in SIGSEGV, and some must.
enum class Gone : std::uint8_t { never, for_writing, upper_half, anywhere };
// Where words may be zero that are not so in the object.
enum class Zeroes : std::uint8_t { never, meanwhile, where_discarded };

struct Operation {
  const char* name;
  void (*carry_out)(Arena&);
  Gone gone = Gone::never;
  bool lays_out = false;  // what is mapped afterwards is another part of the objects
  Zeroes zeroes = Zeroes::never;
};

// What is mapped after a round: a window of an object.
struct Layout {
  std::size_t object;
  std::size_t window;
};

class Arena {
 public:
  Arena(fl_client* client, const Operation& operation, const Kind& kind, std::uint64_t seed)
      : client_(client), operation_(operation), kind_(kind), seed_(seed), dice_(seed) {
    for (std::size_t id = 0; id < 3; ++id) {
      objects_.emplace_back(client, id + 1, kPages * kWindows, kind.from_file);
      all_.push_back(
          map(objects_.back().handle(), kPages * kWindows * kPage, FL_MAP_SHARED | FL_MAP_WRITE)
              .data());
    }
    // A stretch that nobody else maps anything in: |gap|decoy|home|decoy|gap|away|gap|
    const std::size_t bytes = 5 * kGap * kPage + 2 * kBytes;
    void* const stretch = ::mmap(hint_for_holes(), bytes, PROT_NONE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT_NE(stretch, MAP_FAILED) << std::strerror(errno);
    start_ = static_cast<std::byte*>(stretch);
    survive_signals_in(start_, bytes);
    home_ = start_ + 2 * kGap * kPage;
    away_ = home_ + kBytes + 2 * kGap * kPage;
    for (std::byte* const decoy : decoys()) {
      void* at = decoy;
      library(fl_map(objects_[2].handle(), 0, kGap * kPage,
                     FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_FIXED, &at),
              "mapping a decoy");
      for (std::size_t page = 0; page < kGap; page += 2) std::memset(decoy + page * kPage, 1, 8);
    }
    place(FL_MAP_FIXED);
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() = default;

  // The whole test. Failures are gtest's.
  void race(std::size_t racers, bool forks, std::size_t rounds) {
    fl_stats before{};
    EXPECT_EQ(fl_process_stats(client_, &before), 0) << fl_last_error();
    for (std::size_t i = 0; i < racers; ++i) {
      threads_.emplace_back([this, i, &watched = watchdog_.watch("racer " + std::to_string(i))] {
        run_racer(i, watched);
      });
    }
    if (forks) {
      threads_.emplace_back([this, &watched = watchdog_.watch("forker")] { run_forker(watched); });
    }
    // Who forks waits for locks that whoever operates takes again and again.
    const auto latest = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    const auto early = [&] { return std::chrono::steady_clock::now() < latest; };
    std::size_t done = 0;
    for (; !bad() && (done < rounds || (!all_seen(forks) && early())); ++done) one_round();
    operator_.does("joining");
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
    if (const auto what = bad()) {
      ADD_FAILURE() << "seed " << seed_ << ", round " << round_ << ": " << *what;
      return;
    }
    check_objects();
    fl_stats after{};
    EXPECT_EQ(fl_process_stats(client_, &after), 0) << fl_last_error();
    EXPECT_GT(faults(after) - faults(before), done) << "they hardly raced";
    EXPECT_EQ(after.poisoned_pages, 0U);
    EXPECT_TRUE(all_seen(forks)) << "loads: " << seen_[0][0] << " of data, " << seen_[0][1]
                                 << " SIGSEGV; stores: " << seen_[1][0] << ", " << seen_[1][1]
                                 << "; forks: " << forks_;
  }

  // --- what operations are made of

  [[nodiscard]] fl_client* client() const { return client_; }
  [[nodiscard]] std::byte* home() const { return home_; }
  [[nodiscard]] std::byte* away() const { return away_; }
  [[nodiscard]] bool shared() const { return kind_.shared(); }
  Dice& dice() { return dice_; }
  [[nodiscard]] fl_object* object() const { return objects_[now().object].handle(); }
  [[nodiscard]] std::size_t offset() const { return now().window * kBytes; }
  // The object's pages of this round, through a shared mapping of their own.
  [[nodiscard]] std::byte* elsewhere() const { return all_[now().object] + offset(); }

  void library(int result, const char* what) {
    if (result != 0) say(std::string(what) + ": " + fl_last_error());
  }
  void plain(bool done, const char* what) {
    if (!done) say(std::string(what) + ": " + std::strerror(errno));
  }
  // This round's part of the objects, or some pages of it.
  void place(std::uint32_t how, std::size_t from = 0, std::size_t count = kPages) {
    void* at = home_ + from * kPage;
    library(fl_map(object(), offset() + from * kPage, count * kPage, kind_.flags() | how, &at),
            "fl_map at a fixed address");
  }
  // The same anywhere.
  std::byte* map_spare() {
    void* at = nullptr;
    library(fl_map(object(), offset(), kBytes, kind_.flags(), &at), "fl_map");
    return static_cast<std::byte*>(at);
  }
  void move_home(std::byte* from) {
    plain(::mremap(from, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, home_) == home_,
          "mremap to where it belongs");
  }
  // Nothing is mapped that would not raise a fault.
  void drop() { plain(::madvise(home_, kBytes, MADV_DONTNEED) == 0, "madvise(MADV_DONTNEED)"); }
  // Until the racers have come round a few times.
  void let_race(std::uint64_t accesses = 4) {
    operator_.does("waiting for racers");
    const std::uint64_t until = accesses_.load(std::memory_order_relaxed) + accesses;
    while (accesses_.load(std::memory_order_relaxed) < until && !bad()) ::sched_yield();
    operator_.does("operating");
  }

 private:
  using Seen = std::array<std::array<std::atomic<std::uint64_t>, 2>, 2>;  // load, store; data, SEGV

  static std::uint64_t faults(const fl_stats& stats) {
    return stats.missing_faults + stats.minor_faults + stats.wp_faults;
  }
  [[nodiscard]] std::array<std::byte*, 2> decoys() const {
    return {home_ - kGap * kPage, home_ + kBytes};
  }

  [[nodiscard]] Layout layout_of(std::uint64_t round) const {
    constexpr std::uint64_t kRoundsOfALayout = 8;
    const std::uint64_t number = operation_.lays_out ? round : round / kRoundsOfALayout;
    return {number % 2, number / 2 % kWindows};
  }
  [[nodiscard]] Layout now() const { return layout_of(round_.load(std::memory_order_relaxed)); }

  // --- the operator

  void one_round() {
    operator_.does("operating");
    round_.fetch_add(1);  // before anything of it can be seen
    const Layout last = layout_of(round_ - 1);
    const Layout next = now();
    if (operation_.lays_out) {
      operation_.carry_out(*this);
    } else {
      if (last.object != next.object || last.window != next.window) place(FL_MAP_FIXED);
      drop();
      let_race(dice_.below(4));
      operation_.carry_out(*this);
    }
    check_home();
  }

  // Of what is mapped now, and nothing else, at once and while others go on.
  void check_home() {
    operator_.does("checking", home_);
    const Tagged& object = objects_[now().object];
    for (std::size_t slot = 0; slot < kPages; ++slot) {
      const std::size_t word = 2 * dice_.below(kWords / 2);
      Word value = 0;
      const Ending ending = load(at(home_, slot, word), value);
      const Word expected = object.content(now().window * kPages + slot, word);
      if (ending == Ending::data && (value == expected || (value == 0 && may_be_discarded()))) {
        continue;
      }
      complain("after the operation, slot", slot, word, ending, value);
      return;
    }
  }

  [[nodiscard]] bool may_be_discarded() const {
    return operation_.zeroes == Zeroes::where_discarded && !kind_.from_file;
  }

  // What is in the objects is theirs, or was written shared to that very page.
  void check_objects() {
    operator_.does("checking objects");
    for (std::size_t i = 0; i < objects_.size(); ++i) {
      const Tagged& object = objects_[i];
      for (std::size_t page = 0; page < object.pages(); ++page) {
        for (std::size_t word = 0; word < kWords; ++word) {
          Word value = 0;
          std::memcpy(&value, at(all_[i], page, word), sizeof(value));
          if (value == object.content(page, word) || (value == 0 && may_be_discarded())) continue;
          const bool written = kind_.shared() && word % 2 == 1 && i < 2 &&
                               value == mark(Through::shared, page % kPages, word);
          ASSERT_TRUE(written) << "object " << object.id() << " page " << page << " word " << word
                               << ": " << describe(value);
        }
      }
    }
    for (const std::byte* const decoy : decoys()) {
      for (std::size_t page = 0; page < kGap; ++page) {
        for (std::size_t word = 0; word < kWords; ++word) {
          Word value = 0;
          std::memcpy(&value, at(decoy, page, word), sizeof(value));
          const bool written = page % 2 == 0 && word == 0;
          ASSERT_EQ(value, written ? 0x0101010101010101U : objects_[2].content(page, word))
              << "a neighbour's page " << page << " word " << word << ": " << describe(value);
        }
      }
    }
  }

  // --- racers

  template <typename Byte>
  static Byte* at(Byte* range, std::size_t slot, std::size_t word) {
    return range + slot * kPage + word * sizeof(Word);
  }

  void run_racer(std::size_t index, Watchdog::Thread& watched) {
    Dice dice(seed_ + 1 + index);
    while (!stop_.load(std::memory_order_relaxed) && !bad()) {
      std::byte* const range = dice.one_in(4) ? away_ : home_;
      const std::size_t slot = dice.below(kPages);
      const bool writes = dice.below(3) < index;  // the first only reads, the last mostly writes
      const std::size_t word = 2 * dice.below(kWords / 2) + (writes || dice.one_in(2) ? 1 : 0);
      const std::uint64_t before = round_.load();
      Word value = 0;
      watched.does(writes ? "storing" : "loading", at(range, slot, word));
      const Ending ending = writes ? store(at(range, slot, word), mark(kind_.through, slot, word))
                                   : load(at(range, slot, word), value);
      judge(range, slot, word, writes, ending, value, before, round_.load());
      accesses_.fetch_add(1, std::memory_order_relaxed);
      ::sched_yield();
    }
    watched.rests();
  }

  void judge(const std::byte* range, std::size_t slot, std::size_t word, bool writes, Ending ending,
             Word value, std::uint64_t before, std::uint64_t after) {
    if (ending == Ending::bus || (ending == Ending::segv && !may_fail(range, slot, writes))) {
      return complain(writes ? "a store to slot" : "a load from slot", slot, word, ending, value);
    }
    if (range == home_) ++seen_.at(writes ? 1 : 0).at(ending == Ending::segv ? 1 : 0);
    if (ending == Ending::data && !writes && !may_be_seen(slot, word, value, before, after)) {
      complain(range == home_ ? "a load from slot" : "a load from where it was moved, slot", slot,
               word, ending, value);
    }
  }

  [[nodiscard]] bool may_fail(const std::byte* range, std::size_t slot, bool writes) const {
    if (range != home_) return true;
    switch (operation_.gone) {
      case Gone::never:
        return false;
      case Gone::for_writing:
        return writes;
      case Gone::upper_half:
        return slot >= kPages / 2;
      case Gone::anywhere:
        return true;
    }
    return false;
  }

  // At some moment between the rounds, of which each may have begun and none ended.
  [[nodiscard]] bool may_be_seen(std::size_t slot, std::size_t word, Word value,
                                 std::uint64_t before, std::uint64_t after) const {
    if (value == 0 && (operation_.zeroes == Zeroes::meanwhile || may_be_discarded())) return true;
    if (word % 2 == 1 && value == mark(kind_.through, slot, word)) return true;
    for (std::uint64_t round = before == 0 ? 0 : before - 1; round <= after; ++round) {
      const Layout layout = layout_of(round);
      if (value == objects_[layout.object].content(layout.window * kPages + slot, word)) {
        return true;
      }
    }
    return false;
  }

  // --- forks

  // Children look at all that they inherited, which is as the parent's was at some moment.
  void run_forker(Watchdog::Thread& watched) {
    // ThreadSanitizer allocates for a thread's first jump. Not in a child: another thread may have
    // held the allocator's lock at the fork.
    Word ignored = 0;
    (void)load(home_, ignored);
    for (std::uint64_t i = 0; !stop_.load(std::memory_order_relaxed) && !bad(); ++i) {
      watched.does("forking");
      // Without libc no atfork handler waits until the library's calls have ended.
      const pid_t child =
          i % 2 == 0 ? ::fork() : static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
      if (child == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        look_as_child();
      }
      watched.does("waiting for a child");
      int status = 0;
      if (child < 0 || ::waitpid(child, &status, 0) != child) {
        say("a fork: " + std::string(std::strerror(errno)));
      } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        std::ostringstream text;
        text << "a fork child " << Outcome{status};
        say(text.str());
      }
      ++forks_;
    }
    watched.rests();
  }

  // ThreadSanitizer sleeps in _exit(2).
  [[noreturn]] static void end_child(int code) {
    for (;;) ::syscall(SYS_exit_group, code);
  }

  // Makes no call that could need a lock that another thread held at the fork.
  [[noreturn]] void look_as_child() {
    const std::uint64_t round = round_.load();
    for (std::byte* const range : {home_, away_}) {
      for (std::size_t slot = 0; slot < kPages; ++slot) {
        for (const std::size_t word : {std::size_t{2}, kWords - 1}) {
          look_as_child(range, slot, word, round);
        }
      }
    }
    Word ignored = 0;
    for (std::size_t slot = 0; slot < kPages; ++slot) {
      std::byte* const there = at(home_, slot, 1);
      const Ending ending =
          kind_.shared() ? load(there, ignored) : store(there, mark(kind_.through, slot, 1));
      if (ending == Ending::bus) end_child(2);
    }
    end_child(0);
  }

  void look_as_child(std::byte* range, std::size_t slot, std::size_t word, std::uint64_t round) {
    Word value = 0;
    const Ending ending = load(at(range, slot, word), value);
    if (ending == Ending::segv && may_fail(range, slot, false)) return;
    if (ending == Ending::data && may_be_seen(slot, word, value, round, round)) return;
    std::array<char, 160> text{};
    const int length = std::snprintf(text.data(), text.size(),
                                     "fork child, round %lu, %s slot %zu word %zu: %s %lx\n", round,
                                     range == home_ ? "home" : "away", slot, word,
                                     ending == Ending::data   ? "saw"
                                     : ending == Ending::segv ? "SIGSEGV"
                                                              : "SIGBUS",
                                     value);
    const auto whole = static_cast<std::size_t>(length);
    end_child(::write(STDERR_FILENO, text.data(), whole) == length ? 1 : 3);
  }

  // --- what was found

  // True when every ending that is possible was seen.
  [[nodiscard]] bool all_seen(bool forks) const {
    const bool data = seen_[0][0] > 0 && seen_[1][0] > 0;
    const bool loads_failed = seen_[0][1] > 0;
    const bool stores_failed = seen_[1][1] > 0;
    const bool forked = !forks || forks_ >= 10;
    switch (operation_.gone) {
      case Gone::never:
        return data && forked;
      case Gone::for_writing:
        return data && stores_failed && forked;
      case Gone::upper_half:
      case Gone::anywhere:
        return data && loads_failed && stores_failed && forked;
    }
    return false;
  }

  void complain(const char* where, std::size_t slot, std::size_t word, Ending ending, Word value) {
    std::ostringstream text;
    text << where << " " << slot << " word " << word << ": ";
    if (ending == Ending::data) {
      text << "saw " << describe(value);
    } else {
      text << (ending == Ending::bus ? "SIGBUS" : "SIGSEGV");
    }
    text << "; this round maps object " << objects_[now().object].id() << " from page "
         << now().window * kPages;
    say(text.str());
  }
  void say(std::string what) {
    const std::lock_guard lock(bad_mutex_);
    if (!first_bad_) first_bad_ = std::move(what);
    any_bad_ = true;
  }
  [[nodiscard]] std::optional<std::string> bad() const {
    if (!any_bad_.load(std::memory_order_relaxed)) return std::nullopt;
    const std::lock_guard lock(bad_mutex_);
    return first_bad_;
  }

  fl_client* client_;
  const Operation& operation_;
  const Kind& kind_;
  std::uint64_t seed_;
  Dice dice_;
  std::vector<Tagged> objects_;  // two that take turns, and one that is mapped beside them
  std::vector<std::byte*> all_;  // each of them, mapped whole and shared
  std::byte* start_ = nullptr;
  std::byte* home_ = nullptr;
  std::byte* away_ = nullptr;

  Watchdog watchdog_;
  Watchdog::Thread& operator_ = watchdog_.watch("operator");
  std::vector<std::thread> threads_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> round_{0};
  std::atomic<std::uint64_t> accesses_{0};
  std::atomic<std::uint64_t> forks_{0};
  Seen seen_{};
  mutable std::mutex bad_mutex_;
  std::atomic<bool> any_bad_{false};
  std::optional<std::string> first_bad_;
};

// --- operations

void library_unmap(Arena& a) {
  a.library(fl_unmap(a.client(), a.home(), kBytes), "fl_unmap");
  a.let_race();
  a.place(FL_MAP_FIXED_NOREPLACE);
}

void library_map_over(Arena& a) {
  a.place(FL_MAP_FIXED);
}

void library_map_over_parts(Arena& a) {
  for (std::size_t from = 0; from < kPages; from += kPages / 4) {
    a.place(FL_MAP_FIXED, from, kPages / 4);
  }
}

void library_protect(Arena& a) {
  std::byte* const part = a.home() + 2 * kPage;
  a.library(fl_protect(a.client(), part, kBytes - 4 * kPage, 0), "fl_protect");
  a.let_race();
  a.library(fl_protect(a.client(), part, kBytes - 4 * kPage, FL_PROTECT_WRITE), "fl_protect");
}

void library_discard_copies(Arena& a) {
  a.library(fl_discard(a.client(), a.home(), kBytes, FL_DISCARD_COPIES), "fl_discard");
  a.let_race();
  const std::size_t from = a.dice().below(kPages);
  a.library(
      fl_discard(a.client(), a.home() + from * kPage, kBytes - from * kPage, FL_DISCARD_COPIES),
      "fl_discard");
}

void library_discard_content(Arena& a) {
  std::byte* const range = a.shared() ? a.home() : a.elsewhere();
  a.library(fl_discard(a.client(), range, kBytes, FL_DISCARD_CONTENT), "fl_discard");
}

void library_move(Arena& a) {
  void* to = a.away();
  const std::uint32_t flags = FL_REMAP_MAYMOVE | FL_REMAP_FIXED;
  a.library(fl_remap(a.client(), a.home(), kBytes, kBytes, flags, &to), "fl_remap away");
  a.let_race();
  to = a.home();
  a.library(fl_remap(a.client(), a.away(), kBytes, kBytes, flags, &to), "fl_remap back");
}

void library_shrink_and_grow(Arena& a) {
  void* at = nullptr;
  a.library(fl_remap(a.client(), a.home(), kBytes, kBytes / 2, 0, &at), "fl_remap to shrink");
  a.let_race();
  a.library(fl_remap(a.client(), a.home(), kBytes / 2, kBytes, 0, &at), "fl_remap to grow");
}

void library_move_and_keep(Arena& a) {
  void* to = a.away();
  a.library(fl_remap(a.client(), a.home(), kBytes, kBytes,
                     FL_REMAP_MAYMOVE | FL_REMAP_FIXED | FL_REMAP_DONTUNMAP, &to),
            "fl_remap with FL_REMAP_DONTUNMAP");
  a.let_race();
  a.library(fl_unmap(a.client(), a.away(), kBytes), "fl_unmap of what was moved");
}

void library_advise(Arena& a) {
  const std::size_t from = a.dice().below(kPages);
  const std::size_t count = 1 + a.dice().below(kPages - from);
  const auto advice = static_cast<std::uint32_t>(a.dice().below(FL_ADVICE_COLD + 1));
  const int result = fl_advise(a.client(), a.home() + from * kPage, count * kPage, advice);
  // As many as there may be are under way still.
  if (advice != FL_ADVICE_WILL_NEED || result != -EUSERS) a.library(result, "fl_advise");
}

void library_populate(Arena& a) {
  a.library(fl_populate(a.client(), a.home(), kBytes, a.dice().one_in(2) ? FL_POPULATE_WRITE : 0),
            "fl_populate");
}

void plain_unmap(Arena& a) {
  a.plain(::munmap(a.home(), kBytes) == 0, "munmap");
  a.let_race();
  a.place(FL_MAP_FIXED);
}

void plain_map_over(Arena& a) {
  void* const over = ::mmap(a.home(), kBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  a.plain(over == a.home(), "mmap over it");
  a.let_race();
  a.place(FL_MAP_FIXED);
}

void plain_move_over(Arena& a) {
  a.move_home(a.map_spare());
}

void plain_protect(Arena& a) {
  std::byte* const part = a.home() + 2 * kPage;
  a.plain(::mprotect(part, kBytes - 4 * kPage, PROT_READ) == 0, "mprotect");
  a.let_race();
  a.plain(::mprotect(part, kBytes - 4 * kPage, PROT_READ | PROT_WRITE) == 0, "mprotect");
}

void plain_dont_need(Arena& a) {
  const std::size_t from = a.dice().below(kPages);
  a.plain(::madvise(a.home() + from * kPage, kBytes - from * kPage, MADV_DONTNEED) == 0,
          "madvise(MADV_DONTNEED)");
}

void plain_remove(Arena& a) {
  a.plain(::madvise(a.shared() ? a.home() : a.elsewhere(), kBytes, MADV_REMOVE) == 0,
          "madvise(MADV_REMOVE)");
}

void plain_punch_hole(Arena& a) {
  a.plain(::fallocate(fl_object_fd(a.object()), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      static_cast<off_t>(a.offset()), static_cast<off_t>(kBytes)) == 0,
          "fallocate");
}

void plain_move(Arena& a) {
  a.plain(::mremap(a.home(), kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, a.away()) == a.away(),
          "mremap away");
  a.let_race();
  a.move_home(a.away());
}

void plain_shrink_and_grow(Arena& a) {
  a.plain(::mremap(a.home(), kBytes, kBytes / 2, 0) == a.home(), "mremap to shrink");
  a.let_race();
  a.plain(::mremap(a.home(), kBytes / 2, kBytes, 0) == a.home(), "mremap to grow");
}

void plain_move_and_keep(Arena& a) {
  a.plain(::mremap(a.home(), kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED | kDontUnmap,
                   a.away()) == a.away(),
          "mremap with MREMAP_DONTUNMAP");
  a.let_race();
  a.plain(::munmap(a.away(), kBytes) == 0, "munmap of what was moved");
}

// Another thread unmaps, and what it leaves is taken before its call has returned.
void into_vacated(Arena& a, bool library_unmaps, bool library_moves) {
  std::byte* const spare = a.map_spare();
  std::thread unmapper([&] {
    if (library_unmaps) {
      a.library(fl_unmap(a.client(), a.home(), kBytes), "fl_unmap");
    } else {
      a.plain(::munmap(a.home(), kBytes) == 0, "munmap");
    }
  });
  while (!vacant(a.home())) ::sched_yield();
  if (library_moves) {
    void* to = a.home();
    a.library(fl_remap(a.client(), spare, kBytes, kBytes, FL_REMAP_MAYMOVE | FL_REMAP_FIXED, &to),
              "fl_remap");
  } else {
    a.move_home(spare);
  }
  unmapper.join();
}
void both_plain(Arena& a) {
  into_vacated(a, false, false);
}
void both_library(Arena& a) {
  into_vacated(a, true, true);
}
void plain_then_library(Arena& a) {
  into_vacated(a, false, true);
}

constexpr bool kLaysOut = true;
const std::array kOperations{
    Operation{"LibraryUnmap", library_unmap, Gone::anywhere, kLaysOut},
    Operation{"LibraryMapOver", library_map_over, Gone::never, kLaysOut},
    Operation{"LibraryMapOverInParts", library_map_over_parts, Gone::never, kLaysOut},
    Operation{"LibraryProtect", library_protect, Gone::for_writing},
    Operation{"LibraryDiscardCopies", library_discard_copies},
    Operation{"LibraryDiscardContent", library_discard_content, Gone::never, false,
              Zeroes::where_discarded},
    Operation{"LibraryMove", library_move, Gone::anywhere},
    Operation{"LibraryShrinkAndGrow", library_shrink_and_grow, Gone::upper_half},
    Operation{"LibraryMoveAndKeep", library_move_and_keep},
    Operation{"LibraryAdvise", library_advise},
    Operation{"LibraryPopulate", library_populate},
    Operation{"PlainUnmap", plain_unmap, Gone::anywhere, kLaysOut},
    Operation{"PlainMapOver", plain_map_over, Gone::never, kLaysOut, Zeroes::meanwhile},
    Operation{"PlainMoveOver", plain_move_over, Gone::never, kLaysOut},
    Operation{"PlainProtect", plain_protect, Gone::for_writing},
    Operation{"PlainDontNeed", plain_dont_need},
    Operation{"PlainRemove", plain_remove, Gone::never, false, Zeroes::where_discarded},
    Operation{"PlainPunchHole", plain_punch_hole, Gone::never, false, Zeroes::where_discarded},
    Operation{"PlainMove", plain_move, Gone::anywhere},
    Operation{"PlainShrinkAndGrow", plain_shrink_and_grow, Gone::upper_half},
    Operation{"PlainMoveAndKeep", plain_move_and_keep},
    Operation{"PlainMoveIntoWhatAnotherUnmaps", both_plain, Gone::anywhere, kLaysOut},
    Operation{"LibraryMoveIntoWhatAnotherUnmaps", both_library, Gone::anywhere, kLaysOut},
    Operation{"LibraryMoveIntoWhatAnotherPlainlyUnmaps", plain_then_library, Gone::anywhere,
              kLaysOut},
};

constexpr std::array kKinds{
    Kind{"SharedZeroes", false, Through::shared},
    Kind{"PrivateZeroes", false, Through::private_copy},
    Kind{"SharedFile", true, Through::shared},
    Kind{"PrivateFile", true, Through::private_copy},
};

std::ostream& operator<<(std::ostream& out, const Operation& operation) {
  return out << operation.name;
}

// A daemon with more workers than one, however few processors there are.
class Race : public ::testing::TestWithParam<Operation> {
 protected:
  // In mappings of all kinds, one after the other.
  void race(bool forks, std::size_t rounds) {
    const std::string_view name = GetParam().name;
    if (name.ends_with("ShrinkAndGrow") || name.ends_with("MoveAndKeep")) {
      SKIP_WITH_HUGE_PAGES("mremap(2) refuses");
    }
    ASSERT_TRUE(daemon_.ready());
    const std::uint64_t seed = announce_seed();
    for (const Kind& kind : kKinds) {
      const Outcome outcome = in_child([&] {
        const Client client = connect(daemon_.socket());
        Arena(client, GetParam(), kind, seed).race(3, forks, rounds);
        return 0;
      });
      EXPECT_TRUE(outcome.exited(0)) << GetParam().name << ", " << kind.name << ": " << outcome;
    }
    EXPECT_EQ(daemon_.log().find("[error]"), std::string::npos) << daemon_.log();
  }

  Daemon daemon_{{"--workers", "4"}};
};

INSTANTIATE_TEST_SUITE_P(Operations, Race, ::testing::ValuesIn(kOperations),
                         [](const auto& of) { return std::string(of.param.name); });

// Whoever faults while it happens sees what was there before, or is there afterwards, or what the
// kernel would do where nothing is; and once it is done nothing of before is seen any more.
TEST_P(Race, FaultsEndAsTheKernelsOwnWould) {
  race(false, kHugePages ? 25 : 150);
}

// The same while the process forks all the time, with libc's handlers and without.
TEST_P(Race, ForkChildrenHaveWhatTheirParentHad) {
  race(true, kHugePages ? 5 : 20);
}

// --- several who operate

// A thread's own range beside those of others, and what it must hold: pages of a window of an
// object, of which this thread has written some.
class Neighbour {
 public:
  Neighbour(fl_client* client, const Tagged& object, std::byte* range, std::byte* away,
            std::uint64_t seed)
      : client_(client), object_(object), range_(range), away_(away), dice_(seed) {}

  // Empty, or what was wrong.
  std::string run(std::size_t steps, Watchdog::Thread& watched) {
    watched.does("mapping");
    map_over();
    for (std::size_t step = 0; step < steps && wrong_.empty(); ++step) {
      for (std::size_t i = 0; i < 4; ++i) write(dice_.below(kPages));
      const std::size_t draw = dice_.below(operations_.size());
      watched.does(operations_.at(draw).first, range_);
      (this->*operations_.at(draw).second)();
      watched.does("checking", range_);
      check(range_, written_);
    }
    watched.rests();
    return wrong_;
  }

 private:
  static constexpr std::uint32_t kFlags = FL_MAP_PRIVATE | FL_MAP_WRITE;
  using Written = std::array<bool, kPages>;

  void require(bool done, const char* what) {
    if (!done && wrong_.empty()) {
      wrong_ = std::string(what) + ": " + std::strerror(errno) + "; " + fl_last_error();
    }
  }
  void write(std::size_t slot) {
    const Word value = mark(Through::private_copy, slot, 1);
    require(store(range_ + slot * kPage + sizeof(Word), value) == Ending::data, "a store");
    written_.at(slot) = true;
  }
  void check(std::byte* range, const Written& written) {
    for (std::size_t slot = 0; slot < kPages; ++slot) {
      const std::size_t page = window_ * kPages + slot;
      for (const std::size_t word : {std::size_t{1}, 2 * dice_.below(kWords / 2)}) {
        const Word expected = word == 1 && written.at(slot) ? mark(Through::private_copy, slot, 1)
                                                            : object_.content(page, word);
        Word value = 0;
        const Ending ending = load(range + slot * kPage + word * sizeof(Word), value);
        if (ending == Ending::data && value == expected) continue;
        std::ostringstream text;
        text << "page " << page << " word " << word << ": expected " << describe(expected)
             << (ending == Ending::data ? ", saw " + describe(value) : ", had a signal");
        require(false, text.str().c_str());
      }
    }
  }
  void next_window() {
    window_ = dice_.below(kWindows);
    written_ = {};
  }

  void map_over() {
    next_window();
    void* at = range_;
    require(fl_map(object_.handle(), window_ * kBytes, kBytes, kFlags | FL_MAP_FIXED, &at) == 0,
            "fl_map over the range");
  }
  void move_over() {
    next_window();
    void* spare = nullptr;
    require(fl_map(object_.handle(), window_ * kBytes, kBytes, kFlags, &spare) == 0, "fl_map");
    void* to = range_;
    const bool plain = dice_.one_in(2);
    require(plain ? ::mremap(spare, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to
                  : fl_remap(client_, spare, kBytes, kBytes, FL_REMAP_MAYMOVE | FL_REMAP_FIXED,
                             &to) == 0,
            "moving over the range");
  }
  void close_and_map() {
    require(
        ::mmap(range_, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == range_,
        "mmap over the range");
    Word ignored = 0;
    require(load(range_, ignored) == Ending::segv, "a load from what was mapped over");
    map_over();
  }
  void move_away_and_keep() {
    require(::mremap(range_, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED | kDontUnmap, away_) ==
                away_,
            "mremap with MREMAP_DONTUNMAP");
    check(range_, {});
    check(away_, written_);
    written_ = {};
    require(
        ::mmap(away_, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == away_,
        "mmap over what was moved away");
  }
  void protect() {
    const std::size_t slot = dice_.below(kPages);
    require(::mprotect(range_ + slot * kPage, kBytes - slot * kPage, PROT_READ) == 0, "mprotect");
    require(store(range_ + slot * kPage, 0) == Ending::segv, "a store to read-only memory");
    require(::mprotect(range_, kBytes, PROT_READ | PROT_WRITE) == 0, "mprotect");
  }
  void discard() {
    const std::size_t slot = dice_.below(kPages);
    require(::madvise(range_ + slot * kPage, kPage, MADV_DONTNEED) == 0, "madvise");
    written_.at(slot) = false;
  }

  static constexpr std::array<std::pair<const char*, void (Neighbour::*)()>, 6> operations_{{
      {"mapping over it", &Neighbour::map_over},
      {"moving over it", &Neighbour::move_over},
      {"mapping nothing over it", &Neighbour::close_and_map},
      {"moving away from it", &Neighbour::move_away_and_keep},
      {"protecting", &Neighbour::protect},
      {"discarding", &Neighbour::discard},
  }};

  fl_client* client_;
  const Tagged& object_;
  std::byte* range_;
  std::byte* away_;
  Dice dice_;
  std::size_t window_ = 0;
  Written written_{};
  std::string wrong_;
};

// Four threads, each with a range that touches its neighbours', all of one object: each finds in
// its own what it alone has done.
TEST(RaceOfNeighbours, OperationsOfSeveralThreadsDoNotDisturbEachOther) {
  SKIP_WITH_HUGE_PAGES("they keep and grow mappings");
  constexpr std::size_t kThreads = 4;
  const Daemon daemon({"--workers", "4"});
  const std::uint64_t seed = announce_seed();
  for (const bool from_file : {false, true}) {
    const Outcome outcome = in_child([&] {
      const Client client = connect(daemon.socket());
      const Tagged object(client, 1, kPages * kWindows, from_file);
      void* const stretch = ::mmap(hint_for_holes(), 2 * kThreads * kBytes, PROT_NONE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      auto* const start = static_cast<std::byte*>(stretch);
      survive_signals_in(start, 2 * kThreads * kBytes);
      Watchdog watchdog;
      std::vector<std::thread> threads;
      for (std::size_t i = 0; i < kThreads; ++i) {
        threads.emplace_back([&, i, &watched = watchdog.watch("neighbour " + std::to_string(i))] {
          Neighbour neighbour(client, object, start + i * kBytes, start + (kThreads + i) * kBytes,
                              seed + i);
          EXPECT_EQ(neighbour.run(200, watched), "") << "thread " << i << " of seed " << seed;
        });
      }
      for (std::thread& thread : threads) thread.join();
      return 0;
    });
    EXPECT_TRUE(outcome.exited(0)) << (from_file ? "file: " : "zeroes: ") << outcome;
  }
}

}  // namespace
}  // namespace faultline::testing
