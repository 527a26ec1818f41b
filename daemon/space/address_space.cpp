#include "daemon/space/address_space.hpp"

#include <spdlog/spdlog.h>
#include <sys/random.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "daemon/kernel/log_budget.hpp"
#include "daemon/kernel/process.hpp"

namespace faultline::space {

namespace {

using kernel::RangeResult;
using kernel::WriteProtect;
using memory::Supply;

constexpr PageCount kOnePage{1};
constexpr unsigned kMostAttempts = 8;
// What a client can raise without an end must not keep others from their turn.
constexpr unsigned kMostBatches = 8;
constexpr std::chrono::nanoseconds kFirstRetry = std::chrono::microseconds(50);
constexpr std::chrono::nanoseconds kLastRetry = std::chrono::milliseconds(5);

// What a private write to a page of zeroes copies from. Never written, but not const: so it is in
// .bss, where the kernel backs it with its zero page.
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): see above
alignas(4096) constinit std::array<std::byte, std::size_t{512} << 12> zeroes{};

wire::Cookie random_cookie() {
  wire::Cookie cookie{};
  // getrandom(2) of up to 256 bytes neither fails nor is interrupted once the kernel's pool is
  // ready.
  (void)::getrandom(cookie.data(), cookie.size(), 0);
  return cookie;
}

}  // namespace

template <typename... Arguments>
void AddressSpace::log(fmt::format_string<Arguments...> format, Arguments&&... arguments) const {
  kernel::log_budget_of(owner_.uid)
      .log(spdlog::level::err, "space {} (pid {}): {}", id_.value(), owner_.pid,
           fmt::format(format, std::forward<Arguments>(arguments)...));
}

AddressSpace::AddressSpace(SpaceId id, Owner owner, kernel::Userfaultfd uffd,
                           std::shared_ptr<HandleTable> handles, std::optional<Vaddr> beacon)
    : id_(id),
      owner_(owner),
      cookie_(random_cookie()),
      uffd_(std::move(uffd)),
      handles_(std::move(handles)),
      beacon_(beacon) {}

void AddressSpace::start(SpaceHost& host) {
  host_ = &host;
  listen();
}

// --- reading

void AddressSpace::listen() {
  if (!dead_)
    host_->ring().read(reader_, uffd_.fd(), std::as_writable_bytes(std::span(messages_)), -1);
}

void AddressSpace::on_read(int result) {
  if (dead_) return;
  if (result == -EMFILE || result == -ENFILE || result == -ENOMEM) {
    // For the descriptor of a fork child. The kernel keeps the event, and the parent waits.
    log("taking a fork child over: {}", std::generic_category().message(-result));
    retry_later();
    return;
  }
  if (result < 0 && result != -EAGAIN && result != -EINTR) {
    spdlog::error("space {}: reading its userfaultfd: {}", id_.value(),
                  std::generic_category().message(-result));
    die();
    return;
  }
  if (result > 0) {
    const std::size_t count = static_cast<std::size_t>(result) / sizeof(uffd_msg);
    for (std::size_t i = 0; i < count; ++i) take(messages_.at(i));
    // A full batch, or an event, says that there may be more: events first, then decide.
    if (count == messages_.size() || faults_.size() < count) drain();
  }
  answer_faults();
  listen();
}

void AddressSpace::drain() {
  std::array<uffd_msg, 32> more{};
  for (unsigned batch = 0; batch < kMostBatches; ++batch) {
    const auto count = uffd_.read_now(more);
    // Kernels before 6.10 cannot be asked without a risk of blocking; the next completion brings
    // the rest.
    if (!count || *count == 0) return;
    for (std::size_t i = 0; i < *count; ++i) take(more.at(i));
  }
}

void AddressSpace::take(const uffd_msg& message) {
  switch (message.event) {
    case UFFD_EVENT_PAGEFAULT: {
      const auto& fault = message.arg.pagefault;
      faults_.push_back(Fault{
          .address = Vaddr{fault.address},
          .thread = static_cast<pid_t>(fault.feat.ptid),
          .write = (fault.flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP)) != 0,
          .write_protect = (fault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0,
          .minor = (fault.flags & UFFD_PAGEFAULT_FLAG_MINOR) != 0,
      });
      break;
    }
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
      spdlog::error("space {}: unknown userfaultfd event {}", id_.value(), message.event);
  }
}

