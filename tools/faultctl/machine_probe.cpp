#include "tools/faultctl/machine_probe.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include "faultline/wire/unique_fd.hpp"
#include "tools/faultctl/table.hpp"

namespace faultline::ctl {

namespace {

// What the daemon asks for, daemon/kernel/feature_check.cpp.
constexpr int kLeastMajor = 6;
constexpr int kLeastMinor = 10;
constexpr rlim_t kFewDescriptors = 4096;
constexpr long kFewMaps = 65'530;
constexpr rlim_t kLittleLocked = rlim_t{8} << 20;

// Newer than the headers of Debian 12.
constexpr unsigned long kNewUserfaultfd = _IO(0xAA, 0x00);
constexpr std::uint64_t kFeaturePoison = std::uint64_t{1} << 14;

std::string errno_words(int code) {
  return std::strerror(code);  // NOLINT(concurrency-mt-unsafe): there is one thread
}

std::optional<long> read_number(const char* path) {
  std::ifstream in(path);
  long value = 0;
  if (in >> value) return value;
  return std::nullopt;
}

Finding kernel_version() {
  utsname name{};
  (void)::uname(&name);
  const std::string release = static_cast<const char*>(name.release);
  int major = 0;
  int minor = 0;
  const bool read = std::sscanf(release.c_str(), "%d.%d", &major, &minor) == 2;
  if (read && std::pair(major, minor) >= std::pair(kLeastMajor, kLeastMinor)) {
    return {"kernel version", Verdict::ok, release, ""};
  }
  return {"kernel version", Verdict::problem,
          fmt::format("{}; {}.{} or newer is needed", release, kLeastMajor, kLeastMinor),
          "boot a newer kernel; Debian 12 has one in bookworm-backports (linux-image-amd64)"};
}

Finding device_access(bool daemon_here) {
  const char* const subject = "/dev/userfaultfd";
  const UniqueFd device{::open(subject, O_RDWR | O_CLOEXEC)};
  if (device) return {subject, Verdict::ok, "this user may open it", ""};
  const int code = errno;
  const std::string detail = fmt::format("this user may not open it: {}", errno_words(code));
  if (daemon_here) return {subject, Verdict::ok, detail + "; clients get it from the daemon", ""};
  if (code == ENOENT) {
    return {subject, Verdict::warning, "there is none",
            "boot Linux 6.1 or newer, built with CONFIG_USERFAULTFD; in a container, pass the "
            "device in"};
  }
  return {subject, Verdict::warning, detail + "; a daemon of one's own serves less without it",
          "`setfacl -m u:USER:rw /dev/userfaultfd`, or a udev rule; or run faultlined as root"};
}

Finding unprivileged_sysctl(bool daemon_here) {
  const char* const subject = "vm.unprivileged_userfaultfd";
  const auto value = read_number("/proc/sys/vm/unprivileged_userfaultfd");
  if (!value) {
    return {subject, Verdict::problem, "there is none: the kernel has no userfaultfd",
            "boot a kernel built with CONFIG_USERFAULTFD"};
  }
  const std::string detail = std::to_string(*value);
  const bool device = ::access("/dev/userfaultfd", R_OK | W_OK) == 0;
  if (*value != 0 || device || daemon_here) {
    return {subject, Verdict::ok, detail + (*value == 0 ? ", and not needed" : ""), ""};
  }
  return {subject, Verdict::warning,
          detail + ": a daemon of this user cannot serve faults inside system calls",
          "`sysctl vm.unprivileged_userfaultfd=1`, or give this user access to /dev/userfaultfd"};
}

UniqueFd new_userfaultfd() {
  const UniqueFd device{::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)};
  if (device) {
    UniqueFd fd{::ioctl(device.get(), kNewUserfaultfd, O_CLOEXEC | O_NONBLOCK)};
    if (fd) return fd;
  }
  // Of user mode only, which every user gets: the features are the same.
  return UniqueFd{
      static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY))};
}

Finding userfaultfd_features() {
  const char* const subject = "userfaultfd features";
  const UniqueFd fd = new_userfaultfd();
  if (!fd) {
    return {subject, Verdict::problem, fmt::format("userfaultfd(2): {}", errno_words(errno)),
            "ENOSYS: boot a kernel built with CONFIG_USERFAULTFD; EPERM: allow userfaultfd in the "
            "seccomp profile"};
  }
  uffdio_api api{UFFD_API, 0, 0};
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) {
    return {subject, Verdict::problem, fmt::format("UFFDIO_API: {}", errno_words(errno)),
            "boot a newer kernel"};
  }
  struct Named {
    std::uint64_t bit;
    const char* name;
  };
  constexpr std::array kNamed{
      Named{UFFD_FEATURE_MISSING_SHMEM, "missing faults of shared memory"},
      Named{UFFD_FEATURE_MINOR_SHMEM, "minor faults of shared memory"},
      Named{UFFD_FEATURE_PAGEFAULT_FLAG_WP, "write-protect faults"},
      Named{UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "write-protect faults of shared memory"},
      Named{UFFD_FEATURE_THREAD_ID, "thread ids"},
      Named{UFFD_FEATURE_EVENT_REMAP, "remap events"},
      Named{UFFD_FEATURE_EVENT_REMOVE, "remove events"},
      Named{UFFD_FEATURE_EVENT_UNMAP, "unmap events"},
      Named{kFeaturePoison, "poisoned pages"},
  };
  std::string lacking;
  for (const Named& named : kNamed) {
    if ((api.features & named.bit) == 0)
      lacking += std::string(lacking.empty() ? "" : ", ") + named.name;
  }
  if (lacking.empty()) {
    return {subject, Verdict::ok, fmt::format("all {} that are needed", kNamed.size()), ""};
  }
  return {subject, Verdict::problem, "not offered: " + lacking,
          "boot a newer kernel, built with CONFIG_HAVE_ARCH_USERFAULTFD_WP and "
          "CONFIG_HAVE_ARCH_USERFAULTFD_MINOR (x86-64, arm64)"};
}

