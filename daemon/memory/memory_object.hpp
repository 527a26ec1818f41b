// A memory object: a sized set of pages in one sealed memfd, filled by its pager when they are
// first needed. Must never let a page be seen before its whole content is there, and never block on
// a file.
//
// Life of a page that has to be read, from the object's file or from the swap file:
//   1. A worker finds it in no memory, claims it and what follows it in the window, and has the
//      pager of the object's owner read it, once for all. Whoever wants the page meanwhile leaves a
//      waiter.
//   2. What was read is put into the memfd, page by page with its whole content. It must not be
//      read to there: a worker that saw the page resident, before a writer took it out, would find
//      it half read.
//   3. The read completes: the watcher is told, then the pages are marked resident, then the
//      waiters are told.
//   4. Or it fails: the entries become lost, whatever the memfd now holds of them, or poisoned
//      where the read was of one page; then the waiters are told: to try the page alone
//      when the read was of several, that it cannot be had when it was of one.
//   5. It may be taken out again (eviction.hpp): to the swap file, or, where it is as its file has
//      it, to nowhere.
// A page of zeroes is allocated in the memfd and marked, at once: by whoever claimed it, where
// pages can leave memory; else by any worker, since nothing can be lost by its being done twice.
//
// The pages of an object of huge pages are reserved when it is made, so that allocating one cannot
// fail; where a client has punched a hole, that page is back in the machine's pool, and can.
//
// Locking: claims_mutex_ guards claims_ and everything in a claim, eviction_, swapped_, unserved_
// and taking_out_. Where pages can leave memory, a page is in state filling only while a claim that
// covers it is in claims_, and in state evicting only while eviction_ has it (both states and
// entries change under the mutex): a waiter that looks under the mutex finds the claim, or a state
// that is neither. The pager's mailbox is posted to under it.
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
#include "daemon/memory/fill.hpp"
#include "daemon/memory/page_table.hpp"
#include "daemon/memory/page_watcher.hpp"
#include "daemon/memory/swapped_pages.hpp"

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

class Eviction;

class MemoryObject : public std::enable_shared_from_this<MemoryObject> {
 public:
  // Called once, on this or the pager's thread, possibly before populate returns.
  using Waiter = PageClaim::Waiter;

  // The pager must outlive every call of populate; an object with a file needs one, and so does one
  // with a swap file.
  static Result<std::shared_ptr<MemoryObject>> create(ObjectId id, ObjectSpec spec,
                                                      FilePager* pager = nullptr,
                                                      std::shared_ptr<SwapFile> swap = nullptr);
  MemoryObject(const MemoryObject&) = delete;
  MemoryObject& operator=(const MemoryObject&) = delete;
  ~MemoryObject();

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
  // Whether pages can leave memory, and who wants one may have to wait for it.
  [[nodiscard]] bool may_wait() const { return pager_ != nullptr; }
  // Whether a page that nobody stored to can go without being written anywhere. What is mapped
  // shared is then write-protected until the first store. Huge pages never go: to take one out of
  // the memfd would take everybody's private copies of it away.
  [[nodiscard]] bool tracks_stores() const { return from_file() && !huge(); }
  [[nodiscard]] const kernel::Memfd& memfd() const { return memfd_; }
  [[nodiscard]] ByteCount resident() const { return memfd_.allocated(); }
  [[nodiscard]] const PageTable& pages() const { return pages_; }
  void count_waiters(std::size_t bucket, int change) { pages_.count_waiters(bucket, change); }
  void count_for_good(std::size_t bucket) { pages_.count_for_good(bucket); }

  // The daemon's own view of a page, for a system call to copy from. Valid while the object lives.
  // The page is resident; where it was taken out all the same, EFAULT tells so if pages can leave
  // memory or are huge, and zeroes are what it has otherwise.
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
  // The same of a page that is in no memory, and stays so: it is read where its content is. seen:
  // called once, on this or another thread; EIO where its content cannot be read.
  void glance(ByteCount offset, std::function<void(Result<std::uint64_t>)> seen);
  // Has it told, from now on, before any page becomes resident. There is one watcher for all.
  void watch(PageWatcher& watcher) { watcher_.store(&watcher, std::memory_order_seq_cst); }
  // Stores four bytes there, in one step. EFAULT as above, and while the page is being evicted.
  [[nodiscard]] Status poke(ByteCount offset, std::uint32_t value);

  // Makes pages from first on resident, at most window of them. Returns how many are so now, from
  // first; 0 means that first is on its way, or refused, and that waiter was taken and will be
  // called.
  PageCount populate(PageIndex first, PageCount window, Waiter waiter);

  // Has a page come that may have been in memory before, and calls then, on another thread, when it
  // is there or cannot be had. Of an object whose pages can leave memory.
  void bring_back(PageIndex page, std::function<void()> then);

  // Somebody asked for these pages; somebody can store to them. Both of pages that he has just
  // mapped, or has found resident; an eviction that begins meanwhile ends after that is said.
  void used(PageIndex first, PageCount count) {
    pages_.set_marks(first, count, wire::kPageReferenced);
  }
  void stored(PageIndex first, PageCount count) {
    if (tracks_stores()) pages_.set_marks(first, count, wire::kPageDirty);
  }
  // Nobody is known to have asked for them from here on.
  void cool(PageIndex first, PageCount count);

