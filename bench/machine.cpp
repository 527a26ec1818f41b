// Reads /proc and /sys; moves threads.
#include "bench/machine.hpp"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <system_error>

#include "bench/benchmark.hpp"

namespace faultline::bench {

namespace fs = std::filesystem;

namespace {

std::string trimmed(std::string text) {
  const char* blank = " \t\n";
  text.erase(text.find_last_not_of(blank) + 1);
  text.erase(0, text.find_first_not_of(blank));
  return text;
}

// What follows "name:" in a file of such lines.
std::string field_of(const fs::path& file, const std::string& name) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const auto colon = line.find(':');
    if (colon != std::string::npos && trimmed(line.substr(0, colon)) == name) {
      return trimmed(line.substr(colon + 1));
    }
  }
  return {};
}

std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

// "always within_size advise [never]" says never.
std::string chosen(const std::string& line) {
  const auto from = line.find('[');
  const auto to = line.find(']');
  return from < to && to != std::string::npos ? line.substr(from + 1, to - from - 1) : line;
}

template <typename Do>
void for_each_thread(pid_t pid, Do action) {
  for (const auto& task : fs::directory_iterator(fmt::format("/proc/{}/task", pid))) {
    action(static_cast<pid_t>(std::stol(task.path().filename().string())));
  }
}

double seconds_on(clockid_t clock) {
  timespec time{};
  if (::clock_gettime(clock, &time) != 0) {
    throw std::system_error(errno, std::generic_category(), "clock_gettime");
  }
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

double kib(const std::string& text) {
  return static_cast<double>(std::strtoull(text.c_str(), nullptr, 10)) * 1024;
}

}  // namespace

nlohmann::json machine() {
  utsname name{};
  (void)::uname(&name);
  return {
      {"kernel", static_cast<const char*>(name.release)},
      {"cpu", field_of("/proc/cpuinfo", "model name")},
      {"cores", ::sysconf(_SC_NPROCESSORS_ONLN)},
      {"memory_bytes", kib(field_of("/proc/meminfo", "MemTotal"))},
      {"shmem_huge_pages", chosen(first_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled"))},
      {"clocksource",
       first_line("/sys/devices/system/clocksource/clocksource0/current_clocksource")},
      {"load_at_start", first_line("/proc/loadavg")},
      {"build_type", FAULTLINE_BUILD_TYPE}};
}

std::string describe(const nlohmann::json& machine) {
  return fmt::format(
      "Linux {}, {}, {} cores, {:.1f} GiB, shmem huge pages {}, clock {}, load {}, {} build",
      machine.at("kernel").get<std::string>(), machine.at("cpu").get<std::string>(),
      machine.at("cores").get<long>(), machine.at("memory_bytes").get<double>() / kGiB,
      machine.at("shmem_huge_pages").get<std::string>(),
      machine.at("clocksource").get<std::string>(), machine.at("load_at_start").get<std::string>(),
      machine.at("build_type").get<std::string>());
}

std::string status_of(pid_t pid, const std::string& field) {
  return field_of(fmt::format("/proc/{}/status", pid), field);
}

double status_bytes(pid_t pid, const std::string& field) {
  return kib(status_of(pid, field));
}

Usage usage_of(pid_t pid) {
  clockid_t clock{};
  if (const int error = ::clock_getcpuclockid(pid, &clock); error != 0) {
    throw std::system_error(error, std::generic_category(), "clock_getcpuclockid");
  }
  Usage usage{.cpu_seconds = seconds_on(clock)};
  for_each_thread(pid, [&](pid_t thread) {
    const auto number = [&](const char* field) {
      return std::strtod(status_of(thread, field).c_str(), nullptr);
    };
    usage.switches += number("voluntary_ctxt_switches") + number("nonvoluntary_ctxt_switches");
  });
  return usage;
}

Usage own_usage() {
  rusage used{};
  (void)::getrusage(RUSAGE_SELF, &used);
  return {seconds_on(CLOCK_PROCESS_CPUTIME_ID),
          static_cast<double>(used.ru_nvcsw + used.ru_nivcsw)};
}

std::vector<unsigned> allowed_cpus() {
  cpu_set_t set{};
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) {
    throw std::system_error(errno, std::generic_category(), "sched_getaffinity");
  }
  std::vector<unsigned> cpus;
  for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

unsigned last_cpu(pid_t pid) {
  std::uint64_t most = 0;
  unsigned cpu = 0;
  for_each_thread(pid, [&](pid_t thread) {
    // The fields after the name, which ends with the last bracket, see proc_pid_stat(5).
    const std::string line = first_line(fmt::format("/proc/{}/task/{}/stat", pid, thread));
    std::istringstream rest(line.substr(line.rfind(')') + 1));
    const std::vector<std::string> fields{std::istream_iterator<std::string>(rest), {}};
    constexpr std::size_t kUserTime = 11;
    constexpr std::size_t kSystemTime = 12;
    constexpr std::size_t kCpu = 36;
    if (fields.size() <= kCpu) return;
    const std::uint64_t used = std::stoull(fields[kUserTime]) + std::stoull(fields[kSystemTime]);
    if (used < most) return;
    most = used;
    cpu = static_cast<unsigned>(std::stoul(fields[kCpu]));
  });
  return cpu;
}

void place(pid_t pid, const std::vector<unsigned>& cpus) {
  cpu_set_t set{};
  for (const unsigned cpu : cpus) CPU_SET(cpu, &set);
  for_each_thread(pid, [&](pid_t thread) {
    if (::sched_setaffinity(thread, sizeof(set), &set) != 0 && errno != ESRCH) {
      throw std::system_error(errno, std::generic_category(), "sched_setaffinity");
    }
  });
}

void bind(unsigned cpu) {
  cpu_set_t set{};
  CPU_SET(cpu, &set);
  if (::sched_setaffinity(0, sizeof(set), &set) != 0) {
    throw std::system_error(errno, std::generic_category(), "sched_setaffinity");
  }
}

std::string placement(const std::vector<std::pair<std::string, pid_t>>& who) {
  std::string text;
  for (const auto& [name, pid] : who) {
    std::set<std::string> lists;
    for_each_thread(pid,
                    [&](pid_t thread) { lists.insert(status_of(thread, "Cpus_allowed_list")); });
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, fmt::join(lists, "|"));
  }
  return text;
}

}  // namespace faultline::bench
