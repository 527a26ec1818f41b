// What a thread says of itself while it waits, in its record, for the daemon to see
// (faultline/wire/channel.hpp). Must never be found there once the wait is over.
#pragma once

#include <time.h>

#include <atomic>
#include <cstdint>
#include <span>

#include "libclient/thread_records.hpp"
#include "libclient/word.hpp"

namespace faultline::client {

class Waiting {
 public:
  Waiting(MyRecord& mine, std::span<const Word> words, std::uint32_t flags)
      : record_(*mine.record), what_(number(mine, words.size(), flags)) {
    wire::ThreadRecord& record = record_;
    for (std::size_t i = 0; i < words.size(); ++i) {
      record.words.at(i).store(words[i].address, std::memory_order_relaxed);
    }
    timespec now{};
    (void)::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    record.since.store(static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
                           static_cast<std::uint64_t>(now.tv_nsec),
                       std::memory_order_relaxed);
    record.waiting.store(what_, std::memory_order_release);
    // Pairs with the daemon's fence in end_threads.
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
  ~Waiting() { record_.waiting.store(0, std::memory_order_release); }
  // Once `end` has changed: whether this wait is meant.
  [[nodiscard]] bool meant() const {
    return record_.end_of.load(std::memory_order_relaxed) == what_;
  }

 private:
  // Another than that of the thread's last wait.
  static std::uint32_t number(MyRecord& mine, std::size_t words, std::uint32_t flags) {
    mine.last_wait = (mine.last_wait + 1) % wire::kWaitingNumbers;
    return static_cast<std::uint32_t>(words) | flags | mine.last_wait << wire::kWaitingNumberShift;
  }

  wire::ThreadRecord& record_;
  std::uint32_t what_;
};

}  // namespace faultline::client
