// Waits for words of objects that the kernel's queues cannot have: of pages that are in no memory,
// which go to the kernel's queue when their page comes; and of words at addresses that are no
// multiple of four, which stay. Must never have a page brought into memory by a wait, nor lose a
// wake that comes with the page.
//
// Why none is lost. Who makes a page resident takes it out of the state absent, passes a full
// fence, and looks whether the object is watched; where it is, the page is given to nobody before
// the waits for it are in the kernel's queue (pages_come). Who waits has the object watched, enters
// its wait, passes a full fence, and looks whether the page is absent still. One of the two sees
// the other. A raw futex(2) user, or a store, needs the page, and so comes after the waits are
// queued; and as they are queued, the kernel compares the word's value with what is expected.
//
// Several threads may make one page resident at a time: each gives it to nobody before the waits
// that any of them took out are queued.
//
// Locking: mutex_ guards all; leaf lock but for the mailboxes of keepers, which are posted to under
// it. Thread-safe. A thread that calls pages_come blocks until the keepers have queued the waits,
// and so must not be one of theirs.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <list>
#include <map>
#include <mutex>
#include <utility>

#include "daemon/memory/memory_object.hpp"
#include "daemon/memory/page_watcher.hpp"

namespace faultline::wait {

class BrokeredWait;

class UnqueuedWaits final : public memory::PageWatcher {
 public:
  // Of a word that the kernel knows no queue for.
  [[nodiscard]] static bool stays(std::uint64_t offset) { return offset % 4 != 0; }
  // False: the page is not absent any more, and nothing was entered; not of a word that stays.
  [[nodiscard]] bool enter(BrokeredWait& wait, PageIndex page);
  // False: it is not here any more: it was woken, or its page comes. Its keeper has been posted to.
  [[nodiscard]] bool leave(BrokeredWait& wait);
  // Of one that is not here any more: whether its page comes, and it was not woken.
  [[nodiscard]] bool comes(const BrokeredWait& wait) const;
  // Wakes at most count of those who wait for the object's word. Returns how many.
  [[nodiscard]] int wake(const memory::MemoryObject& object, std::uint64_t offset, int count,
                         std::uint32_t mask);

  // The same for all who wait at the object's word: first those whose page is away, then those in
  // the kernel's queue. The kernel knows that queue by the page: where the page was taken out of
  // memory since somebody queued there, it has to come back first. EBUSY: that has begun, nobody
  // was woken, and again is called, on another thread, when the page is there.
  [[nodiscard]] Result<int> wake_at_object(memory::MemoryObject& object, ByteCount offset,
                                           int count, std::uint32_t mask,
                                           const std::function<void()>& again);
  // The same, however long it takes, where nobody wants to know how many were woken.
  void hand_on(const std::shared_ptr<memory::MemoryObject>& object, ByteCount offset, int count,
               std::uint32_t mask);

  void pages_come(memory::MemoryObject& object, PageIndex first, PageCount count) override;

 private:
  using Key = std::pair<ObjectId, PageIndex>;

  // Pages whose waits are on their way to the kernel.
  struct Coming {
    ObjectId object;
    PageIndex first;
    PageCount count;
    std::shared_future<void> queued;
  };

  mutable std::mutex mutex_;
  std::map<Key, std::list<BrokeredWait*>> waits_;
  std::list<Coming> coming_;
};

}  // namespace faultline::wait