Finding io_uring(bool daemon_here) {
  const char* const subject = "io_uring";
  io_uring_params params{};
  const UniqueFd ring{static_cast<int>(::syscall(SYS_io_uring_setup, 8U, &params))};
  if (ring) return {subject, Verdict::ok, "this user may use it", ""};
  const int code = errno;
  const long disabled = read_number("/proc/sys/kernel/io_uring_disabled").value_or(0);
  // The one that runs has it; clients need it for rings of their own alone.
  const Verdict verdict = daemon_here ? Verdict::warning : Verdict::problem;
  if (code == EPERM && disabled != 0) {
    return {subject, verdict,
            fmt::format("forbidden by sysctl kernel.io_uring_disabled = {}", disabled),
            disabled == 1 ? "`sysctl kernel.io_uring_disabled=0`, or put this user into the group "
                            "of sysctl kernel.io_uring_group"
                          : "`sysctl kernel.io_uring_disabled=0`"};
  }
  return {subject, verdict, fmt::format("io_uring_setup(2): {}", errno_words(code)),
          "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile "
          "(docker: --security-opt seccomp=PROFILE), or boot a kernel with CONFIG_IO_URING"};
}

Finding descriptors() {
  rlimit limit{};
  (void)::getrlimit(RLIMIT_NOFILE, &limit);
  const std::string detail = fmt::format("{}, at most {}", limit.rlim_cur, limit.rlim_max);
  if (limit.rlim_max >= kFewDescriptors) return {"RLIMIT_NOFILE", Verdict::ok, detail, ""};
  return {"RLIMIT_NOFILE", Verdict::warning, detail + ": few objects and clients at once",
          "raise it: `ulimit -Hn 65536`, or systemd's LimitNOFILE="};
}

Finding locked_memory() {
  const char* const subject = "RLIMIT_MEMLOCK";
  rlimit limit{};
  (void)::getrlimit(RLIMIT_MEMLOCK, &limit);
  if (limit.rlim_cur == RLIM_INFINITY) return {subject, Verdict::ok, "no limit", ""};
  const std::string detail = fmt::format("{}, which is what this user's processes may pin",
                                         readable_bytes(limit.rlim_cur));
  if (limit.rlim_cur >= kLittleLocked) return {subject, Verdict::ok, detail, ""};
  return {subject, Verdict::warning, detail,
          "raise it (`ulimit -l`, limits.conf, systemd's LimitMEMLOCK=), or set faultlined's "
          "max_pinned_per_process"};
}

Finding huge_pages() {
  const char* const subject = "pages of 2 MiB";
  const auto all = read_number("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
  if (!all)
    return {subject, Verdict::ok, "the kernel has none; only objects of such pages need them", ""};
  const long free =
      read_number("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").value_or(0);
  const std::string detail = fmt::format("{} reserved, {} free", *all, free);
  if (*all == 0 || free > 0) {
    return {subject, Verdict::ok,
            detail + (*all == 0 ? "; only objects of such pages need them" : ""), ""};
  }
  return {subject, Verdict::warning, detail + ": no further object of such pages can be made",
          "`sysctl vm.nr_hugepages=N`, N pages more than now"};
}

Finding overcommit() {
  const char* const subject = "vm.overcommit_memory";
  const auto mode = read_number("/proc/sys/vm/overcommit_memory");
  if (mode.value_or(0) != 2) return {subject, Verdict::ok, std::to_string(mode.value_or(0)), ""};
  return {subject, Verdict::warning,
          "2: large private mappings are refused, however little of them is written to",
          "`sysctl vm.overcommit_memory=0`"};
}

Finding map_count() {
  const char* const subject = "vm.max_map_count";
  const long count = read_number("/proc/sys/vm/max_map_count").value_or(0);
  if (count >= kFewMaps) return {subject, Verdict::ok, std::to_string(count), ""};
  return {subject, Verdict::warning, fmt::format("{}: few objects and mappings at once", count),
          "`sysctl vm.max_map_count=65530` or more"};
}

}  // namespace

Findings probe_machine(bool daemon_here) {
  return {kernel_version(),
          device_access(daemon_here),
          unprivileged_sysctl(daemon_here),
          userfaultfd_features(),
          io_uring(daemon_here),
          descriptors(),
          locked_memory(),
          huge_pages(),
          overcommit(),
          map_count()};
}

}  // namespace faultline::ctl
