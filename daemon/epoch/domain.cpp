#include "daemon/epoch/domain.hpp"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <exception>
#include <unordered_map>
#include <utility>

#include "daemon/kernel/log.hpp"
#include "daemon/kernel/log_budget.hpp"
#include "daemon/kernel/membarrier.hpp"
#include "daemon/kernel/signals.hpp"

namespace faultline::epoch {

namespace {

using Clock = std::chrono::steady_clock;

// How often a grace period looks at a reader before it asks to be woken: most sections are shorter
// than the way to sleep and back.
constexpr int kLooks = 64;
// How long the reclaimer of a busy domain lets callbacks gather, and how many of one thread are
// enough. A grace period interrupts every running thread of the process: one for each callback
// would cost them half their speed.
constexpr std::chrono::milliseconds kGather{1};
constexpr std::uint64_t kBatch = 64;
// pthread_setname_np takes 15 characters.
constexpr std::size_t kNameLength = 10;

std::uint64_t next_id() {
  static std::atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

std::int64_t now_ns() {
  return std::chrono::nanoseconds(Clock::now().time_since_epoch()).count();
}

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

// The slots of one thread. Ends with it, and leaves them to their domains.
class Domain::ThreadSlots {
 public:
  ThreadSlots() { thread_slots = this; }
  ThreadSlots(const ThreadSlots&) = delete;
  ThreadSlots& operator=(const ThreadSlots&) = delete;
  ~ThreadSlots() {
    thread_slots = nullptr;
    cached_slots.fill({});
    for (auto& [domain, slot] : slots_) {
      assert(slot->depth == 0 && "a section ends on the thread that began it");
      slot->owned.store(false, std::memory_order_release);
    }
  }

  [[nodiscard]] Slot* find(std::uint64_t domain) const {
    const auto found = slots_.find(domain);
    return found == slots_.end() ? nullptr : found->second.get();
  }
  void forget_ended_domains() {
    std::erase_if(slots_, [](const auto& entry) {
      return entry.second->domain_ended.load(std::memory_order_acquire);
    });
  }
  void keep(std::uint64_t domain, std::shared_ptr<Slot> slot) {
    slots_.emplace(domain, std::move(slot));
  }

 private:
  std::unordered_map<std::uint64_t, std::shared_ptr<Slot>> slots_;
};

// NOLINTBEGIN(cppcoreguidelines-avoid-non-const-global-variables)
constinit thread_local std::array<Domain::CachedSlot, Domain::kCachedSlots> Domain::cached_slots{};
constinit thread_local Domain::ThreadSlots* Domain::thread_slots = nullptr;
constinit thread_local const Domain* Domain::running_callbacks = nullptr;
// NOLINTEND(cppcoreguidelines-avoid-non-const-global-variables)

std::uint64_t Domain::Queue::push(Callback& callback) noexcept {
  // Before it can run: pending() never wraps.
  const std::uint64_t before = retired.fetch_add(1, std::memory_order_relaxed);
  Callback* first = head.load(std::memory_order_relaxed);
  do {
    callback.next = first;
    // Sequentially consistent, for the look at reclaimer_ that follows (D in docs/epoch.md).
  } while (!head.compare_exchange_weak(first, &callback, std::memory_order_seq_cst,
                                       std::memory_order_relaxed));
  return before;
}

void Domain::Slot::wake_waiter() noexcept {
  // This thread holds the slot, so the word is there however far the waiter has come.
  if (waited.exchange(0, std::memory_order_relaxed) != 0) kernel::futex_wake_all(waited);
}

Domain::Domain(std::string name) : Domain(std::move(name), Options{}) {}

Domain::Domain(std::string name, Options options)
    : id_(next_id()),
      name_(std::move(name)),
      options_(std::move(options)),
      membarrier_(options_.membarrier && kernel::membarrier_available()) {}

Domain::~Domain() {
  if (thread_.joinable()) {
    {
      const std::lock_guard lock(cycle_mutex_);
      stopping_ = true;
    }
    rouse();
    thread_.join();
  }
  while (pending() != 0) cycle();  // where no reclaimer could be started
  for (const auto& slot : slots_) {
    assert(slot->sequence.load(std::memory_order_acquire) % 2 == 0 && "a section is open");
    slot->domain_ended.store(true, std::memory_order_release);
  }
}

Domain::Slot* Domain::attached() const noexcept {
  CachedSlot& cached = cached_slots[id_ % kCachedSlots];
  if (cached.domain == id_) return cached.slot;
  if (thread_slots == nullptr) return nullptr;
  Slot* const found = thread_slots->find(id_);
  if (found != nullptr) cached = {id_, found};
  return found;
}

Domain::Slot& Domain::attach() noexcept {
  if (Slot* const found = attached()) return *found;
  static thread_local ThreadSlots mine;
  mine.forget_ended_domains();
  const std::lock_guard lock(registry_mutex_);
  std::shared_ptr<Slot> slot;
  for (const auto& candidate : slots_) {
    if (candidate->owned.load(std::memory_order_acquire)) continue;
    candidate->owned.store(true, std::memory_order_relaxed);
    slot = candidate;
    break;
  }
  if (slot == nullptr) {
    slot = std::make_shared<Slot>();
    slot->fenced = !membarrier_;
    slot->next = first_slot_.load(std::memory_order_relaxed);
    slots_.push_back(slot);
    first_slot_.store(slot.get(), std::memory_order_release);
  }
  slot->thread.store(::gettid(), std::memory_order_relaxed);
  mine.keep(id_, slot);
  cached_slots[id_ % kCachedSlots] = {id_, slot.get()};
  return *slot;
}

bool Domain::inside_section() const noexcept {
  const Slot* const slot = attached();
  return slot != nullptr && slot->depth != 0;
}

void Domain::retire(Callback& callback) noexcept {
  Slot* const slot = attached();
  const std::uint64_t before = (slot != nullptr ? slot->queue : spare_queue_).push(callback);
  const std::uint32_t reclaimer = reclaimer_.load(std::memory_order_seq_cst);
  if (reclaimer == kAwake || (reclaimer == kGathering && before % kBatch != kBatch - 1)) return;
  rouse();
}

// Pairs with the fences that readers leave out, or make where there is no membarrier.
void Domain::order_readers() const noexcept {
  if (membarrier_) {
    kernel::membarrier();
    return;
  }
#if !defined(__SANITIZE_THREAD__)
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

void Domain::synchronize() {
  assert(!inside_section() && "would wait for itself");
  // A read-modify-write, so that a grace period with a later number began after what we published.
  const std::uint64_t before = grace_started_.fetch_add(0, std::memory_order_acq_rel);
  const std::lock_guard lock(grace_mutex_);
  if (grace_ended_.load(std::memory_order_relaxed) > before) return;
  const std::uint64_t mine = grace_started_.fetch_add(1, std::memory_order_acq_rel) + 1;
  const auto began = Clock::now();
  wait_for_readers();
  grace_took_.add(Clock::now() - began);
  grace_ended_.store(mine, std::memory_order_release);
}

void Domain::wait_for_readers() {
  order_readers();
  bool all_left = true;
  Slot* const first = first_slot_.load(std::memory_order_acquire);
  for (Slot* slot = first; slot != nullptr; slot = slot->next) {
    slot->awaited = slot->sequence.load(std::memory_order_acquire);
    all_left = all_left && slot->awaited % 2 == 0;
  }
  if (options_.hook) options_.hook(GraceStep::snapshot_taken);
  if (all_left) return;

  const auto left = [](const Slot& slot) {
    return slot.awaited % 2 == 0 || slot.sequence.load(std::memory_order_acquire) != slot.awaited;
  };
  all_left = true;
  for (Slot* slot = first; slot != nullptr; slot = slot->next) {
    for (int i = 0; i < kLooks && !left(*slot); ++i) relax();
    if (left(*slot)) {
      slot->awaited = 0;
      continue;
    }
    all_left = false;
    slot->waited.store(1, std::memory_order_relaxed);
  }
  if (all_left) return;

  order_readers();  // `waited` before the next look at the sequence (C)
  waiting_since_.store(now_ns(), std::memory_order_relaxed);
  for (Slot* slot = first; slot != nullptr; slot = slot->next) {
    if (slot->awaited % 2 != 0) sleep_until_left(*slot);
  }
  waiting_for_.store(0, std::memory_order_relaxed);
  waiting_since_.store(0, std::memory_order_relaxed);
}

void Domain::sleep_until_left(Slot& slot) {
  const std::chrono::nanoseconds since{waiting_since_.load(std::memory_order_relaxed)};
  waiting_for_.store(slot.thread.load(std::memory_order_relaxed), std::memory_order_relaxed);
  std::chrono::nanoseconds report_after = options_.stuck_after;
  while (slot.sequence.load(std::memory_order_acquire) == slot.awaited) {
    const auto waited = std::chrono::nanoseconds{now_ns()} - since;
    if (waited >= report_after) {
      report_stuck(slot, waited);
      while (report_after <= waited) report_after *= 2;
    }
    if (options_.hook) options_.hook(GraceStep::before_sleep);
    kernel::futex_wait(slot.waited, 1, report_after - waited);
  }
  slot.waited.store(0, std::memory_order_relaxed);
}

void Domain::report_stuck(const Slot& slot, std::chrono::nanoseconds waited) const {
  log::warn("epoch domain {}: thread {} has been in its section for {} ms; {} callbacks wait",
            name_, slot.thread.load(std::memory_order_relaxed),
            std::chrono::duration_cast<std::chrono::milliseconds>(waited).count(), pending());
}

// Has the reclaimer look at the queues; false where there is none and none can be started.
bool Domain::rouse() noexcept {
  switch (reclaimer_.exchange(kAwake, std::memory_order_seq_cst)) {
    case kAwake:
      return true;
    case kGathering:
    case kAsleep:
      kernel::futex_wake_all(reclaimer_);
      return true;
    default:
      break;
  }
  try {
    const kernel::SignalsBlocked blocked;
    thread_ = std::thread([this] { reclaim(); });
    return true;
  } catch (const std::exception& error) {
    // What is retired waits for the next who tries.
    reclaimer_.store(kUnstarted, std::memory_order_seq_cst);
    static kernel::LogBudget budget;
    budget.log(log::Level::error, {}, "epoch domain {}: starting its reclaimer: {}", name_,
               error.what());
    return false;
  }
}

void Domain::barrier() {
  assert(!inside_section() && "would wait for itself");
  assert(running_callbacks != this && "would wait for itself");
  if (pending() == 0) return;
  std::unique_lock lock(cycle_mutex_);
  // One that has begun may have taken the queues before the last callback came.
  const std::uint64_t wanted = cycles_started_ + 1;
  cycles_wanted_ = std::max(cycles_wanted_, wanted);
  lock.unlock();
  if (!rouse()) {
    cycle();
    return;
  }
  lock.lock();
  cycle_ended_.wait(lock, [&] { return cycles_ended_ >= wanted; });
}

Domain::Status Domain::status() const {
  Status status;
  status.callbacks_run = callbacks_run_.load(std::memory_order_acquire);
  status.pending = pending();
  status.grace_periods = grace_ended_.load(std::memory_order_acquire);
  status.grace = grace_took_.value();
  const std::int64_t since = waiting_since_.load(std::memory_order_relaxed);
  if (since != 0) {
    status.oldest_section = std::chrono::nanoseconds{now_ns() - since};
    status.oldest_thread = waiting_for_.load(std::memory_order_relaxed);
  }
  return status;
}

std::size_t Domain::pending() const noexcept {
  // What has run first: it was counted as retired before.
  const std::uint64_t run = callbacks_run_.load(std::memory_order_acquire);
  std::uint64_t retired = spare_queue_.retired.load(std::memory_order_relaxed);
  for (const Slot* slot = first_slot_.load(std::memory_order_acquire); slot != nullptr;
       slot = slot->next) {
    retired += slot->queue.retired.load(std::memory_order_relaxed);
  }
  return retired - run;
}

// All that wait, those of one thread in the order in which it retired them.
Domain::Callback* Domain::take_all() noexcept {
  Callback* all = nullptr;
  const auto take = [&all](Queue& queue) {
    if (queue.head.load(std::memory_order_relaxed) == nullptr) return;
    Callback* callback = queue.head.exchange(nullptr, std::memory_order_acquire);
    while (callback != nullptr) all = std::exchange(callback, std::exchange(callback->next, all));
  };
  take(spare_queue_);
  for (Slot* slot = first_slot_.load(std::memory_order_acquire); slot != nullptr;
       slot = slot->next) {
    take(slot->queue);
  }
  return all;
}

// Takes what is queued, waits for the readers, and runs it; whether there was anything.
bool Domain::cycle() {
  const std::lock_guard reclaiming(reclaim_mutex_);
  std::uint64_t mine = 0;
  {
    const std::lock_guard lock(cycle_mutex_);
    mine = ++cycles_started_;
  }
  Callback* callback = take_all();
  const bool any = callback != nullptr;
  if (any) {
    synchronize();
    running_callbacks = this;
    std::uint64_t run = 0;
    while (callback != nullptr) {
      Callback* const next = callback->next;
      callback->run(*callback);  // it is gone now
      callback = next;
      ++run;
    }
    running_callbacks = nullptr;
    callbacks_run_.fetch_add(run, std::memory_order_release);
  }
  {
    const std::lock_guard lock(cycle_mutex_);
    cycles_ended_ = mine;
  }
  cycle_ended_.notify_all();
  return any;
}

// Whether somebody waits for a cycle to begin.
bool Domain::hurried() {
  const std::lock_guard lock(cycle_mutex_);
  return stopping_ || cycles_wanted_ > cycles_started_;
}

bool Domain::anything_queued() const noexcept {
  if (spare_queue_.head.load(std::memory_order_seq_cst) != nullptr) return true;
  for (const Slot* slot = first_slot_.load(std::memory_order_seq_cst); slot != nullptr;
       slot = slot->next) {
    if (slot->queue.head.load(std::memory_order_seq_cst) != nullptr) return true;
  }
  return false;
}

// The reclaimer's thread.
void Domain::reclaim() {
  ::pthread_setname_np(::pthread_self(), ("rcu-" + name_.substr(0, kNameLength)).c_str());
  for (;;) {
    const bool busy = cycle();
    // First say that we sleep, then look: who queues, or waits, does it the other way round (D).
    reclaimer_.store(busy ? kGathering : kAsleep, std::memory_order_seq_cst);
    if (hurried()) {
      reclaimer_.store(kAwake, std::memory_order_seq_cst);
      const std::lock_guard lock(cycle_mutex_);
      if (stopping_ && pending() == 0) return;
      continue;
    }
    if (busy) {
      kernel::futex_wait(reclaimer_, kGathering, kGather);
    } else if (!anything_queued()) {
      while (reclaimer_.load(std::memory_order_seq_cst) == kAsleep) {
        kernel::futex_wait(reclaimer_, kAsleep);
      }
    }
    reclaimer_.store(kAwake, std::memory_order_seq_cst);
  }
}

}  // namespace faultline::epoch