  // Somebody has pages of it mapped whom the daemon no longer serves, and who stores to them
  // without a word: from here on none leaves memory. False: some are just leaving, ask again a
  // moment later.
  [[nodiscard]] bool leave_to_kernel();
  // How many pages from first on are such as the kernel has, up to limit: in memory, or nothing but
  // zeroes; and how many are not.
  [[nodiscard]] PageCount run_kernel_has(PageIndex first, PageCount limit);
  [[nodiscard]] PageCount run_kernel_lacks(PageIndex first, PageCount limit);

  // A client punched holes there, also into what is not in memory: what is in the swap file is
  // dropped. False: some of it is on its way to or from the swap file. Who wants it gone punches
  // again, and asks again.
  [[nodiscard]] bool drop_swapped(PageIndex first, PageCount count);
  // In the swap file.
  [[nodiscard]] PageCount swapped() const {
    return PageCount{swapped_count_.load(std::memory_order_relaxed)};
  }
  // How many of these are. Takes the lock for a little at a time, so that nobody waits for a look.
  [[nodiscard]] PageCount swapped_in(PageIndex first, PageCount count);
  // The first page from here on that is there.
  [[nodiscard]] std::optional<PageIndex> next_swapped(PageIndex page);

  // The kernel found no page to map where this one should be. Where a writer tore it out of the
  // memfd it is absent again. Where it is there, the client's mapping is of something else, and
  // that must not cost others what they wrote.
  void recheck(PageIndex page);

  // How many pages from first on, at most limit, are nothing but zeroes and in no memory: a private
  // write need not allocate them.
  [[nodiscard]] PageCount run_of_zeroes(PageIndex first, PageCount limit);

  // How many pages from first on, up to limit, surely have no memory. Its own memory is not touched
  // for that, nor the table's.
  [[nodiscard]] PageCount run_of_holes(PageIndex first, PageCount limit) const;

  // How many handles are open, in all address spaces.
  void count_handle(int change) { handles_.fetch_add(change); }
  [[nodiscard]] int handles() const { return handles_.load(); }

  // Of its file or the swap file, ended or not.
  [[nodiscard]] std::uint64_t fills() const { return fills_begun_.load(); }
  // Of pages that no read could supply.
  [[nodiscard]] std::uint64_t failed_fills() const { return failed_fills_.load(); }

 private:
  friend class Eviction;
  friend class Fill;
  class Glance;
  MemoryObject(ObjectId id, ObjectSpec spec, kernel::Memfd memfd, kernel::MappedMemory memory,
               const kernel::HoleGuard* guard, PageTable pages, FilePager* pager,
               std::shared_ptr<SwapFile> swap);

  [[nodiscard]] bool huge() const { return spec_.page_size == kHugePage; }
  // Whether the memfd has any of the pages.
  [[nodiscard]] Result<bool> holds(PageIndex first, PageCount count) const;
  PageCount populate_zero(PageIndex first, PageCount window, const Waiter& waiter);
  PageCount populate_claimed(PageIndex first, PageCount window, Waiter waiter);
  // From ready pages on, which are resident, with the claim that was made for it.
  PageCount fill_with_zeroes(PageCount ready, PageClaim& claim, const Waiter& waiter);
  // Who fills the page or takes it out; null where nobody does.
  [[nodiscard]] PageClaim* claim_on_locked(PageIndex page) const;
  // Where pages from first on come from, and how many of them from there; nothing: they are zero.
  [[nodiscard]] std::optional<ContentSource> source_locked(PageIndex first, PageCount& count) const;
  [[nodiscard]] bool kernel_has_locked(PageIndex page) const;
  void drop_slots_locked(PageIndex first, PageCount count);
  void tell_watcher(PageIndex first, PageCount count);
  // At the error level, within the budget of its owner.
  void log(PageIndex page, const std::string& what) const;
  void finish(PageClaim& claim, PageCount supplied, int error);

  ObjectId id_;
  ObjectSpec spec_;
  kernel::Memfd memfd_;
  kernel::MappedMemory memory_;
  // Of the memory, where pages can leave it or are huge; else null.
  const kernel::HoleGuard* guard_;
  PageTable pages_;
  FilePager* pager_;
  const std::shared_ptr<SwapFile> swap_;  // null: there is none
  std::atomic<PageWatcher*> watcher_{nullptr};
  std::atomic<std::uint64_t> fills_begun_{0};
  std::atomic<std::uint64_t> failed_fills_{0};
  std::atomic<std::uint64_t> swapped_count_{0};
  std::atomic<int> handles_{0};

  std::mutex claims_mutex_;
  std::vector<std::unique_ptr<PageClaim>> claims_;  // that fill
  Eviction* eviction_ = nullptr;                    // the one that takes pages out
  SwappedPages swapped_;
  bool unserved_ = false;    // see leave_to_kernel
  bool taking_out_ = false;  // the eviction can no longer be given up
};

}  // namespace faultline::memory
