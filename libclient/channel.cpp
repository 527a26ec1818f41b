#include "libclient/channel.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <array>

#include "libclient/failure.hpp"
#include "libclient/futex.hpp"
#include "libclient/place.hpp"

namespace faultline::client {

namespace {

// How long a thread sleeps before it looks whether the daemon still lives, which nothing else would
// tell it.
constexpr time_t kLookEvery = 1;

bool before(const timespec& a, const timespec& b) {
  return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec < b.tv_nsec);
}

}  // namespace

LotView::LotView(const UniqueFd& lot) {
  void* const mapped = ::mmap(nullptr, sizeof(wire::LotSlot) * wire::kLotSlots, PROT_READ,
                              MAP_SHARED | MAP_NORESERVE, lot.get(), 0);
  if (mapped == MAP_FAILED) throw_errno("mapping the lot");
  slots_ = static_cast<const wire::LotSlot*>(mapped);
}

LotView::~LotView() {
  ::munmap(const_cast<wire::LotSlot*>(slots_), sizeof(wire::LotSlot) * wire::kLotSlots);
}

Channel::Channel(wire::Packet reply, std::shared_ptr<const UniqueFd> session)
    : session_(std::move(session)) {
  if (reply.fds.size() != 3) throw Failure(EPROTO, "receiving a channel");
  lot_ = std::make_unique<const LotView>(reply.fds[2]);
  void* const rings = ::mmap(nullptr, sizeof(wire::Rings), PROT_READ | PROT_WRITE, MAP_SHARED,
                             reply.fds[0].get(), 0);
  if (rings == MAP_FAILED) throw_errno("mapping a channel");
  rings_ = static_cast<wire::Rings*>(rings);
  doorbell_ = std::move(reply.fds[1]);
  if (::madvise(rings, sizeof(wire::Rings), MADV_DONTFORK) != 0) {
    throw_errno("madvise(MADV_DONTFORK)");
  }
}

Channel::~Channel() {
  if (rings_ != nullptr) ::munmap(rings_, sizeof(wire::Rings));
  places_changed();
  give_back_later(std::move(lot_));
}

void Channel::abandon() {
  rings_ = nullptr;
  doorbell_.reset();
}

void Channel::ring_doorbell() const {
  const NotCancelled until_its_end;
  (void)::eventfd_write(doorbell_.get(), 1);  // fails only where it has been rung 2^64 times
}

bool Channel::daemon_gone() const {
  if (!session_ || !session_->valid()) return true;
  const NotCancelled until_its_end;
  pollfd session{session_->get(), 0, 0};  // POLLHUP is always asked for
  return ::poll(&session, 1, 0) > 0;
}

void Channel::submit(MyRecord& mine, std::span<wire::Submission> requests) {
  if (++mine.last_request == 0x7fffffff) mine.last_request = 1;
  put(mine, requests);
}

void Channel::submit_more(const MyRecord& mine, wire::Submission request) {
  put(mine, std::span(&request, 1));
}

void Channel::put(const MyRecord& mine, std::span<wire::Submission> requests) {
  wire::RingIndexes& indexes = rings_->indexes;
  {
    const std::lock_guard lock(mutex_);
    const std::uint32_t head = indexes.submission_head.load(std::memory_order_acquire);
    std::uint32_t tail = indexes.submission_tail.load(std::memory_order_relaxed);
    if (tail - head + requests.size() > wire::kSubmissions) {
      throw Failure(EBUSY, "asking the daemon for more than it has taken yet");
    }
    for (wire::Submission& request : requests) {
      request.record = mine.index;
      request.request = mine.last_request;
      rings_->submissions[tail++ % wire::kSubmissions] = request;
    }
    indexes.submission_tail.store(tail, std::memory_order_release);
  }
  // Pairs with the daemon's fence between daemon_sleeps and its last look at the tail.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (indexes.daemon_sleeps.load(std::memory_order_relaxed) != 0) ring_doorbell();
}

