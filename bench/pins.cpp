// What a pin of resident pages costs, against mlock2(2) and against registering a buffer with
// io_uring, and how it scales with threads.
#include "faultline/pin.h"

#include <fmt/format.h>
#include <liburing.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <set>
#include <stdexcept>
#include <thread>

#include "bench/benchmark.hpp"
#include "bench/client.hpp"
#include "bench/machine.hpp"
#include "bench/process.hpp"

namespace faultline::bench {

namespace {

using Goal = Target::Goal;

constexpr std::size_t kRegion = 64 * kMiB;

void check(int result) {
  if (result < 0) throw std::runtime_error(fl_last_error());
}

std::byte* at(Bytes bytes, std::size_t offset) {
  return const_cast<std::byte*>(bytes.data()) + offset;
}

// Nanoseconds a call.
template <typename Call>
double time(int calls, Call call) {
  const auto start = Clock::now();
  for (int i = 0; i < calls; ++i) call(static_cast<std::size_t>(i));
  return seconds_since(start) / calls * 1e9;
}

void pin_and_unpin(std::byte* address, std::size_t length) {
  fl_pinned pin;
  check(fl_pin(address, length, FL_PIN_WRITE, &pin));
  check(fl_unpin(&pin));
}

void lock_and_unlock(std::byte* address, std::size_t length) {
  if (::mlock2(address, length, 0) != 0 || ::munlock(address, length) != 0) {
    throw std::runtime_error("mlock2 or munlock failed");
  }
}

// An io_uring that buffers are registered with and taken from again.
class BufferRing {
 public:
  BufferRing() {
    if (io_uring_queue_init(8, &ring_, 0) < 0) throw std::runtime_error("io_uring_setup failed");
  }
  BufferRing(const BufferRing&) = delete;
  BufferRing& operator=(const BufferRing&) = delete;
  ~BufferRing() { io_uring_queue_exit(&ring_); }
  void register_and_unregister(std::byte* address, std::size_t length) {
    const iovec buffer{address, length};
    if (io_uring_register_buffers(&ring_, &buffer, 1) != 0 ||
        io_uring_unregister_buffers(&ring_) != 0) {
      throw std::runtime_error("registering a buffer failed");
    }
  }

 private:
  io_uring ring_{};
};

// Each row takes its own page, or run of them, so that none meets what another left in the caches.
class Rows {
 public:
  Rows(const Options& options, Bytes bytes)
      : options_(options), bytes_(bytes), placement_(placement({{"client", ::getpid()}})) {}

