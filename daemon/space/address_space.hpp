// One client's address space: its userfaultfd, its VMAs, and the answers to its faults. Must never
// leave a fault unanswered, and never touch the client's memory itself.
//
// Belongs to one worker thread: every function runs there, and nothing here is locked. Other
// threads reach it by the worker's mailbox.
//
// Life of a fault:
//   1. A read of the userfaultfd completes with a batch of messages. Whatever else is readable is
//      read too, and the events among it (fork, unmap, remap, remove) are carried out first, in
//      order.
//   2. Each fault looks its VMA up and is answered:
//        shared, any access         CONTINUE: the object's page is made resident and mapped
//        private, read              CONTINUE with write-protect: the same, read-only
//        private, write, unmapped   COPY: a copy is installed
//        private, write, protected  WRITEPROTECT: the break is recorded, the protection lifted
//      The message's own "missing" or "minor" is not used to decide: between its raising and its
//      reading the page may have come or gone, and the object's page table says what is true.
//   3. What cannot be answered yet is kept: a page that is being read from its file comes back
//      through the object's waiter; EAGAIN (an event is under way) comes back with the next event
//      or a timer.
//   4. What cannot be answered at all is poisoned: SIGBUS in the client, counted and logged.
//
// Life of an address space:
//   live -> retiring  the daemon stops: what the kernel could not supply by itself is poisoned,
//                     the ranges are unregistered
//   live -> dead      an ioctl said ESRCH: exit, exec or SIGKILL
//   retiring -> dead  nothing is registered any more
//   dead: its ring operations are cancelled; it is destroyed when the last has completed.
#pragma once

#include <fmt/format.h>
#include <sys/types.h>

#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "daemon/kernel/mailbox.hpp"
#include "daemon/kernel/ring.hpp"
#include "daemon/kernel/userfaultfd.hpp"
#include "daemon/space/departed.hpp"
#include "daemon/space/handle_table.hpp"
#include "daemon/space/vma_map.hpp"
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
};

// Who an address space belongs to, as far as is known. A fork child's pid is known once it has
// raised a fault or connected: the kernel's fork event does not tell it.
struct Owner {
  pid_t pid = 0;  // 0: not known yet
  pid_t parent = 0;
  uid_t uid = 0;
};

struct VmaSnapshot {
  Vma vma;
  std::uint64_t broken = 0;  // pages
  FaultCounters counters;
  std::uint64_t ahead_unused = 0;
};

// A copy of everything that can be shown of an address space, taken on its worker.
struct SpaceSnapshot {
  SpaceId id;
  Owner owner;
  std::vector<VmaSnapshot> vmas;
  FaultCounters counters;
  std::uint64_t ahead_unused = 0;
  std::size_t waiting_faults = 0;
};

class AddressSpace;

// The worker that an address space belongs to.
class SpaceHost {
 public:
  SpaceHost() = default;
  SpaceHost(const SpaceHost&) = delete;
  SpaceHost& operator=(const SpaceHost&) = delete;
  virtual ~SpaceHost() = default;

  virtual kernel::Ring& ring() = 0;
  virtual std::shared_ptr<kernel::Mailbox> mailbox() = 0;
  virtual SpaceId next_space_id() = 0;
  // Faults were answered just now.
  virtual void answered() = 0;
  // A fork: sees to it that the child is started, by this host or another.
  virtual void adopt(std::shared_ptr<AddressSpace> child) = 0;
};

class AddressSpace : public std::enable_shared_from_this<AddressSpace> {
 public:
  static constexpr std::size_t kMaxVmas = 65'536;

  // beacon: the page that is answered with the space's cookie; nothing where the client has none.
  AddressSpace(SpaceId id, Owner owner, kernel::Userfaultfd uffd,
               std::shared_ptr<HandleTable> handles, std::optional<Vaddr> beacon);

  // Starts listening, on the thread of the host, which it belongs to from now on. Call once, first.
  void start(SpaceHost& host);

  [[nodiscard]] SpaceId id() const { return id_; }
  [[nodiscard]] const Owner& owner() const { return owner_; }
  void set_pid(pid_t pid) { owner_.pid = pid; }
  [[nodiscard]] const wire::Cookie& cookie() const { return cookie_; }
  [[nodiscard]] const std::shared_ptr<HandleTable>& handles() const { return handles_; }
  [[nodiscard]] kernel::Userfaultfd::Features features() const { return uffd_.features(); }

