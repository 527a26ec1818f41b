#include "daemon/space/fault_engine.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "daemon/kernel/huge_pages.hpp"
#include "daemon/kernel/process.hpp"

namespace faultline::space {

namespace {

using kernel::RangeResult;
using kernel::WriteProtect;

constexpr PageCount kOnePage{1};
constexpr unsigned kMostAttempts = 8;

PageCount limited(const FaultAround::Window& window, const Vma& vma, PageIndex page,
                  const Fault& fault) {
  const bool one = fault.alone || (fault.write && vma.activity->exact());
  if (one) return kOnePage;
  const PageCount most = vma.page_size().pages(FaultAround::kMostBytes);
  return std::min({window.pages, most, vma.end_page() - page});
}

FaultClass class_of(const Fault& fault) {
  if (fault.write_protect) return FaultClass::write_protect;
  return fault.minor ? FaultClass::minor : FaultClass::missing;
}

// Of an answer to a fault.
void tally_pages(const Installed& made, PageSource beside) {
  FaultTally* const tally = FaultTally::mine();
  if (tally == nullptr) return;
  tally->pages(PageSource::demand, made.made - made.beside());
  tally->pages(beside, made.beside());
}

}  // namespace

Answer FaultEngine::answer(Fault& fault) {
  if (identity_.pid() == 0) {
    if (const auto pid = kernel::process_of_thread(fault.thread)) identity_.set_pid(*pid);
  }
  const VmaRef vma = vmas_.find(fault.address);
  if (!vma) {
    return beacon_ && fault.address == beacon_->address ? answer_beacon(fault) : Answer::unknown;
  }
  FaultCounters done;
  count(*vma, fault, done);
  const Answer answer = answer_in(*vma, fault, done);
  tally(*vma, done);
  return answer;
}

Answer FaultEngine::answer_in(const Vma& vma, Fault& fault, FaultCounters& done) {
  const PageIndex page = vma.page_at(fault.address);
  if (fault.refused && fault.waited_for_object == vma.object->id() &&
      fault.waited_for_page == page) {
    return poison(vma, page, "its pager could not supply it", done);
  }
  if (vma.sharing == Sharing::shared && fault.write_protect) {
    return let_write(vma, page, fault, done);
  }
  if (vma.sharing == Sharing::shared || !fault.write) return map_page(vma, page, fault, done);
  if (!can_record_breaks(vma)) return Answer::later;
  if (fault.write_protect) return unprotect_page(vma, page, fault, done);
  return copy_page(vma, page, fault, done);
}

Answer FaultEngine::answer_beacon(Fault& fault) {
  count_for_all(fault, FaultClass::beacon);
  alignas(4096) std::array<std::byte, 4096> page{};
  std::memcpy(page.data(), beacon_->cookie.data(), beacon_->cookie.size());
  const RangeResult result = uffd_.copy_range(fault.address, page.data(), kBasePage.bytes());
  if (result.error == EAGAIN) return Answer::later;
  if (result.error == ESRCH) return Answer::dead;
  if (result.error == 0) return Answer::installed;
  uffd_.wake(fault.address, kBasePage.bytes());
  return result.error == EEXIST ? Answer::already_present : Answer::woken;
}

void FaultEngine::wake(const Fault& fault) const {
  uffd_.wake(kBasePage.round_down(fault.address), kBasePage.bytes());
}

Answer FaultEngine::answer_unknown(Fault& fault) {
  count_for_all(fault, class_of(fault));
  if (fault.again) {
    // It was read before its mapping went. Its thread may be long gone, and a new mapping may be in
    // the making at these addresses. Whoever is still asleep there is woken and faults afresh.
    uffd_.wake(fault.address, kBasePage.bytes());
    return Answer::woken;
  }
  // Mostly an unmap that overtook the fault: nothing is registered there, and once woken the thread
  // gets its SIGSEGV from the kernel. What is registered and yet unknown to us cannot be supplied.
  const RangeResult result = poison_page_at(fault.address, kBasePage);
  switch (result.error) {
    case 0:
      counters_.add({.poisoned = 1});
      if (FaultTally* const tally = FaultTally::mine()) tally->poisoned(1);
      identity_.log("fault at {:#x}, in memory that is no object of this client's: SIGBUS",
                    fault.address.value());
      return Answer::poisoned;
    case EAGAIN:
      return Answer::later;
    case ESRCH:
      return Answer::dead;
    default:
      uffd_.wake(fault.address, kBasePage.bytes());
      return Answer::woken;
  }
}

Answer FaultEngine::map_page(const Vma& vma, PageIndex page, Fault& fault, FaultCounters& done) {
  const bool tracked = vma.sharing == Sharing::shared && vma.object->tracks_stores();
  // A page that is mapped writable counts as stored to, which costs a place in the swap file: so
  // here, as where pages are copied, a writer has to show that it goes on.
  const auto kind = tracked && fault.write ? AccessKind::copy : AccessKind::read;
  const auto window = vma.activity->window(page, kind, vma.advice);
  const Supplied supplied = supply(vma, page, limited(window, vma, page, fault), fault);
  if (supplied.none()) return supplied.otherwise;
  const PageCount ready = supplied.ready;

  const bool protect = vma.sharing == Sharing::private_copy || (tracked && !fault.write);
  const Installed mapped =
      map_pages(uffd_, vma, page, ready, protect ? WriteProtect::yes : WriteProtect::no);
  if (!protect) vma.object->stored(page, mapped.reached);
  if (mapped.error != 0) return after_error(vma, page, fault, mapped.error, done);
  vma.activity->installed(window, page, mapped.reached, PageCount{0});
  done.pages_mapped += mapped.made;
  tally_pages(mapped, PageSource::fault_around);
  return mapped.present ? Answer::already_present : Answer::installed;
}

Answer FaultEngine::let_write(const Vma& vma, PageIndex page, Fault& fault, FaultCounters& done) {
  const auto window = vma.activity->window(page, AccessKind::unprotect, vma.advice);
  const Supplied supplied = supply(vma, page, limited(window, vma, page, fault), fault);
  if (supplied.none()) return supplied.otherwise;
  const PageCount ready = supplied.ready;

  const Installed lifted = let_store(uffd_, vma, page, ready);
  vma.object->stored(page, lifted.reached);
  if (lifted.error != 0) return after_error(vma, page, fault, lifted.error, done);
  vma.activity->installed(window, page, lifted.reached, PageCount{0});
  return Answer::installed;
}

Answer FaultEngine::copy_page(const Vma& vma, PageIndex page, Fault& fault, FaultCounters& done) {
  const auto window = vma.activity->window(page, AccessKind::copy, vma.advice);
  const PageCount wanted = limited(window, vma, page, fault);
  // A page of zeroes that no mapping has yet asked the object for stays unallocated there.
  const PageCount zero =
      vma.object->run_of_zeroes(page, std::min(wanted, most_zeroes(vma.page_size())));
  const bool zeroes = zero > PageCount{0};
  const Supplied supplied = zeroes ? Supplied{zero} : supply(vma, page, wanted, fault);
  if (supplied.none()) return supplied.otherwise;
  const PageCount ready = supplied.ready;

  const Installed copied =
      copy_pages(uffd_, vma, page, ready, zeroes ? Source::zeroes : Source::object,
                 Present::passed_over, parting_);
  // Of a huge page EEXIST also says that there is none for the copy (mm/hugetlb.c:
  // hugetlb_mfill_atomic_pte). With the object's page there the writer faults again, and ends in a
  // copy of the kernel's, or its SIGBUS.
  if (copied.error == EEXIST && vma.page_size() == kHugePage) {
    return map_page(vma, page, fault, done);
  }
  // The object's page was mapped meanwhile, write-protected: let the kernel copy it.
  if (copied.error == EEXIST) return unprotect_page(vma, page, fault, done);
  if (copied.error != 0) return after_error(vma, page, fault, copied.error, done);
  const PageCount ahead{copied.made == 0 ? 0 : copied.made - 1};
  vma.activity->installed(window, page, copied.reached, ahead);
  done.pages_copied += copied.made;
  done.ahead_copies += ahead.value();
  tally_pages(copied, PageSource::ahead_copy);
  count_breaks(vma, page, copied, done);
  return Answer::installed;
}

bool FaultEngine::no_page_for_copy(const Vma& vma, PageIndex page) {
  if (vma.page_size() != kHugePage || vma.activity->broken(page, kOnePage) > PageCount{0}) {
    return false;
  }
  const auto pool = kernel::huge_page_pool();
  return pool && pool->left() == PageCount{0};
}

void FaultEngine::warn_of_no_huge_page(const Vma& vma, PageIndex page, FaultCounters& done) const {
  if (!no_page_for_copy(vma, page)) return;
  ++done.poisoned;
  identity_.log_about(
      {.object = vma.object->id().value(), .page = page.value()},
      "page {} of object {} at {:#x} cannot be copied: no page of 2 MiB is left: SIGBUS",
      page.value(), vma.object->id().value(), vma.address_of(page).value());
}

Answer FaultEngine::unprotect_page(const Vma& vma, PageIndex page, Fault& fault,
                                   FaultCounters& done) {
  warn_of_no_huge_page(vma, page, done);
  const auto window = vma.activity->window(page, AccessKind::unprotect, vma.advice);
  const Installed lifted =
      unprotect_pages(uffd_, vma, page, limited(window, vma, page, fault), parting_);
  count_breaks(vma, page, lifted, done);
  if (lifted.error != 0) return after_error(vma, page, fault, lifted.error, done);
  vma.activity->installed(window, page, lifted.reached, PageCount{0});
  return Answer::installed;
}

Answer FaultEngine::after_error(const Vma& vma, PageIndex page, Fault& fault, int error,
                                FaultCounters& done) {
  switch (error) {
    case EAGAIN:  // an event is under way
      return Answer::later;
    case ENOMEM:
      // For the client's page tables: what another gives back may do. Or for a huge page, of which
      // there may be no more for as long as the machine runs.
      if (vma.page_size() == kBasePage || ++fault.attempts < kMostAttempts) return Answer::later;
      return poison(vma, page, "no page of 2 MiB is left for the copy (vm.nr_hugepages)", done);
    case ESRCH:
      return Answer::dead;
    case ENOENT:
      return not_there(vma, page, fault, done);
    case EFAULT:
      // A writer tore the object's page out: it is absent again, so supply it anew, however often.
      if (vma.object->pages().state(page) != memory::PageState::resident) return Answer::later;
      // It came back meanwhile; or it never went, and something else is mapped.
      if (++fault.attempts < kMostAttempts) return Answer::later;
      return poison(vma, page, "the mapping is not of its object", done);
    default:
      return poison(vma, page, std::strerror(error), done);
  }
}

Answer FaultEngine::not_there(const Vma& vma, PageIndex page, const Fault& fault,
                              FaultCounters& done) {
  // Small pages in the name of an object of huge ones: the thread would fault for ever.
  if (vma.page_size() == kHugePage &&
      uffd_.poison_range(kBasePage.round_down(fault.address), kBasePage.bytes()).error == 0) {
    ++done.poisoned;
    identity_.log("fault at {:#x}, in memory that is not of its object's pages: SIGBUS",
                  fault.address.value());
    return Answer::poisoned;
  }
  // Unmapped: the kernel gives the thread what it gives without us.
  uffd_.wake(vma.address_of(page), vma.page_size().bytes());
  return Answer::woken;
}

RangeResult FaultEngine::poison_page_at(Vaddr address, PageSize page_size) const {
  const RangeResult result = uffd_.poison_range(page_size.round_down(address), page_size.bytes());
  if (result.error != EINVAL || page_size == kHugePage) return result;
  return uffd_.poison_range(kHugePage.round_down(address), kHugePage.bytes());
}

Answer FaultEngine::poison(const Vma& vma, PageIndex page, const char* reason,
                           FaultCounters& done) {
  const Vaddr address = vma.address_of(page);
  const RangeResult result = poison_page_at(address, vma.page_size());
  switch (result.error) {
    case 0:
      ++done.poisoned;
      identity_.log_about({.object = vma.object->id().value(), .page = page.value()},
                          "page {} of object {} at {:#x} cannot be supplied: {}: SIGBUS",
                          page.value(), vma.object->id().value(), address.value(), reason);
      return Answer::poisoned;
    case EAGAIN:
    case ENOMEM:
      return Answer::later;
    case ESRCH:
      return Answer::dead;
    default:
      uffd_.wake(address, vma.page_size().bytes());
      return Answer::woken;
  }
}

FaultEngine::Supplied FaultEngine::supply(const Vma& vma, PageIndex page, PageCount wanted,
                                          Fault& fault) {
  const PageCount resident = vma.object->pages().run(page, wanted, memory::PageState::resident);
  if (resident == wanted) {
    vma.object->used(page, resident);
    return {resident};
  }
  if (vma.object->may_wait() && parking_.full()) {
    if (resident == PageCount{0}) wake(fault);
    return {resident, Answer::woken};
  }
  fault.waited_for_object = vma.object->id();
  fault.waited_for_page = page;
  const PageCount ready = vma.object->populate(page, wanted, parking_.park(fault));
  if (ready > PageCount{0}) parking_.park_ends();
  vma.object->used(page, ready);
  return {ready};
}

Installed FaultEngine::install(const Vma& vma, PageIndex page, PageCount count, bool write) {
  const PageCount ready = vma.object->pages().run(page, std::min(count, vma.end_page() - page),
                                                  memory::PageState::resident);
  if (ready == PageCount{0}) return {.error = EAGAIN};
  vma.object->used(page, ready);
  FaultCounters done;
  Installed result;
  std::uint64_t made = 0;
  if (vma.sharing == Sharing::private_copy && write) {
    if (!can_record_breaks(vma)) return {.error = ENOMEM};
    result = copy_pages(uffd_, vma, page, ready, Source::object, Present::ends_it, parting_);
    made = result.made;
    done.pages_copied += made;
    if (result.error == EEXIST && no_page_for_copy(vma, page)) {
      result.error = ENOMEM;
    } else if (result.error == EEXIST) {
      result = unprotect_pages(uffd_, vma, page, kOnePage, parting_);
    }
    count_breaks(vma, page, result, done);
  } else {
    const bool tracked = vma.object->tracks_stores();
    const bool protect = vma.sharing == Sharing::private_copy || (tracked && !write);
    result = map_pages(uffd_, vma, page, ready, protect ? WriteProtect::yes : WriteProtect::no);
    made = result.made;
    done.pages_mapped += made;
    if (!protect) vma.object->stored(page, result.reached);
    // What was mapped already may be write-protected.
    const bool lift = vma.object->may_wait() && vma.sharing == Sharing::shared && write &&
                      result.reached > PageCount{result.made};
    if (lift && result.error == 0) {
      if (const Installed lifted = let_store(uffd_, vma, page, result.reached); lifted.error != 0) {
        result = lifted;
      } else {
        result.reached = lifted.reached;
      }
    }
  }
  tally(vma, done);
  if (FaultTally* const tally = FaultTally::mine()) tally->pages(PageSource::populate, made);
  return result;
}

Answer FaultEngine::poison_what_the_kernel_lacks(const Vma& vma) {
  // The kernel knows what is in the memfd, but would make zeroes of the rest.
  PageIndex at = vma.first;
  while (at < vma.end_page()) {
    at = at + vma.object->run_kernel_has(at, vma.end_page() - at);
    const PageCount lacks = vma.object->run_kernel_lacks(at, vma.end_page() - at);
    if (lacks == PageCount{0}) continue;
    const RangeResult result = uffd_.poison_range(vma.address_of(at), vma.page_size().bytes(lacks));
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
  return Answer::poisoned;
}

bool FaultEngine::can_record_breaks(const Vma& vma) const {
  const Status prepared = vma.activity->prepare_breaks();
  if (!prepared) {
    identity_.log("no memory to record copy-on-write breaks: {}", prepared.error().message());
  }
  return prepared.has_value();
}

void FaultEngine::count(const Vma& vma, Fault& fault, FaultCounters& done) const {
  if (fault.counted) return;
  count_for_all(fault, class_of(fault));
  done.writes += fault.write ? 1U : 0U;
  if (fault.write_protect) {
    ++done.write_protect;
  } else if (fault.minor) {
    ++done.minor;
  } else {
    ++done.missing;
  }
  teller_.tell(EventKind::fault, vma, fault.address, ByteCount{0}, [&](SpaceEvent& event) {
    event.fault = fault.write_protect ? FaultKind::write_protect
                  : fault.minor       ? FaultKind::minor
                                      : FaultKind::missing;
    event.write = fault.write;
    event.thread = fault.thread;
  });
}

void FaultEngine::count_for_all(Fault& fault, FaultClass as) {
  if (std::exchange(fault.counted, true)) return;
  fault.tallied = as;
  if (FaultTally* const tally = FaultTally::mine()) tally->raised(as, fault.write);
}

void FaultEngine::count_breaks(const Vma& vma, PageIndex page, const Installed& made,
                               FaultCounters& done) const {
  if (made.parted == PageCount{0}) return;
  done.breaks += made.parted.value();
  teller_.tell(EventKind::cow_break, vma, vma.address_of(page),
               vma.page_size().bytes(std::max(made.reached, kOnePage)));
}

void FaultEngine::tally(const Vma& vma, const FaultCounters& done) {
  vma.activity->counters.add(done);
  counters_.add(done);
  if ((done.breaks | done.poisoned) == 0) return;
  if (FaultTally* const tally = FaultTally::mine()) {
    tally->broke(done.breaks);
    tally->poisoned(done.poisoned);
  }
}

}  // namespace faultline::space
