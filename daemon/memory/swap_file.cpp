#include "daemon/memory/swap_file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <string>
#include <utility>

#include "daemon/kernel/file_system.hpp"

namespace faultline::memory {

namespace {

constexpr unsigned kBits = 64;
constexpr mode_t kMode = 0600;
constexpr std::uint64_t kAllTaken = ~std::uint64_t{0};

// Ours alone from now on.
Status take_over(int fd, const std::string& doing) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) return fail_errno(doing);
  if (!S_ISREG(info.st_mode)) return fail(EINVAL, doing + ": it is not a regular file");
  if (info.st_uid != ::geteuid()) return fail(EINVAL, doing + ": it is another user's");
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return fail(errno == EWOULDBLOCK ? EBUSY : errno, doing + ", which another daemon uses");
  }
  if (::fchmod(fd, kMode) != 0 || ::ftruncate(fd, 0) != 0) return fail_errno(doing);
  return {};
}

}  // namespace

Result<std::shared_ptr<SwapFile>> SwapFile::open(const std::filesystem::path& path,
                                                 ByteCount limit) {
  const std::string doing = "opening the swap file " + path.string();
  const PageCount slots = kSlot.pages(limit);
  if (slots == PageCount{0}) return fail(EINVAL, doing + " for less than a page");
  std::error_code error;
  const bool in_directory = std::filesystem::is_directory(path, error);
  const int kind = in_directory ? O_TMPFILE : O_CREAT | O_NOFOLLOW | O_NONBLOCK;
  UniqueFd fd{::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOCTTY | kind, kMode)};
  if (!fd) return fail_errno(doing);
  if (auto ours = take_over(fd.get(), doing); !ours) return propagate(ours);
  if (::fcntl(fd.get(), F_SETFL, 0) != 0) return fail_errno(doing);
  const std::uint64_t words = (slots.value() + kBits - 1) / kBits;
  auto taken =
      kernel::MappedMemory::create(ByteCount{words * sizeof(std::uint64_t)}, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  if (!taken) return propagate(taken);
  const auto begin = kernel::answers_by_others(fd.get()) ? kernel::Ring::Begin::elsewhere
                                                         : kernel::Ring::Begin::here;
  return std::shared_ptr<SwapFile>{
      new SwapFile(std::move(fd), std::move(*taken), slots, begin)};  // a private constructor
}

std::span<std::uint64_t> SwapFile::words() const {
  // Zeroed memory is a valid array of zeroes.
  return {reinterpret_cast<std::uint64_t*>(taken_.data()),
          taken_.bytes().size() / sizeof(std::uint64_t)};
}

std::uint64_t SwapFile::free_locked(std::uint64_t from, std::uint64_t to) const {
  while (from < to) {
    const std::uint64_t before = (std::uint64_t{1} << from % kBits) - 1;
    const std::uint64_t word = words()[from / kBits] | before;
    if (word != kAllTaken) {
      return std::min(to, from / kBits * kBits + static_cast<unsigned>(std::countr_one(word)));
    }
    from = (from / kBits + 1) * kBits;
  }
  return to;
}

void SwapFile::set_locked(std::uint64_t slot, bool taken) {
  std::uint64_t& word = words()[slot / kBits];
  const std::uint64_t bit = std::uint64_t{1} << slot % kBits;
  assert(((word & bit) != 0) != taken);
  word = taken ? word | bit : word & ~bit;
}

SwapSlots SwapFile::take(PageCount most) {
  const std::lock_guard lock(mutex_);
  if (used_ == slots_) return {};
  const std::uint64_t all = slots_.value();
  std::uint64_t first = free_locked(next_, all);
  if (first == all) first = free_locked(0, all);
  assert(first < all);
  std::uint64_t end = first;
  while (end < all && end - first < most.value() && free_locked(end, end + 1) == end) {
    set_locked(end++, true);
  }
  next_ = end;
  used_ = used_ + PageCount{end - first};
  return {SlotIndex{first}, PageCount{end - first}};
}

void SwapFile::give_back(const SwapSlots& slots) {
  const std::lock_guard lock(mutex_);
  for (std::uint64_t i = 0; i < slots.count.value(); ++i)
    set_locked(slots.first.value() + i, false);
  used_ = used_ - slots.count;
}

Result<PageCount> SwapFile::write(const SwapSlots& slots, std::span<const std::byte> pages) const {
  assert(pages.size() == kSlot.bytes(slots.count).value());
  // One after the other: the kernel tells of a write that failed behind our back whoever waits for
  // any next, and once.
  const std::lock_guard one(writing_);
  std::size_t done = 0;
  while (done < pages.size()) {
    const ssize_t wrote = ::pwrite(fd_.get(), pages.data() + done, pages.size() - done,
                                   static_cast<off_t>(offset_of(slots.first).value() + done));
    if (wrote > 0) {
      done += static_cast<std::size_t>(wrote);
    } else if (wrote < 0 && errno == EFAULT) {
      break;
    } else if (wrote == 0 || errno != EINTR) {
      return fail(wrote == 0 ? EIO : errno,
                  "writing " + std::to_string(pages.size() - done) + " bytes to the swap file");
    }
  }
  const PageCount written = kSlot.pages(ByteCount{done});
  if (auto there = wait_for_disk({slots.first, written}); !there) return propagate(there);
  return written;
}

Status SwapFile::wait_for_disk(const SwapSlots& slots) const {
  if (slots.count == PageCount{0}) return {};
  // Not fsync(2): after a crash nobody reads it.
  constexpr unsigned kWriteAndWait =
      SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
  int result = 0;
  do {
    result = ::sync_file_range(fd_.get(), static_cast<off_t>(offset_of(slots.first).value()),
                               static_cast<off_t>(kSlot.bytes(slots.count).value()), kWriteAndWait);
  } while (result != 0 && errno == EINTR);
  if (result == 0) return {};
  return fail_errno("waiting for " + std::to_string(slots.count.value()) +
                    " pages of the swap file to be on its disk");
}

ByteCount SwapFile::used() const {
  const std::lock_guard lock(mutex_);
  return kSlot.bytes(used_);
}

}  // namespace faultline::memory
