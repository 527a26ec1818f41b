#include "tools/faultctl/daemon_probe.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

#include "tools/faultctl/failure.hpp"
#include "tools/faultctl/query.hpp"
#include "tools/faultctl/table.hpp"

namespace faultline::ctl {

namespace {

using nlohmann::json;

constexpr const char* kStart =
    "start one: `systemctl start faultlined`, or `faultlined` as root, or as this user for his own "
    "processes; another socket: --socket or FAULTLINE_SOCKET";
// Of a limit.
constexpr double kNearly = 0.9;

std::string first_line_of(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  (void)std::getline(in, line);
  return line;
}

std::uint64_t number(const json& from, const char* field) {
  return from.at(field).get<std::uint64_t>();
}

// Which of the sockets there are, and what may be done with them.
Finding socket_files(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) continue;
    const std::string detail = fmt::format("{}, mode {:04o}, uid {}, gid {}", path,
                                           info.st_mode & 07777U, info.st_uid, info.st_gid);
    if (!S_ISSOCK(info.st_mode)) {
      return {"socket", Verdict::problem, path + " is no socket",
              "remove it, and start faultlined again"};
    }
    if (::access(path.c_str(), R_OK | W_OK) != 0) {
      return {"socket", Verdict::problem, detail + ": this user may not connect to it",
              "set faultlined's socket_mode or socket_group, or add this user to that group"};
    }
    return {"socket", Verdict::ok, detail, ""};
  }
  return {"socket", Verdict::problem, "there is none at " + paths.back(), kStart};
}

Finding unreachable(const Failure& failure) {
  if (failure.code() == EPROTO) {
    return {"daemon", Verdict::problem, failure.what(),
            "faultctl and faultlined are of different versions: install the same of both, and "
            "restart the daemon"};
  }
  if (failure.code() == ETIMEDOUT) {
    return {"daemon", Verdict::problem, failure.what(),
            "it hangs, or is stopped: look at its log, and restart it"};
  }
  if (failure.code() == EACCES) {
    return {"daemon", Verdict::problem, failure.what(),
            "set faultlined's socket_mode or socket_group, or add this user to that group"};
  }
  return {"daemon", Verdict::problem, failure.what(), kStart};
}

Finding daemon_itself(const json& status) {
  const std::string detail =
      fmt::format("faultlined {}, pid {}, up {} s", status.at("version").get<std::string>(),
                  number(status, "pid"), number(status, "uptime_seconds"));
  return {"daemon", Verdict::ok, detail, ""};
}

Finding mode_of(const json& status) {
  const bool user_mode_only = status.at("user_mode_only").get<bool>();
  const bool forks = status.at("fork_events").get<bool>();
  if (!user_mode_only && forks) return {"served", Verdict::ok, "all faults, fork children too", ""};
  std::string lacks;
  std::string fix;
  if (user_mode_only) {
    lacks = "system calls fail with EFAULT on absent pages";
    fix = "give the daemon's user access to /dev/userfaultfd (`setfacl -m u:USER:rw`)";
  }
  if (!forks) {
    lacks += std::string(lacks.empty() ? "" : "; ") + "fork children are not served";
    fix +=
        std::string(fix.empty() ? "" : "; ") + "give the daemon CAP_SYS_PTRACE, or run it as root";
  }
  return {"served", Verdict::warning, "degraded: " + lacks, fix};
}

// What the loader finds of the library.
struct FoundLibrary {
  std::string words = "no libfaultline.so here";
  std::optional<std::string> version;
  bool broken = false;  // it is there, and cannot be loaded
};

FoundLibrary find_library() {
  FoundLibrary found;
  void* const loaded = ::dlopen(FAULTLINE_LIBRARY, RTLD_LAZY | RTLD_LOCAL);
  if (loaded == nullptr) {
    // It has no number for that: the words are the loader's own.
    const std::string_view absent = FAULTLINE_LIBRARY ": cannot open shared object file: No such";
    const std::string why = ::dlerror();
    if (why.rfind(absent, 0) == 0) return found;
    found.words = "a libfaultline that cannot be loaded: " + why;
    found.broken = true;
    return found;
  }
  using Version = const char* (*)();
  if (const auto version = reinterpret_cast<Version>(::dlsym(loaded, "fl_version"))) {
    found.version = version();
    found.words = "libfaultline " + *found.version;
  }
  // It stays: a library that hooks forks is never closed.
  return found;
}

Finding versions(const json& status) {
  const auto daemon = status.at("version").get<std::string>();
  const FoundLibrary library = find_library();
  const std::string detail =
      fmt::format("faultctl {}, faultlined {}, {}", FAULTLINE_VERSION, daemon, library.words);
  const bool same = daemon == FAULTLINE_VERSION && !library.broken &&
                    (!library.version || *library.version == FAULTLINE_VERSION);
  if (same) return {"versions", Verdict::ok, detail, ""};
  return {"versions", Verdict::warning, detail,
          "install the same version of all three, and restart the daemon"};
}

Finding room(const std::string& subject, std::uint64_t used, std::uint64_t limit,
             const std::string& setting, std::string (*words)(std::uint64_t)) {
  const std::string detail = fmt::format("{} of {}", words(used), words(limit));
  if (limit == 0 || static_cast<double>(used) < kNearly * static_cast<double>(limit)) {
    return {subject, Verdict::ok, detail, ""};
  }
  return {subject, used >= limit ? Verdict::problem : Verdict::warning,
          detail + (used >= limit ? ": no more are had" : ": nearly all"),
          "raise " + setting + ", or find who holds them: faultctl objects, spaces, pins"};
}

