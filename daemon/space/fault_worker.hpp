// One thread with one io_uring that serves the userfaultfds of the address spaces that are at home
// here, and helps with those of its siblings when it has nothing else to do. Must never wait for a
// file, or for a client of another user.
//
// Life of a burst of faults:
//   1. The first fault wakes the worker that the space is at home on, by its ring.
//   2. Where a second comes within kLinger, the home stays with the space: it no longer waits for
//      the userfaultfd through its ring, but reads it again and again, which is one system call a
//      fault instead of three, and yields its processor between reads.
//   3. Where several threads fault by turns, and each can have a processor, it asks idle siblings,
//      who stay with the space too. On its own processor it wants no help: two would take turns.
//   4. A helper goes when it has been the only one to answer for kLinger, the home when nobody has
//      read a message for so long: it then waits through its ring as before.
// So a client with one busy thread is served by one worker, and one with more by several where
// there are processors for them.
//
// No fault is lost on the way: the home, and nobody else, decides between staying and listening. It
// leaves by AddressSpace::rest(), which looks once more in a turn that somebody must take.
//
// Other threads reach it by its mailbox. Letters, sweeps and the reaping of dead spaces run at the
// top level of its loop, never inside a completion. New spaces come by letters alone, also the
// children that it finds itself: while it walks over its spaces none is added.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "daemon/kernel/pulse.hpp"
#include "daemon/space/address_space.hpp"

namespace faultline::space {

// What the workers share: ids, cookies, and which worker gets a fork's child.
class SpaceRegistry {
 public:
  SpaceRegistry() = default;
  SpaceRegistry(const SpaceRegistry&) = delete;
  SpaceRegistry& operator=(const SpaceRegistry&) = delete;
  virtual ~SpaceRegistry() = default;

  virtual SpaceId next_space_id() = 0;
  virtual void place(std::shared_ptr<AddressSpace> space) = 0;
  virtual void gone(const AddressSpace& space) = 0;
};

class FaultWorker final : public SpaceHost {
 public:
  // A process that has exited is noticed at the latest this long after, if nothing tells us sooner.
  static constexpr std::chrono::milliseconds kSweepEvery{200};
  // A letter that says "later" is tried again this much later.
  static constexpr std::chrono::microseconds kLaterAfter{200};
  // Where faults come closer together than this, the worker looks for the next one so long before
  // it sleeps. It spares both sides a wake-up.
  static constexpr std::chrono::microseconds kLinger{50};
  // How long retirement may wait for clients that are in the middle of a fork or an unmap.
  static constexpr std::chrono::seconds kRetireWithin{5};

  // True: done. False: bring it back a moment later.
  using Task = std::function<bool()>;

  static Result<std::unique_ptr<FaultWorker>> create(unsigned index, SpaceRegistry& registry);
  FaultWorker(const FaultWorker&) = delete;
  FaultWorker& operator=(const FaultWorker&) = delete;
  ~FaultWorker() override;

  // Thread-safe: runs the task on the worker. Dropped after stop().
  void post(Task task);
  // Thread-safe. Starts to serve the space here; false once the worker has ended.
  bool take(std::shared_ptr<AddressSpace> space);
  // The same, for a space that is to be retired at once.
  bool turn_away(std::shared_ptr<AddressSpace> space);
  // Starts to retire every space; the thread ends when that is done.
  void begin_stop();
  // Blocks for that, at most until the deadline; false where it has not ended: a client holds it up
  // in the kernel, and this object must then not be destroyed.
  [[nodiscard]] bool join_until(std::chrono::steady_clock::time_point deadline);
  // Thread-safe.
  [[nodiscard]] const std::shared_ptr<kernel::Pulse>& pulse() const { return pulse_; }
  // Call before the worker serves anything: the other workers of its user.
  void set_siblings(std::vector<FaultWorker*> siblings) { siblings_ = std::move(siblings); }

  // --- for those who look; thread-safe
  [[nodiscard]] FaultTotals totals() const { return tally_.totals(); }
  [[nodiscard]] std::size_t letters() const { return mailbox_->size(); }

  kernel::Ring& ring() override { return *ring_; }
  bool stay(AddressSpace& space) override;
  void answered(AddressSpace& space) override;
  std::shared_ptr<kernel::Mailbox> mailbox() override { return mailbox_; }
  SpaceId next_space_id() override { return registry_.next_space_id(); }
  void adopt(std::shared_ptr<AddressSpace> child) override { registry_.place(std::move(child)); }

 private:
  // Remembers that it completed; the loop looks at the flag.
  class Signal final : public kernel::RingOperation {
   public:
    void on_complete(int) override { raised_ = true; }
    [[nodiscard]] bool take() { return std::exchange(raised_, false); }

   private:
    bool raised_ = false;
  };

  FaultWorker(unsigned index, SpaceRegistry& registry, std::unique_ptr<kernel::Ring> ring,
              std::shared_ptr<kernel::Mailbox> mailbox);
  void run();
  // Does what letters and timers ask for.
  void attend();
  [[nodiscard]] Status wait();
  // Looks for faults of the space that it stays with, until something else completes; false once
  // there has been nothing to do for a while.
  bool keep_looking();
  void leave();
  void ask_for_help(AddressSpace& space);
  // Thread-safe: this worker, where it is idle, stays with the space too for a while.
  bool help(const std::shared_ptr<AddressSpace>& space);
  void read_mail();
  void run_tasks();
  void sweep();
  void reap();
  [[nodiscard]] bool retire_step();

  unsigned index_;
  SpaceRegistry& registry_;
  std::unique_ptr<kernel::Ring> ring_;
  std::shared_ptr<kernel::Mailbox> mailbox_;
  const std::shared_ptr<kernel::Pulse> pulse_;

  std::vector<std::shared_ptr<AddressSpace>> spaces_;
  std::vector<FaultWorker*> siblings_;
  std::atomic<bool> idle_{false};  // it sleeps, or is about to, and may be asked for help
  // The space that it stays with.
  std::shared_ptr<AddressSpace> attended_;
  bool helps_ = false;                               // the space is at home with another
  std::chrono::steady_clock::time_point busy_at_{};  // there was last reason to stay
  std::uint64_t reads_seen_ = 0;
  unsigned answered_ = 0;  // reads in bursts, to ask for help now and then
  std::vector<Task> later_;
  std::uint64_t mail_count_ = 0;  // what the eventfd read gives; the count itself is of no use
  Signal mail_;
  Signal sweep_timer_;
  Signal later_timer_;
  bool stopping_ = false;
  std::chrono::steady_clock::time_point retire_by_{};
  std::promise<void> ended_;
  FaultTally tally_;
  std::thread thread_;
};

}  // namespace faultline::space