  // Registers the range and publishes the VMA. Not from within a completion: it lets the ring run.
  // Errors: ENOMEM too many VMAs; EINVAL, EBUSY and ENOENT of a range that is not the client's
  // mapping of an object; ESRCH; EAGAIN: an event is under way, ask again a moment later.
  Status map(const MapRequest& request);
  [[nodiscard]] Result<VmaSnapshot> vma_at(Vaddr address) const;
  [[nodiscard]] SpaceSnapshot snapshot() const;
  [[nodiscard]] const FaultCounters& counters() const { return counters_; }

  // Notices a death. Tries again what waits for an event to end. Not from within a completion.
  void check();
  // The session ended. An address space without mappings has then nobody to serve.
  void session_closed();
  // One step towards retirement; true when there is nothing left to do. Not from within a
  // completion.
  bool retire();
  // Retires it, now or with the next checks.
  void turn_away();
  // Stops serving at once: the ranges are the kernel's from then on.
  void abandon() { die(); }

  [[nodiscard]] bool dead() const { return dead_; }
  // No ring operation refers to it any more.
  [[nodiscard]] bool idle() const { return !reader_.in_flight() && !retry_timer_.in_flight(); }

 private:
  struct Fault {
    Vaddr address;
    pid_t thread = 0;
    bool write = false;
    bool write_protect = false;
    bool minor = false;
    bool counted = false;
    bool again = false;  // it could not be answered when it was read
    bool alone = false;  // ask for this page only: a read of more had failed
    unsigned attempts = 0;
  };
  enum class Answer { done, later, dead };
  class Reader final : public kernel::RingOperation {
   public:
    explicit Reader(AddressSpace& space) : space_(space) {}
    void on_complete(int result) override { space_.on_read(result); }

   private:
    AddressSpace& space_;
  };
  class RetryTimer final : public kernel::RingOperation {
   public:
    explicit RetryTimer(AddressSpace& space) : space_(space) {}
    void on_complete(int) override { space_.retry(); }

   private:
    AddressSpace& space_;
  };

  void listen();
  void on_read(int result);
  // Reads and carries out what else is readable, within bounds; faults are put on faults_.
  void drain();
  void take(const uffd_msg& message);
  void on_fork(int child_fd);
  void on_unmap(Vaddr start, Vaddr end);
  void on_remap(Vaddr from, Vaddr to, ByteCount length);
  void on_remove(Vaddr start, Vaddr end);

  void answer_faults();
  void retry_later();
  void retry();
  Answer answer(Fault& fault);
  Answer answer_beacon(const Fault& fault);
  Answer answer_unknown(const Fault& fault);
  Answer map_page(const Vma& vma, PageIndex page, Fault& fault);
  Answer copy_page(const Vma& vma, PageIndex page, Fault& fault);
  Answer unprotect_page(const Vma& vma, PageIndex page, Fault& fault);
  Answer poison(const Vma& vma, PageIndex page, const char* reason);
  Answer poison_what_is_only_in_the_file(const Vma& vma);
  // How many of wanted pages are resident from page on; 0: the fault waits for its file.
  PageCount supply(const Vma& vma, PageIndex page, PageCount wanted, const Fault& fault);
  void resume(Fault fault, memory::Supply supply);
  // The answer to an error at the very page that faulted.
  Answer after_error(const Vma& vma, PageIndex page, Fault& fault, int error);
  static PageCount choose_window(const Vma& vma, PageIndex page, const Fault& fault,
                                 AccessKind kind);
  void record_break(const Vma& vma, PageIndex first, PageCount count);
  void count(const Vma& vma, Fault& fault);
  void forget(const std::vector<Vma>& gone);
  void learn_pid(pid_t thread);
  void die();
  static VmaSnapshot show(const Vma& vma);
  // At the error level, within the budget of its user: a client can cause every such line at will.
  template <typename... Arguments>
  void log(fmt::format_string<Arguments...> format, Arguments&&... arguments) const;
  template <typename Change>
  void tally(const Vma& vma, Change change);

  SpaceId id_;
  Owner owner_;
  wire::Cookie cookie_{};
  kernel::Userfaultfd uffd_;
  std::shared_ptr<HandleTable> handles_;
  std::optional<Vaddr> beacon_;
  SpaceHost* host_ = nullptr;

  VmaMap vmas_;
  DepartedVmas departed_;  // emptied when no event is under way

  std::vector<Fault> faults_;    // read, not yet answered
  std::vector<Fault> deferred_;  // met EAGAIN
  std::size_t waiting_ = 0;      // for a page to come from its file
  std::array<uffd_msg, 32> messages_{};
  Reader reader_{*this};
  RetryTimer retry_timer_{*this};
  std::chrono::nanoseconds retry_after_{0};
  FaultCounters counters_;
  std::uint64_t past_ahead_unused_ = 0;
  bool session_open_ = true;
  bool turned_away_ = false;
  bool dead_ = false;
};

}  // namespace faultline::space