std::string as_number(std::uint64_t value) {
  return std::to_string(value);
}

Finding reclamation(const json& status) {
  constexpr std::uint64_t kLongMs = 5000;
  const json& reader = status.at("reclamation");
  const std::uint64_t held = number(reader, "oldest_reader_ms");
  if (held < kLongMs) return {"reclamation", Verdict::ok, "no reader holds it up", ""};
  return {"reclamation", Verdict::warning,
          fmt::format("thread {} has held it up for {} ms", number(reader, "oldest_reader_thread"),
                      held),
          "look at what that thread of the daemon waits for: cat /proc/PID/task/TID/stack"};
}

Finding swap(const json& status) {
  const std::uint64_t limit = number(status, "swap_bytes");
  const std::uint64_t used = number(status, "swapped_bytes");
  if (limit == 0) {
    return {"swap file", Verdict::ok, "none: only unchanged pages of files can leave memory", ""};
  }
  const std::string detail =
      fmt::format("{} of {} in use", readable_bytes(used), readable_bytes(limit));
  if (static_cast<double>(used) < kNearly * static_cast<double>(limit)) {
    return {"swap file", Verdict::ok, detail, ""};
  }
  return {"swap file", Verdict::warning, detail + ": evictions will leave pages in memory",
          "give faultlined a larger swap_bytes"};
}

Finding cgroup(std::uint64_t pid) {
  const char* const subject = "memory cgroup of the daemon";
  const std::string line = first_line_of(fmt::format("/proc/{}/cgroup", pid));
  constexpr std::string_view kUnified = "0::";
  if (!line.starts_with(kUnified)) {
    return {subject, Verdict::ok, "not to be seen from here", ""};
  }
  const std::string directory = "/sys/fs/cgroup" + line.substr(kUnified.size());
  const std::string most = first_line_of(directory + "/memory.max");
  if (most.empty() || most == "max") return {subject, Verdict::ok, "no limit", ""};
  const std::uint64_t limit = std::strtoull(most.c_str(), nullptr, 10);
  const std::uint64_t used =
      std::strtoull(first_line_of(directory + "/memory.current").c_str(), nullptr, 10);
  const std::string detail =
      fmt::format("{} of {} in use", readable_bytes(used), readable_bytes(limit));
  if (static_cast<double>(used) < kNearly * static_cast<double>(limit)) {
    return {subject, Verdict::ok, detail, ""};
  }
  return {subject, Verdict::warning,
          detail + ": pages that the daemon supplies count here, and it may be killed",
          "raise the unit's MemoryMax=, evict (faultctl evict), or give faultlined a swap file"};
}

// Of the daemon, where this user may look.
std::optional<Finding> descriptors_of(std::uint64_t pid) {
  std::ifstream in(fmt::format("/proc/{}/limits", pid));
  constexpr std::uint64_t kFew = 4096;
  constexpr std::string_view kName = "Max open files";
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(kName)) continue;
    const std::uint64_t soft = std::strtoull(line.c_str() + kName.size(), nullptr, 10);
    const std::string detail = std::to_string(soft);
    if (soft >= kFew) return Finding{"RLIMIT_NOFILE of the daemon", Verdict::ok, detail, ""};
    return Finding{"RLIMIT_NOFILE of the daemon", Verdict::warning,
                   detail + ": few objects and clients at once",
                   "systemd's LimitNOFILE=65536, or `ulimit -n 65536` before faultlined"};
  }
  return std::nullopt;
}

}  // namespace

Findings findings_in(const json& status) {
  const json& limits = status.at("limits");
  const json& yours = status.at("yours");
  Findings findings{daemon_itself(status),
                    mode_of(status),
                    versions(status),
                    reclamation(status),
                    swap(status),
                    room("objects", number(status, "objects"), number(limits, "objects"),
                         "max_objects", as_number),
                    room("sessions", number(status, "sessions"), number(limits, "sessions"),
                         "max_sessions", as_number),
                    room("sessions of this user", number(yours, "sessions"),
                         number(limits, "sessions_per_user"), "max_sessions_per_user", as_number),
                    room("address spaces of this user", number(yours, "spaces"),
                         number(limits, "spaces_per_user"), "max_spaces_per_user", as_number),
                    room("pinned memory", number(status, "pinned_bytes"),
                         number(limits, "pinned_bytes"), "max_pinned", readable_bytes)};
  return findings;
}

DaemonProbe probe_daemon(const std::vector<std::string>& socket_paths) {
  DaemonProbe probe;
  wire::AdminRequest question;
  question.query = wire::AdminQuery::status;
  try {
    const json answer = ask(socket_paths, question);
    probe.reached = true;
    probe.findings.push_back(socket_files({answer.at("status").at("socket").get<std::string>()}));
    const json& status = answer.at("status");
    for (Finding& finding : findings_in(status)) probe.findings.push_back(std::move(finding));
    const std::uint64_t pid = number(status, "pid");
    probe.findings.push_back(cgroup(pid));
    if (auto found = descriptors_of(pid)) probe.findings.push_back(std::move(*found));
  } catch (const Failure& failure) {
    probe.findings.push_back(socket_files(socket_paths));
    probe.findings.push_back(unreachable(failure));
  } catch (const json::exception&) {
    probe.findings.push_back(
        {"daemon", Verdict::problem, "its status lacks what this faultctl asks for",
         "install the same version of faultctl and faultlined, and restart the daemon"});
  }
  return probe;
}

}  // namespace faultline::ctl
