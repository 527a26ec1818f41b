#include "daemon/wait/thread_records.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>

#include "daemon/kernel/futex.hpp"
#include "daemon/wait/word_in_vma.hpp"

namespace faultline::wait {

namespace {

// linux/futex.h, and FL_ROBUST_* of faultline/wait.h.
constexpr std::uint32_t kWaiters = 0x80000000;
constexpr std::uint32_t kOwnerDied = 0x40000000;
constexpr std::uint32_t kTidMask = 0x3fffffff;

void hand_over_word(const std::shared_ptr<memory::MemoryObject>& object, ByteCount offset,
                    std::uint32_t tid) {
  const PageIndex page = object->page_size().index_of(offset);
  const auto when_back = [&] {
    // Of a page that was never there, or that a client took out, the word is 0 or the file's:
    // nobody's lock. But one that left memory comes back with what it held.
    const memory::PageState state = object->pages().state(page);
    if (!object->may_wait() || state == memory::PageState::absent ||
        state == memory::PageState::poisoned) {
      return;
    }
    object->bring_back(page, [object, offset, tid] { hand_over_word(object, offset, tid); });
  };
  const auto eight = object->peek(offset);
  if (!eight) return when_back();
  const auto word = static_cast<std::uint32_t>(*eight);
  if ((word & kTidMask) == tid) {
    // Between that look and this store the word can only have got kWaiters, which it has now in any
    // case: nobody but the owner, who is dead, takes the thread's number out of it.
    if (!object->poke(offset, kWaiters | kOwnerDied)) return when_back();
  }
  // Whatever the word holds: it may have died between giving a lock up and waking, or with a wake
  // that it was given, and another may have taken the lock since without knowing of those who wait.
  if (kernel::futex_wake_shared(*object->word(offset), 1) == -EFAULT) when_back();
}

// Of a word that the dead thread had listed.
void hand_over(const space::Vma* vma, Vaddr address, std::uint32_t tid) {
  const bool lock = vma != nullptr && vma->sharing == space::Sharing::shared && vma->may_write &&
                    address.value() % sizeof(std::uint32_t) == 0;
  if (lock) hand_over_word(vma->object, offset_in(*vma, address), tid);
}

}  // namespace

const space::Vma* vma_of(const std::vector<space::Vma>& mapped, Vaddr address) {
  const auto after =
      std::upper_bound(mapped.begin(), mapped.end(), address,
                       [](Vaddr wanted, const space::Vma& vma) { return wanted < vma.start; });
  if (after == mapped.begin()) return nullptr;
  const space::Vma& before = *std::prev(after);
  return before.contains(address) ? &before : nullptr;
}

void end_threads(const channel::Channel& channel, int error,
                 const std::function<bool(Vaddr)>& condition) {
  // Pairs with the fence of a thread that has said what it waits for, and then looks whether that
  // is still so: it sees the change that was made before this, or it is seen here.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  channel.each_record([&](wire::ThreadRecord& record) {
    bool here = false;
    // Acquire: pairs with the thread's release after it wrote the words.
    const std::uint32_t waiting = record.waiting.load(std::memory_order_acquire);
    each_word(waiting, [&](std::size_t i) {
      here = here || condition(Vaddr{record.words[i].load(std::memory_order_relaxed)});
    });
    if (!here) return;
    record.end_reason.store(-error, std::memory_order_relaxed);
    record.end_of.store(waiting, std::memory_order_relaxed);
    record.end.fetch_add(1, std::memory_order_release);
    (void)kernel::futex_wake_shared(record.end, 1);
  });
}

void move_threads(const channel::Channel& channel, const space::VaRange& from, Vaddr to) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  channel.each_record([&](wire::ThreadRecord& record) {
    each_word(record.waiting.load(std::memory_order_acquire), [&](std::size_t i) {
      std::uint64_t address = record.words[i].load(std::memory_order_relaxed);
      if (address < from.start.value() || address >= from.end().value()) return;
      record.words[i].compare_exchange_strong(address,
                                              (to + (Vaddr{address} - from.start)).value());
    });
  });
}

void settle_affairs(const channel::Channel& channel, const std::vector<space::Vma>& mapped,
                    const std::function<void(const space::Vma&, Vaddr)>& wake_one) {
  channel.each_record([&](wire::ThreadRecord& record) {
    const std::uint32_t tid = record.tid.load(std::memory_order_relaxed) & kTidMask;
    if (tid == 0) return;
    const std::uint64_t held = std::min<std::uint64_t>(
        record.robust.count.load(std::memory_order_relaxed), wire::kMostRobust);
    for (std::size_t i = 0; i < held; ++i) {
      const Vaddr address{record.robust.held[i].load(std::memory_order_relaxed)};
      hand_over(vma_of(mapped, address), address, tid);
    }
    const Vaddr pending{record.robust.pending.load(std::memory_order_relaxed)};
    hand_over(vma_of(mapped, pending), pending, tid);

    const std::uint32_t waiting = record.waiting.load(std::memory_order_relaxed);
    const bool asked = (waiting & wire::kWaitingAsked) != 0;
    if (asked && record.result.load(std::memory_order_relaxed) != 0) return;
    each_word(waiting, [&](std::size_t i) {
      const Vaddr address{record.words[i].load(std::memory_order_relaxed)};
      const space::Vma* const vma = vma_of(mapped, address);
      if (vma != nullptr) wake_one(*vma, address);
    });
  });
}

}  // namespace faultline::wait
