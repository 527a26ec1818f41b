#include "daemon/pin/ledger.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "daemon/kernel/shared_memory.hpp"

namespace faultline::pin {

Result<std::unique_ptr<Ledger>> Ledger::create() {
  auto shared = kernel::SharedMemory::create("faultline:pins", ByteCount{sizeof(wire::PinLedger)});
  if (!shared) return propagate(shared);
  auto verdicts = kernel::PublishedMemory::create("faultline:pin-verdicts",
                                                  ByteCount{sizeof(wire::PinVerdicts)});
  if (!verdicts) return propagate(verdicts);
  std::unique_ptr<Ledger> made{
      new Ledger(std::move(shared->fd), std::move(shared->memory), std::move(*verdicts))};
  made->tick();
  return made;
}

void Ledger::tick() const {
  const std::chrono::nanoseconds now = std::chrono::steady_clock::now().time_since_epoch();
  verdicts().now.store(static_cast<std::uint64_t>(now.count()), std::memory_order_relaxed);
}

std::uint32_t Ledger::slots_used() const {
  return std::min(ledger().slots_used.load(std::memory_order_acquire), wire::kPinSlots);
}

std::uint32_t Ledger::threads_used() const {
  return std::min(ledger().threads_used.load(std::memory_order_acquire), wire::kPinThreads);
}

std::optional<Pin> Ledger::read(std::uint32_t slot) const {
  const wire::PinSlot& there = ledger().slots[slot];
  Pin pin;
  pin.slot = slot;
  // Before the object: who publishes counts the use first, so that what is found published with
  // this use has all that belongs to it. Read after it, the use could be the next pin's, whose
  // other fields are not there yet.
  pin.use = there.use.load(std::memory_order_acquire);
  // Pairs with the release of who publishes: what is read of it below is at least as new.
  pin.object = ObjectId{there.object.load(std::memory_order_acquire)};
  if (pin.object == ObjectId{}) return std::nullopt;
  pin.first = PageIndex{there.first.load(std::memory_order_relaxed)};
  pin.count = PageCount{there.count.load(std::memory_order_relaxed)};
  pin.address = Vaddr{there.address.load(std::memory_order_relaxed)};
  pin.since = there.since.load(std::memory_order_relaxed);
  const std::uint32_t flags = there.flags.load(std::memory_order_relaxed);
  pin.write = (flags & wire::kPinWrite) != 0;
  pin.own = (flags & wire::kPinOwn) != 0;
  // As a sequence lock's reader: the loads above come before those below. What changed meanwhile
  // was withdrawn, or published after an eviction began; either way it is not to be respected.
  std::atomic_thread_fence(std::memory_order_acquire);
  if (there.use.load(std::memory_order_relaxed) != pin.use ||
      there.object.load(std::memory_order_relaxed) != pin.object.value()) {
    return std::nullopt;
  }
  const wire::PinVerdict& verdict = verdicts().slots[slot];
  if (verdict.use.load(std::memory_order_acquire) == pin.use) {
    pin.ended = verdict.error.load(std::memory_order_relaxed);
  }
  const std::lock_guard lock(mutex_);
  const auto moved = moved_.find(slot);
  if (moved != moved_.end() && moved->second.use == pin.use) pin.address = moved->second.to;
  return pin;
}

bool Ledger::still_there(const Pin& pin) const {
  const wire::PinSlot& there = ledger().slots[pin.slot];
  // In this order: the use changes when the next is published, and stays when it is withdrawn.
  return there.object.load(std::memory_order_acquire) == pin.object.value() &&
         there.use.load(std::memory_order_acquire) == pin.use;
}

void Ledger::end(const Pin& pin, int error) {
  wire::PinVerdict& verdict = verdicts().slots[pin.slot];
  verdict.error.store(error, std::memory_order_relaxed);
  verdict.use.store(pin.use, std::memory_order_release);
  const std::lock_guard lock(mutex_);
  moved_.erase(pin.slot);
}

void Ledger::move(const Pin& pin, Vaddr to) {
  const std::lock_guard lock(mutex_);
  moved_[pin.slot] = {pin.use, to};
}

std::uint32_t Ledger::close_budgets() const {
  const std::uint32_t used = threads_used();
  for (std::uint32_t i = 0; i < used; ++i) ledger().threads[i].closed.fetch_add(1);
  return used;
}

std::int64_t Ledger::take_closed(std::uint32_t closed) const {
  std::int64_t taken = ledger().pool.exchange(0);
  for (std::uint32_t i = 0; i < closed; ++i) {
    wire::PinThread& thread = ledger().threads[i];
    std::int64_t sum = 0;
    const bool busy = thread.busy.load(std::memory_order_acquire) != 0;
    // Sums that a client made up must not overflow.
    if (!busy && !__builtin_add_overflow(taken, thread.budget.exchange(0), &sum)) taken = sum;
    thread.closed.fetch_sub(1);
  }
  return taken;
}

PinCounts Ledger::counts() const {
  PinCounts sum;
  const std::uint32_t used = threads_used();
  for (std::uint32_t i = 0; i < used; ++i) {
    const wire::PinThread& thread = ledger().threads[i];
    sum.fast += thread.fast.load(std::memory_order_relaxed);
    sum.slow += thread.slow.load(std::memory_order_relaxed);
    for (std::size_t why = 0; why < wire::kPinFallbacks; ++why) {
      sum.fallbacks[why] += thread.fallbacks[why].load(std::memory_order_relaxed);
    }
  }
  return sum;
}

}  // namespace faultline::pin
