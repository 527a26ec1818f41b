// This process's end of a session's channel (faultline/wire/channel.hpp). Must never be used in a
// fork child, nor answer a thread with what another asked.
//
// Locking: a lock of its own, held while a submission is put in. Leaf lock but for the doorbell;
// the fork hooks take it. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "faultline/wire/channel.hpp"
#include "faultline/wire/lot.hpp"
#include "faultline/wire/packet.hpp"
#include "libclient/reading.hpp"
#include "libclient/thread_records.hpp"

namespace faultline::client {

// The lot, mapped: read within a Reading by who does not keep it.
class LotView final : public Retirable {
 public:
  explicit LotView(const UniqueFd& lot);
  LotView(const LotView&) = delete;
  LotView& operator=(const LotView&) = delete;
  ~LotView() override;

  [[nodiscard]] const wire::LotSlot& operator[](std::uint32_t slot) const {
    return slots_[slot % wire::kLotSlots];
  }

 private:
  const wire::LotSlot* slots_ = nullptr;
};

class Channel {
 public:
  // reply: of Op::open_channel. session: to be watched for the daemon's end. Throws Failure.
  Channel(wire::Packet reply, std::shared_ptr<const UniqueFd> session);
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  ~Channel();

  struct Answer {
    std::int32_t result = 0;
    std::array<std::uint64_t, 3> values{};
  };
  // Submits one request of the calling thread's, and sleeps until it is answered. Throws Failure:
  // EPIPE; EBUSY the ring is full.
  Answer ask(wire::Submission request);
  // The same in steps, for requests that last. They are given the same number.
  void submit(MyRecord& mine, std::span<wire::Submission> requests);
  // One more of the same number.
  void submit_more(const MyRecord& mine, wire::Submission request);
  enum class Came { armed, answer, interrupted, timed_out, daemon_gone };
  // Sleeps until the thread's last request is armed (unless that is known) or answered. until: of
  // the clock, null for none.
  [[nodiscard]] Came await(const MyRecord& mine, bool armed_known, const timespec* until,
                           clockid_t clock) const;
  [[nodiscard]] static Answer answer_of(const MyRecord& mine);

  // Takes completions out; sleeps for one where there is none, until the time (CLOCK_MONOTONIC).
  // Returns how many, or -ETIMEDOUT, -EINTR, -EPIPE.
  int take_completions(std::span<wire::Completion> into, const timespec* until);

  [[nodiscard]] const LotView& lot() const { return *lot_; }
  [[nodiscard]] wire::Rings& rings() const { return *rings_; }
  void ring_doorbell() const;
  [[nodiscard]] bool daemon_gone() const;

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }
  // In a fork child: what was mapped is not.
  void abandon();

 private:
  void put(const MyRecord& mine, std::span<wire::Submission> requests);

  std::mutex mutex_;
  std::mutex taking_;  // one thread at a time takes completions out
  std::shared_ptr<const UniqueFd> session_;
  UniqueFd doorbell_;
  wire::Rings* rings_ = nullptr;
  std::unique_ptr<const LotView> lot_;
};

}  // namespace faultline::client
