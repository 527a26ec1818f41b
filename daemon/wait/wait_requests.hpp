// Carries out what clients ask for through their channels. Must never believe a request: what a
// client of ours would not ask is answered with an error, to nobody's harm but its own.
//
// Threads: the worker's alone.
#pragma once

#include <memory>
#include <vector>

#include "daemon/wait/kept_waits.hpp"

namespace faultline::wait {

class WaitRequests {
 public:
  WaitRequests(WordTable& words, WordWakes& wakes, KeptWaits& waits)
      : words_(words), wakes_(wakes), waits_(waits) {}
  WaitRequests(const WaitRequests&) = delete;
  WaitRequests& operator=(const WaitRequests&) = delete;
  ~WaitRequests() = default;

  // Carries it out, or postpones it, or answers why it cannot be.
  void attempt(const std::shared_ptr<Client>& client, const wire::Submission& asked);
  // Those whose words moved.
  void attempt_postponed();

 private:
  struct Postponed {
    std::shared_ptr<Client> client;
    wire::Submission asked;
  };

  // Errors: what the client is answered; EBUSY of a word that moves: to be carried out later.
  Status carry_out(const std::shared_ptr<Client>& client, const wire::Submission& asked);
  Status resolve(const Client& client, const wire::Submission& asked);
  Status wake(const Client& client, const wire::Submission& asked);
  Status requeue(const Client& client, const wire::Submission& asked);

  WordTable& words_;
  WordWakes& wakes_;
  KeptWaits& waits_;
  std::vector<Postponed> postponed_;
};

}  // namespace faultline::wait
