// One client's address space: its userfaultfd, its VMAs, and what happens to them. Must never
// change while an answer to a fault is under way that the change would make wrong.
//
// Life of a message:
//   1. The userfaultfd is readable. The home's ring tells; or workers that stay with the space for
//      a while look by themselves (fault_worker.hpp). Who comes takes the turn, or leaves it to the
//      worker that has it.
//   2. In the turn messages are read. Events (fork, unmap, remap, remove) are carried out at once,
//      in order; faults are collected.
//   3. The turn is given up, then the faults are answered (fault_engine.hpp), while other workers
//      read and answer others.
//   4. What cannot be answered yet is kept: a page that is read from its file comes back through
//      the object's waiter; EAGAIN (an event is under way) comes back with the next event or a
//      timer; an address that no VMA holds is looked up in the kernel, in a turn.
//
// Why an answer never meets an event. An answer looks a VMA up, and then acts on its addresses.
// When a read takes an event out, the client's thread goes on; it may move another mapping to those
// addresses. That takes a second event, which the kernel reports too, and from its beginning until
// that one is read the kernel refuses every answer with EAGAIN. So it is enough that between the
// reading of two events all answers under way have ended:
//   - while any are, messages are read one at a time;
//   - an event is carried out when they have ended (answering_), and no other is read before that.
// To wait for them costs nobody anything: while an event is unread the kernel answers no fault.
//
// Changes that the client asks for (map, protect, advise) take the turn as well, and then wait for
// the answers in the VMAs that they replace alone (vma_tree.hpp).
//
// Life of an address space:
//   live -> retiring  the daemon stops: what the kernel could not supply by itself is poisoned,
//                     the ranges are unregistered
//   live -> dead      an ioctl said ESRCH: exit, exec or SIGKILL
//   retiring -> dead  nothing is registered any more
//   dead: its ring operations are cancelled; it is destroyed when the last has completed.
//
// Threads: it is at home on one worker, whose ring waits for it. Functions marked "home" are called
// there, all others anywhere. The turn guards everything below it but what is thread-safe itself.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "daemon/kernel/mailbox.hpp"
#include "daemon/kernel/process.hpp"
#include "daemon/kernel/ring.hpp"
#include "daemon/kernel/userfaultfd.hpp"
#include "daemon/memory/eviction.hpp"
#include "daemon/space/crowd.hpp"
#include "daemon/space/departed.hpp"
#include "daemon/space/fault_engine.hpp"
#include "daemon/space/handle_table.hpp"
#include "daemon/space/message_reads.hpp"
#include "daemon/space/turn.hpp"
#include "daemon/space/vma_tree.hpp"
#include "faultline/wire/protocol.hpp"

namespace faultline::space {

// What a client asks to have mapped; checked by whoever made it.
struct MapRequest {
  Vaddr address;
  ByteCount length;
  std::shared_ptr<memory::MemoryObject> object;
  PageIndex first;
  Sharing sharing = Sharing::shared;
  bool writable = false;
  bool may_write = false;  // the client has the object open for writing
  ByPage by_page = ByPage::no;
};

struct VmaSnapshot {
  Vma vma;
  std::uint64_t broken = 0;  // pages
  FaultCounters counters;
  std::uint64_t ahead_unused = 0;
};

// A copy of everything that can be shown of an address space.
struct SpaceSnapshot {
  SpaceId id;
  Owner owner;
  std::vector<VmaSnapshot> vmas;
  FaultCounters counters;
  std::uint64_t ahead_unused = 0;
  std::size_t waiting_faults = 0;
  // Batches of answers under way; what they do is not all in the counters yet.
  std::size_t answering = 0;
};

class AddressSpace;

// What the spaces of one user share, and outlives them.
struct Surroundings {
  epoch::Domain& domain;
  EventFeed& feed;
  SpaceObserver& observer = nobody_observes();
};

// The worker that an address space is at home on.
class SpaceHost {
 public:
  SpaceHost() = default;
  SpaceHost(const SpaceHost&) = delete;
  SpaceHost& operator=(const SpaceHost&) = delete;
  virtual ~SpaceHost() = default;

