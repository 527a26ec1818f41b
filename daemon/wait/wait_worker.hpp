// One thread of one user's, that serves the channels of that user's clients and keeps their waits.
// Must never wait for a client, nor for a worker that answers faults: those wait for it when a page
// parts that waits hang on.
//
// Life of a request: the doorbell tells of it; it is carried out at once; its answer goes to the
// thread that asked. A wait lasts, and is told of when it is over.
//
// Where requests come within kLinger of each other, the worker does not sleep for as long after the
// last: it looks at the rings of the clients that were busy, and yields its processor in between.
// That spares a client the doorbell, and the worker the waking up.
//
// Other threads reach it by its mailbox. Letters are read, channels looked at and waits moved at
// the top level of its loop, never inside a completion.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/kernel/event_signal.hpp"
#include "daemon/kernel/mailbox.hpp"
#include "daemon/kernel/ring.hpp"
#include "daemon/wait/absent_waits.hpp"
#include "daemon/wait/brokered_wait.hpp"
#include "daemon/wait/client.hpp"
#include "daemon/wait/word_table.hpp"

namespace faultline::wait {

class WaitWorker {
 public:
  // How often waits are delivered again for which there was no room.
  static constexpr std::chrono::milliseconds kAgainAfter{1};

  static constexpr std::chrono::microseconds kLinger{50};

  // Errors: as io_uring_setup(2).
  static Result<std::unique_ptr<WaitWorker>> create(WordTable& words, AbsentWaits& absent,
                                                    std::shared_ptr<kernel::EventSignal> signal);
  WaitWorker(const WaitWorker&) = delete;
  WaitWorker& operator=(const WaitWorker&) = delete;
  ~WaitWorker();

  // --- thread-safe

  // Runs it on the worker; false once that has ended.
  bool post(std::function<void()> letter) { return mailbox_->post(std::move(letter)); }
  void serve(std::shared_ptr<Client> client);
  // Its session has ended: so do its waits, and a wake that it was told of and did not take goes to
  // another who waits.
  void leave(std::shared_ptr<Client> client);
  // Its process is gone, and so are its words, once its affairs are settled (thread_records.hpp).
  // mapped: what it had, in order.
  void bury(std::shared_ptr<Client> client, std::vector<space::Vma> mapped);
  // Has the waits that hang on these words, which are moving, queue at their slots; returns when
  // they do.
  void move(const std::vector<Word*>& words);
  // Words were dropped: what hung on them is told.
  void look_for_ended();

  // --- on the worker, for AbsentWaits
  void woken_while_absent(BrokeredWait& wait) { over(wait, 0); }
  void page_came(const Client& client, std::uint32_t id);
  void submit() { ring_->submit(); }

 private:
  friend class BrokeredWait;

  class Doorbell final : public kernel::RingOperation {
   public:
    Doorbell(WaitWorker& worker, std::shared_ptr<Client> client)
        : worker_(worker), client_(std::move(client)) {}
    void on_complete(int) override { look_soon(); }

    void listen();
    // Has the worker look at its client, once.
    void look_soon() {
      if (!std::exchange(soon_, true)) worker_.rung_.push_back(this);
    }
    void looking() { soon_ = false; }
    [[nodiscard]] const std::shared_ptr<Client>& client() const { return client_; }

   private:
    WaitWorker& worker_;
    const std::shared_ptr<Client> client_;
    std::uint64_t count_ = 0;
    bool soon_ = false;  // it is among the worker's rung_
  };
  class Signal final : public kernel::RingOperation {
   public:
    void on_complete(int) override { raised_ = true; }
    [[nodiscard]] bool raised() const { return raised_; }
    [[nodiscard]] bool take() { return std::exchange(raised_, false); }

   private:
    bool raised_ = false;
  };
  // The words that one thread waits for any of.
  struct Any {
    std::uint32_t request = 0;
    std::vector<BrokeredWait*> waits;
    bool told = false;
    std::uint8_t words = 0;  // that were asked for so far
    int outcome = 0;  // what it is told once none is left, where none was woken; 0: not known yet
    std::uint8_t index = 0;
  };
  struct Request {
    std::shared_ptr<Client> client;
    wire::Submission asked;
  };

