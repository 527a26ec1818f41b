#include "daemon/kernel/feature_check.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include "daemon/kernel/huge_pages.hpp"
#include "daemon/kernel/mapped_memory.hpp"
#include "daemon/kernel/memfd.hpp"
#include "daemon/kernel/process.hpp"
#include "daemon/kernel/ring.hpp"
#include "daemon/kernel/uapi.hpp"
#include "daemon/kernel/userfaultfd.hpp"

namespace faultline::kernel {

namespace {

constexpr int kLeastMajor = 6;
constexpr int kLeastMinor = 10;
constexpr rlim_t kFewDescriptors = 4096;
constexpr std::uint64_t kFewMaps = 65'530;

// A userfaultfd as a client of this daemon would come to have one, and how.
struct Obtained {
  UniqueFd fd;
  std::string how;
  bool user_mode_only = false;  // where the daemon has more, that is by a capability of its own
};

std::optional<long> read_sysctl(const char* path) {
  std::ifstream in(path);
  long value = 0;
  if (in >> value) return value;
  return std::nullopt;
}

Result<Obtained> obtain_userfaultfd() {
  const UniqueFd device{::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)};
  if (device) {
    UniqueFd fd{::ioctl(device.get(), uapi::kIoctlNewUserfaultfd, O_CLOEXEC | O_NONBLOCK)};
    if (fd) return Obtained{std::move(fd), "/dev/userfaultfd", false};
  }
  const auto call = [](int flags) {
    return UniqueFd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags))};
  };
  // A capability lets the daemon have one that its clients, who make their own, do not get.
  const bool everybody = read_sysctl("/proc/sys/vm/unprivileged_userfaultfd").value_or(1) != 0;
  if (UniqueFd fd = call(0)) return Obtained{std::move(fd), "userfaultfd(2)", !everybody};
  if (UniqueFd fd = call(UFFD_USER_MODE_ONLY)) {
    return Obtained{std::move(fd), "userfaultfd(2), user mode only", true};
  }
  return fail_errno("userfaultfd(2)");
}

Finding check_version() {
  utsname name{};
  ::uname(&name);
  const std::string release = static_cast<const char*>(name.release);
  int major = 0;
  int minor = 0;
  if (std::sscanf(release.c_str(), "%d.%d", &major, &minor) == 2 &&
      std::pair(major, minor) >= std::pair(kLeastMajor, kLeastMinor)) {
    return {"kernel version", Verdict::ok, release, ""};
  }
  return {"kernel version", Verdict::missing,
          fmt::format("{}; {}.{} or newer is needed", release, kLeastMajor, kLeastMinor),
          "boot a newer kernel; Debian 12 has one in bookworm-backports (linux-image-amd64)"};
}

Finding check_obtain(const Result<Obtained>& obtained) {
  const std::string feature = "userfaultfd";
  if (!obtained) {
    return {
        feature, Verdict::missing, obtained.error().message(),
        "ENOSYS: use a kernel built with CONFIG_USERFAULTFD; EPERM: run as root, or give this user "
        "access to /dev/userfaultfd, or allow userfaultfd in the seccomp profile"};
  }
  if (!obtained->user_mode_only) return {feature, Verdict::ok, "through " + obtained->how, ""};
  return {
      feature, Verdict::degraded,
      "clients get user mode only: a system call that meets an absent page fails with EFAULT",
      "give the daemon's user access to the device: `setfacl -m u:USER:rw /dev/userfaultfd`, or "
      "a udev rule; or `sysctl vm.unprivileged_userfaultfd=1`; or run as root"};
}

