// A memory object: a sized set of pages in one sealed memfd, filled by its pager when they are
// first needed. Must never let a page be seen before its whole content is there, and never block on
// a file.
//
// Life of a page of a file object:
//   1. A worker finds it absent, claims it and what follows it in the window, and has the pager of
//      the object's owner read the file, once for all of it. Whoever wants the page meanwhile
//      leaves a waiter.
//   2. What was read is put into the memfd, page by page with its whole content. It must not be
//      read to there: a worker that saw the page resident, before a writer took it out, would find
//      it half read.
//   3. The read completes: the watcher is told, then the pages are marked resident, then the
//   waiters
//      are told.
//   4. Or it fails: the entries return to absent, whatever the memfd now holds of them; then the
//      waiters are told: to try the page alone when the read was of several, that it cannot be had
//      when it was of one.
// A page of a zero-fill object is allocated in the memfd and marked, at once.
//
// Locking: fills_mutex_ guards fills_ and everything in a Fill. A page is in state filling only
// while a Fill that covers it is in fills_ (claims and their entry are made under the mutex), so a
// waiter that looks under the mutex either finds the fill or a state that is no longer filling.
// The pager's mailbox is posted to under it.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "daemon/kernel/closer.hpp"
#include "daemon/kernel/futex.hpp"
#include "daemon/kernel/hole_guard.hpp"
#include "daemon/kernel/memfd.hpp"
#include "daemon/kernel/units.hpp"
#include "daemon/memory/file_pager.hpp"
#include "daemon/memory/page_table.hpp"
#include "daemon/memory/page_watcher.hpp"

namespace faultline::memory {

// A file behind an object, or a part of one.
struct FileSource {
  kernel::ForeignFd fd;
  ByteCount offset;  // where the object's first page is
  ByteCount length;  // of content; what follows it in the last page reads zero
  // Where its reads may wait for a process or a server, they are not begun on the pager's thread.
  bool answered_by_others = false;
};

struct ObjectSpec {
  std::string name;  // empty: anonymous
  uid_t uid = 0;
  gid_t gid = 0;
  mode_t mode = 0600;
  PageSize page_size;
  ByteCount content_size;
  std::optional<FileSource> file;
  // Wakes go to the kernel only where the board counts somebody who may wait.
  bool counted_waits = false;
};

enum class Supply {
  ready,        // resident
  retry_alone,  // a read of several pages failed: ask for this page alone
  failed,       // it cannot be supplied
};

class MemoryObject : public std::enable_shared_from_this<MemoryObject> {
 public:
  // Called once, on this or the pager's thread, possibly before populate returns.
  using Waiter = std::function<void(Supply)>;

  // The pager, for an object with a file, must outlive every call of populate.
  static Result<std::shared_ptr<MemoryObject>> create(ObjectId id, ObjectSpec spec,
                                                      FilePager* pager = nullptr);

  [[nodiscard]] ObjectId id() const { return id_; }
  [[nodiscard]] const std::string& name() const { return spec_.name; }
  [[nodiscard]] uid_t uid() const { return spec_.uid; }
  [[nodiscard]] gid_t gid() const { return spec_.gid; }
  [[nodiscard]] mode_t mode() const { return spec_.mode; }
  [[nodiscard]] PageSize page_size() const { return spec_.page_size; }
  [[nodiscard]] ByteCount content_size() const { return spec_.content_size; }
  [[nodiscard]] ByteCount size() const { return spec_.page_size.bytes(pages_.size()); }
  [[nodiscard]] PageCount page_count() const { return pages_.size(); }
  [[nodiscard]] bool counted_waits() const { return spec_.counted_waits; }
  [[nodiscard]] bool from_file() const { return spec_.file.has_value(); }
  [[nodiscard]] const kernel::Memfd& memfd() const { return memfd_; }
  [[nodiscard]] ByteCount resident() const { return memfd_.allocated(); }
  [[nodiscard]] const PageTable& pages() const { return pages_; }
  void count_waiters(std::size_t bucket, int change) { pages_.count_waiters(bucket, change); }
  void count_for_good(std::size_t bucket) { pages_.count_for_good(bucket); }

