// Faults of several threads of one process at once, each in random order in an area of its own, one
// page a fault, every page resident: the benchmark of the speculative page faults of 2009 (a
// parallel fault test against mmap_sem). What it is measured against is the same daemon with one
// worker, which answers one fault after the other, as all workers would under one lock; and a pager
// that does nothing but answer (bare_pager.hpp), for what the machine could do.
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <barrier>
#include <functional>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>

#include "bench/bare_pager.hpp"
#include "bench/benchmark.hpp"
#include "bench/client.hpp"
#include "bench/machine.hpp"
#include "bench/process.hpp"

namespace faultline::bench {

namespace {

constexpr std::array<std::size_t, 4> kThreads{1, 2, 4, 8};

enum class Access { shared_read, private_write };

const char* name_of(Access access) {
  return access == Access::shared_read ? "shared reads" : "private writes";
}

// What a measurement found, a fault.
struct Sample {
  double faults_per_second = 0;
  double client_us = 0;  // of CPU
  double pager_us = 0;
  double client_switches = 0;
  double pager_switches = 0;
};

// One of those who answer, all the time.
class Pager {
 public:
  Pager() = default;
  Pager(const Pager&) = delete;
  Pager& operator=(const Pager&) = delete;
  virtual ~Pager() = default;

  [[nodiscard]] virtual pid_t pid() const = 0;
  // Calls touch with a mapping of which nothing is mapped yet.
  virtual void with_view(Access access, const std::function<void(Bytes)>& touch) = 0;
};

class FaultlinePager final : public Pager {
 public:
  FaultlinePager(const Options& options, std::size_t bytes,
                 const std::vector<std::string>& arguments)
      : bytes_(bytes),
        daemon_(options.daemon, arguments),
        client_(daemon_.socket()),
        object_(Object::create(client_, bytes, nullptr)) {
    populate(client_, object_, bytes);
  }

  [[nodiscard]] pid_t pid() const override { return daemon_.pid(); }

  void with_view(Access access, const std::function<void(Bytes)>& touch) override {
    const bool shared = access == Access::shared_read;
    const FaultlineView view(client_, object_, bytes_,
                             (shared ? FL_MAP_SHARED : FL_MAP_PRIVATE) | FL_MAP_WRITE);
    const Bytes bytes = view.bytes();
    if (fl_advise(client_.get(), const_cast<std::byte*>(bytes.data()), bytes.size(),
                  FL_ADVICE_RANDOM) != 0) {
      throw std::runtime_error(fl_last_error());
    }
    touch(bytes);
    const fl_stats stats = view.stats();
    if (stats.missing_faults + stats.minor_faults + stats.wp_faults != bytes.size() / kPage) {
      throw std::runtime_error("not one fault a page");
    }
  }

 private:
  std::size_t bytes_;
  Daemon daemon_;
  Client client_;
  Object object_;
};

class FloorPager final : public Pager {
 public:
  FloorPager(std::size_t bytes, unsigned workers) : bare_(bytes, workers) {}

  [[nodiscard]] pid_t pid() const override { return bare_.pid(); }

  void with_view(Access access, const std::function<void(Bytes)>& touch) override {
    const BarePager::View view(bare_, access == Access::shared_read);
    touch(view.bytes());
  }

 private:
  BarePager bare_;
};

class ParallelFaults {
 public:
  explicit ParallelFaults(const Options& options)
      : bytes_(options.quick ? 8 * kMiB : 64 * kMiB),
        bare_one_(bytes_, 1),
        bare_all_(bytes_, std::max(std::thread::hardware_concurrency(), 2U)),
        one_worker_(options, bytes_, {"--workers", "1"}),
        faultline_(options, bytes_, {}) {}

  std::vector<Result> run(int rounds) {
    std::vector<Result> results;
    for (const Access access : {Access::shared_read, Access::private_write}) {
      for (const std::size_t threads : kThreads) {
        for (Result& result : compare(access, threads, rounds)) {
          results.push_back(std::move(result));
        }
      }
    }
    return results;
  }

 private:
  struct Rival {
    const char* name;
    Pager& pager;
    std::vector<Sample> samples;