  virtual kernel::Ring& ring() = 0;
  virtual std::shared_ptr<kernel::Mailbox> mailbox() = 0;
  virtual SpaceId next_space_id() = 0;
  // Home: it is about to read. True: faults come so close together that the host stays, and calls
  // look() from now on until it calls rest().
  virtual bool stay(AddressSpace& space) = 0;
  // Home: faults, and no events, were read and answered just now.
  virtual void answered(AddressSpace& space) = 0;
  // A fork: sees to it that the child is started, by this host or another. Any thread.
  virtual void adopt(std::shared_ptr<AddressSpace> child) = 0;
};

class AddressSpace : public std::enable_shared_from_this<AddressSpace>, private FaultParking {
 public:
  static constexpr std::size_t kMaxVmas = 65'536;
  // Faults that are kept until they can be answered. A thread can leave one behind by a signal, and
  // raise the next; those beyond are woken, and so raised again.
  static constexpr std::size_t kMostWaiting = 4'096;
  // Unreported mappings that one step takes in: it keeps others of the same home waiting.
  static constexpr std::size_t kMostFoundAtOnce = 64;

  // beacon: the page that is answered with the space's cookie; nothing where the client has none.
  AddressSpace(SpaceId id, Owner owner, kernel::Userfaultfd uffd,
               std::shared_ptr<HandleTable> handles, std::optional<Vaddr> beacon,
               const Surroundings& around);

  // Starts listening, on the thread of the host, which is its home from now on. Call once, first.
  void start(SpaceHost& host);

  [[nodiscard]] SpaceId id() const { return identity_.id(); }
  [[nodiscard]] Owner owner() const { return identity_.owner(); }
  void set_pid(pid_t pid) { identity_.set_pid(pid); }
  [[nodiscard]] const wire::Cookie& cookie() const { return cookie_; }
  [[nodiscard]] const std::shared_ptr<HandleTable>& handles() const { return handles_; }
  [[nodiscard]] kernel::Userfaultfd::Features features() const { return uffd_.features(); }

  struct Served {
    std::size_t messages = 0;
    bool beside_others = false;  // while another worker answered
    bool events = false;         // not faults alone
  };
  // Reads what is there and answers it. For who calls it again and again: where another worker has
  // the turn, that is all.
  Served look();
  // Messages are being read, by whom does not matter, as long as this changes. Lock-free.
  [[nodiscard]] std::uint64_t reads() const { return reads_.load(std::memory_order_relaxed); }
  // How many of its threads fault by turns. Lock-free.
  [[nodiscard]] unsigned faulting_threads() const { return crowd_.threads(); }
  // For who must come after every event that the client knows of. Outlives the space.
  [[nodiscard]] const std::shared_ptr<MessageReads>& message_reads() const {
    return message_reads_;
  }
  // Home: the host no longer looks; what comes from here on is told by its ring.
  void rest();

  // Registers the range and publishes the VMA.
  // Errors: ENOMEM too many VMAs; EINVAL, EBUSY and ENOENT of a range that is not the client's
  // mapping of an object; ESRCH; EAGAIN: an event is under way, ask again a moment later.
  Status map(const MapRequest& request);
  // Records what mprotect(2) has done. Errors: ENOENT not all of it is mapped; EINVAL it begins or
  // ends within a page; ENOMEM; ESRCH.
  Status protect(const VaRange& range, bool writable);
  Status advise(const VaRange& range, Advice advice);
  // Takes in what the kernel has in the range and is not known: the client grew or copied a mapping
  // with mremap(2), of which the kernel tells nothing. Errors: ENOENT there is a part that is no
  // mapping of an object that the client has open or mapped; ENOTTY an older kernel; ESRCH; EAGAIN,
  // also where kMostFoundAtOnce were taken in, and there may be more.
  Status rediscover(const VaRange& range);
  // Write-protects every private page whose words are waited for by page, so that a write after a
  // fork is seen. Errors: EAGAIN, ESRCH.
  Status guard_pages();
  // Has the process read what its private pages are, of the mapping at an address; see
  // VmaActivity::publish, of so many mappings at a time. Errors: ENOENT no private mapping is
  // there; EUSERS; EEXIST; ENOMEM; EMFILE. Each takes a mapping of the daemon's, of which there are
  // not many.
  static constexpr std::size_t kMostPublished = 256;
  struct Frames {
    UniqueFd fd;
    PageIndex first;
    PageCount count;
  };
  Result<Frames> publish_frames(Vaddr address);
  // The process has written to all private pages in the range, as it says. Thread-safe.
  void settle(const VaRange& range);
  // Whether it has the object open or mapped, as far as is known.
  [[nodiscard]] bool has(const memory::MemoryObject& object) const;
  // Has nobody store to these pages of the object through a shared mapping without being asked:
  // they are write-protected, and answers that found them resident have ended. The caller has begun
  // to evict them. Errors: EAGAIN, ESRCH; ENOTSUP of pages that a fork child may have of whom the
  // kernel does not tell; ENOMEM.
  Status stop_stores(const memory::MemoryObject& object, const std::vector<memory::PageRun>& pages);
  // Whether stop_stores has anything to do; when it has begun to evict, no more comes to be.
  // Lock-free.
  [[nodiscard]] bool may_store(const memory::MemoryObject& object,
                               const std::vector<memory::PageRun>& pages) const;
  // What is mapped in a range. Lock-free.
  [[nodiscard]] std::vector<Vma> mapped_in(const VaRange& range) const {
    return vmas_.overlapping(range.start, range.end());
  }
  // Where an object is mapped. Lock-free.
  [[nodiscard]] std::vector<Vma> mapped_of(const memory::MemoryObject& object) const;
  // What holds an address. Lock-free.
  [[nodiscard]] VmaRef find(Vaddr address) const { return vmas_.find(address); }
  // One step of a populate: makes at most so much from start on resident, and maps it.
  struct Populated {
    ByteCount reached{};
    ByteCount page{};    // of which size the first page is
    bool waits = false;  // for the page, until the waiter is called
    // Why the first page was not reached. ENOENT no VMA is there, nor in so much as is said to be
    // reached; EFAULT the object had lost it: ask again.
    int error = 0;
  };
  [[nodiscard]] Populated populate(Vaddr start, ByteCount most, bool write,
                                   memory::MemoryObject::Waiter waiter);

