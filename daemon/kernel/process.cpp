#include "daemon/kernel/process.hpp"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <limits>
#include <sstream>
#include <string_view>

#include "daemon/kernel/descriptor.hpp"
#include "daemon/kernel/uapi.hpp"
#include "daemon/kernel/words.hpp"

namespace faultline::kernel {

Result<PeerCredentials> peer_credentials(int socket) {
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) {
    return fail_errno("asking who connected (SO_PEERCRED)");
  }
  return PeerCredentials{credentials.pid, credentials.uid, credentials.gid};
}

Result<UniqueFd> ring_of_peer(int socket, int ring_fd) {
  int pidfd = -1;
  socklen_t size = sizeof(pidfd);
  if (::getsockopt(socket, SOL_SOCKET, uapi::kSoPeerPidfd, &pidfd, &size) != 0) {
    return fail_errno("looking for a client's process");
  }
  const UniqueFd process{pidfd};
  const std::string what = "taking descriptor " + std::to_string(ring_fd) + " of a client";
  UniqueFd ring{static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), ring_fd, 0))};
  if (!ring) return fail_errno(what);
  if (!is_anonymous_inode(ring.get(), "[io_uring]")) {
    return fail(EBADF, what + ", which is no io_uring");
  }
  return ring;
}

std::optional<pid_t> process_of_thread(pid_t tid) {
  std::ifstream status("/proc/" + std::to_string(tid) + "/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.rfind("Tgid:", 0) != 0) continue;
    std::istringstream fields(line.substr(5));
    pid_t pid = 0;
    if (fields >> pid) return pid;
  }
  return std::nullopt;
}

std::string process_name(pid_t pid) {
  std::ifstream comm("/proc/" + std::to_string(pid) + "/comm");
  std::string name;
  std::getline(comm, name);
  return name;
}

std::optional<ByteCount> lockable_memory(pid_t pid) {
  __user_cap_header_struct of{_LINUX_CAPABILITY_VERSION_3, pid};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> capabilities{};
  if (::syscall(SYS_capget, &of, capabilities.data()) != 0) return std::nullopt;
  if ((capabilities[0].effective & (1U << CAP_IPC_LOCK)) != 0) {
    return ByteCount{std::numeric_limits<std::uint64_t>::max()};
  }
  // prlimit(2) would need CAP_SYS_RESOURCE to look at other users' processes; this file anyone may
  // read.
  std::ifstream limits("/proc/" + std::to_string(pid) + "/limits");
  constexpr std::string_view kName = "Max locked memory";
  for (std::string line; std::getline(limits, line);) {
    if (!line.starts_with(kName)) continue;
    std::istringstream soft(line.substr(kName.size()));
    std::uint64_t bytes = 0;
    return ByteCount{soft >> bytes ? bytes : std::numeric_limits<std::uint64_t>::max()};
  }
  return std::nullopt;
}

Result<PageMap> PageMap::open(pid_t pid, uid_t user) {
  const std::string path = "/proc/" + std::to_string(pid) + "/pagemap";
  UniqueFd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!fd) return fail_errno("opening " + path);
  // After the opening, which settles whose memory it is. Of what its user may not look into, root
  // is the owner (fs/proc/base.c: task_dump_owner).
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return fail_errno("looking at " + path);
  if (user != 0 && info.st_uid != user) {
    return fail(EPERM, "opening " + path + " in the name of uid " + std::to_string(user));
  }
  return PageMap{std::move(fd)};
}

Result<ResidentPages> PageMap::scan(Vaddr start, ByteCount length) const {
  std::array<uapi::PageRegion, 512> regions{};
  ResidentPages pages;
  const std::uint64_t end = (start + length).value();
  std::uint64_t at = start.value();
  while (at < end) {
    uapi::PagemapScan request{};
    request.size = sizeof(request);
    request.start = at;
    request.end = end;
    request.vec = reinterpret_cast<std::uintptr_t>(regions.data());
    request.vec_len = regions.size();
    request.category_anyof_mask = uapi::kPageIsPresent | uapi::kPageIsSwapped;
    request.return_mask = uapi::kPageIsPresent | uapi::kPageIsSwapped | uapi::kPageIsFile;
    const int count = ::ioctl(fd_.get(), uapi::kIoctlPagemapScan, &request);
    if (count < 0) return fail_errno("PAGEMAP_SCAN");
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
      const uapi::PageRegion& region = regions.at(i);
      const PageCount n = kBasePage.pages(ByteCount{region.end - region.start});
      const bool of_file = (region.categories & uapi::kPageIsFile) != 0;
      const bool present = (region.categories & uapi::kPageIsPresent) != 0;
      if (of_file && present) pages.shared = pages.shared + n;
      if (!of_file && present) pages.private_ = pages.private_ + n;
      if (!of_file && !present) pages.swapped_or_marked = pages.swapped_or_marked + n;
    }
    if (request.walk_end <= at) break;
    at = request.walk_end;
  }
  return pages;
}

Result<std::optional<KernelMapping>> mapping_at(pid_t pid, Vaddr address) {
  const std::string path = "/proc/" + std::to_string(pid) + "/maps";
  const UniqueFd fd{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!fd) return fail_errno("opening " + path);
  uapi::ProcmapQuery query{};
  query.size = sizeof(query);
  query.query_addr = address.value();
  if (::ioctl(fd.get(), uapi::kIoctlProcmapQuery, &query) != 0) {
    if (errno == ENOENT) return std::nullopt;
    return fail_errno("asking " + path + " about " + words_of(address));
  }
  return KernelMapping{.start = Vaddr{query.vma_start},
                       .end = Vaddr{query.vma_end},
                       .offset = ByteCount{query.vma_offset},
                       .inode = query.inode,
                       .writable = (query.vma_flags & uapi::kVmaWritable) != 0,
                       .shared = (query.vma_flags & uapi::kVmaShared) != 0};
}

}  // namespace faultline::kernel
