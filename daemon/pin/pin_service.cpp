#include "daemon/pin/pin_service.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <unordered_map>
#include <utility>

#include "daemon/kernel/membarrier.hpp"
#include "daemon/kernel/process.hpp"

namespace faultline::pin {

namespace {

constexpr ByteCount kMost{std::numeric_limits<std::uint64_t>::max()};

Result<UniqueFd> copy_of(int fd) {
  UniqueFd copy{::fcntl(fd, F_DUPFD_CLOEXEC, 0)};
  if (!copy) return fail_errno("duplicating a descriptor of a pin ledger");
  return copy;
}

ByteCount saturated(ByteCount a, ByteCount b) {
  return b > kMost - a ? kMost : a + b;
}

// Of a range that a client made up.
Vaddr end_of(Vaddr start, ByteCount bytes) {
  const Vaddr last{kMost.value()};
  return bytes > last - start ? last : start + bytes;
}

std::string in_words(ByteCount bytes) {
  return std::to_string(bytes.value()) + " bytes";
}

}  // namespace

// A process can name any object, and any count of its pages.
class PinService::Sizes {
 public:
  explicit Sizes(const memory::ObjectDirectory& objects) : objects_(objects) {}

  [[nodiscard]] ByteCount bytes_of(const Pin& pin) {
    const auto [at, fresh] = known_.try_emplace(pin.object);
    if (fresh) {
      if (const auto object = objects_.find(pin.object)) at->second = object->page_size();
    }
    const PageSize page_size = at->second;
    return pin.count > page_size.pages(kMost) ? kMost : page_size.bytes(pin.count);
  }