  // As of now, whatever is under way. Lock-free.
  [[nodiscard]] SpaceSnapshot snapshot() const;
  [[nodiscard]] FaultCounters counters() const { return engine_.counters(); }
  [[nodiscard]] bool covers(const VaRange& range) const { return vmas_.covers(range); }
  // Whether a range that is covered neither begins nor ends within a page. Lock-free.
  [[nodiscard]] bool whole_pages(const VaRange& range) const;
  // With the counters of every fault that was answered before.
  [[nodiscard]] SpaceSnapshot settled_snapshot();
  [[nodiscard]] Result<VmaSnapshot> vma_at(Vaddr address);

  // Returns when every event that was read before has been carried out.
  void after_events();

  // Notices a death. Tries again what waits for an event to end.
  void check();
  // The session ended. An address space without mappings has then nobody to serve.
  void session_closed();
  // One step towards retirement; true when there is nothing left to do.
  bool retire();
  // Retires it, now or with the next checks.
  void turn_away();
  // Stops serving at once: the ranges are the kernel's from then on.
  void abandon();

  [[nodiscard]] bool dead() const { return dead_.load(std::memory_order_acquire); }
  // Home: of a dead one, ends its ring operations; true when none refers to it any more.
  bool wind_up();

 private:
  class Readable final : public kernel::RingOperation {
   public:
    explicit Readable(AddressSpace& space) : space_(space) {}
    void on_complete(int revents) override { space_.on_readable(revents); }

   private:
    AddressSpace& space_;
  };
  class RetryTimer final : public kernel::RingOperation {
   public:
    explicit RetryTimer(AddressSpace& space) : space_(space) {}
    void on_complete(int) override { space_.on_retry(); }

   private:
    AddressSpace& space_;
  };
  // From before a read until what it gave has been carried out; in the turn.
  class Reading {
   public:
    explicit Reading(AddressSpace& space) : space_(space) { space_.message_reads_->begin(); }
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;
    ~Reading() {
      if (space_.message_reads_->end()) space_.around_.observer.carried_out(space_.id());
    }

   private:
    AddressSpace& space_;
  };
  // What came of a batch of answers.
  struct Leftovers {
    std::vector<Fault> later;
    std::vector<Fault> unknown;
    bool dead = false;
    [[nodiscard]] bool none() const { return later.empty() && unknown.empty() && !dead; }
  };

  // Home.
  void on_readable(int revents);
  void on_retry();
  void listen();
  void start_retry_timer();
  // Runs it at home, now or soon.
  void at_home(void (AddressSpace::*what)());

