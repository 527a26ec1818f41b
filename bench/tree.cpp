// The interval tree against what one would use instead: std::map and absl::btree_map under a
// std::shared_mutex, and a path-copying tree under liburcu. All of them hold the same intervals at
// the same time and are measured by turns.
#include "daemon/epoch/interval_tree.hpp"

#include <absl/container/btree_map.h>
#include <fmt/format.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <stdexcept>
#include <thread>

#include "bench/benchmark.hpp"
#include "bench/machine.hpp"
#include "bench/urcu_tree.hpp"

namespace faultline::bench {

namespace {

// Every other place holds an interval; what a writer maps and unmaps is in the places between.
constexpr std::uint64_t kLength = kPage;
constexpr std::uint64_t kPlace = 2 * kLength;

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15U + 1) {}
  // limit: at most 2^32.
  std::uint64_t below(std::uint64_t limit) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return ((state_ >> 32) * limit) >> 32;
  }

 private:
  std::uint64_t state_;
};

// The rivals, all with the same four verbs. find_end() is 0 where nothing is mapped.
class FaultlineTree {
 public:
  struct Reader {};

  [[nodiscard]] std::uint64_t find_end(std::uint64_t at) {
    const epoch::Domain::Section section(domain_);
    const auto found = tree_.view().find(at);
    return found ? found->end : 0;
  }
  void insert(std::uint64_t start, std::uint64_t end) {
    Tree::Update update(tree_);
    update.insert({start, end, &value_});
    update.commit();
  }
  void erase(std::uint64_t start) {
    Tree::Update update(tree_);
    (void)update.erase(start);
    update.commit();
  }
  [[nodiscard]] double bytes_per_interval() {
    domain_.barrier();
    return static_cast<double>(tree_.memory_bytes()) / static_cast<double>(tree_.view().size());
  }

 private:
  using Tree = epoch::IntervalTree<int>;
  epoch::Domain domain_{"bench"};
  int value_ = 0;
  Tree tree_{domain_};
};

struct Item {
  std::uint64_t end;
  void* value;
};

template <typename Map>
class LockedMap {
 public:
  struct Reader {};

  [[nodiscard]] std::uint64_t find_end(std::uint64_t at) {
    const std::shared_lock lock(mutex_);
    auto next = map_.upper_bound(at);
    if (next == map_.begin()) return 0;
    --next;
    return next->second.end > at ? next->second.end : 0;
  }
  void insert(std::uint64_t start, std::uint64_t end) {
    const std::unique_lock lock(mutex_);
    map_.emplace(start, Item{end, nullptr});
  }
  void erase(std::uint64_t start) {
    const std::unique_lock lock(mutex_);
    map_.erase(start);
  }

 private:
  std::shared_mutex mutex_;
  Map map_;
};
using StdMap = LockedMap<std::map<std::uint64_t, Item>>;
using AbslMap = LockedMap<absl::btree_map<std::uint64_t, Item>>;

// What happens beside the readers.
enum class Beside { nothing, thread, writer };

struct Speeds {
  double lookups = 0;  // a second, all readers together
  double updates = 0;
};

// A thread's work and how much of it was done: blocks until told to stop.
template <typename Block>
double per_second(const std::atomic<bool>& stop, Block block) {
  const auto start = Clock::now();
  std::uint64_t done = 0;
  while (!stop.load(std::memory_order_relaxed)) done += block();
  return static_cast<double>(done) / seconds_since(start);
}

// Maps and unmaps at random, in the places between those that the readers look up.
template <typename Rival>
class Writer {
 public:
  Writer(Rival& rival, std::size_t intervals) : rival_(rival), mapped_(intervals) {}
  std::uint64_t block() {
    for (int i = 0; i < 16; ++i) {
      const std::uint64_t place = random_.below(mapped_.size());
      const std::uint64_t start = place * kPlace + kLength;
      if (mapped_[place]) {
        rival_.erase(start);
      } else {
        rival_.insert(start, start + kLength);
      }
      mapped_[place] = !mapped_[place];
    }
    return 16;
  }

 private:
  Rival& rival_;
  std::vector<bool> mapped_;
  Random random_{99};
};

