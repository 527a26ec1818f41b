// What every benchmark is given, and how it takes turns between the kernel and Faultline.
// Must never let one side always go first: what the other left in the caches would count for it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/report.hpp"

namespace faultline::bench {

inline constexpr std::size_t kPage = 4096;
inline constexpr std::size_t kMiB = std::size_t{1} << 20;
inline constexpr std::size_t kGiB = std::size_t{1} << 30;

struct Options {
  std::string daemon;        // path of the faultlined to start
  std::string other_daemon;  // of one to compare it with; empty: none
  int rounds = 15;
  bool quick = false;  // small objects and few rounds: does it run at all?
};

// A pair a round: A B, B A, A B, ...
template <typename Kernel, typename Faultline>
void alternate(int rounds, Kernel kernel, Faultline faultline) {
  for (int round = 0; round < rounds; ++round) {
    if (round % 2 == 0) {
      kernel();
      faultline();
    } else {
      faultline();
      kernel();
    }
  }
}

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<Result> shared_read(const Options& options);
std::vector<Result> shared_write(const Options& options);
std::vector<Result> private_write(const Options& options);
std::vector<Result> fault_latency(const Options& options);
std::vector<Result> parallel_faults(const Options& options);
std::vector<Result> daemon_memory(const Options& options);
std::vector<Result> tree(const Options& options);
std::vector<Result> waits(const Options& options);
std::vector<Result> wait_counts(const Options& options);
std::vector<Result> mutexes(const Options& options);
std::vector<Result> pins(const Options& options);
std::vector<Result> pinned_io(const Options& options);
std::vector<Result> metrics(const Options& options);

}  // namespace faultline::bench
