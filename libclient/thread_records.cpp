#include "libclient/thread_records.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <mutex>
#include <vector>

#include "faultline/faultline.h"
#include "faultline/wire/unique_fd.hpp"
#include "libclient/failure.hpp"
#include "libclient/futex.hpp"

static_assert(FL_ROBUST_MAX == faultline::wire::kMostRobust);
static_assert(sizeof(fl_robust_list) == sizeof(faultline::wire::RobustList) &&
              offsetof(fl_robust_list, held) == offsetof(faultline::wire::RobustList, held));

// Constant from a thread's first lock to its end, so that a lock reads it without a call.
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): of the C interface
__thread fl_robust_thread fl_robust_self = {nullptr, 0, 0};

namespace faultline::client {

namespace {

struct Records {
  std::mutex mutex;  // guards all
  UniqueFd fd;
  std::byte* memory = nullptr;
  std::vector<std::uint32_t> free;
};

// Leaked on purpose: threads may still be inside the library while the process exits.
Records& records() {
  // NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): a process has one
  static auto* const instance = std::make_unique<Records>().release();
  return *instance;
}

wire::ThreadRecord& record_at(const Records& all, std::uint32_t index) {
  return *reinterpret_cast<wire::ThreadRecord*>(all.memory + wire::kRecordBytes * index);
}

void make_locked(Records& all) {
  if (all.memory != nullptr) return;
  UniqueFd fd{::memfd_create("faultline:threads", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  if (!fd) throw_errno("memfd_create for the records of threads");
  if (::ftruncate(fd.get(), wire::kRecordsBytes) != 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    throw_errno("making the records of threads");
  }
  void* const memory = ::mmap(nullptr, wire::kRecordsBytes, PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_NORESERVE, fd.get(), 0);
  if (memory == MAP_FAILED) throw_errno("mapping the records of threads");
  if (::madvise(memory, wire::kRecordsBytes, MADV_DONTFORK) != 0) {
    throw_errno("madvise(MADV_DONTFORK)");
  }
  all.memory = static_cast<std::byte*>(memory);
  all.fd = std::move(fd);
}

// What the daemon does when the process dies, for the end of one thread.
void hand_over(std::uint64_t address, std::uint32_t tid) {
  if (address == 0) return;
  const std::atomic_ref word(*reinterpret_cast<std::uint32_t*>(address));
  std::uint32_t seen = word.load();
  while ((seen & FL_ROBUST_TID_MASK) == tid &&
         !word.compare_exchange_weak(seen, (seen & FL_ROBUST_WAITERS) | FL_ROBUST_OWNER_DIED)) {
  }
  (void)fl_wake(reinterpret_cast<const void*>(address), 1);
}

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): a thread's own
thread_local constinit MyRecord mine;

struct AtThreadEnd {
  AtThreadEnd() = default;
  AtThreadEnd(const AtThreadEnd&) = delete;
  AtThreadEnd& operator=(const AtThreadEnd&) = delete;
  ~AtThreadEnd() {
    if (mine.record == nullptr) return;
    wire::RobustList& robust = mine.record->robust;
    const std::uint32_t tid = mine.record->tid.load();
    for (std::uint64_t i = robust.count.load(); i > 0; --i) {
      hand_over(robust.held[(i - 1) % wire::kMostRobust].load(), tid);
    }
    robust.count.store(0);
    fl_robust_self = {nullptr, 0, 0};
    Records& all = records();
    const std::lock_guard lock(all.mutex);
    mine.record->tid.store(0);
    all.free.push_back(mine.index);
    mine = {};
  }
};

}  // namespace

MyRecord& my_record() {
  if (mine.record != nullptr) return mine;
  static thread_local const AtThreadEnd until_then;
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  make_locked(all);
  // Its tid says how many have been in use.
  std::atomic<std::uint32_t>& used = record_at(all, 0).tid;
  std::uint32_t index = used.load() + 1;
  if (!all.free.empty()) {
    index = all.free.back();
    all.free.pop_back();
  } else if (index == wire::kThreadRecords) {
    throw Failure(EUSERS, "waiting or locking with more than " +
                              std::to_string(wire::kThreadRecords - 1) + " threads");
  }
  all.free.reserve(wire::kThreadRecords);  // at a thread's end there is nobody to tell of ENOMEM
  // An answer to the thread that had it before must not be taken for one of ours.
  const std::uint32_t last = record_at(all, index).answered.load() / 2;
  mine = {&record_at(all, index), index, last, 0, false};
  const auto tid = static_cast<std::uint32_t>(::gettid());
  mine.record->tid.store(tid);
  if (index > used.load()) used.store(index);
  fl_robust_self.tid = tid;
  return mine;
}

int thread_records_fd() {
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  make_locked(all);
  return all.fd.get();
}

bool thread_records_in_use() {
  Records& all = records();
  const std::lock_guard lock(all.mutex);
  return all.memory != nullptr;
}

void lock_thread_records() {
  records().mutex.lock();
}
void unlock_thread_records() {
  records().mutex.unlock();
}
void forget_thread_records() {
  Records& all = records();
  all.fd.reset();
  all.memory = nullptr;  // not mapped here
  all.free.clear();
  mine = {};
  fl_robust_self = {nullptr, 0, 0};
}

}  // namespace faultline::client
