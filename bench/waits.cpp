// What waiting and waking cost: wakes that nobody waits for, round trips between two processes, and
// waits that complete in an io_uring, against the kernel's own futex in the same memory by turns.
#include <fmt/format.h>
#include <liburing.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <climits>
#include <functional>
#include <stdexcept>
#include <thread>

#include "bench/benchmark.hpp"
#include "bench/client.hpp"
#include "bench/machine.hpp"
#include "bench/process.hpp"

namespace faultline::bench {

namespace {

using Word = std::atomic<std::uint32_t>;
using Goal = Target::Goal;

// linux/io_uring.h, Linux 6.7, and linux/futex.h.
constexpr int kOpFutexWait = 51;
constexpr int kFutex2Size32 = 2;

Target ratio(Goal goal, double limit) {
  return {Target::Of::ratio, goal, limit, false};
}
Target absolute(Goal goal, double limit) {
  return {Target::Of::faultline, goal, limit, false};
}

Result named(std::string name, std::string unit) {
  Result result;
  result.name = std::move(name);
  result.unit = std::move(unit);
  return result;
}

Word& word_at(Bytes bytes, std::size_t index) {
  // Words a cache line apart.
  return *reinterpret_cast<Word*>(const_cast<std::byte*>(bytes.data()) + index * 64);
}

long raw_futex(Word& word, int operation, std::uint32_t value) {
  return ::syscall(SYS_futex, &word, operation, value, nullptr, nullptr, 0);
}

void check(int result) {
  if (result < 0) throw std::runtime_error(fl_last_error());
}

fl_object* counted_object(const Client& client) {
  fl_object_spec spec{};
  spec.struct_size = sizeof(spec);
  spec.size = kPage;
  spec.mode = 0600;
  spec.flags = FL_COUNTED_WAITS;
  fl_object* object = nullptr;
  check(fl_object_create(client.get(), &spec, &object));
  return object;
}

// --- a wake that nobody waits for

Result wake_nobody(const Options& options, const Client& client) {
  const int calls = options.quick ? 100'000 : 2'000'000;
  fl_object* const object = counted_object(client);
  void* address = nullptr;
  check(fl_map(object, 0, kPage, FL_MAP_SHARED | FL_MAP_WRITE, &address));
  Word& word = *static_cast<Word*>(address);
  word = 1;
  Result result = named("wake, nobody waits, FL_COUNTED_WAITS", "ns");
  const auto time = [&](std::vector<double>& into, int times, auto call) {
    const auto start = Clock::now();
    for (int i = 0; i < times; ++i) call();
    into.push_back(seconds_since(start) / times * 1e9);
  };
  alternate(
      options.rounds,
      [&] { time(result.kernel, calls / 10, [&] { raw_futex(word, FUTEX_WAKE, 1); }); },
      [&] { time(result.faultline, calls, [&] { (void)fl_wake(&word, 1); }); });
  result.targets = {absolute(Goal::below, 10), ratio(Goal::at_most, 1.0 / 20)};
  result.placement = placement({{"client", ::getpid()}});
  (void)fl_unmap(client.get(), address, kPage);
  (void)fl_object_close(object);
  return result;
}

// --- round trips

// How one side waits for a word and wakes the other, and what tells it that it may go on.
struct Way {
  std::function<void(Word&, std::uint32_t)> wait;  // until the word has another value
  std::function<void(Word&, std::uint32_t)> wake;  // after giving it one
  bool stores = true;
};

// Two processes, each of which waits for its word and wakes the other at its own.
double round_trip(const Way& way, Word& there, Word& back, std::uint32_t trips, unsigned here_cpu,
                  unsigned there_cpu, bool threads) {
  if (way.stores) {
    there = 0;
    back = 0;
  }
  const auto idle = [&](std::atomic<bool>& end) {
    return threads ? std::thread([&end] { end.wait(false); }) : std::thread();
  };
  const Child other([&] {
    place(::getpid(), {there_cpu});
    std::atomic<bool> end{false};
    std::thread one_more = idle(end);
    for (std::uint32_t i = 0; i < trips; ++i) {
      way.wait(there, i);
      way.wake(back, i + 1);
    }
    end = true;
    end.notify_all();
    if (one_more.joinable()) one_more.join();
  });
  Pipe done;
  // Apart from the memory that is measured, where a store could part a page.
  auto* const result = static_cast<double*>(
      ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  if (result == MAP_FAILED) throw std::runtime_error("mapping a page for a benchmark");
  const Child one([&] {
    place(::getpid(), {here_cpu});
    std::atomic<bool> end{false};
    std::thread one_more = idle(end);
    const auto start = Clock::now();
    for (std::uint32_t i = 0; i < trips; ++i) {
      way.wake(there, i + 1);
      way.wait(back, i);
    }
    *result = seconds_since(start);
    done.put();
    end = true;
    end.notify_all();
    if (one_more.joinable()) one_more.join();
  });
  done.close_write();
  if (!done.get()) throw std::runtime_error("a round trip did not come to an end");
  const double seconds = *result;
  ::munmap(result, kPage);
  return seconds / trips * 1e6;
}

const Way kRaw{[](Word& word, std::uint32_t value) {
                 while (word == value) raw_futex(word, FUTEX_WAIT, value);
               },
               [](Word& word, std::uint32_t value) {
                 word = value;
                 raw_futex(word, FUTEX_WAKE, 1);
               }};
const Way kFaultline{[](Word& word, std::uint32_t value) {
                       while (word == value) (void)fl_wait(&word, value, nullptr, 0);
                     },
                     [](Word& word, std::uint32_t value) {
                       word = value;
                       (void)fl_wake(&word, 1);
                     }};
// Where a store would part the page: a wake is tried until it finds the other waiting.
const Way kRawUnchanged{[](Word& word, std::uint32_t) { raw_futex(word, FUTEX_WAIT, word); },
                        [](Word& word, std::uint32_t) {
                          while (raw_futex(word, FUTEX_WAKE, 1) == 0) ::sched_yield();
                        },
                        false};
const Way kFaultlineUnchanged{
    [](Word& word, std::uint32_t) { (void)fl_wait(&word, word, nullptr, 0); },
    [](Word& word, std::uint32_t) {
      while (fl_wake(&word, 1) == 0) ::sched_yield();
    },
    false};

struct Trip {
  const char* name;
  const Way& raw;
  const Way& faultline;
  Bytes raw_memory;
  Bytes memory;
  bool threads;
  std::vector<Target> targets;
};

std::vector<Result> round_trips(const Options& options, const std::vector<Trip>& trips,
                                pid_t daemon) {
  const std::vector<unsigned> cpus = allowed_cpus();
  std::vector<Result> results;
  for (const bool two : {false, true}) {
    if (two && cpus.size() < 2) continue;
    const unsigned there = two ? cpus.front() : cpus.back();
    place(daemon, two ? cpus : std::vector<unsigned>{cpus.back()});
    const std::uint32_t count = (options.quick ? 1'000U : 20'000U) / (two ? 4 : 1);
    for (const Trip& trip : trips) {
      Result result = named(fmt::format("{}, {}", trip.name, two ? "two CPUs" : "one CPU"), "us");
      const auto run = [&](const Way& way, Bytes memory, std::vector<double>& into) {
        into.push_back(round_trip(way, word_at(memory, 0), word_at(memory, 4), count, cpus.back(),
                                  there, trip.threads));
      };
      alternate(
          options.rounds, [&] { run(trip.raw, trip.raw_memory, result.kernel); },
          [&] { run(trip.faultline, trip.memory, result.faultline); });
      result.targets = trip.targets;
      result.placement = two ? "each process on a CPU of its own, daemon on both"
                             : "both processes and the daemon on one CPU";
      results.push_back(std::move(result));
    }
  }
  place(daemon, cpus);
  return results;
}

// --- completions in an io_uring

class Ring {
 public:
  explicit Ring(unsigned entries) {
    if (::io_uring_queue_init(entries, &ring_, 0) < 0) {
      throw std::runtime_error("io_uring_setup for a benchmark");
    }
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() { ::io_uring_queue_exit(&ring_); }
  io_uring* get() { return &ring_; }
  [[nodiscard]] int fd() const { return ring_.ring_fd; }
  void take() {
    io_uring_cqe* entry = nullptr;
    if (::io_uring_wait_cqe(&ring_, &entry) < 0) throw std::runtime_error("io_uring_wait_cqe");
    ::io_uring_cqe_seen(&ring_, entry);
  }
  void futex_wait(Word& word, std::uint32_t expected) {
    io_uring_sqe* const entry = ::io_uring_get_sqe(&ring_);
    ::io_uring_prep_rw(kOpFutexWait, entry, kFutex2Size32, &word, 0, expected);
    entry->addr3 = 0xffffffff;
    ::io_uring_submit(&ring_);
  }

 private:
  io_uring ring_{};
};

std::int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
      .count();
}

// From the wake to the completion's being seen, the median of many, us. The waiter is this process.
double wake_to_completion(bool raw, const Client& client, Ring& ring, std::uint32_t target,
                          Bytes memory, int count, unsigned waker_cpu) {
  Word& word = word_at(memory, 0);
  Word& turn = word_at(memory, 4);
  auto& woken_at = *reinterpret_cast<std::atomic<std::int64_t>*>(&word_at(memory, 8));
  word = 0;
  turn = 0;
  const Child waker([&] {
    place(::getpid(), {waker_cpu});
    for (int i = 0; i < count; ++i) {
      const auto value = static_cast<std::uint32_t>(i);
      while (turn == value) raw_futex(turn, FUTEX_WAIT, value);
      word = value + 1;
      woken_at = now();
      if (raw) {
        raw_futex(word, FUTEX_WAKE, 1);
      } else {
        (void)fl_wake(&word, 1);
      }
    }
  });
  std::vector<double> samples;
  for (int i = 0; i < count; ++i) {
    const auto value = static_cast<std::uint32_t>(i);
    if (raw) {
      ring.futex_wait(word, value);
    } else {
      fl_async_wait wait{};
      wait.struct_size = sizeof(wait);
      wait.address = &word;
      wait.expected = value;
      wait.bitset = FL_WAIT_ANY;
      wait.target = target;
      check(fl_wait_async(&wait, nullptr));
    }
    turn = value + 1;
    raw_futex(turn, FUTEX_WAKE, 1);
    ring.take();
    samples.push_back(static_cast<double>(now() - woken_at) / 1e3);
  }
  (void)client;
  return median(samples);
}

std::vector<Result> async_latency(const Options& options, const Client& client, Bytes memory,
                                  pid_t daemon) {
  Ring ring(64);
  std::uint32_t target = 0;
  check(fl_target_add(client.get(), FL_TARGET_RING, ring.fd(), &target));
  const std::vector<unsigned> cpus = allowed_cpus();
  const int count = options.quick ? 200 : 3'000;
  std::vector<Result> results;
  for (const bool two : {false, true}) {
    if (two && cpus.size() < 2) continue;
    place(::getpid(), {cpus.back()});
    place(daemon, two ? cpus : std::vector<unsigned>{cpus.back()});
    Result result = named(
        fmt::format("wake to completion in an io_uring, {}", two ? "two CPUs" : "one CPU"), "us");
    const auto run = [&](bool raw, std::vector<double>& into) {
      into.push_back(wake_to_completion(raw, client, ring, target, memory, count,
                                        two ? cpus.front() : cpus.back()));
    };
    alternate(
        options.rounds, [&] { run(true, result.kernel); }, [&] { run(false, result.faultline); });
    result.targets = {ratio(Goal::at_most, 1.5)};
    result.placement = two ? "waiter and waker on a CPU each, daemon on both" : "all on one CPU";
    results.push_back(std::move(result));
  }
  place(::getpid(), cpus);
  place(daemon, cpus);
  check(fl_target_remove(client.get(), target));
  return results;
}

// --- very many

std::vector<Result> many_waits(const Options& options, const Client& client, Bytes memory,
                               pid_t daemon) {
  const int count = options.quick ? 10'000 : 100'000;
  Result size =
      named(fmt::format("{} waits without a thread, the daemon's memory for each", count), "bytes");
  Result speed =
      named(fmt::format("{} waits without a thread, woken and told of", count), "million/s");
  Result submission = named("beginning to wait without a thread", "us");
  std::vector<fl_completion> told(4096);
  for (int round = 0; round < std::min(options.rounds, 5) + 1; ++round) {
    const double before = status_bytes(daemon, "VmRSS") - status_bytes(daemon, "RssShmem");
    Word& word = word_at(memory, 0);
    word = 0;
    auto start = Clock::now();
    for (int i = 0; i < count; ++i) {
      fl_async_wait wait{};
      wait.struct_size = sizeof(wait);
      wait.address = &word;
      wait.bitset = FL_WAIT_ANY;
      check(fl_wait_async(&wait, nullptr));
    }
    const double begun = seconds_since(start);
    const double after = status_bytes(daemon, "VmRSS") - status_bytes(daemon, "RssShmem");
    start = Clock::now();
    check(fl_wake(&word, INT_MAX));
    int taken = 0;
    while (taken < count) {
      const int came =
          fl_completions(client.get(), told.data(), static_cast<unsigned>(told.size()), nullptr);
      check(came);
      taken += came;
    }
    const double seconds = seconds_since(start);
    if (round == 0) {
      // What the allocator has got once it keeps.
      size.faultline.push_back((after - before) / count);
      continue;
    }
    speed.faultline.push_back(count / seconds / 1e6);
    submission.faultline.push_back(begun / count * 1e6);
  }
  size.targets = {absolute(Goal::below, 256)};
  speed.targets = {absolute(Goal::at_least, 1)};
  for (Result* result : {&size, &speed, &submission}) {
    result->placement = placement({{"client", ::getpid()}, {"daemon", daemon}});
  }
  return {size, speed, submission};
}

}  // namespace

std::vector<Result> waits(const Options& options) {
  const Daemon daemon(options.daemon);
  const Client client(daemon.socket());
  const Object object = Object::create(client, kPage, nullptr);
  const Object clean = Object::create(client, kPage, nullptr);
  populate(client, object, kPage);
  populate(client, clean, kPage);
  const FaultlineView shared(client, object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const PlainView plain(object, kPage, MAP_SHARED);
  const FaultlineView parted(client, object, kPage,
                             FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE);
  const FaultlineView unparted(client, clean, kPage,
                               FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE);
  word_at(shared.bytes(), 0) = 0;
  word_at(plain.bytes(), 0) = 0;
  word_at(parted.bytes(), 16) = 1;  // private from now on, and shared with the children
  (void)touch(unparted.bytes()[0]);

  std::vector<Result> results{wake_nobody(options, client)};
  const Target as_raw = ratio(Goal::at_most, 1.1);
  const Target by_page = ratio(Goal::at_most, 2.2);
  const std::vector<Trip> trips{
      {"round trip, shared", kRaw, kFaultline, plain.bytes(), shared.bytes(), false, {as_raw}},
      {"round trip, shared, with more threads",
       kRaw,
       kFaultline,
       plain.bytes(),
       shared.bytes(),
       true,
       {}},
      {"round trip, by page, private",
       kRawUnchanged,
       kFaultlineUnchanged,
       plain.bytes(),
       parted.bytes(),
       false,
       {by_page}},
      {"round trip, by page, the object's",
       kRawUnchanged,
       kFaultlineUnchanged,
       plain.bytes(),
       unparted.bytes(),
       false,
       {by_page}},
  };
  for (Result& result : round_trips(options, trips, daemon.pid())) {
    results.push_back(std::move(result));
  }
  for (Result& result : async_latency(options, client, shared.bytes(), daemon.pid())) {
    results.push_back(std::move(result));
  }
  for (Result& result : many_waits(options, client, shared.bytes(), daemon.pid())) {
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace faultline::bench
