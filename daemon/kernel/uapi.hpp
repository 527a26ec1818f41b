// Kernel interface constants newer than the Debian 12 headers (Linux 6.1). Must only ever repeat
// what include/uapi/linux of a released kernel says.
#pragma once

#include <linux/types.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cstdint>

namespace faultline::kernel::uapi {

// linux/userfaultfd.h, Linux 6.6
inline constexpr std::uint64_t kFeaturePoison = std::uint64_t{1} << 14;
struct Poison {
  uffdio_range range;
  __u64 mode;
  __s64 updated;
};
inline constexpr unsigned long kIoctlPoison = _IOWR(UFFDIO, 0x08, Poison);
// linux/userfaultfd.h, Linux 6.4
inline constexpr std::uint64_t kContinueModeWp = std::uint64_t{1} << 1;
// linux/userfaultfd.h, Linux 6.1: makes a userfaultfd from /dev/userfaultfd
inline constexpr unsigned long kIoctlNewUserfaultfd = _IO(0xAA, 0x00);

// linux/mman.h and asm-generic/unistd.h, Linux 6.5: cachestat(2)
inline constexpr long kSysCachestat = 451;
struct CachestatRange {
  __u64 off;
  __u64 len;
};
struct Cachestat {
  __u64 nr_cache;
  __u64 nr_dirty;
  __u64 nr_writeback;
  __u64 nr_evicted;
  __u64 nr_recently_evicted;
};

// linux/fs.h, Linux 6.7
struct PageRegion {
  __u64 start;
  __u64 end;
  __u64 categories;
};
struct PagemapScan {
  __u64 size;
  __u64 flags;
  __u64 start;
  __u64 end;
  __u64 walk_end;
  __u64 vec;
  __u64 vec_len;
  __u64 max_pages;
  __u64 category_inverted;
  __u64 category_mask;
  __u64 category_anyof_mask;
  __u64 return_mask;
};
inline constexpr unsigned long kIoctlPagemapScan = _IOWR('f', 16, PagemapScan);
inline constexpr std::uint64_t kPageIsFile = std::uint64_t{1} << 2;
inline constexpr std::uint64_t kPageIsPresent = std::uint64_t{1} << 3;
inline constexpr std::uint64_t kPageIsSwapped = std::uint64_t{1} << 4;

// linux/fs.h, Linux 6.11: asks /proc/PID/maps about one address
struct ProcmapQuery {
  __u64 size;
  __u64 query_flags;
  __u64 query_addr;
  __u64 vma_start;
  __u64 vma_end;
  __u64 vma_flags;
  __u64 vma_page_size;
  __u64 vma_offset;
  __u64 inode;
  __u32 dev_major;
  __u32 dev_minor;
  __u32 vma_name_size;
  __u32 build_id_size;
  __u64 vma_name_addr;
  __u64 build_id_addr;
};
inline constexpr unsigned long kIoctlProcmapQuery = _IOWR('f', 17, ProcmapQuery);
inline constexpr std::uint64_t kVmaReadable = std::uint64_t{1} << 0;
inline constexpr std::uint64_t kVmaWritable = std::uint64_t{1} << 1;
inline constexpr std::uint64_t kVmaShared = std::uint64_t{1} << 3;

// linux/io_uring.h and linux/futex.h, Linux 6.7
inline constexpr int kOpFutexWait = 51;
inline constexpr int kFutex2Size32 = 2;

// linux/memfd.h: not in every libc's headers
inline constexpr unsigned kMfdHuge2Mb = 21U << 26;

// sys/socket.h, Linux 6.5
inline constexpr int kSoPeerPidfd = 77;

}  // namespace faultline::kernel::uapi
