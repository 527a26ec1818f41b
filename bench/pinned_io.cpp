// What pinning costs a program that reads from a disk: threads with an io_uring each, which read
// pages of a file with O_DIRECT into random pages of a region, without a pin, with a pin for each
// read, and with mlock2(2) for each.
#include <fcntl.h>
#include <fmt/format.h>
#include <liburing.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <barrier>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "bench/benchmark.hpp"
#include "bench/client.hpp"
#include "bench/machine.hpp"
#include "bench/process.hpp"
#include "faultline/pin.h"
#include "faultline/wire/unique_fd.hpp"

namespace faultline::bench {

namespace {

constexpr std::size_t kRegion = 256 * kMiB;
constexpr std::size_t kFile = 256 * kMiB;
constexpr unsigned kThreads = 4;
constexpr unsigned kDepth = 8;

[[noreturn]] void give_up(int error, const char* what) {
  throw std::system_error(error, std::generic_category(), what);
}

// A file of no name, on a disk, that is read past the page cache.
UniqueFd make_file() {
  const char* const directory =
      std::getenv("TMPDIR") != nullptr ? std::getenv("TMPDIR") : "/var/tmp";
  UniqueFd fd{::open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)};
  if (!fd) give_up(errno, "making a file for reads with O_DIRECT (TMPDIR says where)");
  const std::vector<char> some(kMiB, 'x');
  for (std::size_t at = 0; at < kFile; at += some.size()) {
    if (::pwrite(fd.get(), some.data(), some.size(), static_cast<off_t>(at)) !=
        static_cast<ssize_t>(some.size())) {
      give_up(errno, "filling a file");
    }
  }
  if (::fsync(fd.get()) != 0) give_up(errno, "fsync");
  const std::string path = fmt::format("/proc/self/fd/{}", fd.get());
  UniqueFd direct{::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC)};
  if (!direct) give_up(errno, "opening a file with O_DIRECT");
  return direct;
}

enum class Way { none, pin, lock };

// One thread's reads.
class Reader {
 public:
  Reader(int file, Bytes region, Way way, unsigned seed)
      : file_(file), region_(region), way_(way), random_(seed) {
    if (const int made = io_uring_queue_init(kDepth, &ring_, 0); made < 0) {
      give_up(-made, "io_uring_queue_init");
    }
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { io_uring_queue_exit(&ring_); }

  void run(unsigned reads) {
    unsigned begun = 0;
    for (unsigned slot = 0; slot < kDepth && begun < reads; ++slot, ++begun) begin(slot);
    for (unsigned done = 0; done < reads; ++done) {
      io_uring_submit_and_wait(&ring_, 1);
      io_uring_cqe* completion = nullptr;
      if (const int waited = io_uring_wait_cqe(&ring_, &completion); waited < 0) {
        give_up(-waited, "io_uring_wait_cqe");
      }
      if (completion->res != static_cast<int>(kPage)) give_up(-completion->res, "reading");
      const auto slot = static_cast<unsigned>(completion->user_data);
      io_uring_cqe_seen(&ring_, completion);
      end(slot);
      if (begun < reads) {
        begin(slot);
        ++begun;
      }
    }
  }

 private:
  struct Read {
    std::byte* page = nullptr;
    fl_pinned pin{};
  };
  void begin(unsigned slot) {
    Read& read = reads_.at(slot);
    read.page = const_cast<std::byte*>(region_.data()) + random_() % (kRegion / kPage) * kPage;
    if (way_ == Way::pin && fl_pin(read.page, kPage, FL_PIN_WRITE, &read.pin) != 0) {
      throw std::runtime_error(fl_last_error());
    }
    if (way_ == Way::lock && ::mlock2(read.page, kPage, 0) != 0) give_up(errno, "mlock2");
    io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
    io_uring_prep_read(entry, file_, read.page, kPage, random_() % (kFile / kPage) * kPage);
    entry->user_data = slot;
  }
  void end(unsigned slot) {
    Read& read = reads_.at(slot);
    if (way_ == Way::pin && fl_unpin(&read.pin) != 0) throw std::runtime_error(fl_last_error());
    if (way_ == Way::lock && ::munlock(read.page, kPage) != 0) give_up(errno, "munlock");
  }

  int file_;
  Bytes region_;
  Way way_;
  std::minstd_rand random_;
  io_uring ring_{};
  std::array<Read, kDepth> reads_;
};

// Thousands of reads a second.
double rate(int file, Bytes region, Way way, unsigned reads, unsigned seed) {
  std::barrier start(kThreads + 1);
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Reader reader(file, region, way, seed * kThreads + t + 1);
      start.arrive_and_wait();
      reader.run(reads);
    });
  }
  start.arrive_and_wait();
  const auto begun = Clock::now();
  for (std::thread& thread : threads) thread.join();
  return kThreads * reads / seconds_since(begun) / 1e3;
}

}  // namespace

std::vector<Result> pinned_io(const Options& options) {
  const UniqueFd file = make_file();
  const Daemon daemon(options.daemon);
  const Client client(daemon.socket());
  const Object object = Object::create(client, kRegion, nullptr);
  populate(client, object, kRegion);
  const FaultlineView view(client, object, kRegion, FL_MAP_SHARED | FL_MAP_WRITE);
  write_pages(view.bytes());

  const unsigned reads = options.quick ? 500 : 10'000;
  const auto run = [&](Way way, unsigned seed) {
    return rate(file.get(), view.bytes(), way, reads, seed);
  };
  (void)run(Way::pin, 0);
  fl_pin_stats warm{};
  if (fl_pin_statistics(client.get(), &warm) != 0) throw std::runtime_error(fl_last_error());

  std::vector<Result> results(2);
  for (Result& result : results) {
    result.name = "O_DIRECT reads, a pin each";
    result.unit = "thousand a second";
    result.placement = placement({{"client", ::getpid()}});
  }
  results[0].against = "no pin";
  results[0].targets = {{Target::Of::ratio, Target::Goal::at_least, 0.97, false}};
  results[1].against = "mlock2 each";
  unsigned seed = 0;
  for (int round = 0; round < options.rounds; ++round) {
    // Each way is first, second and third as often as the others; the same reads in each.
    ++seed;
    std::array<double, 3> rates{};
    for (int i = 0; i < 3; ++i) {
      const auto way = static_cast<std::size_t>((round + i) % 3);
      rates.at(way) = run(static_cast<Way>(way), seed);
    }
    results[0].kernel.push_back(rates[0]);
    results[0].faultline.push_back(rates[1]);
    results[1].kernel.push_back(rates[2]);
    results[1].faultline.push_back(rates[1]);
  }
  fl_pin_stats stats{};
  if (fl_pin_statistics(client.get(), &stats) != 0) throw std::runtime_error(fl_last_error());

  Result fallbacks;
  fallbacks.name = "pins that asked the daemon, after the first run";
  fallbacks.unit = "of 100";
  fallbacks.placement = results[0].placement;
  const auto slow = static_cast<double>(stats.slow - warm.slow);
  const auto all = slow + static_cast<double>(stats.fast - warm.fast);
  fallbacks.faultline.push_back(100 * slow / all);
  fallbacks.targets = {{Target::Of::faultline, Target::Goal::below, 0.1, false}};
  fallbacks.notes.push_back(fmt::format("{} of {} pins", stats.slow - warm.slow,
                                        stats.fast + stats.slow - warm.fast - warm.slow));
  results.push_back(std::move(fallbacks));
  return results;
}

}  // namespace faultline::bench
