#include "daemon/channel/channel.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <climits>
#include <cstddef>
#include <utility>

#include "daemon/kernel/client_memory.hpp"
#include "daemon/kernel/shared_memory.hpp"

namespace faultline::channel {

Result<std::unique_ptr<Channel>> Channel::create(kernel::ForeignFd records) {
  auto client_memory = kernel::map_client_memory(records, ByteCount{wire::kRecordsBytes});
  if (!client_memory) return propagate(client_memory);
  auto rings = kernel::SharedMemory::create("faultline:channel", ByteCount{sizeof(wire::Rings)});
  if (!rings) return propagate(rings);
  UniqueFd doorbell{::eventfd(0, EFD_CLOEXEC)};
  if (!doorbell) return fail_errno("eventfd for a channel");
  std::unique_ptr<Channel> made{new Channel(std::move(rings->fd), std::move(rings->memory),
                                            std::move(records), std::move(*client_memory),
                                            std::move(doorbell))};
  made->rings().indexes.daemon_sleeps.store(1, std::memory_order_relaxed);  // nobody has it yet
  return made;
}

std::optional<wire::Submission> Channel::take() {
  wire::Rings& shared = rings();
  const std::uint32_t tail = shared.indexes.submission_tail.load(std::memory_order_acquire);
  // A tail from beyond the ring is one of a client that has lost its own entries; it gets those
  // that are in the ring, and no more than there are at a time.
  if (tail == submission_head_) return std::nullopt;
  // Copied once, while the client may write to it; what is checked is the copy. The relaxed atomic
  // words of which that is made are what a hostile writer leaves defined.
  std::array<std::uint64_t, sizeof(wire::Submission) / sizeof(std::uint64_t)> words{};
  auto& entry = shared.submissions[submission_head_ % wire::kSubmissions];
  auto* const from = reinterpret_cast<std::uint64_t*>(&entry);
  for (std::size_t i = 0; i < words.size(); ++i) {
    words[i] = std::atomic_ref(from[i]).load(std::memory_order_relaxed);
  }
  const auto copy = std::bit_cast<wire::Submission>(words);
  ++submission_head_;
  shared.indexes.submission_head.store(submission_head_, std::memory_order_release);
  return copy;
}

bool Channel::has_submissions() const {
  return rings().indexes.submission_tail.load(std::memory_order_acquire) != submission_head_;
}

bool Channel::sleep() {
  wire::RingIndexes& indexes = rings().indexes;
  indexes.daemon_sleeps.store(1, std::memory_order_relaxed);
  // Pairs with the client's fence between its tail and its look at daemon_sleeps: one of the two
  // stores is seen by the other's load.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (indexes.submission_tail.load(std::memory_order_relaxed) == submission_head_) return true;
  wake_up();
  return false;
}

void Channel::wake_up() {
  rings().indexes.daemon_sleeps.store(0, std::memory_order_relaxed);
}

void Channel::tell(const Asker& asker, std::uint32_t what) const {
  wire::ThreadRecord& to = record(asker.record);
  // Release: the thread that sees it sees the answer.
  to.answered.store(what, std::memory_order_release);
  (void)kernel::futex_wake_shared(to.answered, 1);
}

void Channel::arm(const Asker& asker) {
  if (asker.request != 0) tell(asker, wire::armed(asker.request));
}

void Channel::answer(const Asker& asker, const Answer& answer) {
  if (asker.request == 0) return;
  wire::ThreadRecord& to = record(asker.record);
  for (std::size_t i = 0; i < answer.values.size(); ++i) {
    to.values[i].store(answer.values[i], std::memory_order_relaxed);
  }
  to.result.store(answer.result, std::memory_order_relaxed);
  tell(asker, wire::answered(asker.request));
}

bool Channel::put(const wire::Completion& completion) {
  wire::Rings& shared = rings();
  const std::uint32_t head = shared.indexes.completion_head.load(std::memory_order_acquire);
  if (completion_tail_ - head >= wire::kCompletions) return false;
  shared.completions[completion_tail_ % wire::kCompletions] = completion;
  ++completion_tail_;
  shared.indexes.completion_tail.store(completion_tail_, std::memory_order_release);
  unannounced_ = true;
  return true;
}

void Channel::announce() {
  if (!std::exchange(unannounced_, false)) return;
  (void)kernel::futex_wake_shared(rings().indexes.completion_tail, INT_MAX);
}

void Channel::complete(const wire::Completion& completion) {
  if (kept_.empty() && put(completion)) return;
  kept_.push_back(completion);
  rings().indexes.completions_wait.store(1, std::memory_order_seq_cst);
  make_use_of_room();
}

void Channel::make_use_of_room() {
  if (kept_.empty()) return;
  while (!kept_.empty() && put(kept_.front())) kept_.pop_front();
  if (kept_.empty()) rings().indexes.completions_wait.store(0, std::memory_order_relaxed);
}

std::uint32_t Channel::not_taken() const {
  const std::uint32_t head = rings().indexes.completion_head.load(std::memory_order_acquire);
  return std::min(completion_tail_ - head, wire::kCompletions);
}

wire::ThreadRecord& Channel::record(std::uint32_t index) const {
  const std::size_t place = std::size_t{index % wire::kThreadRecords} * wire::kRecordBytes;
  return *reinterpret_cast<wire::ThreadRecord*>(records_.data() + place);
}

std::uint32_t Channel::next_record(std::uint32_t from) const {
  const std::uint32_t used =
      std::min(record(0).tid.load(std::memory_order_acquire), wire::kThreadRecords - 1);
  if (from > used) return 0;
  // A look at a page that is not there would make one, and lseek(2) to the next that is waits for
  // the file's lock, which the client can hold for ever, as by a write(2) from memory that faults.
  // A read(2) does neither. A thread has its record from when it wrote down who it is.
  for (std::uint32_t at = from; at <= used; ++at) {
    std::uint32_t tid = 0;
    const std::size_t place = at * wire::kRecordBytes + offsetof(wire::ThreadRecord, tid);
    if (::pread(records_fd_.get(), &tid, sizeof(tid), static_cast<off_t>(place)) ==
            static_cast<ssize_t>(sizeof(tid)) &&
        tid != 0) {
      return at;
    }
  }
  return 0;
}

}  // namespace faultline::channel