// --- events

void AddressSpace::on_fork(int child_fd) {
  auto child_uffd = kernel::Userfaultfd::from_fork_event(UniqueFd{child_fd}, uffd_.features());
  auto child = std::make_shared<AddressSpace>(
      host_->next_space_id(), Owner{.pid = 0, .parent = owner_.pid, .uid = owner_.uid},
      std::move(child_uffd), handles_->clone(), beacon_);

  // Pieces of one mapping share its activity in the parent, and so they must in the child.
  std::map<const VmaActivity*, std::shared_ptr<VmaActivity>> activities;
  const auto inherit = [&](Vma vma) {
    std::shared_ptr<VmaActivity>& activity = activities[vma.activity.get()];
    if (!activity) {
      activity = std::make_shared<VmaActivity>();
      activity->first = vma.activity->first;
      activity->size = vma.activity->size;
      if (vma.activity->broken) {
        if (auto copy = vma.activity->broken->clone()) {
          activity->broken = std::move(*copy);
        } else {
          log("copying the record of breaks for space {}: {}", child->id_.value(),
              copy.error().message());
        }
      }
    }
    vma.activity = activity;
    child->vmas_.insert(std::move(vma));
  };
  for (const Vma& vma : departed_) inherit(vma);
  for (const auto& [start, vma] : vmas_) inherit(vma);
  host_->adopt(std::move(child));
}

void AddressSpace::on_unmap(Vaddr start, Vaddr end) {
  std::vector<Vma> gone = vmas_.remove(start, end);
  departed_.add(gone);
  forget(gone);
}

void AddressSpace::on_remap(Vaddr from, Vaddr to, ByteCount length) {
  // An old length of 0 asks mremap(2) for a copy of a shared mapping. Nothing moves, and how long
  // the copy is is not told: it stays unknown to us, and its faults raise SIGBUS.
  if (length == ByteCount{0}) return;
  std::vector<Vma> moved = vmas_.remove(from, from + length);
  departed_.add(moved);
  std::vector<Vma> replaced;
  for (Vma& vma : moved) {
    const ByteCount size = vma.length();
    vma.start = to + (vma.start - from);
    vma.end = vma.start + size;
    std::vector<Vma> there = vmas_.insert(vma);
    replaced.insert(replaced.end(), there.begin(), there.end());
  }
  forget(replaced);  // only now: what is being moved is not gone
}

void AddressSpace::on_remove(Vaddr start, Vaddr end) {
  // The kernel drops the client's pages; what was its own is the object's again.
  for (const Vma& piece : vmas_.overlapping(start, end)) {
    if (piece.activity->broken) piece.activity->broken->erase(piece.first, piece.pages());
  }
}

void AddressSpace::forget(const std::vector<Vma>& gone) {
  // The last piece of a mapping takes its guesses with it; departed_ may hold it a little longer.
  std::vector<const VmaActivity*> ended;
  for (const Vma& vma : gone) {
    if (vma.activity->pieces == 0) ended.push_back(vma.activity.get());
  }
  // Several pieces of one mapping may have gone at once.
  std::sort(ended.begin(), ended.end());
  ended.erase(std::unique(ended.begin(), ended.end()), ended.end());
  for (const VmaActivity* activity : ended) {
    past_ahead_unused_ += activity->fault_around.unused_ahead();
  }
  if (!session_open_ && vmas_.empty()) retire();
}

// --- answering

void AddressSpace::answer_faults() {
  std::vector<Fault> batch;
  batch.swap(faults_);
  for (Fault& fault : batch) {
    if (dead_) return;
    switch (answer(fault)) {
      case Answer::done:
        break;
      case Answer::later:
        fault.again = true;
        deferred_.push_back(fault);
        break;
      case Answer::dead:
        die();
        return;
    }
  }
  if (!batch.empty()) host_->answered();
  batch.clear();
  if (faults_.empty()) faults_.swap(batch);  // keeps its memory for the next batch
  if (deferred_.empty()) {
    retry_after_ = kFirstRetry;
  } else {
    // No further event need come to end what EAGAIN told of, so a timer brings these back. It is
    // the client's own thread that ends it, which may have to run first on this very CPU.
    retry_later();
  }
}

