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
  // again: called on any thread, has attempt_postponed called soon.
  WaitRequests(WordTable& words, WordWakes& wakes, KeptWaits& waits, std::function<void()> again)
      : words_(words), wakes_(wakes), waits_(waits), again_(std::move(again)) {}
  WaitRequests(const WaitRequests&) = delete;
  WaitRequests& operator=(const WaitRequests&) = delete;
  ~WaitRequests() = default;

  // Carries it out, or postpones it, or answers why it cannot be.
  void attempt(const std::shared_ptr<Client>& client, const wire::Submission& asked);
  // The client has left: nobody waits for its pages.
  static void end_fetches(Client& client);
  // Those whose words moved, or whose pages came back.
  void attempt_postponed();

 private:
  struct Postponed {
    std::shared_ptr<Client> client;
    wire::Submission asked;
  };

  // Errors: what the client is answered; EBUSY of a word that moves, or whose page has to come back
  // first: to be carried out later.
  Status carry_out(const std::shared_ptr<Client>& client, const wire::Submission& asked);
  Status resolve(const Client& client, const wire::Submission& asked);
  Status wake(const Client& client, const wire::Submission& asked);
  Status requeue(const Client& client, const wire::Submission& asked);
  static Status pin(const std::shared_ptr<Client>& client, const wire::Submission& asked);

  WordTable& words_;
  WordWakes& wakes_;
  KeptWaits& waits_;
  const std::function<void()> again_;
  std::vector<Postponed> postponed_;
};

}  // namespace faultline::wait
