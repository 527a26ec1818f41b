#include "libclient/asked_wait.hpp"

#include <cerrno>
#include <vector>

#include "libclient/failure.hpp"
#include "libclient/waiting.hpp"

namespace faultline::client {

namespace {

using wire::ChannelOp;

std::vector<wire::Submission> requests_for(std::span<const Word> words, std::uint32_t bitset) {
  std::vector<wire::Submission> requests(words.size());
  for (std::size_t i = 0; i < words.size(); ++i) {
    requests[i].op = ChannelOp::wait;
    requests[i].flags = i + 1 < words.size() ? wire::kMoreWords : std::uint16_t{0};
    requests[i].size = static_cast<std::uint16_t>(words[i].size);
    requests[i].address = words[i].address;
    requests[i].expected = words[i].expected;
    requests[i].mask = bitset;
  }
  return requests;
}

// Life: asked; perhaps armed, when the daemon has queued it and the value is ours to look at;
// perhaps given up, when it is cancelled; answered.
class AskedWait {
 public:
  AskedWait(Channel& channel, MyRecord& mine, std::span<const Word> words)
      : channel_(channel), mine_(mine), words_(words) {}

  long await(const Timeout& timeout) {
    for (;;) {
      switch (await_next(timeout)) {
        case Channel::Came::daemon_gone:
          return -EPIPE;
        case Channel::Came::answer:
          return outcome();
        case Channel::Came::armed:
          armed_ = true;
          if (given_up_ == 0) look();
          break;
        case Channel::Came::interrupted:
          give_up(-EINTR);
          break;
        case Channel::Came::timed_out:
          give_up(-ETIMEDOUT);
          break;
      }
      if (given_up_ != 0 && !taken_back_) take_back();
    }
  }

 private:
  static constexpr long kTakeBackAgainAfter = 1'000'000;  // nanoseconds

  void look() {
    looked_ = true;
    if (const int other = look_at(words_); other != 0) give_up(other);
  }
  [[nodiscard]] Channel::Came await_next(const Timeout& timeout) const {
    if (given_up_ == 0) {
      const clockid_t clock = timeout.until() != nullptr ? timeout.clock() : CLOCK_MONOTONIC;
      return channel_.await(mine_, armed_, timeout.until(), clock);
    }
    // It is answered all the same.
    if (taken_back_) return channel_.await(mine_, armed_, nullptr, CLOCK_MONOTONIC);
    const timespec pause{0, kTakeBackAgainAfter};
    Timeout again(&pause, 0);
    (void)again.settle();
    return channel_.await(mine_, armed_, again.until(), CLOCK_MONOTONIC);
  }
  void give_up(int why) {
    if (given_up_ == 0) given_up_ = why;
  }
  // Where the ring is full, it must not be left at that: a wait that nobody waits for would take a
  // wake.
  void take_back() {
    wire::Submission cancel;
    cancel.op = ChannelOp::cancel;
    try {
      channel_.submit_more(mine_, cancel);
      taken_back_ = true;
    } catch (const Failure& failure) {
      if (failure.code() != EBUSY) throw;
    }
  }
  [[nodiscard]] long outcome() const {
    const Channel::Answer answer = Channel::answer_of(mine_);
    if (answer.result == 0) return static_cast<long>(answer.values[0]);
    if (answer.result != -ECANCELED || given_up_ == 0) return answer.result;
    // The time was over before the daemon had said that the value is ours to look at: that comes
    // first, however short the time.
    const bool look_first = given_up_ == -ETIMEDOUT && !looked_ && answer.values[1] != 0;
    const int other = look_first ? look_at(words_) : 0;
    return other != 0 ? other : given_up_;
  }

  Channel& channel_;
  MyRecord& mine_;
  std::span<const Word> words_;
  bool armed_ = false;
  bool looked_ = false;
  bool taken_back_ = false;
  int given_up_ = 0;  // why, a negative errno
};

}  // namespace

long wait_through_daemon(Channel& channel, std::span<const Word> words, const Timeout& timeout,
                         std::uint32_t bitset) {
  MyRecord& mine = my_record();
  std::vector<wire::Submission> requests = requests_for(words, bitset);
  mine.record->result.store(-EINPROGRESS, std::memory_order_relaxed);
  const Waiting waiting(mine, words, wire::kWaitingAsked);
  channel.submit(mine, requests);
  return AskedWait(channel, mine, words).await(timeout);
}

}  // namespace faultline::client
