// Where the figures come from: the machine, and which CPUs a process may run on.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace faultline::bench {

nlohmann::json machine();
std::string describe(const nlohmann::json& machine);

// A line of /proc/PID/status, without its name; empty when there is none.
std::string status_of(pid_t pid, const std::string& field);
// The same where it is a number of KiB, in bytes.
double status_bytes(pid_t pid, const std::string& field);

// What a process has used by now.
struct Usage {
  double cpu_seconds = 0;
  double switches = 0;  // of context; of threads that live
  [[nodiscard]] Usage since(const Usage& before) const {
    return {cpu_seconds - before.cpu_seconds, switches - before.switches};
  }
};
Usage usage_of(pid_t pid);
// Of this process, with the switches of threads that have ended.
Usage own_usage();

// The CPUs that this thread may run on.
std::vector<unsigned> allowed_cpus();
// The CPU on which the busiest thread of the process last ran.
unsigned last_cpu(pid_t pid);
// Moves every thread of the process there.
void place(pid_t pid, const std::vector<unsigned>& cpus);
// Has the calling thread run on this CPU alone.
void bind(unsigned cpu);
// "client 0-1, daemon 0-1", as it is now.
std::string placement(const std::vector<std::pair<std::string, pid_t>>& who);

}  // namespace faultline::bench