Channel::Came Channel::await(const MyRecord& mine, bool armed_known, const timespec* until,
                             clockid_t clock) const {
  const std::atomic<std::uint32_t>& word = mine.record->answered;
  for (;;) {
    // Acquire: pairs with the daemon's release, so the answer is seen.
    const std::uint32_t seen = word.load(std::memory_order_acquire);
    if (seen == wire::answered(mine.last_request)) return Came::answer;
    if (seen == wire::armed(mine.last_request) && !armed_known) return Came::armed;
    timespec look{};
    (void)::clock_gettime(clock, &look);
    if (until != nullptr && !before(look, *until)) return Came::timed_out;
    look.tv_sec += kLookEvery;
    if (until != nullptr && before(*until, look)) look = *until;
    // A caller's time-out keeps SA_RESTART from its effect, as with futex(2). One of ours must not,
    // and does not with futex_waitv(2).
    const futex_waitv answer{seen, reinterpret_cast<std::uintptr_t>(&word), FUTEX_32, 0};
    const int realtime = clock == CLOCK_REALTIME ? FUTEX_CLOCK_REALTIME : 0;
    const long ended = until != nullptr
                           ? futex::wait(&word, FUTEX_WAIT_BITSET | realtime, seen, &look)
                           : futex::wait_any(&answer, 1, &look, clock);
    if (ended == -EINTR) return Came::interrupted;
    if (ended == -ETIMEDOUT && daemon_gone()) return Came::daemon_gone;
  }
}

int Channel::take_completions(std::span<wire::Completion> into, const timespec* until) {
  wire::RingIndexes& indexes = rings_->indexes;
  for (;;) {
    std::uint32_t tail = 0;
    {
      const std::lock_guard lock(taking_);
      const std::uint32_t head = indexes.completion_head.load(std::memory_order_relaxed);
      // Acquire: pairs with the daemon's release, so what it put in is seen.
      tail = indexes.completion_tail.load(std::memory_order_acquire);
      const std::uint32_t count = std::min(tail - head, static_cast<std::uint32_t>(into.size()));
      for (std::uint32_t i = 0; i < count; ++i) {
        into[i] = rings_->completions[(head + i) % wire::kCompletions];
      }
      if (count > 0) {
        // Full fence: the daemon looks for room after it said that completions wait.
        indexes.completion_head.store(head + count, std::memory_order_seq_cst);
        if (indexes.completions_wait.load(std::memory_order_seq_cst) != 0) ring_doorbell();
        return static_cast<int>(count);
      }
    }
    timespec look{};
    (void)::clock_gettime(CLOCK_MONOTONIC, &look);
    if (until != nullptr && !before(look, *until)) return -ETIMEDOUT;
    look.tv_sec += kLookEvery;
    if (until != nullptr && before(*until, look)) look = *until;
    const futex_waitv more{tail, reinterpret_cast<std::uintptr_t>(&indexes.completion_tail),
                           FUTEX_32, 0};
    const long ended = futex::wait_any(&more, 1, &look, CLOCK_MONOTONIC);
    if (ended == -EINTR) return -EINTR;
    if (ended == -ETIMEDOUT && daemon_gone()) return -EPIPE;
  }
}

Channel::Answer Channel::answer_of(const MyRecord& mine) {
  Answer answer{mine.record->result.load(std::memory_order_relaxed), {}};
  for (std::size_t i = 0; i < answer.values.size(); ++i) {
    answer.values[i] = mine.record->values[i].load(std::memory_order_relaxed);
  }
  return answer;
}

Channel::Answer Channel::ask(wire::Submission request) {
  MyRecord& mine = my_record();
  submit(mine, std::span(&request, 1));
  for (;;) {
    switch (await(mine, true, nullptr, CLOCK_MONOTONIC)) {
      case Came::answer:
        return answer_of(mine);
      case Came::daemon_gone:
        throw Failure(EPIPE, "waiting for an answer of a daemon that is gone");
      default:
        break;  // it takes no time: what interrupted it can wait
    }
  }
}

}  // namespace faultline::client