// Asks a fresh userfaultfd for every feature the kernel has; that one is used up by the question.
std::vector<Finding> check_named_features(int fd) {
  struct Named {
    std::uint64_t bit;
    const char* name;
  };
  constexpr std::array kNamed{
      Named{UFFD_FEATURE_MISSING_SHMEM, "missing faults of shared memory"},
      Named{UFFD_FEATURE_MINOR_SHMEM, "minor faults of shared memory"},
      Named{UFFD_FEATURE_PAGEFAULT_FLAG_WP, "write-protect faults"},
      Named{UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "write-protect faults of shared memory"},
      Named{UFFD_FEATURE_THREAD_ID, "thread ids in faults"},
      Named{UFFD_FEATURE_EVENT_REMAP, "remap events"},
      Named{UFFD_FEATURE_EVENT_REMOVE, "remove events"},
      Named{UFFD_FEATURE_EVENT_UNMAP, "unmap events"},
      Named{uapi::kFeaturePoison, "poisoned pages"},
  };
  uffdio_api api{UFFD_API, 0, 0};
  std::vector<Finding> findings;
  if (::ioctl(fd, UFFDIO_API, &api) != 0) {
    findings.push_back({"userfaultfd features", Verdict::missing,
                        fmt::format("UFFDIO_API: {}", std::strerror(errno)), ""});
    return findings;
  }
  for (const Named& named : kNamed) {
    const bool there = (api.features & named.bit) != 0;
    findings.push_back({std::string("userfaultfd: ") + named.name,
                        there ? Verdict::ok : Verdict::missing,
                        there ? "offered" : "not offered by this kernel",
                        there ? ""
                              : "boot a newer kernel, built with CONFIG_HAVE_ARCH_USERFAULTFD_WP "
                                "and CONFIG_HAVE_ARCH_USERFAULTFD_MINOR (x86-64, arm64)"});
  }
  return findings;
}

constexpr ByteCount kTrialPage{4096};
constexpr ByteCount kTrialLength{kTrialPage.value() * 4};

// Answers for the pages at start, a private view of a memfd, in each of the ways the fault engine
// does.
Status answer_in_every_way(const Userfaultfd& uffd, Vaddr start) {
  alignas(4096) std::array<std::byte, 4096> page{};
  const auto check = [](const char* what, RangeResult result) -> Status {
    if (result.error == 0) return {};
    return fail(result.error, what);
  };
  if (auto done = check("UFFDIO_CONTINUE, write-protected",
                        uffd.continue_range(start, kTrialPage, WriteProtect::yes));
      !done) {
    return done;
  }
  if (auto done = check("UFFDIO_WRITEPROTECT", uffd.write_unprotect(start, kTrialPage)); !done) {
    return done;
  }
  const Vaddr second = start + kTrialPage;
  if (auto done = check("UFFDIO_COPY", uffd.copy_range(second, page.data(), kTrialPage)); !done) {
    return done;
  }
  return check("UFFDIO_POISON", uffd.poison_range(second + kTrialPage, kTrialPage));
}

Status try_fault_answers(const Userfaultfd& uffd) {
  auto memfd = Memfd::create("faultline:check", kTrialLength);
  if (!memfd) return propagate(memfd);
  auto content =
      MappedMemory::create(kTrialLength, PROT_READ | PROT_WRITE, MAP_SHARED, memfd->writable_fd());
  if (!content) return propagate(content);
  if (auto done = content->populate(ByteCount{0}, kTrialLength); !done) return done;
  // Ours and watched by ourselves, so never touched: only ioctls look at it.
  auto view = MappedMemory::create(kTrialLength, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_NORESERVE, memfd->writable_fd());
  if (!view) return propagate(view);
  const Vaddr start{reinterpret_cast<std::uintptr_t>(view->data())};
  if (auto done = uffd.register_object_range(start, kTrialLength); !done) return done;
  Status answered = answer_in_every_way(uffd, start);
  // Before the view goes: unmapping a watched range waits for its event to be read, by us.
  if (auto done = uffd.unregister(start, kTrialLength); !done) return done;
  return answered;
}

Finding check_answers(const Result<Userfaultfd>& uffd) {
  const std::string feature = "answering faults of a private mapping";
  if (!uffd) return {feature, Verdict::missing, uffd.error().message(), "boot a newer kernel"};
  if (const auto tried = try_fault_answers(*uffd); !tried) {
    return {feature, Verdict::missing, tried.error().message(),
            fmt::format("boot Linux {}.{} or newer", kLeastMajor, kLeastMinor)};
  }
  return {feature, Verdict::ok, "tried: continue, write-protect, copy, poison", ""};
}

Finding check_fork_events(const Result<Userfaultfd>& uffd) {
  const std::string feature = "fork events";
  if (uffd && uffd->features().fork_events)
    return {feature, Verdict::ok, "CAP_SYS_PTRACE is there", ""};
  return {feature, Verdict::degraded,
          "no CAP_SYS_PTRACE: mappings are not inherited by fork children",
          "run as root, or give the daemon CAP_SYS_PTRACE (setcap cap_sys_ptrace=ep, or systemd's "
          "AmbientCapabilities=)"};
}

