// The waits that one worker keeps for its user's clients, from the request to the word that it is
// over. Must never lose a wake: one that comes for a wait that nobody hears of any more goes to
// another who waits for the same word.
//
// A wait of several words, or of one that a thread sleeps on, is one BrokeredWait for each word;
// the first that is over ends the others, and the thread is told once.
//
// Threads: all but post() and totals() on the worker's.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "daemon/wait/deliveries.hpp"
#include "daemon/wait/wait_queues.hpp"
#include "daemon/wait/wait_tally.hpp"

namespace faultline::wait {

class KeptWaits final : public WaitKeeper, private WaitQueues::Listener {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // How often outcomes are sent again for which there was no room.
  static constexpr std::chrono::milliseconds kAgainAfter{1};

  KeptWaits(WordTable& words, UnqueuedWaits& unqueued, WordWakes& wakes, kernel::Ring& ring,
            std::shared_ptr<kernel::Mailbox> mailbox, std::shared_ptr<kernel::EventSignal> signal);

  // --- requests, which it answers; an error is the caller's to answer. EBUSY: the word moves, to
  // be asked again.

  // Begins an asynchronous wait, and tells its number.
  Status begin(const std::shared_ptr<Client>& client, const wire::Submission& asked);
  // Adds a word to those that a thread waits for, and after the last has it told of the first that
  // is over.
  Status begin_of_thread(const std::shared_ptr<Client>& client, const wire::Submission& asked);
  Status cancel(const std::shared_ptr<Client>& client, const wire::Submission& asked);
  Status cancel_of_thread(const std::shared_ptr<Client>& client, const wire::Submission& asked);

  // --- what becomes of them

  // Ends all that a client has; none is told of any more. It may live on for as long as the kernel
  // takes.
  void end_all(Client& client);
  // Whether the kernel's queues have none of the client's.
  [[nodiscard]] static bool all_left(const Client& client);
  void recall_ended() { queues_.recall_ended(); }
  void move(const std::vector<Word*>& words) { queues_.move(words); }
  // As WaitQueues.
  int requeue(SpaceId space, const WaitQueues::Place& from, const WaitQueues::Place& to,
              int count) {
    return queues_.requeue(space, from, to, count);
  }
  // Those whose places in queues were lost.
  void queue_again() { queues_.queue_again(); }
  // Ends those whose time is up, and sends again those for which there was no room.
  void on_time(Time now);
  // When on_time() is to be called next; nothing: never.
  [[nodiscard]] std::optional<Time> next_time(Time now) const;
  void announce_to(const std::shared_ptr<Client>& client) { deliveries_.announce_to(client); }
  [[nodiscard]] WaitTotals totals() const { return tally_.totals(); }
  // The end of the worker's turn: has clients look, and lets go of what is finished.
  void end_turn();

  bool post(std::function<void()> letter) override { return mailbox_->post(std::move(letter)); }
  void left(BrokeredWait& wait, int result) override { queues_.left(wait, result); }
  void delivered(BrokeredWait& wait, int result) override;
  void woken_unqueued(BrokeredWait& wait) override { over(wait, 0); }
  void page_came(const Client& client, std::uint32_t id) override;
  void submit() override { ring_.submit(); }

 private:
  // The words that one thread waits for any of.
  struct Any {
    std::uint32_t request = 0;
    std::vector<BrokeredWait*> waits;
    bool told = false;
    bool armed = false;      // the words' values are the client's to look at
    std::uint8_t words = 0;  // that were asked for so far
    int outcome = 0;  // what it is told once none is left, where none was woken; 0: not known yet
    std::uint8_t index = 0;
  };

  // Makes it known to its client by a number.
  BrokeredWait& add(const std::shared_ptr<Client>& client, const wire::Submission& asked);
  // Of one that could not be queued, for the reason of which the client is told.
  void drop(BrokeredWait& wait, int error);
  void over(BrokeredWait& wait, int outcome) override;
  void tell_thread(BrokeredWait& wait, int outcome);
  void send(BrokeredWait& wait);
  void forget(BrokeredWait& wait);

  WaitTally tally_;
  WordWakes& wakes_;
  kernel::Ring& ring_;
  std::shared_ptr<kernel::Mailbox> mailbox_;
  WaitQueues queues_;
  Deliveries deliveries_;
  std::map<std::pair<const Client*, std::uint32_t>, Any> threads_;  // that wait, by their records
  std::multimap<std::int64_t, BrokeredWait*> deadlines_;            // as BrokeredWait::until
  std::vector<std::unique_ptr<BrokeredWait>> finished_;  // until their completion has returned
};

}  // namespace faultline::wait