  WaitWorker(WordTable& words, AbsentWaits& absent, std::unique_ptr<kernel::Ring> ring,
             std::shared_ptr<kernel::Mailbox> mailbox, std::shared_ptr<kernel::EventSignal> signal);
  void run();
  void read_mail();
  void attend();
  void look_at(const std::shared_ptr<Client>& client);
  // Whether there is, or soon may be, more to do.
  [[nodiscard]] bool linger();
  // Carries it out, or postpones it, or answers why it cannot be.
  void attempt(const Request& request);
  // Errors: what the client is answered; EBUSY of a word that moves: to be carried out later.
  Status carry_out(const Request& request);
  [[nodiscard]] Status check(const Request& request) const;
  Status resolve(const Request& request);
  Status wake(const Request& request);
  Status requeue(const Request& request);
  Status wait(const Request& request);
  Status wait_for_any(const Request& request);
  Status cancel(const Request& request);

  // The VMA that holds an address of the client's; null where none does.
  [[nodiscard]] static space::VmaRef vma_at(const Client& client, Vaddr address);
  // Wakes at most count who wait for the word. Returns how many.
  [[nodiscard]] int wake_word(SpaceId space, const space::Vma& vma, Vaddr address, int count,
                              std::uint32_t mask);

  // Makes it known to its client by a number.
  BrokeredWait& add(const std::shared_ptr<Client>& client, const wire::Submission& asked);
  // Hangs it on its word, and has the kernel queue it, now or when its page has come.
  Status queue(BrokeredWait& wait);
  void queue_again();
  // Has the kernel queue what was asked for, also where the word was given another slot meanwhile.
  void submit_waits();
  Status queue_at_object(BrokeredWait& wait, const space::Vma& vma);
  Status queue_while_absent(BrokeredWait& wait, PageIndex page);
  Status compare_and_queue(BrokeredWait& wait);
  // Whether it takes the client to look at the word's value now that the wait is queued. Otherwise
  // the kernel has done so, or the daemon does.
  bool client_must_look(BrokeredWait& wait);
  void glance_at(const BrokeredWait& wait);
  void seen_while_queued(std::uint32_t id, const std::shared_ptr<Client>& client,
                         const Result<std::uint64_t>& value);
  void seen_while_absent(std::uint32_t id, const std::shared_ptr<Client>& client,
                         const Result<std::uint64_t>& value);
  Status queue_at_slot(BrokeredWait& wait);
  static void uncount(BrokeredWait& wait);
  // The kernel's queue has it no more.
  void left(BrokeredWait& wait, int result);
  void recall(BrokeredWait& wait, int reason);
  void over(BrokeredWait& wait, int outcome);
  void tell_thread(BrokeredWait& wait, int outcome);
  void send(BrokeredWait& wait);
  void delivered(BrokeredWait& wait, int result);
  void forget(BrokeredWait& wait);
  // Lets its word go, and notes what it was. Returns why the word is gone; 0: it is not.
  int unhook(BrokeredWait& wait);
  // To another who waits for the same word.
  void hand_on(const Woken& woken);
  void move_now(const std::vector<Word*>& words);
  void leave_now(const std::shared_ptr<Client>& client);
  void bury_now(const std::shared_ptr<Client>& client, const std::vector<space::Vma>& mapped);
  void end_waits_of(Client& client, int reason);
  void recall_ended();
  void end_those_out_of_time();
  void set_timer();

  WordTable& words_;
  AbsentWaits& absent_;
  std::unique_ptr<kernel::Ring> ring_;
  std::shared_ptr<kernel::Mailbox> mailbox_;
  std::shared_ptr<kernel::EventSignal> signal_;

  std::unordered_map<const Client*, std::unique_ptr<Doorbell>> doorbells_;
  std::vector<Doorbell*> rung_;
  std::vector<std::shared_ptr<Client>> awake_;  // that need not ring
  std::chrono::steady_clock::time_point asked_at_{};
  bool in_burst_ = false;
  std::vector<Request> postponed_;
  std::vector<BrokeredWait*> requeued_;  // that are to be looked up and queued again
  std::map<std::pair<const Client*, std::uint32_t>, Any> threads_;  // that wait, by their records
  std::multimap<std::int64_t, BrokeredWait*> deadlines_;
  std::vector<std::unique_ptr<BrokeredWait>> finished_;  // until their completion has returned
  std::vector<std::shared_ptr<Client>> to_be_told_;      // that there are completions
  std::vector<BrokeredWait*> undelivered_;               // no room in the ring that they go to
  std::uint64_t mail_count_ = 0;
  Signal mail_;
  Signal timer_;
  std::int64_t timer_at_ = 0;  // CLOCK_MONOTONIC, nanoseconds; while it is in flight
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace faultline::wait
