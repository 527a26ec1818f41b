// faultline-bench: measures Faultline against the kernel in one run. This file turns a command line
// into the benchmarks to run and prints what they found.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iostream>

#include "bench/benchmark.hpp"
#include "bench/machine.hpp"

namespace {

using faultline::bench::Options;
using faultline::bench::Result;

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;
constexpr int kQuickRounds = 3;

struct Benchmark {
  const char* name;
  const char* help;
  std::vector<Result> (*run)(const Options&);
};

constexpr std::array kBenchmarks{
    Benchmark{"shared_read", "first reads of a resident shared object, in order",
              faultline::bench::shared_read},
    Benchmark{"shared_write", "the same with writes", faultline::bench::shared_write},
    Benchmark{"private_write", "first writes to a private view of a resident object, in order",
              faultline::bench::private_write},
    Benchmark{"fault_latency", "single read faults at random, against a pipe round trip",
              faultline::bench::fault_latency},
    Benchmark{"parallel_faults", "faults of several threads, against one worker and a bare pager",
              faultline::bench::parallel_faults},
    Benchmark{"daemon_memory", "the daemon's own memory for what it manages",
              faultline::bench::daemon_memory},
    Benchmark{"tree", "the interval tree, against locked maps and liburcu", faultline::bench::tree},
    Benchmark{"waits", "waiting and waking, against the kernel's futex", faultline::bench::waits},
    Benchmark{"wait_counts", "what waiting does besides, counted", faultline::bench::wait_counts},
    Benchmark{"mutex", "faultline::mutex, against glibc's process-shared mutexes",
              faultline::bench::mutexes},
    Benchmark{"pins", "pinning resident pages, against mlock2 and io_uring's buffers",
              faultline::bench::pins},
    Benchmark{"pinned_io", "O_DIRECT reads into random pages, pinned for each, against none",
              faultline::bench::pinned_io},
    Benchmark{"metrics", "faults of a daemon whose metrics are scraped, against one without",
              faultline::bench::metrics},
};

std::string footer() {
  std::string text = "BENCHMARKS\n";
  for (const Benchmark& benchmark : kBenchmarks) {
    text += fmt::format("  {:<15}  {}\n", benchmark.name, benchmark.help);
  }
  return text +
         "\nEXIT STATUS\n"
         "  0 measured, whether or not the targets are met; 1 could not measure; 2 wrong usage.\n\n"
         "SEE ALSO\n  faultlined --help";
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "faultline-bench - measure Faultline against the kernel\n\n"
      "Starts a daemon of its own and runs the kernel and Faultline by turns, so that both meet "
      "the "
      "same\nmachine. Prints a table; needs about 3 GiB of memory.",
      "faultline-bench"};
  app.footer(footer());
  app.set_version_flag("--version", FAULTLINE_VERSION);
  Options options;
  options.daemon = FAULTLINED_BINARY;
  std::string json_file;
  std::vector<std::string> only;
  app.add_option("--json", json_file, "write the results here too, with every sample")
      ->type_name("FILE");
  std::vector<std::string> names;
  for (const Benchmark& benchmark : kBenchmarks) names.emplace_back(benchmark.name);
  app.add_option("--only", only, "run this benchmark; may be given again")
      ->check(CLI::IsMember(names))
      ->type_name("NAME");
  CLI::Option* rounds =
      app.add_option("--rounds", options.rounds, "pairs of measurements (15; with --quick 3)")
          ->check(CLI::Range(1, 10'000))
          ->type_name("N");
  app.add_flag("--quick", options.quick, "small objects: shows that it runs, measures little");
  app.add_option("--daemon", options.daemon, "the faultlined to start, instead of the built one")
      ->check(CLI::ExistingFile)
      ->type_name("PATH");
  app.add_option("--other-daemon", options.other_daemon,
                 "a faultlined of another build, for metrics to compare faults with")
      ->check(CLI::ExistingFile)
      ->type_name("PATH");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? EXIT_SUCCESS : kExitUsage;
  }
  if (options.quick && rounds->empty()) options.rounds = kQuickRounds;

  try {
    const nlohmann::json machine = faultline::bench::machine();
    const std::string date = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
    std::cout << faultline::bench::describe(machine) << '\n' << std::flush;
    std::vector<Result> results;
    for (const Benchmark& benchmark : kBenchmarks) {
      if (!only.empty() && std::find(only.begin(), only.end(), benchmark.name) == only.end()) {
        continue;
      }
      std::cerr << benchmark.name << " ..." << std::endl;
      for (Result& result : benchmark.run(options)) results.push_back(std::move(result));
    }
    std::cout << faultline::bench::table(results) << std::flush;
    if (options.quick) std::cout << "--quick: these figures are not to be relied on\n";
    if (json_file.empty()) return EXIT_SUCCESS;
    const nlohmann::json report{{"schema", "faultline-bench/1"},
                                {"version", FAULTLINE_VERSION},
                                {"date", date},
                                {"command", std::vector<std::string>(argv, argv + argc)},
                                {"quick", options.quick},
                                {"rounds", options.rounds},
                                {"daemon", options.daemon},
                                {"machine", machine},
                                {"results", faultline::bench::to_json(results)}};
    std::ofstream out(json_file);
    out << report.dump(2) << '\n';
    if (!out.flush()) throw std::runtime_error("writing " + json_file);
    return EXIT_SUCCESS;
  } catch (const std::exception& error) {
    std::cerr << "faultline-bench: " << error.what() << '\n';
    return kExitFailure;
  }
}