void AddressSpace::retry_later() {
  if (retry_timer_.in_flight()) return;
  host_->ring().timeout(retry_timer_, retry_after_);
  retry_after_ = std::clamp(retry_after_ * 2, kFirstRetry, kLastRetry);
}

void AddressSpace::retry() {
  if (dead_) return;
  if (!reader_.in_flight()) listen();
  faults_.insert(faults_.end(), deferred_.begin(), deferred_.end());
  deferred_.clear();
  answer_faults();
}

AddressSpace::Answer AddressSpace::answer(Fault& fault) {
  if (owner_.pid == 0) learn_pid(fault.thread);
  const Vma* vma = vmas_.find(fault.address);
  if (vma == nullptr) {
    return beacon_ && fault.address == *beacon_ ? answer_beacon(fault) : answer_unknown(fault);
  }
  count(*vma, fault);
  const PageIndex page = vma->page_at(fault.address);
  if (vma->sharing == Sharing::shared || !fault.write) return map_page(*vma, page, fault);
  if (fault.write_protect) return unprotect_page(*vma, page, fault);
  return copy_page(*vma, page, fault);
}

AddressSpace::Answer AddressSpace::answer_beacon(const Fault& fault) {
  alignas(4096) std::array<std::byte, 4096> page{};
  std::memcpy(page.data(), cookie_.data(), cookie_.size());
  const RangeResult result = uffd_.copy_range(fault.address, page.data(), kBasePage.bytes());
  if (result.error == EAGAIN) return Answer::later;
  if (result.error == ESRCH) return Answer::dead;
  if (result.error != 0) uffd_.wake(fault.address, kBasePage.bytes());
  return Answer::done;
}

AddressSpace::Answer AddressSpace::answer_unknown(const Fault& fault) {
  if (fault.again) {
    // It was read before its mapping went. Its thread may be long gone, and a new mapping may be in
    // the making at these addresses. Whoever is still asleep there is woken and faults afresh.
    uffd_.wake(fault.address, kBasePage.bytes());
    return Answer::done;
  }
  // Mostly an unmap that overtook the fault: nothing is registered there, and once woken the thread
  // gets its SIGSEGV from the kernel. What is registered and yet unknown to us cannot be supplied.
  const RangeResult result = uffd_.poison_range(fault.address, kBasePage.bytes());
  switch (result.error) {
    case 0:
      ++counters_.poisoned;
      log("fault at {:#x}, where the client grew or replaced a mapping behind the library's back: "
          "SIGBUS",
          fault.address.value());
      return Answer::done;
    case EAGAIN:
      return Answer::later;
    case ESRCH:
      return Answer::dead;
    default:
      uffd_.wake(fault.address, kBasePage.bytes());
      return Answer::done;
  }
}

AddressSpace::Answer AddressSpace::map_page(const Vma& vma, PageIndex page, Fault& fault) {
  const auto wp = vma.sharing == Sharing::private_copy ? WriteProtect::yes : WriteProtect::no;
  const PageCount wanted = choose_window(vma, page, fault, AccessKind::read);
  const PageCount ready = supply(vma, page, wanted, fault);
  if (ready == PageCount{0}) return Answer::done;

  PageIndex at = page;
  PageIndex end = page + ready;
  std::uint64_t mapped = 0;
  while (at < end) {
    const RangeResult result =
        uffd_.continue_range(vma.address_of(at), vma.page_size().bytes(end - at), wp);
    if (result.done > ByteCount{0}) {
      const PageCount done = vma.page_size().pages(result.done);
      mapped += done.value();
      at = at + done;
      continue;
    }
    if (result.error == EEXIST) {
      // Another thread's fault was answered first; who sleeps there must be woken all the same.
      if (at == page) uffd_.wake(vma.address_of(at), vma.page_size().bytes());
      at = at + kOnePage;
      continue;
    }
    if (result.error == EFAULT) vma.object->recheck(at);
    if (at > page) break;
    if (result.error == ENOENT && end > at + kOnePage) {
      end = at + kOnePage;  // the client's own mprotect cut the mapping in two: this page alone
      continue;
    }
    return after_error(vma, page, fault, result.error);
  }
  vma.activity->fault_around.installed(page, at - page, PageCount{0});
  tally(vma, [&](FaultCounters& c) { c.pages_mapped += mapped; });
  return Answer::done;
}

