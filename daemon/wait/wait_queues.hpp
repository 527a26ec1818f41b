// Where the waits that one worker keeps are queued: puts each into the kernel's queue that stands
// for its word, or with UnqueuedWaits, moves it when its page parts, and takes it out. Must never
// leave a wait in no queue without having told the listener that it is over.
//
// Threads: the worker's alone. Looks at memory that may take time are made elsewhere, and come back
// as letters.
#pragma once

#include <memory>
#include <vector>

#include "daemon/kernel/mailbox.hpp"
#include "daemon/kernel/ring.hpp"
#include "daemon/wait/brokered_wait.hpp"
#include "daemon/wait/unqueued_waits.hpp"
#include "daemon/wait/word_table.hpp"

namespace faultline::wait {

class WaitQueues {
 public:
  class Listener {
   public:
    Listener() = default;
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;
    virtual ~Listener() = default;
    // It is in no queue, and never will be again. outcome: 0 woken, or a negative errno.
    virtual void over(BrokeredWait& wait, int outcome) = 0;
  };

  WaitQueues(WordTable& words, UnqueuedWaits& unqueued, kernel::Ring& ring,
             std::shared_ptr<kernel::Mailbox> mailbox, Listener& listener)
      : words_(words),
        unqueued_(unqueued),
        ring_(ring),
        mailbox_(std::move(mailbox)),
        listener_(listener) {}
  WaitQueues(const WaitQueues&) = delete;
  WaitQueues& operator=(const WaitQueues&) = delete;
  ~WaitQueues() = default;

  // Hangs it on its word, and has the kernel queue it, now or when its page has come. Errors:
  // EFAULT; EAGAIN another value; as WordTable::find: EBUSY it is moving, ask again a moment later.
  // The listener is not told of an error.
  Status queue(BrokeredWait& wait);
  // Has the kernel queue what was asked for, also where the word was given another slot meanwhile.
  // It has looked at the values when this returns.
  void submit();
  // Those whose place in a queue was lost.
  void queue_again();
  // Whether the kernel compares the word's value as it queues the wait.
  [[nodiscard]] static bool kernel_compares(const BrokeredWait& wait);
  // Whether it takes the client to look at the word's value now that the wait is queued. Otherwise
  // the kernel has done so, or the daemon does.
  bool client_must_look(BrokeredWait& wait);

  // Takes it out. It is over when the kernel says so. reason: a positive errno, of the first who
  // asked.
  void recall(BrokeredWait& wait, int reason);
  // Those whose words are gone.
  void recall_ended();
  // Lets its word go, and notes what it was. Returns why the word is gone; 0: it is not.
  int unhook(BrokeredWait& wait);
  static void uncount(BrokeredWait& wait);
  struct Place {
    const space::Vma& vma;
    Vaddr address;
  };
  // Has at most count who wait for the one word wait for the other, whatever its value: first those
  // that are kept here. Both were found. Returns how many.
  int requeue(SpaceId space, const Place& from, const Place& to, int count);
  // The waits that hang on words that move queue at their slots when this returns.
  void move(const std::vector<Word*>& words);

  // The kernel's queue has it no more.
  void left(BrokeredWait& wait, int result);
  void page_came(BrokeredWait& wait);

 private:
  Status queue_at_object(BrokeredWait& wait, const space::Vma& vma);
  Status keep_while_absent(BrokeredWait& wait, PageIndex page);
  Status compare_and_queue(BrokeredWait& wait);
  Status queue_at_slot(BrokeredWait& wait);
  // In two steps, between which the kernel lets go of it. False: it is over, or about to be.
  [[nodiscard]] bool begin_to_take_out(BrokeredWait& wait);
  [[nodiscard]] bool taken_out(BrokeredWait& wait);
  // Has the word's value looked at, also where its page is in no memory.
  void glance_at(const BrokeredWait& wait, memory::MemoryObject& object, ByteCount offset);
  void seen(BrokeredWait& wait, const Result<std::uint64_t>& value);

  WordTable& words_;
  UnqueuedWaits& unqueued_;
  kernel::Ring& ring_;
  std::shared_ptr<kernel::Mailbox> mailbox_;
  Listener& listener_;
  std::vector<BrokeredWait*> requeued_;  // that are to be looked up and queued again
};

}  // namespace faultline::wait
