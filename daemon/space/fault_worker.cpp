#include "daemon/space/fault_worker.hpp"

#include <pthread.h>
#include <sched.h>

#include <cstdlib>

#include "daemon/kernel/log.hpp"
#include "daemon/kernel/signals.hpp"

namespace faultline::space {

namespace {
constexpr unsigned kRingEntries = 1024;
// In a burst, every so manieth read asks whether more workers would be of use. Who was asked in
// vain has cost a wake-up.
constexpr unsigned kAskEvery = 64;
const unsigned processors = std::thread::hardware_concurrency();
}  // namespace

Result<std::unique_ptr<FaultWorker>> FaultWorker::create(unsigned index, SpaceRegistry& registry) {
  auto ring = kernel::Ring::create(kRingEntries);
  if (!ring) return propagate(ring);
  auto mailbox = kernel::Mailbox::create();
  if (!mailbox) return propagate(mailbox);
  std::unique_ptr<FaultWorker> worker{
      new FaultWorker(index, registry, std::move(*ring), std::move(*mailbox))};
  const kernel::SignalsBlocked none_for_it;
  worker->thread_ = std::thread([self = worker.get()] { self->run(); });
  return worker;
}

FaultWorker::FaultWorker(unsigned index, SpaceRegistry& registry,
                         std::unique_ptr<kernel::Ring> ring,
                         std::shared_ptr<kernel::Mailbox> mailbox)
    : index_(index),
      registry_(registry),
      ring_(std::move(ring)),
      mailbox_(std::move(mailbox)),
      pulse_(std::make_shared<kernel::Pulse>(mailbox_, "fault worker " + std::to_string(index))) {}

FaultWorker::~FaultWorker() {
  begin_stop();
  if (thread_.joinable()) thread_.join();
}

void FaultWorker::post(Task task) {
  mailbox_->post([this, task = std::move(task)]() mutable {
    if (!task()) later_.push_back(std::move(task));
  });
}

bool FaultWorker::take(std::shared_ptr<AddressSpace> space) {
  return mailbox_->post([this, space = std::move(space)] {
    spaces_.push_back(space);
    space->start(*this);
  });
}

bool FaultWorker::turn_away(std::shared_ptr<AddressSpace> space) {
  return mailbox_->post([this, space = std::move(space)] {
    spaces_.push_back(space);
    space->start(*this);
    space->turn_away();
  });
}

void FaultWorker::begin_stop() {
  post([this] {
    if (!stopping_) retire_by_ = std::chrono::steady_clock::now() + kRetireWithin;
    stopping_ = true;
    return true;
  });
}

bool FaultWorker::join_until(std::chrono::steady_clock::time_point deadline) {
  if (!thread_.joinable()) return true;
  if (ended_.get_future().wait_until(deadline) != std::future_status::ready) return false;
  thread_.join();
  return true;
}

void FaultWorker::run() {
  const FaultTally::Use tallied(tally_);
  ::pthread_setname_np(::pthread_self(), ("fault-" + std::to_string(index_)).c_str());
  if (auto owned = ring_->own(); !owned) {
    log::critical("fault worker {}: {}", index_, owned.error().message());
    std::abort();
  }
  pulse_->begin();
  read_mail();
  ring_->timeout(sweep_timer_, kSweepEvery);
  for (;;) {
    if (auto waited = wait(); !waited) {
      // Without its ring this worker cannot answer a fault, and clients would hang one by one.
      log::critical("fault worker {}: {}", index_, waited.error().message());
      std::abort();
    }
    attend();
    reap();
    if (stopping_ && retire_step()) break;
    if ((!later_.empty() || stopping_) && !later_timer_.in_flight()) {
      ring_->timeout(later_timer_, kLaterAfter);
    }
  }
  mailbox_->close();
  attended_.reset();
  for (const auto& space : spaces_) {
    space->abandon();
    (void)space->wind_up();  // or its client would have to do something for them to complete
  }
  // What is in flight refers to this object and to spaces: see every completion before they go.
  ring_->cancel(mail_);
  ring_->cancel(sweep_timer_);
  ring_->cancel(later_timer_);
  while (ring_->in_flight() > 0 && ring_->wait()) {
  }
  ended_.set_value();
}

void FaultWorker::attend() {
  if (mail_.take()) {
    read_mail();
    run_tasks();
  }
  if (later_timer_.take()) {
    std::vector<Task> again;
    again.swap(later_);
    for (Task& task : again) {
      if (!task()) later_.push_back(std::move(task));
    }
  }
  if (sweep_timer_.take()) {
    sweep();
    ring_->timeout(sweep_timer_, kSweepEvery);
  }
}

bool FaultWorker::stay(AddressSpace& space) {
  if (attended_ && !helps_) return attended_.get() == &space;
  if (std::chrono::steady_clock::now() - busy_at_ > kLinger) return false;
  attended_ = space.shared_from_this();
  helps_ = false;
  return true;
}

void FaultWorker::answered(AddressSpace& space) {
  // While it stays with another space, this one does not prolong it.
  if (attended_ && attended_.get() != &space) return;
  busy_at_ = std::chrono::steady_clock::now();
  if (++answered_ % kAskEvery == 0) ask_for_help(space);
}

Status FaultWorker::wait() {
  if (attended_ && keep_looking()) return {};
  idle_.store(true, std::memory_order_relaxed);
  Status waited = ring_->wait();
  idle_.store(false, std::memory_order_relaxed);
  return waited;
}

bool FaultWorker::keep_looking() {
  ring_->submit();
  bool busy = false;
  while (!ring_->ready()) {
    // First of all whoever was just answered, or has a fault to raise, on this processor.
    ::sched_yield();
    const AddressSpace::Served served = attended_->look();
    if (served.events) {
      // No burst of faults. Threads that raise events all the time would get a time slice each at
      // every yield, and other clients would wait for all of them.
      busy_at_ = {};
      leave();
      return false;
    }
    if (served.messages > 0) {
      busy = busy || !helps_ || served.beside_others;
      if (!helps_ && ++answered_ % kAskEvery == 0) ask_for_help(*attended_);
      continue;
    }
    const auto now = std::chrono::steady_clock::now();
    const std::uint64_t reads = attended_->reads();
    if (busy || (!helps_ && reads != reads_seen_)) busy_at_ = now;
    busy = false;
    reads_seen_ = reads;
    if (now - busy_at_ > kLinger || attended_->dead()) {
      leave();
      return false;
    }
  }
  if (busy) busy_at_ = std::chrono::steady_clock::now();
  ring_->poll();
  return true;
}

void FaultWorker::leave() {
  const std::shared_ptr<AddressSpace> space = std::exchange(attended_, nullptr);
  if (!std::exchange(helps_, false)) space->rest();
}

void FaultWorker::ask_for_help(AddressSpace& space) {
  const unsigned threads = space.faulting_threads();
  // With more threads than processors, each processor has a thread that can run while others wait:
  // a helper would take its time.
  if (threads < 2 || threads > processors) return;
  unsigned helpers = threads - 1;
  for (FaultWorker* sibling : siblings_) {
    if (helpers == 0) return;
    if (sibling->help(space.shared_from_this())) --helpers;
  }
}

bool FaultWorker::help(const std::shared_ptr<AddressSpace>& space) {
  // Taken back by the worker when it wakes, whatever woke it: it is asked by one at a time.
  if (!idle_.exchange(false, std::memory_order_relaxed)) return false;
  return mailbox_->post([this, space, cpu = ::sched_getcpu()] {
    // On one processor two workers would only take turns.
    if (attended_ || ::sched_getcpu() == cpu) return;
    attended_ = space;
    helps_ = true;
    busy_at_ = std::chrono::steady_clock::now();
  });
}

void FaultWorker::read_mail() {
  ring_->read(mail_, mailbox_->event_fd(), std::as_writable_bytes(std::span(&mail_count_, 1)), -1);
}

void FaultWorker::run_tasks() {
  for (kernel::Mailbox::Letter& letter : mailbox_->take()) letter();
}

void FaultWorker::sweep() {
  for (const auto& space : spaces_) space->check();
}

void FaultWorker::reap() {
  std::erase_if(spaces_, [this](const auto& space) {
    if (!space->dead() || !space->wind_up()) return false;
    registry_.gone(*space);
    return true;
  });
}

bool FaultWorker::retire_step() {
  bool all = true;
  for (const auto& space : spaces_) all = space->retire() && all;
  if (!all && std::chrono::steady_clock::now() > retire_by_) {
    log::error(
        "fault worker {}: clients in the middle of a fork or an unmap did not come to an end "
        "of it within {} s; they are left to the kernel",
        index_, kRetireWithin.count());
    return true;
  }
  return all && spaces_.empty();
}

}  // namespace faultline::space