AddressSpace::Answer AddressSpace::copy_page(const Vma& vma, PageIndex page, Fault& fault) {
  const PageCount wanted = choose_window(vma, page, fault, AccessKind::copy);
  // A page of zeroes that no mapping has yet asked the object for stays unallocated there.
  const PageCount zero = vma.object->run_of_zeroes(
      page, std::min(wanted, vma.page_size().pages(ByteCount{zeroes.size()})));
  const PageCount ready = zero > PageCount{0} ? zero : supply(vma, page, wanted, fault);
  if (ready == PageCount{0}) return Answer::done;

  PageIndex at = page;
  PageIndex end = page + ready;
  std::uint64_t copied = 0;
  while (at < end) {
    const std::byte* source = zero > PageCount{0} ? zeroes.data() : vma.object->content(at);
    const RangeResult result =
        uffd_.copy_range(vma.address_of(at), source, vma.page_size().bytes(end - at));
    if (result.done > ByteCount{0}) {
      const PageCount done = vma.page_size().pages(result.done);
      // The writer runs already; but only this thread reads the record, and it does so no earlier.
      record_break(vma, at, done);
      copied += done.value();
      at = at + done;
      continue;
    }
    if (result.error == EEXIST) {
      // The object's page was mapped meanwhile, write-protected: let the kernel copy it.
      if (at == page) return unprotect_page(vma, page, fault);
      at = at + kOnePage;
      continue;
    }
    if (at > page) break;
    if (result.error == ENOENT && end > at + kOnePage) {
      end = at + kOnePage;
      continue;
    }
    return after_error(vma, page, fault, result.error);
  }
  const PageCount ahead{copied == 0 ? 0 : copied - 1};
  vma.activity->fault_around.installed(page, at - page, ahead);
  tally(vma, [&](FaultCounters& c) {
    c.pages_copied += copied;
    c.ahead_copies += ahead.value();
  });
  return Answer::done;
}

AddressSpace::Answer AddressSpace::unprotect_page(const Vma& vma, PageIndex page, Fault& fault) {
  PageCount count = choose_window(vma, page, fault, AccessKind::unprotect);
  for (;;) {
    // Recorded first: once the protection is lifted the kernel copies at the next write, without a
    // word.
    record_break(vma, page, count);
    const RangeResult result =
        uffd_.write_unprotect(vma.address_of(page), vma.page_size().bytes(count));
    if (result.error == 0) break;
    if (result.error != ENOENT || count == kOnePage) {
      return after_error(vma, page, fault, result.error);
    }
    count = kOnePage;
  }
  vma.activity->fault_around.installed(page, count, PageCount{0});
  return Answer::done;
}

AddressSpace::Answer AddressSpace::after_error(const Vma& vma, PageIndex page, Fault& fault,
                                               int error) {
  const Vaddr address = vma.address_of(page);
  switch (error) {
    case EAGAIN:  // an event is under way
    case ENOMEM:  // for the client's page tables: what another gives back may do
      return Answer::later;
    case ESRCH:
      return Answer::dead;
    case ENOENT:  // unmapped: the kernel gives the thread what it gives without us
      uffd_.wake(address, vma.page_size().bytes());
      return Answer::done;
    case EFAULT:  // a writer tore the object's page out: it is absent again, so supply it anew
      if (++fault.attempts < kMostAttempts) return Answer::later;
      return poison(vma, page,
                    "the mapping is not of its object, or its pages are taken away as fast as they "
                    "are supplied");
    default:
      return poison(vma, page, std::strerror(error));
  }
}

AddressSpace::Answer AddressSpace::poison(const Vma& vma, PageIndex page, const char* reason) {
  const Vaddr address = vma.address_of(page);
  const RangeResult result = uffd_.poison_range(address, vma.page_size().bytes());
  switch (result.error) {
    case 0:
      tally(vma, [](FaultCounters& c) { ++c.poisoned; });
      log("page {} of object {} at {:#x} cannot be supplied: {}: SIGBUS", page.value(),
          vma.object->id().value(), address.value(), reason);
      return Answer::done;
    case EAGAIN:
    case ENOMEM:
      return Answer::later;
    case ESRCH:
      return Answer::dead;
    default:
      uffd_.wake(address, vma.page_size().bytes());
      return Answer::done;
  }
}