 private:
  const memory::ObjectDirectory& objects_;
  std::unordered_map<ObjectId, PageSize> known_;  // where there is no object, kBasePage
};

std::shared_ptr<PinService::Member> PinService::find(SpaceId space) const {
  const std::lock_guard lock(mutex_);
  const auto found = members_.find(space);
  return found == members_.end() ? nullptr : found->second;
}

PinService::Members PinService::members() const {
  const std::lock_guard lock(mutex_);
  Members all;
  all.reserve(members_.size());
  for (const auto& [id, member] : members_) all.push_back(member);
  return all;
}

Result<PinService::Opened> PinService::open(const space::SpaceRef& space) {
  auto ledger = Ledger::create();
  if (!ledger) return propagate(ledger);
  auto fd = copy_of((*ledger)->ledger_fd());
  if (!fd) return propagate(fd);
  auto verdicts = copy_of((*ledger)->verdicts_fd());
  if (!verdicts) return propagate(verdicts);
  auto member = std::make_shared<Member>();
  member->id = space.id;
  member->uid = space.uid;
  member->space = space.space;
  member->ledger = std::move(*ledger);
  {
    const std::lock_guard lock(mutex_);
    if (!members_.emplace(space.id, member).second) {
      return fail(EISCONN, "opening a second pin ledger");
    }
  }
  // It may have died before it was known here, and nobody would tell of that again.
  const auto alive = space.space.lock();
  if (!alive || alive->dead()) {
    close(space.id);
    return fail(ESRCH, "opening the pin ledger of a process that is gone");
  }
  return Opened{std::move(*fd), std::move(*verdicts)};
}

void PinService::close(SpaceId space) {
  std::shared_ptr<Member> gone;  // goes after the lock
  {
    const std::lock_guard lock(mutex_);
    const auto found = members_.find(space);
    if (found == members_.end()) return;
    gone = std::move(found->second);
    members_.erase(found);
  }
  add_up(*gone);
}

bool PinService::tick() const {
  const auto all = members();
  for (const auto& member : all) member->ledger->tick();
  return !all.empty();
}

void PinService::ended(SpaceId space) {
  close(space);
}

// --- grants

template <typename Counts>
void PinService::take_back_locked(const Members& all, Counts counts) {
  struct Closed {
    Member& member;
    std::uint32_t budgets;
  };
  std::vector<Closed> closed;
  closed.reserve(all.size());  // what is closed must be opened again
  for (const auto& member : all) {
    if (counts(*member)) closed.push_back({*member, member->ledger->close_budgets()});
  }
  kernel::membarrier_of_clients();
  for (const auto& [member, budgets] : closed) {
    // Whatever it says: it may pin so much less, and what its slots say beyond that holds nothing.
    const std::int64_t said = member.ledger->take_closed(budgets);
    const ByteCount unused{said < 0 ? 0 : static_cast<std::uint64_t>(said)};
    const ByteCount granted = member.granted.load();
    member.granted.store(granted - std::min(unused, granted));
  }
}

template <typename Counts>
ByteCount PinService::room_locked(const Members& all, const Member& asking, ByteCount limit,
                                  ByteCount wanted, Counts counts) {
  const auto left = [&] {
    ByteCount sum;
    for (const auto& member : all) {
      if (counts(*member)) sum = saturated(sum, member->granted.load());
    }
    return sum < limit ? limit - sum : ByteCount{0};
  };
  const ByteCount room = left();
  if (room >= wanted) return room;
  // Who asks needs what it has not used yet besides.
  take_back_locked(all, [&](const Member& member) { return &member != &asking && counts(member); });
  return left();
}

void PinService::set_limits(PinLimits limits) {
  const std::lock_guard lock(grants_mutex_);
  limits_ = limits;
}

PinLimits PinService::limits() const {
  const std::lock_guard lock(grants_mutex_);
  return limits_;
}

Result<ByteCount> PinService::grant(SpaceId space, pid_t pid, ByteCount wanted) {
  const PinLimits limits = this->limits();
  const bool configured = limits.per_process.has_value();
  const ByteCount of_process =
      configured ? *limits.per_process : kernel::lockable_memory(pid).value_or(ByteCount{0});
  const std::lock_guard lock(grants_mutex_);
  const Members all = members();
  const auto found = std::ranges::find(all, space, &Member::id);
  if (found == all.end()) return fail(ENOTCONN, "asking to pin without a ledger");
  Member& asking = **found;
  const auto refuse = [&](kernel::Tally& counted, ByteCount limit, ByteCount left,
                          const char* which) {
    counted.add();
    return fail(ENOMEM, "pinning " + in_words(wanted) + " more, where " + in_words(left) +
                            " are left of " + in_words(limit) + ": " + which);
  };
  const ByteCount in_process = room_locked(
      all, asking, of_process, wanted, [&](const Member& member) { return &member == &asking; });
  if (in_process < wanted) {
    return refuse(refused_process_, of_process, in_process,
                  configured ? "faultlined's max_pinned_per_process"
                             : "the process's RLIMIT_MEMLOCK; raise it (ulimit -l), or set "
                               "faultlined's max_pinned_per_process");
  }
  const ByteCount in_user =
      room_locked(all, asking, limits.per_user, wanted,
                  [&](const Member& member) { return member.uid == asking.uid; });
  if (in_user < wanted)
    return refuse(refused_user_, limits.per_user, in_user, "faultlined's max_pinned_per_user");
  const ByteCount in_all =
      room_locked(all, asking, limits.total, wanted, [](const Member&) { return true; });
  if (in_all < wanted)
    return refuse(refused_total_, limits.total, in_all, "faultlined's max_pinned");
  const ByteCount granted = std::min({std::max(wanted, kGrantStep), in_process, in_user, in_all});
  asking.granted.store(asking.granted.load() + granted);
  grants_.add();
  return granted;
}

// --- what is held

void PinService::held(const memory::MemoryObject& object, PageIndex first, PageCount count,
                      const std::function<void(PageIndex, PageCount)>& hold) {
  const PageIndex end = first + count;
  // Who published before is seen below; who does so from here on finds the entries changed.
  kernel::membarrier_of_clients();
  for (const auto& member : members()) {
    const auto space = member->space.lock();
    if (!space || space->dead()) continue;
    std::optional<bool> has;  // not asked yet
    each_granted(*member, [&](const Pin& pin) {
      if (pin.object != object.id() || pin.own || pin.ended != 0) return;
      if (pin.first >= end || pin.count == PageCount{0}) return;
      const PageCount past = end - pin.first;
      const PageIndex pin_end = pin.first + std::min(pin.count, past);
      if (pin_end <= first) return;
      if (!has) has = space->has(object);
      if (!*has) return;
      const PageIndex from = std::max(pin.first, first);
      hold(from, pin_end - from);
    });
  }
}

template <typename Visit>
void PinService::each_granted(const Member& member, Visit visit) const {
  Sizes sizes(objects_);
  ByteCount sum;
  ByteCount granted = member.granted.load();
  const auto within = [&](const Pin& pin) {
    // No pin is of nothing: of such ones a ledger could be full, and each eviction slower for it.
    sum = saturated(sum, std::max(sizes.bytes_of(pin), kBasePage.bytes()));
    return sum <= granted;
  };
  bool beyond = false;
  member.ledger->each([&](const Pin& pin) {
    beyond = !within(pin);
    if (!beyond) visit(pin);
    return !beyond;
  });
  if (!beyond) return;
  // Pins come and go meanwhile, and what one gave back may have paid another that was counted too.
  // Those of one moment are no more than was granted at that moment, or the ledger lies.
  const auto pins = member.ledger->at_once([&] { granted = member.granted.load(); });
  sum = ByteCount{};
  for (const Pin& pin : pins) {
    if (!within(pin)) return;
    visit(pin);
  }
}

// --- what becomes of the memory

template <typename Judge>
void PinService::judge(SpaceId space, Judge judge) {
  const auto member = find(space);
  if (!member) return;
  // Who published before is seen below; who does so from here on finds its mappings changed.
  kernel::membarrier_of_clients();
  Sizes sizes(objects_);
  member->ledger->each([&](const Pin& pin) {
    if (pin.ended == 0) judge(*member->ledger, pin, end_of(pin.address, sizes.bytes_of(pin)));
    return true;
  });
}

void PinService::end(Ledger& ledger, const Pin& pin, PinVerdict verdict) {
  ledger.end(pin, verdict == PinVerdict::discarded ? EIDRM : ENOENT);
  count(verdict);
}

void PinService::unmapped(SpaceId space, const std::vector<space::Vma>& gone) {
  judge(space, [&](Ledger& ledger, const Pin& pin, Vaddr stop) {
    const bool hit = std::ranges::any_of(
        gone, [&](const space::Vma& vma) { return vma.start < stop && pin.address < vma.end; });
    if (hit) end(ledger, pin, PinVerdict::unmapped);
  });
}

void PinService::moved(SpaceId space, const space::VaRange& from, Vaddr to) {
  judge(space, [&](Ledger& ledger, const Pin& pin, Vaddr stop) {
    if (pin.address >= from.end() || stop <= from.start) return;
    if (pin.address >= from.start && stop <= from.end()) {
      ledger.move(pin, to + (pin.address - from.start));
      count(PinVerdict::moved);
    } else {
      end(ledger, pin, PinVerdict::unmapped);  // a part of it went elsewhere
    }
  });
}

void PinService::discarded(SpaceId space, const space::Vma& piece) {
  judge(space, [&](Ledger& ledger, const Pin& pin, Vaddr stop) {
    if (pin.own && piece.start < stop && pin.address < piece.end) {
      end(ledger, pin, PinVerdict::discarded);
    }
  });
}

void PinService::stay_own(SpaceId space, const space::Vma& piece, PageIndex first, PageCount count,
                          const std::function<void(PageIndex, PageCount)>& own) {
  const Vaddr start = piece.address_of(first);
  const Vaddr stop = start + piece.page_size().bytes(count);
  judge(space, [&](Ledger&, const Pin& pin, Vaddr end) {
    if (!pin.own || pin.address >= stop || end <= start) return;
    const PageIndex from = piece.page_at(std::max(pin.address, start));
    const PageIndex to = piece.first + piece.page_size().pages(std::min(end, stop) - piece.start);
    if (from < to) own(from, to - from);
  });
}

space::SpaceObserver& PinService::observe(uid_t uid, space::SpaceObserver& next) {
  const std::lock_guard lock(mutex_);
  auto& observer = observers_[uid];
  if (!observer) observer = std::make_unique<PinObserver>(*this, next);
  return *observer;
}

// --- what can be seen

std::optional<PinService::Shown> PinService::pins_of(SpaceId space, std::size_t most) const {
  const auto member = find(space);
  if (!member) return std::nullopt;
  Shown shown;
  shown.granted = member->granted.load();
  shown.counts = member->ledger->counts();
  Sizes sizes(objects_);
  member->ledger->each([&](const Pin& pin) {
    const ByteCount bytes = sizes.bytes_of(pin);
    if (pin.ended == 0) shown.pinned = saturated(shown.pinned, bytes);
    if (shown.pins.size() == most) {
      ++shown.left_out;
    } else {
      shown.pins.push_back({pin, objects_.find(pin.object), bytes});
    }
    return true;
  });
  return shown;
}

void PinService::add_up(Member& member) {
  const std::lock_guard lock(said_mutex_);
  const PinCounts now = member.ledger->counts();
  const auto add = [](std::uint64_t& sum, std::uint64_t& seen, std::uint64_t said) {
    const std::uint64_t more = said > seen ? said - seen : 0;
    if (more <= PinTotals::kMostBelieved) sum += more;
    seen = said;
  };
  add(said_.fast, member.seen.fast, now.fast);
  add(said_.slow, member.seen.slow, now.slow);
  for (std::size_t why = 0; why < wire::kPinFallbacks; ++why) {
    add(said_.fallbacks.at(why), member.seen.fallbacks.at(why), now.fallbacks.at(why));
  }
}

PinTotals PinService::totals() {
  PinTotals totals;
  for (const auto& member : members()) {
    add_up(*member);
    ++totals.ledgers;
    totals.granted = saturated(totals.granted, member->granted.load());
  }
  {
    const std::lock_guard lock(said_mutex_);
    totals.said = said_;
  }
  for (std::size_t i = 0; i < kPinVerdicts; ++i) {
    totals.verdicts.at(i) = verdicts_.at(i).load(std::memory_order_relaxed);
  }
  totals.grants = grants_.value();
  totals.refused_process = refused_process_.value();
  totals.refused_user = refused_user_.value();
  totals.refused_total = refused_total_.value();
  return totals;
}

void PinService::pins_on(const memory::MemoryObject& object, const PinVisit& visit) const {
  const PageIndex end = PageIndex{} + object.page_count();
  for (const auto& member : members()) {
    const auto space = member->space.lock();
    if (!space || space->dead() || !space->has(object)) continue;
    each_granted(*member, [&](const Pin& pin) {
      if (pin.object != object.id() || pin.ended != 0 || pin.first >= end) return;
      visit(member->id, pin.first, std::min(pin.count, end - pin.first), pin.own);
    });
  }
}

}  // namespace faultline::pin
