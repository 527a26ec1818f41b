// The pins of all processes: their ledgers, what they may pin, and what is held. Must never let a
// ledger outlive its process, nor hold a page for who has not the object, or beyond what was
// granted.
//
// Life of a ledger: made when its process first pins; dropped whole when its session or its address
// space ends, whichever comes first.
//
// Grants. A process may pin what it was granted, without asking; it asks for more when it needs it.
// What it was granted and does not use is taken back where another needs it.
//
// Locking: mutex_ guards the lists of members and observers; leaf lock. grants_mutex_ comes before
// it, and serialises who changes grants, which anybody may read; it is held over looks at budgets,
// and by nobody but who asks for a grant. said_mutex_ guards what was added up of ledgers; leaf
// lock. Thread-safe.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "daemon/kernel/tally.hpp"
#include "daemon/memory/object_directory.hpp"
#include "daemon/memory/page_holds.hpp"
#include "daemon/pin/ledger.hpp"
#include "daemon/pin/pin_observer.hpp"
#include "daemon/space/space_service.hpp"

namespace faultline::pin {

struct PinLimits {
  std::optional<ByteCount> per_process;  // nothing: what the process may lock, RLIMIT_MEMLOCK
  ByteCount per_user;
  ByteCount total;
};

// What a process was told of a piece of a pin whose memory changed.
enum class PinVerdict : std::uint8_t {
  unmapped,   // it holds nothing any more
  discarded,  // the same: its pages are gone, of a private mapping
  moved,      // it is mapped elsewhere
};
inline constexpr std::size_t kPinVerdicts = 3;

// Since the daemon started.
struct PinTotals {
  // As the processes say, who may say anything: each ledger's figures only ever grow here, and not
  // by more than kMostBelieved from one look to the next.
  static constexpr std::uint64_t kMostBelieved = std::uint64_t{1} << 40;
  PinCounts said;

  std::array<std::uint64_t, kPinVerdicts> verdicts{};
  std::uint64_t grants = 0;
  // Grants that met a limit.
  std::uint64_t refused_process = 0;
  std::uint64_t refused_user = 0;
  std::uint64_t refused_total = 0;

  // Right now.
  std::size_t ledgers = 0;
  ByteCount granted;
};

class PinService final : public memory::PageHolds {
 public:
  // Grants are rounded up to so much where that is allowed.
  static constexpr ByteCount kGrantStep{std::uint64_t{1} << 20};

  PinService(const memory::ObjectDirectory& objects, PinLimits limits)
      : objects_(objects), limits_(limits) {}

  struct Opened {
    UniqueFd ledger;
    UniqueFd verdicts;
  };
  // Holds from the next grant on: nobody is taken what he pins, or was granted, by a lower limit.
  // Thread-safe.
  void set_limits(PinLimits limits);
  // Errors: EISCONN it has one; ENOMEM, EMFILE.
  Result<Opened> open(const space::SpaceRef& space);
  // The session has ended.
  void close(SpaceId space);
  // Tells all ledgers the time; false where there are none.
  bool tick() const;
  // Lets the process pin so much more than it uses or was granted and has not used, or a little
  // more than that. Errors: ENOMEM a limit is
  // reached, in words that say which; ENOTCONN it has no ledger.
  Result<ByteCount> grant(SpaceId space, pid_t pid, ByteCount wanted);

  // Who sees what becomes of the memory of a user's processes, and tells `next` of it. next: stays.
  [[nodiscard]] space::SpaceObserver& observe(uid_t uid, space::SpaceObserver& next);

  void held(const memory::MemoryObject& object, PageIndex first, PageCount count,
            const std::function<void(PageIndex, PageCount)>& hold) override;

  // What is told by observers, see there.
  void unmapped(SpaceId space, const std::vector<space::Vma>& gone);
  void moved(SpaceId space, const space::VaRange& from, Vaddr to);
  void discarded(SpaceId space, const space::Vma& piece);
  void stay_own(SpaceId space, const space::Vma& piece, PageIndex first, PageCount count,
                const std::function<void(PageIndex, PageCount)>& own);
  void ended(SpaceId space);

  // --- for those who look

  struct ShownPin {
    Pin pin;
    std::shared_ptr<memory::MemoryObject> object;  // null: there is none of that number
    ByteCount bytes;
  };
  struct Shown {
    ByteCount granted;
    ByteCount pinned;
    PinCounts counts;
    std::vector<ShownPin> pins;
    std::size_t left_out = 0;
  };
  // Nothing where the space has no ledger. most: pins.
  [[nodiscard]] std::optional<Shown> pins_of(SpaceId space, std::size_t most) const;
  // Looks into the counters of every ledger, and at no pin.
  [[nodiscard]] PinTotals totals();
  // Calls visit(space, first, count, own) for each pin of pages of the object, within the object;
  // own: what is pinned are private pages, and nothing of the object is held. As of now: what is
  // pinned or unpinned meanwhile is seen or not.
  using PinVisit = std::function<void(SpaceId, PageIndex, PageCount, bool)>;
  void pins_on(const memory::MemoryObject& object, const PinVisit& visit) const;
  [[nodiscard]] PinLimits limits() const;

 private:
  struct Member {
    SpaceId id;
    uid_t uid = 0;
    std::weak_ptr<space::AddressSpace> space;
    std::unique_ptr<Ledger> ledger;
    std::atomic<ByteCount> granted{};
    PinCounts seen;  // of its ledger, when it was last added up; said_mutex_
  };
  // Knows the sizes of the objects that one look meets.
  class Sizes;

  [[nodiscard]] std::shared_ptr<Member> find(SpaceId space) const;
  using Members = std::vector<std::shared_ptr<Member>>;
  [[nodiscard]] Members members() const;
  // What a limit leaves of those that `counts` is true of, to one of them.
  template <typename Counts>
  ByteCount room_locked(const Members& all, const Member& asking, ByteCount limit, ByteCount wanted,
                        Counts counts);
  // From those that `counts` is true of: what they were granted and do not use.
  template <typename Counts>
  void take_back_locked(const Members& all, Counts counts);
  // Calls visit(pin) for each pin as far as what it was granted goes, some twice; what is beyond
  // was never allowed.
  template <typename Visit>
  void each_granted(const Member& member, Visit visit) const;
  // Adds what its process has counted since the last time.
  void add_up(Member& member);
  void end(Ledger& ledger, const Pin& pin, PinVerdict verdict);
  void count(PinVerdict verdict) {
    verdicts_.at(static_cast<std::size_t>(verdict)).fetch_add(1, std::memory_order_relaxed);
  }
  template <typename Judge>
  void judge(SpaceId space, Judge judge);

  const memory::ObjectDirectory& objects_;
  mutable std::mutex grants_mutex_;
  PinLimits limits_;  // guarded by grants_mutex_
  mutable std::mutex mutex_;
  std::map<SpaceId, std::shared_ptr<Member>> members_;
  std::map<uid_t, std::unique_ptr<PinObserver>> observers_;  // none is ever taken out

  std::mutex said_mutex_;
  PinCounts said_;
  std::array<std::atomic<std::uint64_t>, kPinVerdicts> verdicts_{};
  // Written with grants_mutex_ held.
  kernel::Tally grants_;
  kernel::Tally refused_process_;
  kernel::Tally refused_user_;
  kernel::Tally refused_total_;
};

}  // namespace faultline::pin