PageCount AddressSpace::supply(const Vma& vma, PageIndex page, PageCount wanted,
                               const Fault& fault) {
  const PageCount resident = vma.object->pages().run(page, wanted, memory::PageState::resident);
  if (resident == wanted) return resident;
  ++waiting_;  // for now: the waiter may be called before populate returns
  const PageCount ready = vma.object->populate(
      page, wanted, [weak = weak_from_this(), mailbox = host_->mailbox(), fault](Supply outcome) {
        mailbox->post([weak, fault, outcome] {
          if (const auto self = weak.lock()) self->resume(fault, outcome);
        });
      });
  if (ready > PageCount{0}) --waiting_;
  return ready;
}

void AddressSpace::resume(Fault fault, Supply supply) {
  --waiting_;
  fault.again = true;
  if (dead_) return;
  if (supply == Supply::failed) {
    const Vma* vma = vmas_.find(fault.address);
    const Answer answer = vma == nullptr ? answer_unknown(fault)
                                         : poison(*vma, vma->page_at(fault.address), "see above");
    if (answer == Answer::dead) die();
    if (answer == Answer::later) {
      deferred_.push_back(fault);
      answer_faults();
    }
    return;
  }
  if (supply == Supply::retry_alone) fault.alone = true;
  faults_.push_back(fault);
  answer_faults();
}

PageCount AddressSpace::choose_window(const Vma& vma, PageIndex page, const Fault& fault,
                                      AccessKind kind) {
  const PageCount wanted = vma.activity->fault_around.window(page, kind);
  return fault.alone ? kOnePage : std::min(wanted, vma.end_page() - page);
}

void AddressSpace::record_break(const Vma& vma, PageIndex first, PageCount count) {
  VmaActivity& activity = *vma.activity;
  if (!activity.broken) {
    auto set = PageSet::create(activity.first, activity.size);
    if (!set) {
      log("no memory to record copy-on-write breaks: {}", set.error().message());
      return;
    }
    activity.broken = std::move(*set);
  }
  const PageCount parted = activity.broken->insert(first, count);
  tally(vma, [&](FaultCounters& c) { c.breaks += parted.value(); });
}

template <typename Change>
void AddressSpace::tally(const Vma& vma, Change change) {
  change(vma.activity->counters);
  change(counters_);
}

void AddressSpace::count(const Vma& vma, Fault& fault) {
  if (std::exchange(fault.counted, true)) return;
  tally(vma, [&](FaultCounters& c) {
    c.writes += fault.write ? 1U : 0U;
    if (fault.write_protect) {
      ++c.write_protect;
    } else if (fault.minor) {
      ++c.minor;
    } else {
      ++c.missing;
    }
  });
}

// --- commands

Status AddressSpace::map(const MapRequest& request) {
  if (dead_) return fail(ESRCH, "mapping into an address space that is gone");
  if (vmas_.size() >= kMaxVmas) {
    return fail(ENOMEM, "mapping more than " + std::to_string(kMaxVmas) + " ranges in one process");
  }
  if (auto registered = uffd_.register_object_range(request.address, request.length); !registered) {
    return registered;
  }
  // An unmap that freed these very addresses may be under way in another thread of the client, or
  // read and not yet carried out. Let what was read be carried out before and after the kernel says
  // that nothing is under way: what comes then is about the new mapping.
  host_->ring().poll();
  const int under_way = uffd_.probe();
  if (under_way != 0) return fail(under_way, "waiting for the client's other threads to unmap");
  host_->ring().poll();
  if (dead_) return fail(ESRCH, "mapping into an address space that is gone");

  auto activity = std::make_shared<VmaActivity>();
  activity->first = request.first;
  activity->size = request.object->page_size().pages(request.length);
  forget(vmas_.insert(Vma{.start = request.address,
                          .end = request.address + request.length,
                          .object = request.object,
                          .first = request.first,
                          .sharing = request.sharing,
                          .writable = request.writable,
                          .activity = std::move(activity)}));
  return {};
}

