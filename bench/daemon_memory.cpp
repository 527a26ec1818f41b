// What the daemon needs for itself: its own memory and page tables after several processes have
// faulted in every page of an object, less what it had before, by the object's size.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "bench/benchmark.hpp"
#include "bench/client.hpp"
#include "bench/machine.hpp"
#include "bench/process.hpp"

namespace faultline::bench {

namespace {

constexpr std::size_t kProcesses = 4;
constexpr const char* kName = "bench-memory";

struct Memory {
  double own = 0;  // resident, without the objects' pages
  double page_tables = 0;
};

Memory memory_of(pid_t pid) {
  return {status_bytes(pid, "VmRSS") - status_bytes(pid, "RssShmem"), status_bytes(pid, "VmPTE")};
}

struct Round {
  Memory grown;          // the daemon's, bytes
  double clients_pte{};  // bytes, all clients together
};

// One client: opens the object when told to, touches all of it, and says so. Then it waits.
class Toucher {
 public:
  Toucher(const std::string& socket, std::size_t bytes, std::size_t index)
      : child_([&] {
          go_.close_write();
          done_.close_read();
          if (!go_.get()) return;
          const Client client(socket);
          const Object object =
              index == 0 ? Object::create(client, bytes, kName) : Object::open(client, kName);
          const FaultlineView view(client, object, bytes, FL_MAP_SHARED | FL_MAP_WRITE);
          (index % 2 == 0 ? write_pages : read_pages)(view.bytes());
          done_.put();
          (void)go_.get();
        }) {
    go_.close_read();
    done_.close_write();
  }

  void touch() const {
    go_.put();
    if (!done_.get()) throw std::runtime_error("a client of the daemon failed");
  }
  [[nodiscard]] pid_t pid() const { return child_.pid(); }

 private:
  Pipe go_;
  Pipe done_;
  Child child_;
};

Round measure(const Options& options, std::size_t bytes, std::string& cpus) {
  const Daemon daemon(options.daemon);
  const Memory before = memory_of(daemon.pid());
  std::vector<std::unique_ptr<Toucher>> clients;
  for (std::size_t i = 0; i < kProcesses; ++i) {
    clients.push_back(std::make_unique<Toucher>(daemon.socket(), bytes, i));
  }
  Round round;
  for (const auto& client : clients) client->touch();
  for (const auto& client : clients) round.clients_pte += status_bytes(client->pid(), "VmPTE");
  const Memory after = memory_of(daemon.pid());
  round.grown = {after.own - before.own, after.page_tables - before.page_tables};
  cpus = placement({{"clients", clients.front()->pid()}, {"daemon", daemon.pid()}});
  return round;
}

}  // namespace

std::vector<Result> daemon_memory(const Options& options) {
  constexpr int kMostRounds = 3;  // it is counted, not timed
  const std::size_t bytes = options.quick ? 256 * kMiB : 2 * kGiB;
  const double per_gib = static_cast<double>(kGiB) / static_cast<double>(bytes) / kMiB;
  Result result;
  std::vector<double> own;
  std::vector<double> page_tables;
  std::vector<double> clients_pte;
  for (int i = 0; i < std::min(options.rounds, kMostRounds); ++i) {
    const Round round = measure(options, bytes, result.placement);
    own.push_back(round.grown.own * per_gib);
    page_tables.push_back(round.grown.page_tables * per_gib);
    clients_pte.push_back(round.clients_pte * per_gib);
    result.faultline.push_back(own.back() + page_tables.back());
  }
  result.name = "daemon_memory";
  result.unit = "MiB/GiB";
  result.targets = {Target{Target::Of::faultline, Target::Goal::below, 4, /*stretch=*/false}};
  result.notes.push_back(fmt::format(
      "growth over an object of {} MiB in {} processes: VmRSS - RssShmem {:.3f}, VmPTE {:.3f} "
      "MiB/GiB",
      bytes / kMiB, kProcesses, median(own), median(page_tables)));
  result.notes.push_back(fmt::format(
      "page tables of the clients, as for any mapping: {:.2f} MiB/GiB for all {} together",
      median(clients_pte), kProcesses));
  return {result};
}

}  // namespace faultline::bench
