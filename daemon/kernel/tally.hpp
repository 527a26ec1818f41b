// Counters and histograms that one thread writes and any thread reads. Must never cost the writer
// an atomic read-modify-write, a lock or an allocation.
//
// One writer: it loads what it stored itself, so that two plain moves make an addition. Who reads
// sees each figure as it was a moment ago, and figures that belong together not of one moment.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace faultline::kernel {

// Where what one thread writes all the time begins, so that no other thread's is in the same line.
inline constexpr std::size_t kTallyLine = 64;

class Tally {
 public:
  // The one writer's.
  void add(std::uint64_t n = 1) noexcept {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t value() const noexcept {
    return value_.load(std::memory_order_relaxed);
  }

 private:
  std::atomic<std::uint64_t> value_{0};
};

// How long something took: buckets that double, from 512 ns to 8.6 s, and one beyond.
struct Durations {
  static constexpr unsigned kFirstExponent = 9;
  static constexpr std::size_t kBounds = 25;

  // Bucket i has what took at most bound(i), and longer than the bound before.
  static constexpr std::chrono::nanoseconds bound(std::size_t i) {
    return std::chrono::nanoseconds{std::int64_t{1} << (kFirstExponent + i)};
  }
  static constexpr std::size_t bucket_of(std::chrono::nanoseconds took) {
    // A clock that went back is no reason to go out of bounds.
    const std::uint64_t ns = took.count() <= 0 ? 0 : static_cast<std::uint64_t>(took.count()) - 1;
    const std::size_t width = static_cast<std::size_t>(std::bit_width(ns >> kFirstExponent));
    return width < kBounds ? width : kBounds;
  }

  std::array<std::uint64_t, kBounds + 1> buckets{};
  std::uint64_t sum_ns = 0;

  [[nodiscard]] std::uint64_t count() const {
    std::uint64_t all = 0;
    for (const std::uint64_t n : buckets) all += n;
    return all;
  }
  Durations& operator+=(const Durations& other) {
    for (std::size_t i = 0; i < buckets.size(); ++i) buckets.at(i) += other.buckets.at(i);
    sum_ns += other.sum_ns;
    return *this;
  }
};

class DurationTally {
 public:
  // The one writer's.
  void add(std::chrono::nanoseconds took) noexcept {
    buckets_.at(Durations::bucket_of(took)).add();
    sum_ns_.add(took.count() <= 0 ? 0 : static_cast<std::uint64_t>(took.count()));
  }
  [[nodiscard]] Durations value() const noexcept {
    Durations durations;
    for (std::size_t i = 0; i < buckets_.size(); ++i) {
      durations.buckets.at(i) = buckets_.at(i).value();
    }
    durations.sum_ns = sum_ns_.value();
    return durations;
  }

 private:
  std::array<Tally, Durations::kBounds + 1> buckets_{};
  Tally sum_ns_;
};

}  // namespace faultline::kernel
