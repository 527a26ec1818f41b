#include "libclient/pin_ledger.hpp"

#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "libclient/failure.hpp"

namespace faultline::client {

namespace {

// What a share takes besides what it needs, so that the next need is met without the lock.
constexpr std::int64_t kSpare = std::int64_t{1} << 20;

template <typename Table>
Table* map(const UniqueFd& fd, int access) {
  void* const mapped =
      ::mmap(nullptr, sizeof(Table), access, MAP_SHARED | MAP_NORESERVE, fd.get(), 0);
  if (mapped == MAP_FAILED) throw_errno("mapping a pin ledger");
  // A child has no pins; and should it have the ledger it would unpin its parent's.
  if (::madvise(mapped, sizeof(Table), MADV_DONTFORK) != 0) {
    ::munmap(mapped, sizeof(Table));
    throw_errno("madvise(MADV_DONTFORK)");
  }
  return static_cast<Table*>(mapped);
}

}  // namespace

// What is mapped of a ledger. Retired when it is closed: a thread may be ending a pin.
class PinLedger::Memory final : public Retirable {
 public:
  explicit Memory(const wire::Packet& reply) {
    if (reply.fds.size() != 2) throw Failure(EPROTO, "receiving a pin ledger");
    ledger = map<wire::PinLedger>(reply.fds[0], PROT_READ | PROT_WRITE);
    try {
      verdicts = map<const wire::PinVerdicts>(reply.fds[1], PROT_READ);
    } catch (const Failure&) {
      ::munmap(ledger, sizeof(wire::PinLedger));
      throw;
    }
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() override {
    ::munmap(ledger, sizeof(wire::PinLedger));
    ::munmap(const_cast<wire::PinVerdicts*>(verdicts), sizeof(wire::PinVerdicts));
  }

  wire::PinLedger* ledger = nullptr;
  const wire::PinVerdicts* verdicts = nullptr;
};

// All that this process ever had.
class PinLedgers {
 public:
  PinLedger& open(const wire::Packet& reply) {
    auto mapped = std::make_unique<PinLedger::Memory>(reply);
    const std::lock_guard lock(mutex);
    auto at = std::ranges::find_if(all_, [](const auto& old) { return old->number() == 0; });
    if (at == all_.end()) {
      all_.push_back(std::unique_ptr<PinLedger>(new PinLedger));  // a private constructor
      at = std::prev(all_.end());
    }
    PinLedger& ledger = **at;
    const std::lock_guard inner(ledger.mutex_);
    ledger.free_slots_.clear();
    ledger.free_slots_.reserve(wire::kPinSlots);  // at a thread's end there is nobody to tell
    ledger.free_records_.clear();
    ledger.free_records_.reserve(wire::kPinThreads);
    ledger.memory_.store(mapped->ledger);
    ledger.verdicts_.store(mapped->verdicts);
    ledger.mapped_ = std::move(mapped);
    ledger.number_.store(++numbers_);
    return ledger;
  }
  void close(PinLedger& ledger) {
    std::unique_ptr<PinLedger::Memory> gone;
    {
      const std::lock_guard lock(mutex);
      const std::lock_guard inner(ledger.mutex_);
      ledger.number_.store(0, std::memory_order_seq_cst);
      gone = std::move(ledger.mapped_);
    }
    give_back_later(std::move(gone));
  }
  void forget() {
    inherited_ = numbers_;
    for (auto& ledger : all_) {
      ledger->number_.store(0, std::memory_order_relaxed);
      // Not mapped here; and its lock may be held by a thread that is not here.
      (void)ledger->mapped_.release();
      (void)ledger.release();
    }
    all_.clear();
    my_pins = {};
  }

  [[nodiscard]] PinLedger* find(std::uint64_t number) const {
    const auto at = std::ranges::find_if(
        all_, [&](const auto& ledger) { return number != 0 && ledger->number() == number; });
    return at == all_.end() ? nullptr : at->get();
  }
  [[nodiscard]] bool inherited(std::uint64_t number) const { return number <= inherited_; }