template <typename Rival>
class Contest {
 public:
  Contest(std::size_t intervals, std::uint64_t seed)
      : intervals_(intervals), rival_(std::make_unique<Rival>()), writer_(*rival_, intervals) {
    std::vector<std::uint64_t> order(intervals);
    for (std::size_t i = 0; i < intervals; ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), std::mt19937_64(seed));
    for (const std::uint64_t i : order) rival_->insert(i * kPlace, i * kPlace + kLength);
  }

  [[nodiscard]] Rival& rival() { return *rival_; }

  // Readers on processors of their own, from the first on; who is beside them on the last.
  Speeds measure(int readers, Beside beside, std::chrono::milliseconds time) {
    const std::vector<unsigned> cpus = allowed_cpus();
    std::atomic<bool> stop{false};
    std::vector<double> lookups(static_cast<std::size_t>(readers), 0.0);
    double updates = 0;
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < lookups.size(); ++i) {
      threads.emplace_back([&, i] {
        bind(cpus[i % cpus.size()]);
        lookups[i] = read(stop, i + 1);
      });
    }
    if (beside != Beside::nothing) {
      threads.emplace_back([&] {
        bind(cpus.back());
        updates = beside == Beside::writer ? per_second(stop, [this] { return writer_.block(); })
                                           : busy_.run(stop);
      });
    }
    std::this_thread::sleep_for(time);
    stop = true;
    for (std::thread& thread : threads) thread.join();
    Speeds speeds;
    for (const double each : lookups) speeds.lookups += each;
    speeds.updates = updates;
    return speeds;
  }

 private:
  double read(const std::atomic<bool>& stop, std::uint64_t seed) {
    [[maybe_unused]] const typename Rival::Reader reader;
    Random random(seed);
    std::uint64_t found = 0;
    std::uint64_t blocks = 0;
    const double speed = per_second(stop, [&] {
      for (std::uint64_t i = 0; i < 256; ++i) {
        const std::uint64_t at = random.below(intervals_) * kPlace + i;
        found += rival_->find_end(at) > at ? 1U : 0U;
      }
      ++blocks;
      return std::uint64_t{256};
    });
    if (found != blocks * 256) throw std::runtime_error("a lookup did not find what is mapped");
    return speed;
  }

  // A thread that has nothing to do with the readers: it changes a std::map of its own.
  class Busy {
   public:
    double run(const std::atomic<bool>& stop) {
      return per_second(stop, [this] {
        const std::uint64_t place = random_.below(kPlaces);
        if (map_.erase(place) == 0) map_.emplace(place, place);
        return std::uint64_t{1};
      });
    }

   private:
    static constexpr std::uint64_t kPlaces = 100'000;
    std::map<std::uint64_t, std::uint64_t> map_;
    Random random_{7};
  };

  const std::size_t intervals_;
  std::unique_ptr<Rival> rival_;
  Writer<Rival> writer_;
  Busy busy_;
};

Target at_least(double limit) {
  return {Target::Of::ratio, Target::Goal::at_least, limit, /*stretch=*/false};
}
Target below(double limit) {
  return {Target::Of::faultline, Target::Goal::below, limit, /*stretch=*/false};
}

constexpr int kMostReaders = 2;
using ByReaders = std::array<std::vector<double>, kMostReaders>;

// What is known of one rival, a sample a round.
struct Samples {
  std::string name;
  ByReaders lookups{};
  ByReaders lookups_beside_thread{};
  ByReaders lookups_beside_writer{};
  ByReaders updates_beside_readers{};
  std::vector<double> updates{};
};

template <typename Rival>
void run_round(Contest<Rival>& contest, std::chrono::milliseconds time, Samples& samples) {
  constexpr double kMillion = 1e6;
  for (std::size_t i = 0; i < kMostReaders; ++i) {
    const int readers = static_cast<int>(i) + 1;
    const auto measure = [&](Beside beside) { return contest.measure(readers, beside, time); };
    samples.lookups[i].push_back(measure(Beside::nothing).lookups / kMillion);
    samples.lookups_beside_thread[i].push_back(measure(Beside::thread).lookups / kMillion);
    const Speeds both = measure(Beside::writer);
    samples.lookups_beside_writer[i].push_back(both.lookups / kMillion);
    samples.updates_beside_readers[i].push_back(both.updates / kMillion);
  }
  samples.updates.push_back(contest.measure(0, Beside::writer, time).updates / kMillion);
}

Result against(std::string other, std::string name, const std::vector<double>& theirs,
               const std::vector<double>& ours, std::vector<Target> targets) {
  Result result;
  result.name = std::move(name);
  result.unit = "M/s";
  result.against = std::move(other);
  result.kernel = theirs;
  result.faultline = ours;
  result.targets = std::move(targets);
  return result;
}

std::string with_readers(const std::string& what, std::size_t readers) {
  return what + (readers == 1 ? "_1_reader" : fmt::format("_{}_readers", readers));
}

// How much of its speed a rival keeps, as a note to those rows.
std::string kept(const Samples& samples, std::size_t i) {
  const auto share = [](const std::vector<double>& part, const std::vector<double>& whole) {
    return 100 * median(part) / median(whole);
  };
  return fmt::format(
      "{}: readers keep {:.1f} % of {:.2f} M/s, the writer {:.2f} % of {:.3f} M/s", samples.name,
      share(samples.lookups_beside_writer[i], samples.lookups_beside_thread[i]),
      median(samples.lookups_beside_thread[i]),
      share(samples.updates_beside_readers[i], samples.updates), median(samples.updates));
}

