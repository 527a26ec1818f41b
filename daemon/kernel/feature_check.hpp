// Says, feature by feature, whether this kernel and machine can run the daemon, by trying each one
// for real. Must never report from a version number what it can try, and must leave nothing behind.
#pragma once

#include <string>
#include <vector>

namespace faultline::kernel {

enum class Verdict {
  ok,
  degraded,  // it runs, with the loss that detail names
  missing,   // it cannot run
};

struct Finding {
  std::string feature;
  Verdict verdict = Verdict::ok;
  std::string detail;
  std::string remedy;  // what to do about it; empty where there is nothing to do
};

// What the daemon has to know of the machine that it runs on.
struct KernelSupport {
  // The kernel tells this daemon of its clients' forks (CAP_SYS_PTRACE).
  bool fork_events = false;
};

// Takes some milliseconds. Thread-safe.
std::vector<Finding> check_features();
KernelSupport probe_support();

// One line a feature, the remedy under it where there is one.
std::string render(const std::vector<Finding>& findings);
// Nothing is missing.
bool runnable(const std::vector<Finding>& findings);

}  // namespace faultline::kernel