  // The daemon's own view of a page, for a system call to copy from. Valid while the object lives.
  // The page is resident; where a writer tore it out all the same, EFAULT tells so if a file is
  // behind the object, and zeroes are what it has otherwise.
  [[nodiscard]] const std::byte* content(PageIndex page) const {
    return memory_.data() + spec_.page_size.offset_of(page).value();
  }

  // The daemon's own view of a word, for futex(2) alone: the kernel looks at it without harm where
  // its page has gone. offset: within the object, rounded down to four bytes.
  [[nodiscard]] const kernel::FutexWord* word(ByteCount offset) const {
    return reinterpret_cast<const kernel::FutexWord*>(memory_.data() +
                                                      (offset.value() & ~std::uint64_t{3}));
  }
  // The eight bytes from a multiple of four on, of which those past the object's end are 0. EFAULT
  // where their page has gone.
  [[nodiscard]] Result<std::uint64_t> peek(ByteCount offset) const;
  // The same of a page that is in no memory, and stays so: a file's is read. seen: called once, on
  // this or the pager's thread.
  void glance(ByteCount offset, std::function<void(Result<std::uint64_t>)> seen);
  // Has it told, from now on, before any page becomes resident. There is one watcher for all.
  void watch(PageWatcher& watcher) { watcher_.store(&watcher, std::memory_order_seq_cst); }
  // Stores four bytes there, in one step. EFAULT as above.
  [[nodiscard]] Status poke(ByteCount offset, std::uint32_t value) const;

  // Makes pages from first on resident, at most window of them. Returns how many are so now, from
  // first; 0 means that first is on its way, or refused, and that waiter was taken and will be
  // called.
  PageCount populate(PageIndex first, PageCount window, Waiter waiter);

  // The kernel found no page to map where this one should be. Where a writer tore it out of the
  // memfd it is absent again. Where it is there, the client's mapping is of something else, and
  // that must not cost others what they wrote.
  void recheck(PageIndex page);

  // How many pages from first on, at most limit, are nothing but zeroes and in no memory: a private
  // write need not allocate them.
  [[nodiscard]] PageCount run_of_zeroes(PageIndex first, PageCount limit) const;

  // How many handles are open, in all address spaces.
  void count_handle(int change) { handles_.fetch_add(change); }
  [[nodiscard]] int handles() const { return handles_.load(); }

  // Of its file, ended or not.
  [[nodiscard]] std::uint64_t fills() const { return fills_begun_.load(); }
  // Of pages that no read of the file could supply.
  [[nodiscard]] std::uint64_t failed_fills() const { return failed_fills_.load(); }

 private:
  class Fill;
  class Glance;
  MemoryObject(ObjectId id, ObjectSpec spec, kernel::Memfd memfd, kernel::MappedMemory memory,
               const kernel::HoleGuard* guard, PageTable pages, FilePager* pager);

  PageCount populate_zero(PageIndex first, PageCount window, const Waiter& waiter);
  PageCount populate_file(PageIndex first, PageCount window, Waiter waiter);
  void tell_watcher(PageIndex first, PageCount count);
  // At the error level, within the budget of its owner.
  void log(PageIndex page, const std::string& what) const;
  void finish(Fill& fill, PageCount supplied, int error);

  ObjectId id_;
  ObjectSpec spec_;
  kernel::Memfd memfd_;
  kernel::MappedMemory memory_;
  const kernel::HoleGuard* guard_;  // of the memory, where a file is behind it; else null
  PageTable pages_;
  FilePager* pager_;
  std::atomic<PageWatcher*> watcher_{nullptr};
  std::atomic<std::uint64_t> fills_begun_{0};
  std::atomic<std::uint64_t> failed_fills_{0};
  std::atomic<int> handles_{0};

  std::mutex fills_mutex_;
  std::vector<std::unique_ptr<Fill>> fills_;
};

}  // namespace faultline::memory