Finding check_read_now(const Result<Userfaultfd>& uffd) {
  const std::string feature = "reading a userfaultfd without blocking";
  std::array<uffd_msg, 1> message{};
  if (uffd && uffd->read_now(message)) return {feature, Verdict::ok, "RWF_NOWAIT works", ""};
  return {feature, Verdict::missing, "a client could keep a fault worker waiting in read(2)",
          "boot Linux 6.10 or newer"};
}

class OnceOperation final : public RingOperation {
 public:
  void on_complete(int result) override { result_ = result; }
  [[nodiscard]] int result() const { return result_; }

 private:
  int result_ = 0;
};

Finding check_io_uring() {
  const std::string feature = "io_uring";
  auto ring = Ring::create(8);
  if (!ring) {
    const auto disabled = read_sysctl("/proc/sys/kernel/io_uring_disabled");
    if (ring.error().code() == EPERM && disabled.value_or(0) != 0) {
      return {feature, Verdict::missing,
              fmt::format("forbidden by sysctl kernel.io_uring_disabled = {}", *disabled),
              *disabled == 1
                  ? "`sysctl kernel.io_uring_disabled=0`, or run as root, or put this user "
                    "into the group of sysctl kernel.io_uring_group"
                  : "`sysctl kernel.io_uring_disabled=0`"};
    }
    const bool forbidden = ring.error().code() == EPERM || ring.error().code() == ENOSYS;
    return {feature, Verdict::missing, ring.error().message(),
            forbidden
                ? "the sysctl allows it, so a seccomp filter forbids it or the kernel lacks "
                  "CONFIG_IO_URING: allow io_uring_setup, io_uring_enter and io_uring_register in "
                  "the container's profile (docker: --security-opt seccomp=PROFILE)"
                : "raise the memory or descriptor limit of the daemon"};
  }
  if (auto owned = (*ring)->own(); !owned) {
    return {feature, Verdict::missing, owned.error().message(),
            "allow io_uring_register in the seccomp profile"};
  }
  const UniqueFd event{::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)};
  OnceOperation read;
  std::uint64_t count = 0;
  (*ring)->read(read, event.get(), std::as_writable_bytes(std::span(&count, 1)), -1);
  while (read.in_flight() && (*ring)->wait()) {
  }
  if (read.result() == sizeof(count))
    return {feature, Verdict::ok, "tried: a read of an eventfd", ""};
  return {feature, Verdict::missing,
          fmt::format("a read through it failed: {}", std::strerror(-read.result())),
          "allow io_uring_enter in the seccomp profile"};
}

Finding check_memfd() {
  auto memfd = Memfd::create("faultline:check", kTrialPage);
  const Result<bool> held =
      memfd ? memfd->holds(ByteCount{0}, kTrialPage) : Result<bool>(propagate(memfd));
  if (held)
    return {"sealed memfd", Verdict::ok, "tried: seals, read-only reopening, cachestat", ""};
  return {"sealed memfd", Verdict::missing, held.error().message(),
          "mount /proc, and allow memfd_create in the seccomp profile"};
}

// /proc/PID/pagemap is its owner's alone: proc(5).
bool may_read_others_files() {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with("CapEff:")) continue;
    const std::uint64_t capabilities = std::strtoull(line.c_str() + 7, nullptr, 16);
    return (capabilities & (std::uint64_t{1} << CAP_DAC_READ_SEARCH)) != 0;
  }
  return false;
}

Finding check_pagemap() {
  const auto pages = PageMap::open(::getpid(), 0);
  const auto scanned =
      pages ? pages->scan(Vaddr{0}, ByteCount{4096})
            : Result<ResidentPages>(fail(pages.error().code(), pages.error().attempted()));
  if (scanned && !may_read_others_files()) {
    return {"PAGEMAP_SCAN", Verdict::degraded,
            "no CAP_DAC_READ_SEARCH: bytes in memory are shown as 0 for processes of other users",
            "run as root, or give the daemon CAP_DAC_READ_SEARCH, where it is to serve others"};
  }
  if (scanned) return {"PAGEMAP_SCAN", Verdict::ok, "tried", ""};
  return {"PAGEMAP_SCAN", Verdict::degraded,
          scanned.error().message() + ": resident bytes are shown as 0",
          "boot Linux 6.7 or newer with CONFIG_PROC_PAGE_MONITOR"};
}

