// How fast a thread walks memory for the first time: views of one resident object, a fresh one each
// round, by fl_map and by mmap of the same memfd in turn. Mapping and unmapping are not measured.
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <ctime>

#include "bench/benchmark.hpp"
#include "bench/client.hpp"
#include "bench/machine.hpp"
#include "bench/process.hpp"

namespace faultline::bench {

namespace {

struct Walk {
  const char* name;
  std::size_t bytes;
  bool shared;
  void (*touch)(Bytes);
  double target;  // the least ratio
  int warm_up;    // unmeasured rounds: memory never used before is slow to get
};

// What one round took, beside the time on the clock.
struct Cost {
  std::vector<double> client_ms;
  std::vector<double> daemon_ms;
};

class Race {
 public:
  Race(const Walk& walk, const Options& options)
      : walk_(walk),
        daemon_(options.daemon),
        client_(daemon_.socket()),
        object_(Object::create(client_, walk.bytes, nullptr)) {
    populate(client_, object_, walk.bytes);
  }

  std::vector<Result> run(int rounds) {
    const auto both = [this](int count) {
      alternate(
          count, [this] { kernel(); }, [this] { faultline(); });
    };
    both(walk_.warm_up);
    result_ = Result{};
    kernel_cost_ = faultline_cost_ = Cost{};
    both(rounds);
    result_.name = walk_.name;
    result_.unit = "GiB/s";
    result_.placement = placement({{"client", ::getpid()}, {"daemon", daemon_.pid()}});
    result_.targets = {
        Target{Target::Of::ratio, Target::Goal::at_least, walk_.target, /*stretch=*/false}};
    result_.notes.push_back(fmt::format(
        "a round of {} MiB: kernel {:.1f} ms CPU of the client; Faultline {:.1f} ms of the client "
        "+ {:.1f} ms of the daemon, {} faults",
        walk_.bytes / kMiB, median(kernel_cost_.client_ms), median(faultline_cost_.client_ms),
        median(faultline_cost_.daemon_ms), faults_));
    return {result_};
  }

 private:
  void kernel() {
    const PlainView view(object_, walk_.bytes, walk_.shared ? MAP_SHARED : MAP_PRIVATE);
    measure(view.bytes(), result_.kernel, kernel_cost_);
  }

  void faultline() {
    const FaultlineView view(client_, object_, walk_.bytes,
                             (walk_.shared ? FL_MAP_SHARED : FL_MAP_PRIVATE) | FL_MAP_WRITE);
    measure(view.bytes(), result_.faultline, faultline_cost_);
    const fl_stats stats = view.stats();
    faults_ = stats.missing_faults + stats.minor_faults + stats.wp_faults;
  }

  void measure(Bytes bytes, std::vector<double>& rates, Cost& cost) {
    const double client_cpu = own_usage().cpu_seconds;
    const double daemon_cpu = usage_of(daemon_.pid()).cpu_seconds;
    const auto start = Clock::now();
    walk_.touch(bytes);
    const double seconds = seconds_since(start);
    cost.client_ms.push_back((own_usage().cpu_seconds - client_cpu) * 1e3);
    cost.daemon_ms.push_back((usage_of(daemon_.pid()).cpu_seconds - daemon_cpu) * 1e3);
    rates.push_back(static_cast<double>(bytes.size()) / kGiB / seconds);
  }

  Walk walk_;
  Daemon daemon_;
  Client client_;
  Object object_;
  Result result_;
  Cost kernel_cost_;
  Cost faultline_cost_;
  std::uint64_t faults_ = 0;
};

std::vector<Result> race(Walk walk, const Options& options) {
  constexpr std::size_t kQuick = 64 * kMiB;
  if (options.quick) walk.bytes = kQuick;
  return Race(walk, options).run(options.rounds);
}

}  // namespace

std::vector<Result> shared_read(const Options& options) {
  return race({"shared_read", kGiB, true, read_pages, 0.9, 1}, options);
}

std::vector<Result> shared_write(const Options& options) {
  return race({"shared_write", kGiB, true, write_pages, 2.0, 1}, options);
}

std::vector<Result> private_write(const Options& options) {
  return race({"private_write", kGiB / 2, false, write_pages, 0.8, 2}, options);
}

}  // namespace faultline::bench
