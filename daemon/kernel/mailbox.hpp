// How other threads hand work to the thread of a ring. Must never run anything itself.
//
// post() appends under the mutex and, where the box was empty, signals the eventfd that the
// ring reads. That thread reads the eventfd first and takes the letters after: a letter
// posted in between is either taken now or has signalled again, so none is left lying while it
// sleeps.
//
// Locking: mutex_ guards letters_ and closed_; leaf lock.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "daemon/kernel/error.hpp"
#include "faultline/wire/unique_fd.hpp"

namespace faultline::kernel {

class Mailbox {
 public:
  using Letter = std::function<void()>;

  static Result<std::shared_ptr<Mailbox>> create();

  // False, and the letter is dropped, once the box is closed.
  bool post(Letter letter);
  [[nodiscard]] std::vector<Letter> take();
  // Letters that nobody has taken yet.
  [[nodiscard]] std::size_t size() const;
  // What is in it still may be taken.
  void close();
  [[nodiscard]] int event_fd() const { return event_.get(); }

 private:
  explicit Mailbox(UniqueFd event) : event_(std::move(event)) {}

  UniqueFd event_;
  mutable std::mutex mutex_;
  std::vector<Letter> letters_;
  bool closed_ = false;
};

}  // namespace faultline::kernel
