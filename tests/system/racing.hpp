// What tests of races share: memory whose every word tells which object and page it belongs to,
// accesses that survive SIGSEGV and SIGBUS, and a watchdog that says which thread hangs where. Must
// never take the word of one page for that of another.
//
// Words: the even words of a page are the object's own, and nobody writes them. The odd ones are
// the object's own until somebody writes a mark there.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include "tests/system/harness.hpp"

namespace faultline::testing {

using Word = std::uint64_t;
inline constexpr std::size_t kWords = kPage / sizeof(Word);

// What an object made by Tagged has there. Never zero.
constexpr Word tag(std::size_t object, std::size_t page, std::size_t word) {
  return Word{0xa5} << 56 | Word{object} << 48 | Word{page} << 16 | Word{word};
}
// What is written through a mapping, at a page counted from where the racing range begins.
enum class Through : std::uint8_t { shared = 0x51, private_copy = 0x52 };
constexpr Word mark(Through through, std::size_t slot, std::size_t word) {
  return Word{static_cast<std::uint8_t>(through)} << 56 | Word{slot} << 16 | Word{word};
}

// An object whose pages carry tags: all of them from a file, or every other page of zeroes.
class Tagged {
 public:
  Tagged(fl_client* client, std::size_t id, std::size_t pages, bool from_file);

  [[nodiscard]] fl_object* handle() const { return object_; }
  [[nodiscard]] std::size_t id() const { return id_; }
  [[nodiscard]] std::size_t pages() const { return pages_; }
  [[nodiscard]] bool from_file() const { return from_file_; }
  // What it has where nobody wrote.
  [[nodiscard]] Word content(std::size_t page, std::size_t word) const {
    return from_file_ || page % 2 == 0 ? tag(id_, page, word) : 0;
  }

 private:
  std::size_t id_;
  std::size_t pages_;
  bool from_file_;
  Object object_;
};

// How an access ended.
enum class Ending : std::uint8_t { data, segv, bus };
// From here on SIGSEGV and SIGBUS in [start, start + bytes) end the access alone, not the process.
void survive_signals_in(const std::byte* start, std::size_t bytes);
[[nodiscard]] Ending load(const std::byte* from, Word& value);
[[nodiscard]] Ending store(std::byte* into, Word value);

std::string describe(Word value);

// A thread's numbers, of a seed.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : engine_(seed) {}
  std::size_t below(std::size_t end) { return static_cast<std::size_t>(engine_() % end); }
  bool one_in(std::size_t n) { return below(n) == 0; }

 private:
  std::mt19937_64 engine_;
};

// Ends the process, in words, when a thread that it watches stays where it is.
class Watchdog {
 public:
  // What a thread does; written by that thread alone.
  class Thread {
   public:
    explicit Thread(std::string name) : name_(std::move(name)) {}
    // what: a literal.
    void does(const char* what, const void* where = nullptr) {
      where_.store(where, std::memory_order_relaxed);
      what_.store(what, std::memory_order_relaxed);
      steps_.fetch_add(1, std::memory_order_relaxed);
    }
    [[nodiscard]] std::uint64_t steps() const { return steps_.load(std::memory_order_relaxed); }
    // It ended, or waits for the others as it should.
    void rests() { does(nullptr); }

   private:
    friend class Watchdog;
    std::string name_;
    std::atomic<const char*> what_{nullptr};
    std::atomic<const void*> where_{nullptr};
    std::atomic<std::uint64_t> steps_{0};
    std::uint64_t seen_ = 0;
    std::chrono::steady_clock::time_point since_;
  };

  Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  ~Watchdog();

  // Lives as long as the watchdog.
  Thread& watch(std::string name);

  static constexpr int kExitCode = 97;

 private:
  static constexpr std::chrono::seconds kAtMost{20};
  void run();
  void look();
  static std::string where_children_wait();

  std::mutex mutex_;
  std::condition_variable stops_;
  bool stopping_ = false;
  std::deque<Thread> threads_;
  std::thread thread_;
};

}  // namespace faultline::testing
