// Wakes who waits for a word, wherever in the daemon or the kernel that is. Must never
// wake at a word that is moving: who waits there would be missed.
//
// Locking: none of its own. Thread-safe.
#pragma once

#include "daemon/wait/client.hpp"
#include "daemon/wait/unqueued_waits.hpp"
#include "daemon/wait/word_table.hpp"

namespace faultline::wait {

class WordWakes {
 public:
  WordWakes(WordTable& words, UnqueuedWaits& unqueued) : words_(words), unqueued_(unqueued) {}

  // Wakes at most count who wait for the word by a bit of mask. Returns how many. The caller holds
  // the VMA, which holds the address. Errors: as WordTable::find and WordTable::wake; EBUSY: ask
  // again, where it is for a page to come when again is called.
  Result<int> wake(const Client& client, const space::Vma& vma, Vaddr address, int count,
                   std::uint32_t mask, const std::function<void()>& again);

  // Gives a wake that nobody took to another who waits for the same word.
  void hand_on(const Woken& woken);
  // The same of a word of a process that is dead. Of one that was moving only its own waits hang
  // there, and those are over.
  void hand_on(SpaceId space, const space::Vma& vma, Vaddr address);

 private:
  WordTable& words_;
  UnqueuedWaits& unqueued_;
};

}  // namespace faultline::wait
