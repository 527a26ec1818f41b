// What faultline::mutex costs, against glibc's process-shared mutexes, plain and robust, in the
// same shared mapping: locked and unlocked by one process that nobody disturbs, and fought for by
// several. Must never compare counts of different lengths of time: every side is measured alone, in
// turn.
#include "faultline/sync.hpp"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>

#include "bench/benchmark.hpp"
#include "bench/client.hpp"
#include "bench/machine.hpp"
#include "bench/process.hpp"

namespace faultline::bench {

namespace {

constexpr std::size_t kLine = 64;
constexpr std::array<std::size_t, 2> kProcesses{2, 8};

class PthreadMutex {
 public:
  explicit PthreadMutex(bool robust) {
    pthread_mutexattr_t attributes;
    ::pthread_mutexattr_init(&attributes);
    ::pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    if (robust) ::pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    const int error = ::pthread_mutex_init(&mutex_, &attributes);
    ::pthread_mutexattr_destroy(&attributes);
    if (error != 0) throw std::runtime_error("pthread_mutex_init");
  }
  void lock() { (void)::pthread_mutex_lock(&mutex_); }
  void unlock() { (void)::pthread_mutex_unlock(&mutex_); }

 private:
  pthread_mutex_t mutex_{};
};

// The memory that all processes share.
struct Shared {
  alignas(kLine) PthreadMutex plain{false};
  alignas(kLine) PthreadMutex robust{true};
  alignas(kLine) mutex ours;
  alignas(kLine) std::uint64_t counter = 0;  // guarded by whichever is measured
  alignas(kLine) std::atomic<std::size_t> ready{0};
  std::atomic<bool> go{false};
  std::atomic<bool> stop{false};
  std::atomic<std::size_t> done{0};
  std::atomic<std::uint64_t> locked{0};
};
static_assert(sizeof(Shared) <= kPage);

// What a process does between two locks: nothing, or something that takes about 150 ns.
enum class Between : std::uint8_t { nothing, work };

struct Contest {
  std::size_t processes;
  Between between;
  bool spread;  // the processors by turns, or where the scheduler likes
};

class MutexBenchmark {
 public:
  explicit MutexBenchmark(const Options& options)
      : options_(options),
        daemon_(options.daemon),
        client_(daemon_.socket()),
        object_(Object::create(client_, kPage, nullptr)),
        view_(client_, object_, kPage, FL_MAP_SHARED | FL_MAP_WRITE),
        shared_(*new (const_cast<std::byte*>(view_.bytes().data())) Shared) {}

  std::vector<Result> run() {
    std::vector<Result> results = uncontended();
    for (const bool spread : {true, false}) {
      for (const Between between : {Between::nothing, Between::work}) {
        for (const std::size_t processes : kProcesses) {
          for (Result& result : contended({processes, between, spread})) {
            results.push_back(std::move(result));
          }
        }
      }
    }
    return results;
  }

 private:
  std::vector<Result> uncontended() {
    const int times = options_.quick ? 200'000 : 5'000'000;
    const auto measure = [&](auto& lock) {
      const auto start = Clock::now();
      for (int i = 0; i < times; ++i) {
        lock.lock();
        shared_.counter = shared_.counter + 1;
        lock.unlock();
      }
      return seconds_since(start) / times * 1e9;
    };
    return compare("mutex, uncontended lock + unlock", "ns", Target::Goal::at_most, "one process",
                   measure);
  }

  std::vector<Result> contended(Contest contest) {
    return compare(fmt::format("mutex, {} processes{}", contest.processes,
                               contest.between == Between::work ? ", work between" : ""),
                   "M/s", Target::Goal::at_least, contest.spread ? "spread" : "unpinned",
                   [&](auto& lock) { return locks_per_second(lock, contest) / 1e6; });
  }

  // All three by turns, each the first of a round as often as any other.
  template <typename Measure>
  std::vector<Result> compare(const std::string& name, const char* unit, Target::Goal goal,
                              const char* where, Measure measure) {
    std::array<std::vector<double>, 3> samples;
    for (int round = -1; round < options_.rounds; ++round) {
      for (int i = 0; i < 3; ++i) {
        const int turn = (i + round + 1) % 3;
        const double sample = turn == 0   ? measure(shared_.plain)
                              : turn == 1 ? measure(shared_.robust)
                                          : measure(shared_.ours);
        if (round >= 0) samples.at(static_cast<std::size_t>(turn)).push_back(sample);
      }
    }
    std::vector<Result> results;
    for (std::size_t rival = 0; rival < 2; ++rival) {
      Result result;
      result.name = name;
      result.unit = unit;
      result.against = rival == 0 ? "pthread" : "pthread, robust";
      result.placement = where;
      result.kernel = samples.at(rival);
      result.faultline = samples[2];
      result.targets.push_back({Target::Of::ratio, goal, 1.0, false});
      results.push_back(std::move(result));
    }
    return results;
  }

  template <typename Lock>
  double locks_per_second(Lock& lock, const Contest& contest) {
    shared_.ready = 0;
    shared_.done = 0;
    shared_.locked = 0;
    shared_.go = false;
    shared_.stop = false;
    const std::uint64_t before = shared_.counter;
    std::vector<Child> children;
    for (std::size_t i = 0; i < contest.processes; ++i) {
      children.emplace_back([&, i] { contend(lock, contest, i); });
    }
    wait_for(shared_.ready, contest.processes);
    const auto start = Clock::now();
    shared_.go = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(options_.quick ? 20 : 200));
    shared_.stop = true;
    const double seconds = seconds_since(start);
    wait_for(shared_.done, contest.processes);
    if (shared_.counter - before != shared_.locked) throw std::runtime_error("no exclusion");
    return static_cast<double>(shared_.locked.load()) / seconds;
  }

  template <typename Lock>
  void contend(Lock& lock, const Contest& contest, std::size_t index) {
    const std::vector<unsigned> cpus = allowed_cpus();
    if (contest.spread) place(::getpid(), {cpus[index % cpus.size()]});
    lock.lock();  // whatever is done only once
    lock.unlock();
    ++shared_.ready;
    while (!shared_.go) ::sched_yield();
    std::uint64_t locked = 0;
    while (!shared_.stop.load(std::memory_order_relaxed)) {
      lock.lock();
      shared_.counter = shared_.counter + 1;
      lock.unlock();
      ++locked;
      if (contest.between == Between::work) work();
    }
    shared_.locked += locked;
    ++shared_.done;
  }

  static void work() {
    constexpr int kTurns = 300;
    for (int i = 0; i < kTurns; ++i) asm volatile("");
  }

  static void wait_for(const std::atomic<std::size_t>& count, std::size_t wanted) {
    while (count != wanted) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  const Options& options_;
  Daemon daemon_;
  Client client_;
  Object object_;
  FaultlineView view_;
  Shared& shared_;
};

}  // namespace

std::vector<Result> mutexes(const Options& options) {
  return MutexBenchmark(options).run();
}

}  // namespace faultline::bench
