// What it costs faults that the daemon counts them, and that somebody reads the counters: single
// pages in random order, every page resident, of a daemon whose metrics are scraped every second,
// against the same daemon without; and, with --other-daemon, of this build against another one.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <thread>
#include <utility>

#include "bench/benchmark.hpp"
#include "bench/client.hpp"
#include "bench/machine.hpp"
#include "bench/process.hpp"

namespace faultline::bench {

namespace {

using namespace std::chrono_literals;

// Long enough for a scrape to be in every one of them.
constexpr double kLongBlock = 1.2;
constexpr double kShortBlock = 0.1;

UniqueFd bound_to_loopback(in_port_t port) {
  UniqueFd fd{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
  const int done = port == 0 ? ::bind(fd.get(), generic, sizeof(address))
                             : ::connect(fd.get(), generic, sizeof(address));
  if (done != 0) throw std::runtime_error("reaching port " + std::to_string(port));
  return fd;
}

in_port_t free_port() {
  const UniqueFd fd = bound_to_loopback(0);
  sockaddr_in address{};
  socklen_t length = sizeof(address);
  ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length);
  return ntohs(address.sin_port);
}

// Reads the counters once a second, at first at once.
class Scraper {
 public:
  explicit Scraper(in_port_t port)
      : thread_([this, port](const std::stop_token& stop) {
          std::unique_lock lock(mutex_);
          do scrape(port);
          while (!stopped_.wait_for(lock, stop, 1s, [&] { return stop.stop_requested(); }));
        }) {}

 private:
  static void scrape(in_port_t port) {
    const UniqueFd fd = bound_to_loopback(port);
    const std::string request =
        "GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
        "Accept: application/openmetrics-text; version=1.0.0\r\n\r\n";
    if (::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) {
      throw std::runtime_error("asking for metrics");
    }
    std::string text;
    std::array<char, 65'536> part{};
    for (ssize_t got = 0; (got = ::recv(fd.get(), part.data(), part.size(), 0)) > 0;) {
      text.append(part.data(), static_cast<std::size_t>(got));
    }
    if (!text.ends_with("# EOF\n")) throw std::runtime_error("there are no metrics");
  }

  std::mutex mutex_;
  std::condition_variable_any stopped_;
  std::jthread thread_;
};

struct Sample {
  double faults_per_second = 0;
  double cpu_us = 0;  // of client and daemon, a fault: what else runs here changes it least
};

class Rival {
 public:
  Rival(const std::string& binary, const std::vector<std::string>& arguments, std::size_t bytes)
      : bytes_(bytes),
        daemon_(binary, arguments),
        client_(daemon_.socket()),
        object_(Object::create(client_, bytes, nullptr)),
        order_(bytes / kPage) {
    populate(client_, object_, bytes);
    std::iota(order_.begin(), order_.end(), 0);
    std::shuffle(order_.begin(), order_.end(), std::mt19937_64{1859});
  }

  [[nodiscard]] pid_t pid() const { return daemon_.pid(); }

  // Over so many seconds of faults.
  [[nodiscard]] Sample measure(double seconds) const {
    double faults = 0;
    double spent = 0;
    double cpu = 0;
    while (spent < seconds) {
      const FaultlineView view(client_, object_, bytes_, FL_MAP_SHARED | FL_MAP_WRITE);
      const Bytes bytes = view.bytes();
      if (fl_advise(client_.get(), const_cast<std::byte*>(bytes.data()), bytes.size(),
                    FL_ADVICE_RANDOM) != 0) {
        throw std::runtime_error(fl_last_error());
      }
      const Usage own = own_usage();
      const Usage daemon = usage_of(pid());
      const auto start = Clock::now();
      for (const std::size_t page : order_) (void)touch(bytes[page * kPage]);
      spent += seconds_since(start);
      cpu += own_usage().since(own).cpu_seconds + usage_of(pid()).since(daemon).cpu_seconds;
      faults += static_cast<double>(order_.size());
    }
    return {faults / spent, cpu / faults * 1e6};
  }

 private:
  std::size_t bytes_;
  Daemon daemon_;
  Client client_;
  Object object_;
  std::vector<std::size_t> order_;
};

std::vector<Result> compare(const std::string& name, const std::string& against, const Rival& ours,
                            const std::function<Sample()>& measure_theirs,
                            const std::function<Sample()>& measure_ours, int rounds) {
  Result speed;
  speed.name = name;
  speed.unit = "faults/s";
  speed.against = against;
  speed.targets.push_back({Target::Of::ratio, Target::Goal::at_least, 0.99, false});
  Result cost = speed;
  cost.name = name + ", CPU";
  cost.unit = "us/fault";
  cost.targets = {{Target::Of::ratio, Target::Goal::at_most, 1.01, false}};
  (void)measure_theirs();
  (void)measure_ours();
  const auto add = [&](std::vector<double> Result::*side, const Sample& sample) {
    (speed.*side).push_back(sample.faults_per_second);
    (cost.*side).push_back(sample.cpu_us);
  };
  alternate(
      rounds, [&] { add(&Result::kernel, measure_theirs()); },
      [&] { add(&Result::faultline, measure_ours()); });
  speed.placement = placement({{"client", ::getpid()}, {"daemon", ours.pid()}});
  cost.placement = speed.placement;
  return {std::move(speed), std::move(cost)};
}

}  // namespace

std::vector<Result> metrics(const Options& options) {
  const std::size_t bytes = options.quick ? 8 * kMiB : 64 * kMiB;
  const double long_block = options.quick ? kShortBlock : kLongBlock;
  const in_port_t port = free_port();
  const Rival quiet(options.daemon, {}, bytes);
  const Rival scraped(options.daemon, {"--metrics-listen", fmt::format("127.0.0.1:{}", port)},
                      bytes);
  std::vector<Result> results;
  const std::vector<unsigned> all = allowed_cpus();
  const std::vector<std::pair<const char*, std::vector<unsigned>>> placements{
      {"unpinned", all}, {"one CPU", {all.back()}}};
  const auto add = [&](std::vector<Result> found) {
    for (Result& result : found) results.push_back(std::move(result));
  };
  for (const auto& [where, cpus] : placements) {
    const auto place_with = [&](const Rival& rival) {
      place(::getpid(), cpus);
      place(rival.pid(), cpus);
    };
    place_with(quiet);
    place_with(scraped);
    add(compare(
        fmt::format("faults while scraped, {}", where), "no metrics", scraped,
        [&] { return quiet.measure(long_block); },
        [&] {
          const Scraper each_second(port);
          return scraped.measure(long_block);
        },
        options.rounds));
    if (options.other_daemon.empty()) continue;
    const Rival other(options.other_daemon, {}, bytes);
    place_with(other);
    add(compare(
        fmt::format("faults, {}", where), "other daemon", quiet,
        [&] { return other.measure(kShortBlock); }, [&] { return quiet.measure(kShortBlock); },
        options.rounds * 4));
  }
  place(::getpid(), all);
  return results;
}

}  // namespace faultline::bench
