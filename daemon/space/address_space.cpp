#include "daemon/space/address_space.hpp"

#include <poll.h>
#include <sys/random.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <type_traits>
#include <utility>

#include "daemon/kernel/log.hpp"
#include "daemon/kernel/process.hpp"
#include "daemon/kernel/words.hpp"

namespace faultline::space {

namespace {

using memory::Supply;

// What a client can raise without an end must not keep others from their turn.
constexpr unsigned kMostReads = 8;
constexpr unsigned kMostRounds = 8;
constexpr std::chrono::nanoseconds kFirstRetry = std::chrono::microseconds(50);
constexpr std::chrono::nanoseconds kLastRetry = std::chrono::milliseconds(5);

// Nothing: it is looked at again, or was told by take_back().
std::optional<FaultResult> result_of(Answer answer) {
  switch (answer) {
    case Answer::installed:
      return FaultResult::installed;
    case Answer::already_present:
      return FaultResult::already_present;
    case Answer::woken:
    case Answer::dead:
      return FaultResult::discarded;
    case Answer::poisoned:
      return FaultResult::error;
    case Answer::waits:
      return FaultResult::waits;
    case Answer::later:
    case Answer::unknown:
      break;
  }
  return std::nullopt;
}

wire::Cookie random_cookie() {
  wire::Cookie cookie{};
  // getrandom(2) of up to 256 bytes neither fails nor is interrupted once the kernel's pool is
  // ready. A space whose cookie can be guessed must not be, whatever became of that.
  if (::getrandom(cookie.data(), cookie.size(), 0) != static_cast<ssize_t>(cookie.size())) {
    std::abort();
  }
  return cookie;
}

}  // namespace

AddressSpace::AddressSpace(SpaceId id, Owner owner, kernel::Userfaultfd uffd,
                           std::shared_ptr<HandleTable> handles, std::optional<Vaddr> beacon,
                           const Surroundings& around)
    : identity_(id, owner),
      cookie_(random_cookie()),
      beacon_(beacon),
      uffd_(std::move(uffd)),
      handles_(std::move(handles)),
      around_(around),
      teller_(identity_, around.feed),
      vmas_(around.domain),
      engine_(identity_, teller_, uffd_, vmas_, this->beacon(), *this, around.observer) {}

std::optional<FaultEngine::Beacon> AddressSpace::beacon() const {
  if (!beacon_) return std::nullopt;
  return FaultEngine::Beacon{*beacon_, cookie_};
}

void AddressSpace::start(SpaceHost& host) {
  host_ = &host;
  home_ = std::this_thread::get_id();
  listen();
}

template <typename Step>
auto AddressSpace::in_turn(Step step) {
  turn_.begin();
  if constexpr (std::is_void_v<decltype(step())>) {
    step();
    settle();
  } else {
    auto result = step();
    settle();
    return result;
  }
}

// --- at home

void AddressSpace::at_home(void (AddressSpace::*what)()) {
  if (std::this_thread::get_id() == home_) return (this->*what)();
  host_->mailbox()->post([weak = weak_from_this(), what] {
    if (const auto self = weak.lock()) ((*self).*what)();
  });
}

void AddressSpace::listen() {
  if (!dead() && !readable_.in_flight()) host_->ring().await_readable(readable_, uffd_.fd());
}

void AddressSpace::on_readable(int revents) {
  if (dead()) return;
  // Cleared by the client, by a descriptor that it kept: poll(2) tells nothing of it then.
  if (revents < 0 || (revents & POLLERR) != 0) uffd_.make_nonblocking();
  if (!host_->stay(*this)) home_wants_to_listen_.store(true, std::memory_order_relaxed);
  const Served served = serve();
  if (served.messages > 0 && !served.events) host_->answered(*this);
}

void AddressSpace::rest() {
  home_wants_to_listen_.store(true, std::memory_order_relaxed);
  (void)serve();
}

void AddressSpace::start_retry_timer() {
  if (dead() || retry_timer_.in_flight()) return;
  host_->ring().timeout(retry_timer_, retry_after_.load(std::memory_order_relaxed));
}

void AddressSpace::on_retry() {
  if (dead()) return;
  in_turn([this] {
    pending_.insert(pending_.end(), deferred_.begin(), deferred_.end());
    drop_deferred();
    (void)read_messages();
  });
  listen();
}

void AddressSpace::drop_deferred() {
  if (FaultTally* const tally = FaultTally::mine()) tally->tried_again(deferred_.size());
  deferred_.clear();
}

bool AddressSpace::wind_up() {
  if (!std::exchange(wound_up_, true) && host_ != nullptr) {
    host_->ring().cancel(readable_);
    host_->ring().cancel(retry_timer_);
  }
  return !readable_.in_flight() && !retry_timer_.in_flight();
}

// --- the turn

AddressSpace::Served AddressSpace::look() {
  if (dead() || !turn_.try_begin_unasked()) return {};
  return read_and_answer();
}

AddressSpace::Served AddressSpace::serve() {
  if (dead() || !turn_.try_begin()) return {};
  return read_and_answer();
}

AddressSpace::Served AddressSpace::read_and_answer() {
  const bool beside_others = answering_.load(std::memory_order_relaxed) != 0;
  const std::uint64_t events_before = events_;
  const std::size_t messages = read_messages();
  const bool events = events_ != events_before;
  settle();
  return {messages, beside_others, events};
}

void AddressSpace::settle() {
  // One a thread, which keeps what it has allocated: so a fault allocates nothing. While it holds
  // faults, nothing that is called from here comes back here.
  static thread_local std::vector<Fault> batch;
  for (;;) {
    for (unsigned round = 0;; ++round) {
      batch.swap(pending_);
      const bool any = !batch.empty();
      if (any) answering_.fetch_add(1, std::memory_order_relaxed);
      if (turn_.try_end()) break;
      if (any) answering_.fetch_sub(1, std::memory_order_relaxed);
      batch.swap(pending_);
      if (round < kMostRounds) {
        (void)read_messages();
      } else {
        // Enough for one: what is readable completes the home's next wait at once.
        home_wants_to_listen_.store(true, std::memory_order_relaxed);
      }
    }
    if (home_wants_to_listen_.exchange(false, std::memory_order_relaxed)) {
      at_home(&AddressSpace::listen);
    }
    if (batch.empty()) return;
    Leftovers left = answer(batch);
    batch.clear();
    // Release: who waits for this sees what the answers recorded.
    answering_.fetch_sub(1, std::memory_order_release);
    answering_.notify_all();
    if (left.none()) return;
    turn_.begin();
    take_back(left);
  }
}

void AddressSpace::wait_for_answers_under_way() {
  for (std::uint32_t n = answering_.load(std::memory_order_acquire); n != 0;
       n = answering_.load(std::memory_order_acquire)) {
    answering_.wait(n, std::memory_order_acquire);
  }
}

AddressSpace::Leftovers AddressSpace::answer(std::vector<Fault>& batch) {
  Leftovers left;
  // Those that come after a sign of death have the same answer.
  for (Fault& fault : batch) {
    fault.answer = left.dead ? Answer::dead : engine_.answer(fault);
    switch (fault.answer) {
      case Answer::later:
        left.later.push_back(fault);
        break;
      case Answer::unknown:
        left.unknown.push_back(fault);
        break;
      case Answer::dead:
        left.dead = true;
        break;
      default:
        break;
    }
  }
  tally(batch);
  if (left.later.empty()) retry_after_.store(kFirstRetry, std::memory_order_relaxed);
  return left;
}

void AddressSpace::tally(std::span<const Fault> answered) {
  FaultTally* const tally = FaultTally::mine();
  if (tally == nullptr) return;
  // One look at the clock for all of them.
  const auto now = std::chrono::steady_clock::now();
  for (const Fault& fault : answered) {
    const auto result = result_of(fault.answer);
    if (!result || !fault.counted) continue;
    tally->answered(fault.tallied, fault.write, *result);
    if (ends(*result)) tally->took(fault.tallied, now - fault.read_at);
  }
}

void AddressSpace::take_back(Leftovers& left) {
  if (left.dead) die();
  if (dead()) return;
  for (Fault& fault : left.unknown) {
    const Status found =
        fault.again ? fail(ENOENT, "looking for what was there") : discover(fault.address);
    if (found) {
      pending_.push_back(fault);
      continue;
    }
    // Where nothing is, something may be a moment later, of which the kernel tells nothing: a
    // mapping that grew.
    fault.again = fault.again || found.error().code() == EFAULT;
    const bool unsettled = found.error().code() == EAGAIN;
    fault.answer = unsettled ? Answer::later : engine_.answer_unknown(fault);
    tally({&fault, 1});
    if (fault.answer == Answer::dead) return die();
    if (fault.answer == Answer::later) left.later.push_back(fault);
  }
  if (left.later.empty()) return;
  for (Fault& fault : left.later) {
    if (deferred_.size() >= kMostWaiting) {
      engine_.wake(fault);
      fault.answer = Answer::woken;
      tally({&fault, 1});
      continue;
    }
    fault.again = true;
    deferred_.push_back(fault);
    if (FaultTally* const tally = FaultTally::mine()) {
      tally->answered(fault.tallied, fault.write, FaultResult::deferred);
    }
  }
  // No further event need come to end what EAGAIN told of, so a timer brings these back. It is the
  // client's own thread that ends it, which may have to run first on this very CPU.
  retry_later();
}

void AddressSpace::retry_later() {
  at_home(&AddressSpace::start_retry_timer);
  const auto after = retry_after_.load(std::memory_order_relaxed);
  retry_after_.store(std::clamp(after * 2, kFirstRetry, kLastRetry), std::memory_order_relaxed);
}

memory::MemoryObject::Waiter AddressSpace::park(const Fault& fault) {
  waiting_.fetch_add(1, std::memory_order_relaxed);
  return [weak = weak_from_this(), mailbox = host_->mailbox(), fault](Supply outcome) {
    mailbox->post([weak, fault, outcome] {
      if (FaultTally* const tally = FaultTally::mine()) tally->came_back();
      if (const auto self = weak.lock()) self->resume(fault, outcome);
    });
  };
}

void AddressSpace::resume(Fault fault, Supply supply) {
  park_ends();
  if (dead()) return;
  fault.again = true;
  fault.alone = fault.alone || supply == Supply::retry_alone;
  fault.refused = supply == Supply::failed;
  in_turn([&] { pending_.push_back(fault); });
}

// --- messages

std::size_t AddressSpace::read_messages() {
  std::size_t total = 0;
  for (unsigned reads = 0; reads < kMostReads && !dead(); ++reads) {
    // See the head of address_space.hpp: one at a time while an answer is under way.
    const bool alone = answering_.load(std::memory_order_acquire) == 0;
    const auto room = std::span(messages_).first(alone ? messages_.size() : 1);
    const Reading reading(*this);
    const auto count = uffd_.read_now(room);
    if (!count) {
      // EMFILE and the like: for the descriptor of a fork child. The kernel keeps the event, and
      // the parent waits.
      identity_.log("{}", count.error().message());
      home_wants_to_listen_.store(false, std::memory_order_relaxed);
      retry_later();
      break;
    }
    total += *count;
    const std::size_t faults_before = pending_.size();
    if (*count > 0) read_at_ = std::chrono::steady_clock::now();
    for (const uffd_msg& message : room.first(*count)) take(message);
    // Where there was an event there may be more, and all of them come before the answers.
    const bool faults_alone = pending_.size() - faults_before == *count;
    if (*count == 0 || (faults_alone && (!alone || *count < room.size()))) break;
  }
  if (total > 0) reads_.fetch_add(1, std::memory_order_relaxed);
  return total;
}

void AddressSpace::take(const uffd_msg& message) {
  if (message.event == UFFD_EVENT_PAGEFAULT) {
    const auto& fault = message.arg.pagefault;
    pending_.push_back(Fault{
        .address = Vaddr{fault.address},
        .thread = static_cast<pid_t>(fault.feat.ptid),
        .write = (fault.flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP)) != 0,
        .write_protect = (fault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0,
        .minor = (fault.flags & UFFD_PAGEFAULT_FLAG_MINOR) != 0,
        .read_at = read_at_,
    });
    crowd_.add(pending_.back().thread);
    return;
  }
  ++events_;
  wait_for_answers_under_way();
  switch (message.event) {
    case UFFD_EVENT_FORK:
      on_fork(static_cast<int>(message.arg.fork.ufd));
      break;
    case UFFD_EVENT_REMAP:
      on_remap(Vaddr{message.arg.remap.from}, Vaddr{message.arg.remap.to},
               ByteCount{message.arg.remap.len});
      break;
    case UFFD_EVENT_REMOVE:
      on_remove(Vaddr{message.arg.remove.start}, Vaddr{message.arg.remove.end});
      break;
    case UFFD_EVENT_UNMAP:
      on_unmap(Vaddr{message.arg.remove.start}, Vaddr{message.arg.remove.end});
      break;
    default:
      log::line(log::Level::error, {.uid = owner().uid, .space = id().value()},
                "space {}: unknown userfaultfd event {}", id().value(), message.event);
  }
}

void AddressSpace::on_fork(int child_fd) {
  auto child_uffd = kernel::Userfaultfd::from_fork_event(UniqueFd{child_fd}, uffd_.features());
  const Owner owner = this->owner();
  auto child = std::make_shared<AddressSpace>(
      host_->next_space_id(), Owner{.pid = 0, .parent = owner.pid, .uid = owner.uid},
      std::move(child_uffd), handles_->clone(), beacon_, around_);

  // Pieces of one mapping share its activity in the parent, and so they must in the child.
  std::map<const VmaActivity*, std::shared_ptr<VmaActivity>> activities;
  const auto inherit = [&](Vma vma) {
    std::shared_ptr<VmaActivity>& activity = activities[vma.activity.get()];
    if (!activity) {
      if (auto copy = vma.activity->clone()) {
        activity = std::move(*copy);
      } else {
        identity_.log("copying the record of breaks for space {}: {}", child->id().value(),
                      copy.error().message());
        activity = vma.activity->without_breaks();
      }
    }
    vma.activity = activity;
    return vma;
  };
  std::vector<Vma> inherited;
  for (Vma& vma : vmas_.all()) inherited.push_back(inherit(std::move(vma)));
  child->vmas_.assign(std::move(inherited));
  // The child has what departed since it forked. What departed before, it has not, and something
  // that was not reported may be there now: its first fault there asks the kernel.
  // So it is with what this one had inherited so, and has not come across.
  for (const DepartedVmas* gone : {&inherited_, &departed_}) {
    for (const Vma& vma : *gone) child->inherited_.add({inherit(vma)});
  }
  child->inherits_.store(!child->inherited_.empty(), std::memory_order_release);
  teller_.tell(EventKind::fork, [&](SpaceEvent& event) { event.child = child->id(); });
  host_->adopt(std::move(child));
}

void AddressSpace::on_unmap(Vaddr start, Vaddr end) {
  std::vector<Vma> gone = vmas_.remove(start, end);
  teller_.tell(EventKind::unmap, gone);
  around_.observer.unmapped(id(), gone);
  departed_.add(gone);
  forget(gone);
}

void AddressSpace::on_remap(Vaddr from, Vaddr to, ByteCount length) {
  // An old length of 0 asks mremap(2) for a copy of a shared mapping. Nothing moves, and how long
  // the copy is is not told: its first fault finds out.
  if (length == ByteCount{0}) return;
  const VmaTree::Moved moved = vmas_.move({from, length}, to);
  teller_.tell(EventKind::unmap, moved.taken);
  teller_.tell(EventKind::unmap, moved.replaced);
  std::vector<Vma> there;
  for (const Vma& vma : moved.taken) {
    there.push_back(vma.moved_to(to + (vma.start - from)));
    teller_.tell(EventKind::map, there.back(), there.back().start, there.back().length());
  }
  around_.observer.unmapped(id(), moved.replaced);
  around_.observer.moved(id(), {from, length}, to, there);
  departed_.add(moved.taken);
  forget(moved.replaced);
}

void AddressSpace::on_remove(Vaddr start, Vaddr end) {
  // The kernel drops the client's pages; what was its own is the object's again.
  for (const Vma& piece : vmas_.overlapping(start, end)) {
    if (piece.sharing == Sharing::private_copy) around_.observer.discarded(id(), piece);
  }
}

void AddressSpace::forget(const std::vector<Vma>& gone) {
  // The last piece of a mapping takes its guesses with it; departed_ may hold it a little longer.
  std::set<const VmaActivity*> ended;  // several pieces of one mapping may have gone at once
  for (const Vma& vma : gone) {
    if (vma.activity->pieces == 0 && ended.insert(vma.activity.get()).second) {
      past_ahead_unused_.fetch_add(vma.activity->unused_ahead(), std::memory_order_relaxed);
    }
  }
  if (!session_open_ && vmas_.empty()) (void)retire_in_turn();
}

// --- what the kernel does not report

int AddressSpace::come_to_rest() {
  (void)read_messages();
  // No event is under way, so none is unread: what was there has been carried out.
  return uffd_.probe();
}

std::shared_ptr<memory::MemoryObject> AddressSpace::object_of(std::uint64_t inode) const {
  if (auto object = handles_->find_inode(inode)) return object;
  if (auto object = vmas_.find_object(inode)) return object;
  for (const Vma& vma : inherited_) {
    if (vma.object->memfd().inode() == inode) return vma.object;
  }
  return nullptr;
}

bool AddressSpace::has(const memory::MemoryObject& object) const {
  const std::uint64_t inode = object.memfd().inode();
  return handles_->find_inode(inode) != nullptr || vmas_.find_object(inode) != nullptr;
}

Status AddressSpace::discover(Vaddr address) {
  if (const int unsettled = come_to_rest(); unsettled != 0) {
    return fail(unsettled, "looking for an unreported mapping");
  }
  if (vmas_.find(address)) return {};
  if (vmas_.size() >= kMaxVmas) return fail(ENOMEM, "taking in an unreported mapping");
  const Vma* const remembered = inherited_.find(address);
  auto mapping = kernel::mapping_at(owner().pid, address);
  std::optional<Vma> found;
  if (mapping) {
    if (!*mapping) {
      return fail(EFAULT, "looking for a mapping at " + kernel::words_of(address));
    }
    found = vma_of(**mapping, address, remembered);
  } else if (remembered != nullptr) {
    found = *remembered;  // as good as can be had without the kernel's word
  } else {
    return propagate(mapping);
  }
  if (!found) {
    return fail(ENOENT, "looking for a mapping of an object at " + kernel::words_of(address));
  }
  Vaddr start = found->start;
  Vaddr end = found->end;
  for (const Vma& known : vmas_.overlapping(start, end)) {
    if (known.end <= address) start = known.end;
    if (known.start > address) end = std::min(end, known.start);
  }
  const PageSize page_size = found->page_size();
  start = found->start + page_size.round_up(start - found->start);
  end = found->start + page_size.round_down(end - found->start);
  if (address < start || address >= end) {
    return fail(ENOENT, "looking for a whole page at " + kernel::words_of(address));
  }
  if (auto registered = uffd_.register_object_range(start, end - start); !registered) {
    return registered;
  }
  const Vma taken_in = found->part(start, end);
  vmas_.insert(taken_in);
  teller_.tell(EventKind::map, taken_in, taken_in.start, taken_in.length());
  return {};
}

std::optional<Vma> AddressSpace::vma_of(const kernel::KernelMapping& there, Vaddr address,
                                        const Vma* remembered) const {
  const auto object = object_of(there.inode);
  if (!object || there.offset >= object->size()) return std::nullopt;
  const Vaddr end = std::min(there.end, there.start + (object->size() - there.offset));
  if (address >= end) return std::nullopt;
  Vma found{.start = there.start,
            .end = end,
            .object = object,
            .first = object->page_size().index_of(there.offset),
            .sharing = there.shared ? Sharing::shared : Sharing::private_copy,
            .writable = there.writable,
            // The kernel registers no shared mapping that could not be written.
            .may_write = there.shared,
            .advice = Advice::normal,
            .activity = nullptr};
  // What was remembered may be of another mapping that had stood there: only the same is believed.
  if (remembered != nullptr && remembered->object == object &&
      remembered->sharing == found.sharing &&
      remembered->page_at(address) == found.page_at(address)) {
    return remembered->part(found.start, found.end);  // it knows what has parted
  }
  found.activity = std::make_shared<VmaActivity>(found.first, found.pages());
  return found;
}

Status AddressSpace::rediscover(const VaRange& range) {
  return in_turn([&]() -> Status {
    if (dead()) return fail(ESRCH, "following a mapping of an address space that is gone");
    if (const int unsettled = come_to_rest(); unsettled != 0) {
      return fail(unsettled, "looking for unreported mappings");
    }
    std::size_t found_here = 0;
    for (Vaddr at = range.start; at < range.end();) {
      if (const VmaRef known = vmas_.find(at)) {
        at = known->end;
      } else if (found_here++ == kMostFoundAtOnce) {
        return fail(EAGAIN, "looking for many unreported mappings");
      } else if (auto found = discover(at); !found) {
        return found.error().code() == EFAULT ? fail(ENOENT, found.error().message()) : found;
      }
    }
    return {};
  });
}

// --- commands

Status AddressSpace::map(const MapRequest& request) {
  return in_turn([&] { return map_in_turn(request); });
}

Status AddressSpace::map_in_turn(const MapRequest& request) {
  if (dead()) return fail(ESRCH, "mapping into an address space that is gone");
  if (vmas_.size() >= kMaxVmas) {
    return fail(ENOMEM, "mapping more than " + std::to_string(kMaxVmas) + " ranges in one process");
  }
  if (auto registered = uffd_.register_object_range(request.address, request.length); !registered) {
    return registered;
  }
  // An unmap that freed these very addresses may be under way in another thread of the client, and
  // must not be taken for one of the new mapping. What comes after this is.
  if (const int unsettled = come_to_rest(); unsettled != 0) {
    return fail(unsettled, "waiting for the client's other threads to unmap");
  }
  if (dead()) return fail(ESRCH, "mapping into an address space that is gone");
  const Vma vma{
      .start = request.address,
      .end = request.address + request.length,
      .object = request.object,
      .first = request.first,
      .sharing = request.sharing,
      .writable = request.writable,
      .may_write = request.may_write && request.sharing == Sharing::shared,
      .advice = Advice::normal,
      .activity = std::make_shared<VmaActivity>(
          request.first, request.object->page_size().pages(request.length), request.by_page)};
  const std::vector<Vma> replaced = vmas_.insert(vma);
  teller_.tell(EventKind::unmap, replaced);
  around_.observer.unmapped(id(), replaced);
  teller_.tell(EventKind::map, vma, vma.start, vma.length());
  forget(replaced);
  return {};
}

Status AddressSpace::protect(const VaRange& range, bool writable) {
  return change(range, [writable](Vma& vma) { vma.writable = writable; });
}

Status AddressSpace::advise(const VaRange& range, Advice advice) {
  return change(range, [advice](Vma& vma) { vma.advice = advice; });
}

Status AddressSpace::change(const VaRange& range, const std::function<void(Vma&)>& edit) {
  return in_turn([&]() -> Status {
    if (dead()) return fail(ESRCH, "changing an address space that is gone");
    if (!vmas_.covers(range)) {
      return fail(ENOENT, "changing " + std::to_string(range.length.value()) +
                              " bytes of which not all are mapped, at " +
                              kernel::words_of(range.start));
    }
    if (!whole_pages(range)) {
      return fail(EINVAL, "changing a range that begins or ends within a page of 2 MiB, at " +
                              kernel::words_of(range.start));
    }
    // It may be cut at both ends.
    if (vmas_.size() + 2 > kMaxVmas) {
      return fail(ENOMEM,
                  "having more than " + std::to_string(kMaxVmas) + " ranges in one process");
    }
    vmas_.change(range, edit);
    return {};
  });
}

bool AddressSpace::whole_pages(const VaRange& range) const {
  const VmaRef first = vmas_.find(range.start);
  const VmaRef last = vmas_.find(Vaddr{range.end().value() - 1});
  return (!first || first->page_size().aligned(range.start.value())) &&
         (!last || last->page_size().aligned(range.end().value()));
}

Status AddressSpace::guard_pages() {
  // In the turn: a fork is carried out before it, and has its pages part, or after it.
  return in_turn([&]() -> Status {
    if (const int unsettled = come_to_rest(); unsettled != 0) {
      return fail(unsettled, "write-protecting private pages");
    }
    for (const Vma& vma : vmas_.all()) {
      if (!vma.activity->by_page()) continue;
      const auto runs = vma.activity->guard(vma.first, vma.pages());
      // What is pinned is not guarded, and so is another page in the child from the fork on. The
      // protection that its neighbours get besides costs a fault, and no more.
      for (const VmaActivity::Run& run : runs) {
        around_.observer.stay_own(id(), vma, run.first, run.count,
                                  [&](PageIndex first, PageCount count) {
                                    vma.activity->unguard({first, count});
                                  });
      }
      for (const VmaActivity::Run& run : runs) {
        const kernel::RangeResult done =
            uffd_.write_protect(vma.address_of(run.first), vma.page_size().bytes(run.count));
        if (done.error == 0) continue;
        vma.activity->unguard(run);
        return fail(done.error, "write-protecting private pages");
      }
    }
    return {};
  });
}

Result<AddressSpace::Frames> AddressSpace::publish_frames(Vaddr address) {
  return in_turn([&]() -> Result<Frames> {
    wait_for_answers_under_way();
    const VmaRef vma = vmas_.find(address);
    if (!vma || vma->sharing != Sharing::private_copy) {
      return fail(ENOENT, "publishing the frames of what is no private mapping");
    }
    std::set<const VmaActivity*> published;
    for (const Vma& other : vmas_.all()) {
      if (other.activity->published()) published.insert(other.activity.get());
    }
    if (published.size() >= kMostPublished) {
      return fail(EUSERS, "pinning pages of more than " + std::to_string(kMostPublished) +
                              " private mappings");
    }
    auto fd = vma->activity->publish();
    if (!fd) return propagate(fd);
    return Frames{std::move(*fd), vma->activity->first(), vma->activity->size()};
  });
}

void AddressSpace::settle(const VaRange& range) {
  for (const Vma& piece : vmas_.overlapping(range.start, range.end())) {
    if (piece.sharing == Sharing::private_copy) piece.activity->settle(piece.first, piece.pages());
  }
}

bool AddressSpace::may_store(const memory::MemoryObject& object,
                             const std::vector<memory::PageRun>& pages) const {
  if (dead()) return false;
  if (inherits_.load(std::memory_order_acquire)) return true;
  return std::ranges::any_of(pages, [&](const memory::PageRun& run) {
    return !vmas_.shared_of(object, run.first, run.count).empty();
  });
}

Status AddressSpace::stop_stores(const memory::MemoryObject& object,
                                 const std::vector<memory::PageRun>& pages) {
  return in_turn([&]() -> Status {
    if (dead() || pages.empty()) return {};
    // With no event under way, what is mapped where is known, and every child that was forked
    // before has its space; those that are forked after this inherit the protection.
    if (const int unsettled = come_to_rest(); unsettled != 0) {
      return fail(unsettled, "write-protecting shared pages");
    }
    wait_for_answers_under_way();
    const PageIndex first = pages.front().first;
    const PageCount reach = pages.back().first + pages.back().count - first;
    std::vector<Vma> mapped = vmas_.shared_of(object, first, reach);
    for (const Vma& vma : inherited_) {
      if (auto piece = shared_part(vma, object, first, reach)) mapped.push_back(std::move(*piece));
    }
    // A child that the kernel does not tell of has them too: those of files were not inherited.
    if (!mapped.empty() && !features().fork_events && !object.from_file()) {
      return fail(ENOTSUP, "write-protecting pages of a process whose forks are not reported");
    }
    for (const Vma& vma : mapped) {
      for (const memory::PageRun& run : pages) {
        const auto piece = shared_part(vma, object, run.first, run.count);
        if (!piece) continue;
        if (auto done = write_protect(*piece); !done) return done;
      }
    }
    return {};
  });
}

Status AddressSpace::write_protect(const Vma& piece) {
  const auto protect = [&](PageIndex page, PageCount count) {
    return uffd_.write_protect(piece.address_of(page), piece.page_size().bytes(count)).error;
  };
  int error = protect(piece.first, piece.pages());
  if (error == ENOENT) {
    // A part is not registered any more, or was never this space's: what is left, page by page.
    error = 0;
    for (PageIndex page = piece.first; page < piece.end_page() && error == 0;
         page = page + PageCount{1}) {
      error = protect(page, PageCount{1});
      if (error == ENOENT) error = 0;
    }
  }
  if (error != 0) return fail(error, "write-protecting shared pages");
  return {};
}

AddressSpace::Populated AddressSpace::nothing_at(Vaddr start) const {
  const Vaddr next = vmas_.next_start(start).value_or(Vaddr{~std::uint64_t{0}});
  return {.reached = std::max(next, start + kBasePage.bytes()) - start,
          .page = kBasePage.bytes(),
          .error = ENOENT};
}

AddressSpace::Populated AddressSpace::populate(Vaddr start, ByteCount most, bool write,
                                               memory::MemoryObject::Waiter waiter) {
  PageCount ready;
  {
    const VmaRef vma = vmas_.find(start);
    if (!vma) return nothing_at(start);
    const PageIndex page = vma->page_at(start);
    const PageCount wanted =
        std::min(std::max(vma->page_size().pages(most), PageCount{1}), vma->end_page() - page);
    ready = vma->object->populate(page, wanted, std::move(waiter));
    if (ready == PageCount{0}) return {.page = vma->page_size().bytes(), .waits = true};
  }
  // In the turn, because an event must not be read before it has ended.
  return in_turn([&]() -> Populated {
    const VmaRef vma = vmas_.find(start);
    if (!vma) return nothing_at(start);
    const PageIndex page = vma->page_at(start);
    const Installed done = engine_.install(*vma, page, ready, write);
    // Where the mapping is another one by now, its page may have begun before.
    const bool any = done.reached > PageCount{0};
    return {.reached = any ? vma->address_of(page + done.reached) - start : ByteCount{},
            .page = vma->page_size().bytes(),
            .error = done.error};
  });
}

// --- life and death

void AddressSpace::after_events() {
  in_turn([] {});
}

void AddressSpace::turn_away() {
  in_turn([this] {
    turned_away_ = true;
    (void)retire_in_turn();
  });
}

void AddressSpace::check() {
  in_turn([this] { check_in_turn(); });
}

void AddressSpace::check_in_turn() {
  if (dead() || (turned_away_ && retire_in_turn())) return;
  const std::uint64_t before = departed_.mark();
  const int state = come_to_rest();
  if (state == ESRCH) {
    die();
  } else if (state == 0) {
    // No event is under way, so every fork that began before those removals has been carried out.
    departed_.drop_before(before);
  }
}

void AddressSpace::session_closed() {
  in_turn([this] {
    session_open_ = false;
    check_in_turn();
    if (!dead() && vmas_.empty()) (void)retire_in_turn();
  });
}

bool AddressSpace::retire() {
  return in_turn([this] { return retire_in_turn(); });
}

bool AddressSpace::retire_in_turn() {
  if (dead()) return true;
  for (const Vma& vma : vmas_.all()) {
    if (vma.object->may_wait()) {
      if (!vma.object->leave_to_kernel()) return false;
      const Answer marked = engine_.poison_what_the_kernel_lacks(vma);
      if (marked == Answer::later) return false;
      if (marked == Answer::dead) break;
    }
    if (auto done = uffd_.unregister(vma.start, vma.length()); !done) {
      log::line(log::Level::debug,
                {.uid = owner().uid, .space = id().value(), .error = done.error().code()},
                "space {}: {}", id().value(), done.error().message());
    }
    vmas_.remove(vma.start, vma.end);
  }
  if (beacon_) (void)uffd_.unregister(*beacon_, kBasePage.bytes());
  die();
  return true;
}

void AddressSpace::abandon() {
  in_turn([this] { die(); });
}

void AddressSpace::die() {
  if (dead_.exchange(true, std::memory_order_acq_rel)) return;
  if (host_ != nullptr) teller_.tell(EventKind::exit, [](SpaceEvent&) {});
  around_.observer.ended(id(), vmas_.clear());
  departed_.clear();
  inherited_.clear();
  pending_.clear();
  drop_deferred();
  handles_->clear();
  log::line(log::Level::debug, {.uid = owner().uid, .pid = owner().pid, .space = id().value()},
            "space {} (pid {}) is gone", id().value(), owner().pid);
  // Its home reaps it when it next looks.
  if (host_ != nullptr && std::this_thread::get_id() != home_) host_->mailbox()->post([] {});
}

// --- what can be seen

VmaSnapshot AddressSpace::show(const Vma& vma) {
  const VmaActivity& activity = *vma.activity;
  VmaSnapshot snapshot{vma, activity.broken(vma.first, vma.pages()).value(),
                       activity.counters.sum(), activity.unused_ahead()};
  snapshot.vma.activity = nullptr;
  return snapshot;
}

std::vector<Vma> AddressSpace::mapped_of(const memory::MemoryObject& object) const {
  std::vector<Vma> mapped = vmas_.all();
  std::erase_if(mapped, [&](const Vma& vma) { return vma.object.get() != &object; });
  return mapped;
}

Result<VmaSnapshot> AddressSpace::vma_at(Vaddr address) {
  return in_turn([&]() -> Result<VmaSnapshot> {
    wait_for_answers_under_way();
    const VmaRef vma = vmas_.find(address);
    if (!vma) {
      return fail(ENOENT, "looking up a mapping at " + kernel::words_of(address));
    }
    return show(*vma);
  });
}

SpaceSnapshot AddressSpace::settled_snapshot() {
  return in_turn([this] {
    wait_for_answers_under_way();
    return snapshot();
  });
}

SpaceSnapshot AddressSpace::snapshot() const {
  SpaceSnapshot snapshot{id(),
                         owner(),
                         {},
                         counters(),
                         past_ahead_unused_.load(std::memory_order_relaxed),
                         waiting_.load(std::memory_order_relaxed),
                         answering_.load(std::memory_order_acquire)};
  std::set<const VmaActivity*> counted;  // the pieces of a cut mapping share theirs
  for (const Vma& vma : vmas_.all()) {
    snapshot.vmas.push_back(show(vma));
    if (counted.insert(vma.activity.get()).second) {
      snapshot.ahead_unused += snapshot.vmas.back().ahead_unused;
    }
  }
  return snapshot;
}

}  // namespace faultline::space
