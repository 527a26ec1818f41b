// Answers the faults of one address space. Must never leave a fault unanswered, never touch the
// client's memory itself, and never wait for a file.
//
// A fault looks its VMA up, holds a reference to it while it is answered, and gets:
//   shared, read               CONTINUE: the object's page is made resident and mapped; with
//                              write-protect, where its object tracks who stores to it
//   shared, write, unmapped    CONTINUE: the same, writable
//   shared, write, protected   WRITEPROTECT: the protection lifted
//   private, read              CONTINUE with write-protect: the same, read-only
//   private, write, unmapped   COPY: a copy is installed
//   private, write, protected  WRITEPROTECT: the break is recorded, the protection lifted
// The message's own "missing" or "minor" is not used to decide: between its raising and its reading
// the page may have come or gone, and the object's page table says what is true.
//
// A page that is resident when it is looked at may be on its way out of memory a moment later. Who
// evicts it waits for the answers under way in every space before it believes that nobody stores to
// the page (eviction.md); so whatever an answer lets a client store to is marked within the answer.
//
// What cannot be answered at all is poisoned: SIGBUS in the client, counted and logged.
//
// Thread-safe: as many workers answer at once as there are faults. What they must not overlap with,
// the carrying out of events, is the address space's to see to.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>

#include "daemon/kernel/userfaultfd.hpp"
#include "daemon/space/fault_tally.hpp"
#include "daemon/space/identity.hpp"
#include "daemon/space/page_install.hpp"
#include "daemon/space/teller.hpp"
#include "daemon/space/vma_tree.hpp"
#include "faultline/wire/protocol.hpp"

namespace faultline::space {

// What became of a fault that was looked at.
enum class Answer : std::uint8_t {
  installed,        // its page is mapped, or may be stored to now
  already_present,  // another answer was first; whoever slept was woken
  woken,            // and nothing else: it faults again, or gets what the kernel gives without us
  poisoned,         // SIGBUS
  waits,            // for its page, and comes back
  later,            // an event is under way, or memory is short: bring it back
  unknown,          // at an address where no VMA is known
  dead,             // the address space is gone
};

struct Fault {
  Vaddr address;
  pid_t thread = 0;
  bool write = false;
  bool write_protect = false;
  bool minor = false;
  bool counted = false;
  bool again = false;    // it could not be answered when it was read
  bool alone = false;    // ask for this page only: a read of more had failed
  bool refused = false;  // its page cannot be supplied
  // Which page it waited for: another mapping may be there when it comes back.
  ObjectId waited_for_object{};
  PageIndex waited_for_page{};
  unsigned attempts = 0;  // at a page that is there, and yet cannot be mapped
  std::chrono::steady_clock::time_point read_at{};  // when its message had been read
  FaultClass tallied = FaultClass::missing;         // as which it is counted
  Answer answer = Answer::unknown;                  // the last
};

// Where faults go that wait for their page.
class FaultParking {
 public:
  FaultParking() = default;
  FaultParking(const FaultParking&) = delete;
  FaultParking& operator=(const FaultParking&) = delete;
  virtual ~FaultParking() = default;

  // The fault waits from now on, until what is returned is called or park_ends is.
  virtual memory::MemoryObject::Waiter park(const Fault& fault) = 0;
  virtual void park_ends() = 0;
  // No more faults are to wait.
  [[nodiscard]] virtual bool full() const = 0;
};

class FaultEngine {
 public:
  struct Beacon {
    Vaddr address;
    wire::Cookie cookie;
  };
  // Refers to all of them.
  FaultEngine(Identity& identity, const Teller& teller, const kernel::Userfaultfd& uffd,
              const VmaTree& vmas, std::optional<Beacon> beacon, FaultParking& parking,
              SpaceObserver& observer)
      : identity_(identity),
        teller_(teller),
        uffd_(uffd),
        vmas_(vmas),
        beacon_(beacon),
        parking_(parking),
        parting_(observer, identity.id()) {}

  [[nodiscard]] Answer answer(Fault& fault);
  // To a fault whose address is no VMA's, and will not be. Never unknown.
  [[nodiscard]] Answer answer_unknown(Fault& fault);
  // Instead of an answer: the thread faults again, where it still waits at all.
  void wake(const Fault& fault) const;
  // Poisons what the kernel would make zeroes of once nobody serves the VMA. poisoned, also where
  // there was nothing to poison; later; or dead.
  [[nodiscard]] Answer poison_what_the_kernel_lacks(const Vma& vma);

  // Maps pages that should be resident before anybody asks; where write is asked for, so that a
  // later write raises no fault. EAGAIN where the first page no longer is resident.
  [[nodiscard]] Installed install(const Vma& vma, PageIndex page, PageCount count, bool write);

  // Of the whole space, also of VMAs that are gone.
  [[nodiscard]] FaultCounters counters() const { return counters_.sum(); }

 private:
  Answer answer_beacon(Fault& fault);
  Answer answer_in(const Vma& vma, Fault& fault, FaultCounters& done);
  Answer map_page(const Vma& vma, PageIndex page, Fault& fault, FaultCounters& done);
  Answer let_write(const Vma& vma, PageIndex page, Fault& fault, FaultCounters& done);
  Answer copy_page(const Vma& vma, PageIndex page, Fault& fault, FaultCounters& done);
  Answer unprotect_page(const Vma& vma, PageIndex page, Fault& fault, FaultCounters& done);
  // As far as can be told before: of a huge page, of which the pool has no more.
  [[nodiscard]] static bool no_page_for_copy(const Vma& vma, PageIndex page);
  // The kernel makes the copy when the protection is lifted, and raises SIGBUS where it has no page
  // for it. Counts and logs that it will, as far as can be told before.
  void warn_of_no_huge_page(const Vma& vma, PageIndex page, FaultCounters& done) const;
  Answer poison(const Vma& vma, PageIndex page, const char* reason, FaultCounters& done);
  // Of the page size, or of the other where the memory there is of that one: a client may have
  // mapped other memory in an object's name.
  [[nodiscard]] kernel::RangeResult poison_page_at(Vaddr address, PageSize page_size) const;
  // Memory of the client's at the fault's page is unmapped, or not of pages of the VMA's size.
  Answer not_there(const Vma& vma, PageIndex page, const Fault& fault, FaultCounters& done);
  // The answer to an error at the very page that faulted.
  Answer after_error(const Vma& vma, PageIndex page, Fault& fault, int error, FaultCounters& done);
  // How many of wanted pages are resident from page on; where none is, what became of the fault.
  struct Supplied {
    PageCount ready{};
    Answer otherwise = Answer::waits;
    [[nodiscard]] bool none() const { return ready == PageCount{0}; }
  };
  Supplied supply(const Vma& vma, PageIndex page, PageCount wanted, Fault& fault);
  bool can_record_breaks(const Vma& vma) const;
  void count(const Vma& vma, Fault& fault, FaultCounters& done) const;
  // Counts it once, for the whole daemon.
  static void count_for_all(Fault& fault, FaultClass as);
  void count_breaks(const Vma& vma, PageIndex page, const Installed& made,
                    FaultCounters& done) const;
  void tally(const Vma& vma, const FaultCounters& done);

  Identity& identity_;
  const Teller& teller_;
  const kernel::Userfaultfd& uffd_;
  const VmaTree& vmas_;
  std::optional<Beacon> beacon_;
  FaultParking& parking_;
  const Parting parting_;
  SharedFaultCounters counters_;
};

}  // namespace faultline::space