// Every change of a large tree by itself, which is what a client waits for.
std::vector<Result> large_tree(int rounds, std::size_t intervals) {
  constexpr std::size_t kChanges = 50'000;
  Contest<FaultlineTree> contest(intervals, /*seed=*/1);
  Random random(5);
  Result insert;
  Result erase;
  for (int round = 0; round < rounds; ++round) {
    std::vector<double> inserts;
    std::vector<double> erases;
    for (std::size_t i = 0; i < kChanges; ++i) {
      const std::uint64_t start = random.below(intervals) * kPlace + kLength;
      const auto begin = Clock::now();
      contest.rival().insert(start, start + kLength);
      const auto between = Clock::now();
      contest.rival().erase(start);
      const auto end = Clock::now();
      inserts.push_back(std::chrono::duration<double, std::micro>(between - begin).count());
      erases.push_back(std::chrono::duration<double, std::micro>(end - between).count());
    }
    insert.faultline.push_back(median(inserts));
    erase.faultline.push_back(median(erases));
  }
  insert.name = "insert_at_a_million";
  erase.name = "erase_at_a_million";
  Result memory;
  memory.name = "memory_of_a_million";
  memory.unit = "B/interval";
  memory.faultline.push_back(contest.rival().bytes_per_interval());
  memory.targets = {below(64)};
  for (Result* const each : {&insert, &erase}) {
    each->unit = "us";
    each->targets = {below(2.5)};
    each->notes.push_back(fmt::format("{} intervals, a transaction each", intervals));
  }
  return {insert, erase, memory};
}

}  // namespace

std::vector<Result> tree(const Options& options) {
  const std::chrono::milliseconds time(options.quick ? 20 : 150);
  const std::size_t intervals = options.quick ? 10'000 : 100'000;
  constexpr std::uint64_t kSeed = 1;
  Contest<FaultlineTree> ours(intervals, kSeed);
  Contest<StdMap> std_map(intervals, kSeed);
  Contest<AbslMap> absl_map(intervals, kSeed);
  Contest<UrcuTree> urcu(intervals, kSeed);
  Samples of_ours{.name = "Faultline"};
  Samples of_std{.name = "std::map"};
  Samples of_absl{.name = "absl::btree_map"};
  Samples of_urcu{.name = "liburcu"};
  for (int round = 0; round < options.rounds; ++round) {
    const auto others = [&] {
      run_round(std_map, time, of_std);
      run_round(absl_map, time, of_absl);
      run_round(urcu, time, of_urcu);
    };
    const auto mine = [&] { run_round(ours, time, of_ours); };
    round % 2 == 0 ? (others(), mine()) : (mine(), others());
  }

  std::vector<Result> results;
  constexpr double kWithinOfUrcu = 1 / 1.2;
  const std::array<std::array<double, 3>, kMostReaders> targets{
      {{4, 1.2, kWithinOfUrcu}, {4, 1.8, kWithinOfUrcu}}};
  const std::array<const Samples*, 3> rivals{&of_std, &of_absl, &of_urcu};
  for (std::size_t i = 0; i < kMostReaders; ++i) {
    for (std::size_t rival = 0; rival < rivals.size(); ++rival) {
      const Samples& other = *rivals[rival];
      results.push_back(against(other.name, with_readers("lookups", i + 1), other.lookups[i],
                                of_ours.lookups[i], {at_least(targets[i][rival])}));
    }
  }
  for (std::size_t i = 0; i < kMostReaders; ++i) {
    results.push_back(against("beside a thread", with_readers("lookups_beside_writer", i + 1),
                              of_ours.lookups_beside_thread[i], of_ours.lookups_beside_writer[i],
                              {at_least(0.8)}));
    // Where every processor has a reader, the scheduler alone takes half of the writer's.
    results.push_back(against("alone", with_readers("updates_beside", i + 1), of_ours.updates,
                              of_ours.updates_beside_readers[i],
                              i == 0 ? std::vector{at_least(0.5)} : std::vector<Target>{}));
    for (const Samples* other : rivals) {
      results[results.size() - 2].notes.push_back(kept(*other, i));
    }
  }
  for (const Samples* other : rivals) {
    results.push_back(
        against(other->name, "updates", other->updates, of_ours.updates,
                other == &of_urcu ? std::vector{at_least(1)} : std::vector<Target>{}));
  }
  Result memory;
  memory.name = "memory_after_churn";
  memory.unit = "B/interval";
  memory.faultline.push_back(ours.rival().bytes_per_interval());
  memory.targets = {below(64)};
  results.push_back(std::move(memory));
  for (Result& result : large_tree(options.rounds, options.quick ? 100'000 : 1'000'000)) {
    results.push_back(std::move(result));
  }
  for (Result& result : results) {
    result.placement = "readers from CPU 0, writer on the last";
  }
  return results;
}

}  // namespace faultline::bench
