#include "daemon/kernel/file_system.hpp"

#include <linux/magic.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>

namespace faultline::kernel {

namespace {

// fs/xfs/libxfs/xfs_format.h; not in linux/magic.h before Linux 6.2.
constexpr long kXfsMagic = 0x58465342;

constexpr std::array kLocal{
    static_cast<long>(EXT4_SUPER_MAGIC),     static_cast<long>(BTRFS_SUPER_MAGIC),
    static_cast<long>(TMPFS_MAGIC),          static_cast<long>(HUGETLBFS_MAGIC),
    static_cast<long>(F2FS_SUPER_MAGIC),     static_cast<long>(SQUASHFS_MAGIC),
    static_cast<long>(EROFS_SUPER_MAGIC_V1), static_cast<long>(ISOFS_SUPER_MAGIC),
    static_cast<long>(MSDOS_SUPER_MAGIC),    kXfsMagic};

}  // namespace

bool answers_by_others(int fd) {
  struct statfs info {};
  if (::fstatfs(fd, &info) != 0) return true;
  return std::find(kLocal.begin(), kLocal.end(), static_cast<long>(info.f_type)) == kLocal.end();
}

}  // namespace faultline::kernel