Finding check_procmap_query() {
  static const char here = 0;
  const auto mapping = mapping_at(::getpid(), Vaddr{reinterpret_cast<std::uintptr_t>(&here)});
  if (mapping && *mapping) return {"PROCMAP_QUERY", Verdict::ok, "tried", ""};
  return {"PROCMAP_QUERY", Verdict::degraded,
          "what a client grows with mremap(2) itself, and not with fl_remap, raises SIGBUS",
          "boot Linux 6.11 or newer, and mount /proc"};
}

Finding check_descriptors() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const std::string detail = fmt::format("hard limit {}", limit.rlim_max);
  if (limit.rlim_max >= kFewDescriptors) return {"open descriptors", Verdict::ok, detail, ""};
  return {"open descriptors", Verdict::degraded, detail + ": few clients at once",
          "raise it: `ulimit -Hn 65536`, or systemd's LimitNOFILE="};
}

Finding check_map_count() {
  const auto count = read_sysctl("/proc/sys/vm/max_map_count");
  const std::string detail = fmt::format("vm.max_map_count = {}", count.value_or(0));
  if (count.value_or(0) >= static_cast<long>(kFewMaps))
    return {"mappings", Verdict::ok, detail, ""};
  return {"mappings", Verdict::degraded, detail + ": few objects and mappings at once",
          "`sysctl vm.max_map_count=65530` or more"};
}

// None are needed until somebody asks for an object of such pages, so nothing is missing here.
Finding check_huge_pages() {
  const std::string feature = "pages of 2 MiB";
  const auto pool = huge_page_pool();
  if (!pool) {
    return {feature, Verdict::degraded, "the kernel has none: objects have pages of 4 KiB alone",
            "boot a kernel built with CONFIG_HUGETLBFS"};
  }
  const std::string detail = describe_huge_pages();
  if (pool->left() > PageCount{0}) return {feature, Verdict::ok, detail, ""};
  return {feature, Verdict::ok, detail + ": no objects of such pages can be made", kHowToReserve};
}

Result<Userfaultfd> adopt_fresh() {
  auto obtained = obtain_userfaultfd();
  if (!obtained) return propagate(obtained);
  return Userfaultfd::adopt(ForeignFd{std::move(obtained->fd)});
}

const char* word(Verdict verdict) {
  switch (verdict) {
    case Verdict::ok:
      return "ok";
    case Verdict::degraded:
      return "degraded";
    case Verdict::missing:
      return "MISSING";
  }
  return "?";
}

}  // namespace

std::vector<Finding> check_features() {
  std::vector<Finding> findings;
  findings.push_back(check_version());
  const auto obtained = obtain_userfaultfd();
  findings.push_back(check_obtain(obtained));
  if (obtained) {
    for (Finding& finding : check_named_features(obtained->fd.get())) {
      findings.push_back(std::move(finding));
    }
    const auto uffd = adopt_fresh();
    findings.push_back(check_answers(uffd));
    findings.push_back(check_fork_events(uffd));
    findings.push_back(check_read_now(uffd));
  }
  findings.push_back(check_io_uring());
  findings.push_back(check_memfd());
  findings.push_back(check_pagemap());
  findings.push_back(check_procmap_query());
  findings.push_back(check_descriptors());
  findings.push_back(check_map_count());
  findings.push_back(check_huge_pages());
  return findings;
}

KernelSupport probe_support() {
  const auto uffd = adopt_fresh();
  return {.fork_events = uffd && uffd->features().fork_events};
}

std::string render(const std::vector<Finding>& findings) {
  std::string text;
  for (const Finding& finding : findings) {
    text +=
        fmt::format("{:<9} {:<48} {}\n", word(finding.verdict), finding.feature, finding.detail);
    if (!finding.remedy.empty()) text += fmt::format("          -> {}\n", finding.remedy);
  }
  return text;
}

bool runnable(const std::vector<Finding>& findings) {
  return std::none_of(findings.begin(), findings.end(),
                      [](const Finding& f) { return f.verdict == Verdict::missing; });
}

}  // namespace faultline::kernel
