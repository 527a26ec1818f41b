// One thread of one user's, that serves the channels of that user's clients and keeps their waits.
// Must never wait for a client, nor for a worker that answers faults: those wait for it when a page
// parts that waits hang on.
//
// Life of a request: the doorbell tells of it; it is carried out at once; its answer goes to the
// thread that asked. A wait lasts, and is told of when it is over.
//
// A client that has moved memory, or unmapped it, may ask about that before the daemon has carried
// it out. A request is therefore looked at only once everything has been carried out that was read
// from its address space until it was taken (message_reads.hpp): what it asks about is then in the
// tree of VMAs, in the table of words and in the thread records as the client knows it. Where
// something has not been, the request is held, and with it those behind it, in the client's own
// ring; who carries it out says so by a letter. Nobody waits for anybody: to carry a move out may
// take this very worker, whose letters and other clients go on meanwhile. Whatever was looked at
// once is not held again, also if it is postponed: what happens after that happens at the same
// time as what was asked.
//
// Where requests come within kLinger of each other, the worker does not sleep for as long after the
// last: it looks at the rings of the clients that were busy, and yields its processor in between.
// That spares a client the doorbell, and the worker the waking up.
//
// Other threads reach it by its mailbox. Letters are read, channels looked at and waits moved at
// the top level of its loop, never inside a completion.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/kernel/event_signal.hpp"
#include "daemon/kernel/mailbox.hpp"
#include "daemon/kernel/pulse.hpp"
#include "daemon/kernel/ring.hpp"
#include "daemon/wait/client.hpp"
#include "daemon/wait/kept_waits.hpp"
#include "daemon/wait/wait_requests.hpp"
#include "daemon/wait/word_wakes.hpp"

namespace faultline::wait {

class WaitWorker {
 public:
  static constexpr std::chrono::microseconds kLinger{50};

  // Errors: as io_uring_setup(2).
  static Result<std::unique_ptr<WaitWorker>> create(WordTable& words, UnqueuedWaits& unqueued,
                                                    std::shared_ptr<kernel::EventSignal> signal);
  WaitWorker(const WaitWorker&) = delete;
  WaitWorker& operator=(const WaitWorker&) = delete;
  ~WaitWorker();

  // --- thread-safe

  // Runs it on the worker; false once that has ended.
  bool post(std::function<void()> letter) { return mailbox_->post(std::move(letter)); }
  [[nodiscard]] const std::shared_ptr<kernel::Pulse>& pulse() const { return pulse_; }
  [[nodiscard]] WaitTotals totals() const { return waits_.totals(); }
  [[nodiscard]] std::size_t letters() const { return mailbox_->size(); }
  // The keeper of its clients' waits.
  [[nodiscard]] WaitKeeper& keeper() { return waits_; }
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
  // What requests were held for may have been carried out.
  void look_at_held();

 private:
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

  WaitWorker(WordTable& words, UnqueuedWaits& unqueued, std::unique_ptr<kernel::Ring> ring,
             std::shared_ptr<kernel::Mailbox> mailbox, std::shared_ptr<kernel::EventSignal> signal);
  void run();
  void read_mail();
  void attend();
  void answer_rung();
  void answer_held();
  void look_at(const std::shared_ptr<Client>& client);
  // Whether there is, or soon may be, more to do.
  [[nodiscard]] bool linger();
  void set_timer();
  void leave_now(const std::shared_ptr<Client>& client);
  void bury_now(const std::shared_ptr<Client>& client, const std::vector<space::Vma>& mapped);

  WordTable& words_;
  WordWakes wakes_;
  std::unique_ptr<kernel::Ring> ring_;
  std::shared_ptr<kernel::Mailbox> mailbox_;
  const std::shared_ptr<kernel::Pulse> pulse_;
  KeptWaits waits_;
  WaitRequests requests_;

  std::unordered_map<const Client*, std::unique_ptr<Doorbell>> doorbells_;
  std::vector<Doorbell*> rung_;
  std::vector<std::shared_ptr<Client>> awake_;  // that need not ring
  struct Held {
    std::shared_ptr<Client> client;
    wire::Submission asked;
    space::MessageReads::Number until;  // that one is over
  };
  std::vector<Held> held_;  // one a client
  KeptWaits::Time asked_at_{};
  bool in_burst_ = false;
  std::uint64_t mail_count_ = 0;
  Signal mail_;
  Signal timer_;
  KeptWaits::Time timer_at_{};  // while it is in flight
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace faultline::wait
