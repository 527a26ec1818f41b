// The daemon's end of one session's channel: takes submissions out of its ring, puts answers and
// completions in. Must never believe what a client can write, nor lose a completion, nor wait.
//
// See faultline/wire/channel.hpp for the protocol. Everything that a client can write is read once,
// into memory of the daemon's own; what the daemon wrote there is never read back, but kept here
// too.
//
// Threads: its worker alone, but for what is said to be thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>

#include "daemon/kernel/closer.hpp"
#include "daemon/kernel/futex.hpp"
#include "daemon/kernel/published_memory.hpp"
#include "faultline/wire/channel.hpp"

namespace faultline::channel {

// Whom an answer is for.
struct Asker {
  std::uint32_t record = 0;
  std::uint32_t request = 0;
};

struct Answer {
  std::int32_t result = 0;
  std::array<std::uint64_t, 3> values{};
};

class Channel {
 public:
  // records: of the client's. Errors: EINVAL it is not what it should be; ENOMEM; EMFILE.
  static Result<std::unique_ptr<Channel>> create(kernel::ForeignFd records);

  // The rings' memfd, to be sent, once.
  [[nodiscard]] UniqueFd take_rings_fd() { return std::move(rings_fd_); }
  // To be sent; it stays this object's.
  [[nodiscard]] int doorbell_fd() const { return doorbell_.get(); }

  // Nothing where there is none.
  std::optional<wire::Submission> take();
  // Whether take() would give one.
  [[nodiscard]] bool has_submissions() const;
  // Says that the client is to ring from now on; false where it has submitted meanwhile.
  [[nodiscard]] bool sleep();
  void wake_up();

  // Wakes the thread that asked; nobody where nobody did.
  void answer(const Asker& asker, const Answer& answer);
  // The same, with another answer to come.
  void arm(const Asker& asker);
  // Asynchronous: where there is no room now, it is kept until there is. The client is told of it
  // by announce(), which is called once for several.
  void complete(const wire::Completion& completion);
  void announce();
  // How many completions wait for room.
  [[nodiscard]] std::size_t kept() const { return kept_.size(); }
  void make_use_of_room();
  // Which completions the client has not taken out, as far as it says the truth: the last so many
  // of those that were put in.
  [[nodiscard]] std::uint32_t not_taken() const;

  // Thread-safe, as far as atomics are.
  [[nodiscard]] wire::ThreadRecord& record(std::uint32_t index) const;
  // Calls visit(record) for each that may be in use. Touches no memory that the client did not.
  template <typename Visit>
  void each_record(Visit visit) const {
    for (std::uint32_t at = 1; (at = next_record(at)) != 0; ++at) visit(record(at));
  }

 private:
  Channel(UniqueFd rings_fd, kernel::MappedMemory rings, kernel::ForeignFd records_fd,
          kernel::MappedMemory records, UniqueFd doorbell)
      : rings_fd_(std::move(rings_fd)),
        rings_(std::move(rings)),
        records_fd_(std::move(records_fd)),
        records_(std::move(records)),
        doorbell_(std::move(doorbell)) {}
  // The first from there on that may be in use; 0: none.
  [[nodiscard]] std::uint32_t next_record(std::uint32_t from) const;
  [[nodiscard]] wire::Rings& rings() const {
    return *reinterpret_cast<wire::Rings*>(rings_.data());
  }
  void tell(const Asker& asker, std::uint32_t what) const;
  [[nodiscard]] bool put(const wire::Completion& completion);

  UniqueFd rings_fd_;
  kernel::MappedMemory rings_;
  kernel::ForeignFd records_fd_;
  kernel::MappedMemory records_;
  UniqueFd doorbell_;
  std::uint32_t submission_head_ = 0;
  std::uint32_t completion_tail_ = 0;
  std::deque<wire::Completion> kept_;
  bool unannounced_ = false;
};

}  // namespace faultline::channel