  std::mutex mutex;  // guards all

 private:
  std::vector<std::unique_ptr<PinLedger>> all_;
  std::uint64_t numbers_ = 0;    // goes on in a child, to whom the parent's mean nothing
  std::uint64_t inherited_ = 0;  // the last of the parent's
};

namespace {

// Leaked on purpose: threads may still be inside the library while the process exits.
PinLedgers& ledgers() {
  // NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): a process has one list
  static auto* const instance = std::make_unique<PinLedgers>().release();
  return *instance;
}

struct AtThreadEnd {
  AtThreadEnd() = default;
  AtThreadEnd(const AtThreadEnd&) = delete;
  AtThreadEnd& operator=(const AtThreadEnd&) = delete;
  ~AtThreadEnd() { PinLedger::give_back(my_pins); }
};

}  // namespace

PinLedger& PinLedger::open(const wire::Packet& reply) {
  return ledgers().open(reply);
}

void PinLedger::close() {
  ledgers().close(*this);
}

void PinLedger::attach() {
  if (my_pins.ledger == this && my_pins.number == number()) return;
  static thread_local const AtThreadEnd until_then;
  give_back(my_pins);
  const std::lock_guard lock(mutex_);
  if (number() == 0) throw Failure(EPIPE, "pinning through a connection that has ended");
  std::uint32_t index = memory()->threads_used.load(std::memory_order_relaxed);
  if (!free_records_.empty()) {
    index = free_records_.back();
    free_records_.pop_back();
  } else if (index < wire::kPinThreads) {
    memory()->threads_used.store(index + 1, std::memory_order_release);
  } else {
    throw Failure(EUSERS,
                  "pinning with more than " + std::to_string(wire::kPinThreads) + " threads");
  }
  my_pins.ledger = this;
  my_pins.number = number();
  my_pins.record = &memory()->threads[index];
  my_pins.record_index = index;
  my_pins.slots = memory()->slots.data();
  const wire::PinVerdicts& verdicts = *verdicts_.load(std::memory_order_relaxed);
  my_pins.verdicts = verdicts.slots.data();
  my_pins.clock = &verdicts.now;
  my_pins.at_once = 1;
  my_pins.free_count = 0;
}

void PinLedger::give_back(PinShare& share) {
  if (share.ledger == nullptr) return;
  PinLedger& ledger = *share.ledger;
  const std::lock_guard lock(ledger.mutex_);
  if (ledger.number() == share.number) {
    // With what is in its budget, which others can take.
    ledger.free_records_.push_back(share.record_index);
    for (std::uint32_t i = 0; i < share.free_count; ++i) {
      ledger.free_slots_.push_back(share.free[i]);
    }
  }
  share = {};
}

bool PinLedger::fill_slots(PinShare& share) {
  const std::uint32_t at_once = share.at_once;
  share.at_once = std::min<std::uint32_t>(2 * at_once, PinShare::kMostFree / 2);
  const std::lock_guard lock(mutex_);
  while (share.free_count < at_once && !free_slots_.empty()) {
    share.free[share.free_count++] = free_slots_.back();
    free_slots_.pop_back();
  }
  if (share.free_count > 0) return true;
  const std::uint32_t used = memory()->slots_used.load(std::memory_order_relaxed);
  const std::uint32_t fresh = std::min(at_once, wire::kPinSlots - used);
  for (std::uint32_t i = fresh; i > 0; --i) share.free[share.free_count++] = used + i - 1;
  // Before anything is published there: the daemon looks no further.
  memory()->slots_used.store(used + fresh, std::memory_order_release);
  return share.free_count > 0;
}

void PinLedger::spill_slots(PinShare& share) {
  const std::lock_guard lock(mutex_);
  while (share.free_count > PinShare::kMostFree / 2) {
    free_slots_.push_back(share.free[--share.free_count]);
  }
}

std::int64_t PinLedger::take_budgets() const {
  wire::PinLedger& all = *memory();
  const std::uint32_t used = all.threads_used.load(std::memory_order_relaxed);
  for (std::uint32_t i = 0; i < used; ++i) all.threads[i].closed.fetch_add(1);
  // Who was not yet seen to be busy sees from here on that its budget is closed. Every client is
  // registered for it.
  (void)::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
  std::int64_t taken = 0;
  for (std::uint32_t i = 0; i < used; ++i) {
    wire::PinThread& thread = all.threads[i];
    // Who is in the middle of a payment ends it, and then leaves the budget alone. What it has left
    // must not be missed: somebody would be refused what nobody uses.
    thread.busy.wait(1, std::memory_order_acquire);
    taken += thread.budget.exchange(0);
    thread.closed.fetch_sub(1);
  }
  return taken;
}

std::int64_t PinLedger::fill_budget(PinShare& share, std::int64_t bytes) {
  const std::lock_guard lock(mutex_);
  std::int64_t have = memory()->pool.exchange(0);
  if (have < bytes) have += take_budgets();
  const std::int64_t kept = std::min(have, bytes + kSpare);
  refund(share, kept);
  put_into_pool(have - kept);
  return std::max<std::int64_t>(bytes - have, 0);
}

fl_pin_stats PinLedger::statistics() const {
  fl_pin_stats sum{};
  const std::uint32_t used = memory()->threads_used.load(std::memory_order_acquire);
  for (std::uint32_t i = 0; i < used; ++i) {
    const wire::PinThread& thread = memory()->threads[i];
    const auto because = [&](wire::PinFallback why) {
      return thread.fallbacks[static_cast<std::size_t>(why)].load(std::memory_order_relaxed);
    };
    sum.fast += thread.fast.load(std::memory_order_relaxed);
    sum.slow += thread.slow.load(std::memory_order_relaxed);
    sum.absent += because(wire::PinFallback::absent);
    sum.not_own += because(wire::PinFallback::not_own);
    sum.not_known += because(wire::PinFallback::not_known);
    sum.budget += because(wire::PinFallback::budget);
  }
  return sum;
}

void PinLedger::moved(std::uintptr_t start, std::uintptr_t end, std::uintptr_t to) const {
  const Reading reading;
  if (number() == 0) return;
  const std::uint32_t used = memory()->slots_used.load(std::memory_order_acquire);
  for (std::uint32_t i = 0; i < used; ++i) {
    wire::PinSlot& slot = memory()->slots[i];
    if (slot.object.load(std::memory_order_acquire) == 0) continue;
    std::uint64_t address = slot.address.load(std::memory_order_relaxed);
    const std::uint64_t bytes = slot.bytes.load(std::memory_order_relaxed);
    // What lies there in part has ended. Nobody pins there anew while the mapping is being moved:
    // who tries withdraws it.
    if (address < start || address >= end || bytes > end - address) continue;
    (void)slot.address.compare_exchange_strong(
        address, to + (address - start), std::memory_order_release, std::memory_order_relaxed);
  }
}

void PinLedger::give_to_all(std::uint32_t slot, std::int64_t bytes) {
  const std::lock_guard lock(mutex_);
  free_slots_.push_back(slot);
  memory()->pool.fetch_add(bytes);
}

PinLedgersLocked::PinLedgersLocked() {
  ledgers().mutex.lock();
}
PinLedgersLocked::~PinLedgersLocked() {
  ledgers().mutex.unlock();
}
PinLedger* PinLedgersLocked::find(std::uint64_t number) {
  return ledgers().find(number);
}
bool PinLedgersLocked::inherited(std::uint64_t number) {
  return ledgers().inherited(number);
}

void lock_pin_ledgers() {
  ledgers().mutex.lock();
}
void unlock_pin_ledgers() {
  ledgers().mutex.unlock();
}
void forget_pin_ledgers() {
  ledgers().forget();
}

}  // namespace faultline::client