void AddressSpace::turn_away() {
  turned_away_ = true;
  retire();
}

void AddressSpace::check() {
  if (dead_ || (turned_away_ && retire())) return;
  const std::uint64_t before = departed_.mark();
  const int state = uffd_.probe();
  if (state == ESRCH) {
    die();
    return;
  }
  if (state != 0 || departed_.empty()) return;
  // No event is under way, so every fork that began before those removals has been read; carried
  // out it is after this.
  host_->ring().poll();
  departed_.drop_before(before);
}

void AddressSpace::session_closed() {
  session_open_ = false;
  check();
  if (!dead_ && vmas_.empty()) retire();
}

AddressSpace::Answer AddressSpace::poison_what_is_only_in_the_file(const Vma& vma) {
  // The kernel knows what is in the memfd, but would make zeroes of the rest.
  const memory::PageTable& pages = vma.object->pages();
  PageIndex at = vma.first;
  while (at < vma.end_page()) {
    at = at + pages.run(at, vma.end_page() - at, memory::PageState::resident);
    PageIndex end = at;
    while (end < vma.end_page() && pages.state(end) != memory::PageState::resident) {
      end = end + kOnePage;
    }
    if (at == end) continue;
    const RangeResult result =
        uffd_.poison_range(vma.address_of(at), vma.page_size().bytes(end - at));
    if (result.done > ByteCount{0}) {
      at = at + vma.page_size().pages(result.done);
    } else if (result.error == EAGAIN || result.error == ENOMEM) {
      return Answer::later;
    } else if (result.error == ESRCH) {
      return Answer::dead;
    } else {
      at = at + kOnePage;  // mapped already, or no longer there
    }
  }
  return Answer::done;
}

bool AddressSpace::retire() {
  if (dead_) return true;
  for (auto it = vmas_.begin(); it != vmas_.end(); it = vmas_.begin()) {
    const Vma vma = it->second;
    if (vma.object->from_file()) {
      const Answer marked = poison_what_is_only_in_the_file(vma);
      if (marked == Answer::later) return false;
      if (marked == Answer::dead) break;
    }
    if (auto done = uffd_.unregister(vma.start, vma.length()); !done) {
      spdlog::debug("space {}: {}", id_.value(), done.error().message());
    }
    vmas_.remove(vma.start, vma.end);
  }
  if (beacon_) (void)uffd_.unregister(*beacon_, kBasePage.bytes());
  die();
  return true;
}

void AddressSpace::die() {
  if (dead_) return;
  dead_ = true;
  if (host_ != nullptr) {
    host_->ring().cancel(reader_);
    host_->ring().cancel(retry_timer_);
  }
  vmas_ = VmaMap{};
  departed_.clear();
  faults_.clear();
  deferred_.clear();
  handles_->clear();
  spdlog::debug("space {} (pid {}) is gone", id_.value(), owner_.pid);
}

void AddressSpace::learn_pid(pid_t thread) {
  if (const auto pid = kernel::process_of_thread(thread)) owner_.pid = *pid;
}

VmaSnapshot AddressSpace::show(const Vma& vma) {
  const VmaActivity& activity = *vma.activity;
  VmaSnapshot snapshot{vma, 0, activity.counters, activity.fault_around.unused_ahead()};
  if (activity.broken) snapshot.broken = activity.broken->count(vma.first, vma.pages()).value();
  snapshot.vma.activity = nullptr;
  return snapshot;
}

Result<VmaSnapshot> AddressSpace::vma_at(Vaddr address) const {
  const Vma* vma = vmas_.find(address);
  if (vma == nullptr) {
    return fail(ENOENT, "looking up a mapping at address " + std::to_string(address.value()));
  }
  return show(*vma);
}

SpaceSnapshot AddressSpace::snapshot() const {
  SpaceSnapshot snapshot{id_, owner_, {}, counters_, past_ahead_unused_, waiting_};
  std::set<const VmaActivity*> counted;  // the pieces of a cut mapping share theirs
  for (const auto& [start, vma] : vmas_) {
    snapshot.vmas.push_back(show(vma));
    if (counted.insert(vma.activity.get()).second) {
      snapshot.ahead_unused += snapshot.vmas.back().ahead_unused;
    }
  }
  return snapshot;
}

}  // namespace faultline::space