    [[nodiscard]] std::vector<double> all(double Sample::*figure) const {
      std::vector<double> values;
      for (const Sample& sample : samples) values.push_back(sample.*figure);
      return values;
    }
    [[nodiscard]] std::string describe() const {
      const auto of = [this](double Sample::*figure) { return median(all(figure)); };
      return fmt::format(
          "{}: {:.0f} faults/s; a fault {:.2f} us CPU of the client + {:.2f} us of the pager, "
          "{:.2f} + "
          "{:.2f} context switches",
          name, of(&Sample::faults_per_second), of(&Sample::client_us), of(&Sample::pager_us),
          of(&Sample::client_switches), of(&Sample::pager_switches));
    }
  };

  std::vector<Result> compare(Access access, std::size_t threads, int rounds) {
    std::array rivals{Rival{"one worker", one_worker_, {}}, Rival{"Faultline", faultline_, {}},
                      Rival{"bare, one thread", bare_one_, {}},
                      Rival{"bare, a thread a processor", bare_all_, {}}};
    for (int round = -1; round < rounds; ++round) {
      // Each of them is the first of a round as often as any other.
      for (std::size_t i = 0; i < rivals.size(); ++i) {
        const std::size_t turn = round % 2 == 0 ? i : rivals.size() - 1 - i;
        Rival& rival = rivals.at((turn + static_cast<std::size_t>(round + 1) / 2) % rivals.size());
        const Sample sample = measure(rival.pager, access, threads);
        if (round >= 0) rival.samples.push_back(sample);
      }
    }
    const auto& [one, ours, bare_one, bare_all] = rivals;
    const std::string name =
        fmt::format("parallel {} {} thread{}", name_of(access), threads, threads == 1 ? "" : "s");
    std::vector<Result> results;
    for (const Rival* other : {&one, &bare_one, &bare_all}) {
      Result result;
      result.name = name;
      result.unit = "faults/s";
      result.against = other->name;
      result.placement = placement({{"client", ::getpid()}, {"daemon", faultline_.pid()}});
      result.kernel = other->all(&Sample::faults_per_second);
      result.faultline = ours.all(&Sample::faults_per_second);
      results.push_back(std::move(result));
    }
    if (threads > 1) {
      results.front().targets.push_back({Target::Of::ratio, Target::Goal::at_least, 1.5, false});
    }
    for (const Rival& rival : rivals) results.front().notes.push_back(rival.describe());
    return results;
  }

  Sample measure(Pager& pager, Access access, std::size_t threads) {
    Sample sample;
    pager.with_view(access,
                    [&](Bytes bytes) { sample = touch(pager.pid(), bytes, access, threads); });
    return sample;
  }

  // Every page once, by threads that start together.
  Sample touch(pid_t pager, Bytes bytes, Access access, std::size_t threads) {
    const std::size_t pages = bytes.size() / kPage / threads;
    std::vector<std::vector<std::size_t>> orders(threads);
    for (std::size_t i = 0; i < threads; ++i) {
      orders[i].resize(pages);
      std::iota(orders[i].begin(), orders[i].end(), i * pages);
      std::shuffle(orders[i].begin(), orders[i].end(), random_);
    }
    const Usage client_before = own_usage();
    const Usage pager_before = usage_of(pager);
    Clock::time_point start;
    std::barrier begin(static_cast<std::ptrdiff_t>(threads),
                       [&]() noexcept { start = Clock::now(); });
    std::vector<Clock::time_point> ended(threads);
    {
      std::vector<std::jthread> touchers;
      for (std::size_t i = 0; i < threads; ++i) {
        touchers.emplace_back([&, i] {
          begin.arrive_and_wait();
          for (const std::size_t page : orders[i]) {
            if (access == Access::shared_read) {
              (void)bench::touch(bytes[page * kPage]);
            } else {
              bytes[page * kPage] = std::byte{1};
            }
          }
          ended[i] = Clock::now();
        });
      }
    }
    const Usage client = own_usage().since(client_before);
    const Usage other = usage_of(pager).since(pager_before);
    const std::chrono::duration<double> took =
        *std::max_element(ended.begin(), ended.end()) - start;
    const auto faults = static_cast<double>(pages * threads);
    return {faults / took.count(), client.cpu_seconds / faults * 1e6,
            other.cpu_seconds / faults * 1e6, client.switches / faults, other.switches / faults};
  }

  std::size_t bytes_;
  // Forked before this process has connections.
  FloorPager bare_one_;
  FloorPager bare_all_;
  FaultlinePager one_worker_;
  FaultlinePager faultline_;
  std::mt19937_64 random_{20091118};
};

}  // namespace

std::vector<Result> parallel_faults(const Options& options) {
  return ParallelFaults(options).run(options.rounds);
}

}  // namespace faultline::bench