  template <typename Kernel>
  Result compare(std::string name, std::string against, std::size_t pages, Kernel kernel) {
    Result result;
    result.name = std::move(name);
    result.unit = pages == 1 ? "ns" : "ns a page";
    result.against = std::move(against);
    result.placement = placement_;
    const std::size_t length = pages * kPage;
    const auto place_of = [&](std::size_t i) { return at(bytes_, i * length % kRegion); };
    const int calls = (options_.quick ? 20'000 : 1'000'000) / static_cast<int>(pages);
    alternate(
        options_.rounds,
        [&] {
          const double took =
              time(std::max(calls / 20, 1), [&](auto i) { kernel(place_of(i), length); });
          result.kernel.push_back(took / static_cast<double>(pages));
        },
        [&] {
          const double took = time(calls, [&](auto i) { pin_and_unpin(place_of(i), length); });
          result.faultline.push_back(took / static_cast<double>(pages));
        });
    return result;
  }

  // Pins a second and core, of so many threads, against one thread's alone.
  Result scale(unsigned threads) {
    Result result = against_one(fmt::format("pin + unpin of 1 page, {} threads", threads),
                                [&] { return rate(by_turns(threads)); });
    result.targets = {{Target::Of::ratio, Goal::at_least, 0.9, false}};
    return result;
  }

  // What the machine itself leaves of one thread's speed where another has nothing to do with it.
  Result beside_unrelated() {
    return against_one("pin + unpin of 1 page, 1 thread beside an unrelated busy one", [&] {
      std::atomic<bool> stop{false};
      std::thread busy([&] {
        bind(allowed_cpus().back());
        std::uint64_t state = 1;
        while (!stop.load(std::memory_order_relaxed)) {
          for (int i = 0; i < 1000; ++i)
            state = state * 6364136223846793005U + 1442695040888963407U;
          asm volatile("" ::"r"(state));
        }
      });
      const double result = rate(by_turns(1));
      stop = true;
      busy.join();
      return result;
    });
  }

 private:
  // In short turns, and alone on each processor: the speed of a virtual one may change by half from
  // one second to the next, and is not that of its neighbour.
  template <typename Measure>
  Result against_one(std::string name, Measure measure) {
    Result result;
    result.name = std::move(name);
    result.unit = "M a second and core";
    result.against = "one thread";
    result.placement = "one thread a processor, by turns";
    const std::vector<unsigned> cpus = allowed_cpus();
    const int turns = options_.quick ? 1 : 5;
    for (int round = 0; round < options_.rounds; ++round) {
      double alone = 0;
      double measured = 0;
      for (int turn = 0; turn < turns; ++turn) {
        for (const unsigned cpu : cpus) alone += rate({cpu});
        measured += measure();
      }
      result.kernel.push_back(alone / turns / static_cast<double>(cpus.size()));
      result.faultline.push_back(measured / turns);
    }
    return result;
  }

  [[nodiscard]] static std::vector<unsigned> by_turns(unsigned threads) {
    const std::vector<unsigned> cpus = allowed_cpus();
    std::vector<unsigned> places;
    for (unsigned t = 0; t < threads; ++t) places.push_back(cpus[t % cpus.size()]);
    return places;
  }

  // Of a thread at each of these places. Bound: which of them share a processor must not be the
  // scheduler's choice.
  [[nodiscard]] double rate(const std::vector<unsigned>& places) const {
    const std::chrono::milliseconds duration(options_.quick ? 10 : 100);
    std::barrier start(static_cast<std::ptrdiff_t>(places.size() + 1));
    std::atomic<bool> stop{false};
    struct Pinned {
      Clock::time_point begun;
      Clock::time_point ended;
      std::uint64_t count = 0;
    };
    std::vector<Pinned> pinned(places.size());
    std::vector<std::thread> running;
    for (std::size_t t = 0; t < places.size(); ++t) {
      running.emplace_back([&, t] {
        bind(places[t]);
        std::byte* const own = at(bytes_, t * kMiB);
        pin_and_unpin(own, kPage);
        start.arrive_and_wait();
        const auto begun = Clock::now();
        std::uint64_t count = 0;
        while (!stop.load(std::memory_order_relaxed)) {
          for (std::size_t i = 0; i < 256; ++i) pin_and_unpin(own + i * kPage, kPage);
          count += 256;
        }
        pinned[t] = {begun, Clock::now(), count};
      });
    }
    start.arrive_and_wait();
    std::this_thread::sleep_for(duration);
    stop = true;
    for (std::thread& thread : running) thread.join();
    // From when the first began to when the last ended.
    const auto begun = std::ranges::min(pinned, {}, &Pinned::begun).begun;
    const auto ended = std::ranges::max(pinned, {}, &Pinned::ended).ended;
    const double took = std::chrono::duration<double>(ended - begun).count();
    std::uint64_t all = 0;
    for (const Pinned& each : pinned) all += each.count;
    const std::set<unsigned> cores(places.begin(), places.end());
    return static_cast<double>(all) / took / static_cast<double>(cores.size()) / 1e6;
  }

  const Options& options_;
  Bytes bytes_;
  std::string placement_;
};

}  // namespace

std::vector<Result> pins(const Options& options) {
  const Daemon daemon(options.daemon);
  const Client client(daemon.socket());
  const Object object = Object::create(client, kRegion, nullptr);
  populate(client, object, kRegion);
  const FaultlineView view(client, object, kRegion, FL_MAP_SHARED | FL_MAP_WRITE);
  write_pages(view.bytes());
  // Once for all of it, so that what is granted is there.
  pin_and_unpin(at(view.bytes(), 0), kRegion);

  BufferRing ring;
  Rows rows(options, view.bytes());
  std::vector<Result> results;
  results.push_back(rows.compare("pin + unpin of 1 page", "mlock2", 1, lock_and_unlock));
  results.push_back(rows.compare("pin + unpin of 1 page", "io_uring buffer", 1,
                                 [&](std::byte* address, std::size_t length) {
                                   ring.register_and_unregister(address, length);
                                 }));
  for (Result& result : results) {
    result.targets = {{Target::Of::faultline, Goal::below, 60, false},
                      {Target::Of::ratio, Goal::at_most, 1.0 / 20, false}};
  }
  results.push_back(rows.compare("pin + unpin of 512 pages", "mlock2", 512, lock_and_unlock));
  results.back().targets = {{Target::Of::faultline, Goal::below, 5, false}};
  results.push_back(rows.beside_unrelated());
  for (const unsigned threads : {2U, 4U, 8U}) results.push_back(rows.scale(threads));
  fl_pin_stats stats{};
  check(fl_pin_statistics(client.get(), &stats));
  results.back().notes.push_back(fmt::format("of all pins {} had to ask the daemon, of {}",
                                             stats.slow, stats.fast + stats.slow));
  return results;
}

}  // namespace faultline::bench
