// What one page fault costs: reads of single pages, far apart and in random order, of a resident
// shared object, against a byte's way to another process and back. Both in blocks by turns.
#include <fmt/format.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <span>
#include <utility>

#include "bench/benchmark.hpp"
#include "bench/client.hpp"
#include "bench/machine.hpp"
#include "bench/process.hpp"

namespace faultline::bench {

namespace {

using namespace std::chrono_literals;

// One page is touched in each slot: no neighbour comes with it, neither the kernel's 16 nor ours.
constexpr std::size_t kSlot = 64 * kPage;
constexpr std::size_t kBlock = 200;

struct Placement {
  const char* name;
  std::vector<unsigned> client;
  std::vector<unsigned> daemon;  // and the echo
  bool judged;
};

struct Figures {
  Result median;
  Result p99;
  std::vector<double> kernel_fault;  // medians of the same faults in a plain mapping
  // Blocks after which the other side was on this thread's CPU, and all blocks.
  std::size_t daemon_near = 0;
  std::size_t echo_near = 0;
  std::size_t blocks = 0;
};

class Latency {
 public:
  explicit Latency(const Options& options)
      : bytes_(options.quick ? kGiB / 8 : kGiB),
        daemon_(options.daemon),
        client_(daemon_.socket()),
        object_(Object::create(client_, bytes_, nullptr)) {
    populate(client_, object_, bytes_);
  }

  std::vector<Result> run(int rounds) {
    const std::vector<unsigned> all = allowed_cpus();
    std::vector<Placement> placements{{"unpinned", all, all, true},
                                      {"one CPU", {all.back()}, {all.back()}, true}};
    if (all.size() > 1) placements.push_back({"two CPUs", {all.back()}, {all.front()}, false});
    std::vector<Result> results;
    for (const Placement& where : placements) {
      place(::getpid(), where.client);
      place(echo_.pid(), where.daemon);
      place(daemon_.pid(), where.daemon);
      for (const auto work : {0ns, 1000ns}) {
        Figures figures = measure(rounds, work);
        finish(figures, where, work != 0ns);
        results.push_back(std::move(figures.median));
        results.push_back(std::move(figures.p99));
      }
    }
    place(::getpid(), all);
    return results;
  }

 private:
  using Samples = std::vector<double>;

  // ns of one action, the work before it not counted.
  template <typename Action>
  static void time(Samples& into, std::chrono::nanoseconds work, Action action) {
    if (work > 0ns) {
      const auto until = Clock::now() + work;
      while (Clock::now() < until) {
      }
    }
    const auto start = Clock::now();
    action();
    into.push_back(std::chrono::duration<double, std::nano>(Clock::now() - start).count());
  }

  Figures measure(int rounds, std::chrono::nanoseconds work) {
    Figures figures;
    const bool was_warm = std::exchange(warm_, true);
    for (int round = was_warm ? 0 : -1; round < rounds; ++round) {
      Samples faults;
      Samples trips;
      Samples plain_faults;
      const std::vector<std::size_t> order = random_pages();
      const FaultlineView view(client_, object_, bytes_, FL_MAP_SHARED | FL_MAP_WRITE);
      const PlainView plain(object_, bytes_, MAP_SHARED);
      const auto fault_block = [&](Bytes bytes, std::size_t first, Samples& into) {
        for (const std::size_t at : std::span(order).subspan(first, kBlock)) {
          time(into, work, [&] { (void)touch(bytes[at]); });
        }
      };
      for (std::size_t first = 0; first + kBlock <= order.size(); first += kBlock) {
        const auto kernel_turn = [&] {
          for (std::size_t i = 0; i < kBlock; ++i) time(trips, work, [&] { echo_.round_trip(); });
        };
        const auto faultline_turn = [&] { fault_block(view.bytes(), first, faults); };
        const bool swap = (round % 2 != 0) != (first / kBlock % 2 != 0);
        if (swap) {
          faultline_turn();
          kernel_turn();
        } else {
          kernel_turn();
          faultline_turn();
        }
        const auto cpu = static_cast<unsigned>(::sched_getcpu());
        figures.daemon_near += last_cpu(daemon_.pid()) == cpu ? 1U : 0U;
        figures.echo_near += last_cpu(echo_.pid()) == cpu ? 1U : 0U;
        ++figures.blocks;
        fault_block(plain.bytes(), first, plain_faults);
      }
      if (round < 0) {
        figures = Figures{};
        continue;
      }
      figures.median.kernel.push_back(median(trips));
      figures.median.faultline.push_back(median(faults));
      figures.p99.kernel.push_back(quantile(trips, 0.99));
      figures.p99.faultline.push_back(quantile(faults, 0.99));
      figures.kernel_fault.push_back(median(plain_faults));
    }
    return figures;
  }

  std::vector<std::size_t> random_pages() {
    std::vector<std::size_t> pages;
    std::uniform_int_distribution<std::size_t> page(0, kSlot / kPage - 1);
    for (std::size_t slot = 0; slot < bytes_; slot += kSlot) {
      pages.push_back(slot + page(random_) * kPage);
    }
    std::shuffle(pages.begin(), pages.end(), random_);
    return pages;
  }

  void finish(Figures& figures, const Placement& where, bool working) const {
    const std::string suffix = fmt::format(" {}{}", where.name, working ? ", 1 us work" : "");
    const std::string cpus =
        placement({{"client", ::getpid()}, {"daemon", daemon_.pid()}, {"echo", echo_.pid()}});
    for (Result* result : {&figures.median, &figures.p99}) {
      const char* which = result == &figures.median ? "median" : "p99";
      result->name = fmt::format("fault_latency {}{}", which, suffix);
      result->unit = "ns";
      result->placement = cpus;
    }
    figures.median.notes.push_back(
        fmt::format("KERNEL is a pipe round trip; a fault of a plain mapping of the object: {:.0f} "
                    "ns",
                    median(figures.kernel_fault)));
    figures.median.notes.push_back(fmt::format(
        "after {} blocks of {}, the daemon's worker was on the client's CPU {} times, the echo {}",
        figures.blocks, kBlock, figures.daemon_near, figures.echo_near));
    if (!where.judged || working) return;
    figures.median.targets.push_back({Target::Of::ratio, Target::Goal::at_most, 1.3, false});
    if (where.client.size() > 1) {
      figures.median.targets.push_back({Target::Of::ratio, Target::Goal::at_most, 0.5, true});
    }
  }

  std::size_t bytes_;
  Echo echo_;  // forked before there is a connection, so that it has no part in it
  Daemon daemon_;
  Client client_;
  Object object_;
  std::mt19937_64 random_{20240229};
  bool warm_ = false;
};

}  // namespace

std::vector<Result> fault_latency(const Options& options) {
  return Latency(options).run(options.rounds);
}

}  // namespace faultline::bench