  // As look(), but where another worker has the turn, that one looks again before it gives it up.
  Served serve();
  [[nodiscard]] Served read_and_answer();
  // Takes the turn, does what is to be done, and answers what came of it.
  template <typename Step>
  auto in_turn(Step step);
  // Gives the turn up, and answers what was collected in it, until nothing is left.
  void settle();
  [[nodiscard]] Leftovers answer(std::vector<Fault>& batch);
  // Counts what became of them, and how long that took since they were read.
  static void tally(std::span<const Fault> answered);
  [[nodiscard]] Populated nothing_at(Vaddr start) const;

  memory::MemoryObject::Waiter park(const Fault& fault) override;
  void park_ends() override { waiting_.fetch_sub(1, std::memory_order_relaxed); }
  [[nodiscard]] bool full() const override {
    return waiting_.load(std::memory_order_relaxed) >= kMostWaiting;
  }
  void resume(Fault fault, memory::Supply supply);

  // --- in the turn
  // Returns how many messages there were.
  std::size_t read_messages();
  void take(const uffd_msg& message);
  void wait_for_answers_under_way();
  void take_back(Leftovers& left);
  void retry_later();
  void drop_deferred();
  void on_fork(int child_fd);
  void on_unmap(Vaddr start, Vaddr end);
  void on_remap(Vaddr from, Vaddr to, ByteCount length);
  void on_remove(Vaddr start, Vaddr end);
  // ESRCH, EAGAIN, or 0: no event is under way, and what was read has been carried out.
  [[nodiscard]] int come_to_rest();
  Status map_in_turn(const MapRequest& request);
  Status change(const VaRange& range, const std::function<void(Vma&)>& edit);
  // Takes in the kernel's mapping at an address, as far as it is not known. Errors: EFAULT nothing
  // is there; ENOENT it is no object's; ENOMEM; ESRCH; EAGAIN.
  Status discover(Vaddr address);
  std::optional<Vma> vma_of(const kernel::KernelMapping& there, Vaddr address,
                            const Vma* remembered) const;
  std::shared_ptr<memory::MemoryObject> object_of(std::uint64_t inode) const;
  void forget(const std::vector<Vma>& gone);
  Status write_protect(const Vma& piece);
  bool retire_in_turn();
  void check_in_turn();
  void die();
  // ---

  [[nodiscard]] static VmaSnapshot show(const Vma& vma);
  [[nodiscard]] std::optional<FaultEngine::Beacon> beacon() const;

  Identity identity_;
  const wire::Cookie cookie_;
  const std::optional<Vaddr> beacon_;
  const kernel::Userfaultfd uffd_;
  const std::shared_ptr<HandleTable> handles_;
  const Surroundings around_;
  const Teller teller_;
  SpaceHost* host_ = nullptr;
  std::thread::id home_;

  VmaTree vmas_;
  FaultEngine engine_;
  // Batches of faults that are being answered outside the turn. Raised in the turn alone.
  std::atomic<std::uint32_t> answering_{0};
  std::atomic<std::uint64_t> reads_{0};  // that found something
  const std::shared_ptr<MessageReads> message_reads_ = std::make_shared<MessageReads>();
  std::atomic<std::size_t> waiting_{0};  // faults, for a page to come from its file
  std::atomic<bool> dead_{false};
  std::atomic<bool> inherits_{false};  // inherited_ is not empty
  // The home waits through its ring again: whoever has the turn sees to it.
  std::atomic<bool> home_wants_to_listen_{false};

  Turn turn_;
  // From here on the turn guards.
  Crowd crowd_;
  std::uint64_t events_ = 0;     // that were read
  DepartedVmas departed_;        // emptied when no event is under way
  DepartedVmas inherited_;       // what had departed from the parent: this one may have it still
  std::vector<Fault> pending_;   // read or come back, to be answered when the turn ends
  std::vector<Fault> deferred_;  // met EAGAIN
  std::atomic<std::chrono::nanoseconds> retry_after_{std::chrono::nanoseconds{0}};
  std::array<uffd_msg, 32> messages_{};
  std::chrono::steady_clock::time_point read_at_{};  // when they had been read
  std::atomic<std::uint64_t> past_ahead_unused_{0};
  bool session_open_ = true;
  bool turned_away_ = false;

  // The home alone uses them.
  Readable readable_{*this};
  RetryTimer retry_timer_{*this};
  bool wound_up_ = false;
};

}  // namespace faultline::space
