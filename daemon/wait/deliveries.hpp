// Tells clients what became of their asynchronous waits: in their own completion ring, by an
// eventfd, or in an io_uring of theirs. Must never drop an outcome for which there is no room now,
// nor a wake that cannot be told of at all: that goes to another who waits.
//
// Threads: the worker's alone.
#pragma once

#include <memory>
#include <vector>

#include "daemon/kernel/event_signal.hpp"
#include "daemon/kernel/ring.hpp"
#include "daemon/wait/brokered_wait.hpp"
#include "daemon/wait/word_wakes.hpp"

namespace faultline::wait {

class Deliveries {
 public:
  Deliveries(kernel::Ring& ring, std::shared_ptr<kernel::EventSignal> signal, WordWakes& wakes)
      : ring_(ring), signal_(std::move(signal)), wakes_(wakes) {}
  Deliveries(const Deliveries&) = delete;
  Deliveries& operator=(const Deliveries&) = delete;
  ~Deliveries() = default;

  // Tells the client of a wait that is over. False: it is on its way, and needed until delivered()
  // says that it is not.
  [[nodiscard]] bool send(BrokeredWait& wait);
  // False: there was no room; it is to be sent again.
  [[nodiscard]] bool delivered(BrokeredWait& wait, int result);
  // Those for which there was no room.
  [[nodiscard]] std::vector<BrokeredWait*> take_undelivered() { return std::move(undelivered_); }
  [[nodiscard]] std::vector<BrokeredWait*> take_undelivered_of(const Client& client);
  [[nodiscard]] bool any_undelivered() const { return !undelivered_.empty(); }

  // That there is something in its ring is announced with the next.
  void announce_to(const std::shared_ptr<Client>& client);
  void announce();

 private:
  kernel::Ring& ring_;
  std::shared_ptr<kernel::EventSignal> signal_;
  WordWakes& wakes_;
  std::vector<std::shared_ptr<Client>> to_be_told_;
  std::vector<BrokeredWait*> undelivered_;
};

}  // namespace faultline::wait
