#include "daemon/memory/memory_object.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

#include "daemon/kernel/huge_pages.hpp"
#include "daemon/kernel/log_budget.hpp"
#include "daemon/kernel/own_memory.hpp"
#include "daemon/memory/eviction.hpp"

namespace faultline::memory {

namespace {
constexpr PageCount kHoleStep{1024};
}  // namespace

MemoryObject::MemoryObject(ObjectId id, ObjectSpec spec, kernel::Memfd memfd,
                           kernel::MappedMemory memory, const kernel::HoleGuard* guard,
                           PageTable pages, FilePager* pager, std::shared_ptr<SwapFile> swap)
    : id_(id),
      spec_(std::move(spec)),
      memfd_(std::move(memfd)),
      memory_(std::move(memory)),
      guard_(guard),
      pages_(std::move(pages)),
      pager_(pager),
      swap_(std::move(swap)) {}

MemoryObject::~MemoryObject() {
  for (const SwapSlots& slots : swapped_.take_all()) swap_->give_back(slots);
}

namespace {
tl::unexpected<Error> out_of_huge_pages(ByteCount wanted) {
  return fail(ENOMEM, "reserving " + std::to_string(kHugePage.pages(wanted).value()) +
                          " pages for an object, where " + kernel::describe_huge_pages() + ": " +
                          kernel::kHowToReserve);
}
}  // namespace

Result<std::shared_ptr<MemoryObject>> MemoryObject::create(ObjectId id, ObjectSpec spec,
                                                           FilePager* pager,
                                                           std::shared_ptr<SwapFile> swap) {
  assert((pager != nullptr) == (spec.file.has_value() || swap != nullptr));
  const ByteCount size = spec.page_size.round_up(spec.content_size);
  const bool huge = spec.page_size == kHugePage;
  auto memfd = kernel::Memfd::create("faultline:" + (spec.name.empty() ? "anonymous" : spec.name),
                                     size, spec.page_size);
  if (!memfd) return propagate(memfd);
  // Huge pages are reserved, all of them and now: none can be had by giving others back.
  auto memory = kernel::MappedMemory::create(
      size, PROT_READ | PROT_WRITE, MAP_SHARED | (huge ? 0 : MAP_NORESERVE), memfd->writable_fd());
  if (!memory && huge && memory.error().code() == ENOMEM) return out_of_huge_pages(size);
  if (!memory) return propagate(memory);
  const kernel::HoleGuard* guard = nullptr;
  if (pager != nullptr || huge) {
    auto of_process = kernel::HoleGuard::of_process();
    if (!of_process) return propagate(of_process);
    guard = *of_process;
    if (auto guarded = guard->guard(*memory); !guarded) return propagate(guarded);
  }
  auto pages = PageTable::create(spec.page_size.pages(size));
  if (!pages) return propagate(pages);
  return std::shared_ptr<MemoryObject>{
      new MemoryObject(id, std::move(spec), std::move(*memfd), std::move(*memory), guard,
                       std::move(*pages), pager, std::move(swap))};  // a private constructor
}

void MemoryObject::log(PageIndex page, const std::string& what) const {
  kernel::log_budget_of(spec_.uid).log(
      log::Level::error, {.uid = spec_.uid, .object = id_.value(), .page = page.value()},
      "object {} ({}) page {}: {}", id_.value(), name().empty() ? "anonymous" : name(),
      page.value(), what);
}

PageCount MemoryObject::populate(PageIndex first, PageCount window, Waiter waiter) {
  assert(first + window <= PageIndex{} + page_count());
  const PageCount ready = pages_.run(first, window, PageState::resident);
  if (ready == window) return ready;
  if (!may_wait()) return populate_zero(first, window, waiter);
  return populate_claimed(first, window, std::move(waiter));
}

PageCount MemoryObject::populate_zero(PageIndex first, PageCount window, const Waiter& waiter) {
  const auto allocate = [&](PageCount count) -> Status {
    if (!huge()) {
      return memory_.populate(spec_.page_size.offset_of(first), spec_.page_size.bytes(count));
    }
    return guard_->put_zeroes(memory_, spec_.page_size.offset_of(first),
                              spec_.page_size.bytes(count), spec_.page_size);
  };
  PageCount count = window;
  Status allocated = allocate(count);
  if (!allocated && count > PageCount{1}) {
    // Short of memory: what is asked for now matters, what lies ahead does not.
    count = PageCount{1};
    allocated = allocate(count);
  }
  if (!allocated) {
    failed_fills_.fetch_add(1);
    log(first, allocated.error().message());
    waiter(Supply::failed);
    return PageCount{0};
  }
  for (std::uint64_t i = 0; i < count.value(); ++i) (void)pages_.claim(first + PageCount{i});
  tell_watcher(first, count);
  pages_.mark(first, count, PageState::resident);
  return count;
}

void MemoryObject::tell_watcher(PageIndex first, PageCount count) {
  // Pairs with the fence of who waits for the page, between its entry and its look at the state.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  PageWatcher* const watcher = watcher_.load(std::memory_order_relaxed);
  if (watcher != nullptr) watcher->pages_come(*this, first, count);
}

PageClaim* MemoryObject::claim_on_locked(PageIndex page) const {
  if (pages_.state(page) == PageState::evicting) return eviction_;
  const auto claim =
      std::find_if(claims_.begin(), claims_.end(), [&](const auto& c) { return c->covers(page); });
  return claim == claims_.end() ? nullptr : claim->get();
}

std::optional<ContentSource> MemoryObject::source_locked(PageIndex first, PageCount& count) const {
  if (const auto slots = swapped_.run(first, count)) {
    count = slots->count;
    return ContentSource{swap_->fd(), SwapFile::offset_of(slots->first),
                         spec_.page_size.bytes(count), swap_->reads_begin(), true};
  }
  count = swapped_.run_not_here(first, count);
  if (!from_file()) return std::nullopt;
  const FileSource& file = *spec_.file;
  const ByteCount start = spec_.page_size.offset_of(first);
  return ContentSource{
      file.fd.get(), file.offset + start,
      std::min(spec_.page_size.bytes(count), file.length - start),
      file.answered_by_others ? kernel::Ring::Begin::elsewhere : kernel::Ring::Begin::here, false};
}

PageCount MemoryObject::populate_claimed(PageIndex first, PageCount window, Waiter waiter) {
  std::unique_lock lock(claims_mutex_);
  const PageCount ready = pages_.run(first, window, PageState::resident);
  if (ready == PageCount{0}) {
    if (PageClaim* const claim = claim_on_locked(first)) {
      claim->add_waiter(first, std::move(waiter));
      return PageCount{0};
    }
  }
  // Under the mutex nobody else claims, so what is in no memory here stays so until it is claimed.
  const PageIndex start = first + ready;
  PageCount absent = pages_.run_in_no_memory(start, window - ready);
  if (absent == PageCount{0}) return ready;
  const auto source = source_locked(start, absent);
  pages_.mark(start, absent, PageState::filling);
  if (!source) {
    auto& claim = *claims_.emplace_back(std::make_unique<PageClaim>(start, absent));
    lock.unlock();
    return fill_with_zeroes(ready, claim, waiter);
  }
  auto fill = std::make_unique<Fill>(shared_from_this(), start, absent, *source);
  if (ready == PageCount{0}) fill->add_waiter(first, std::move(waiter));
  fills_begun_.fetch_add(1);
  fill->submit();
  claims_.push_back(std::move(fill));
  return ready;
}

PageCount MemoryObject::fill_with_zeroes(PageCount ready, PageClaim& claim, const Waiter& waiter) {
  const PageIndex start = claim.first();
  const auto allocate = [&](PageCount count) {
    return guard_->put_zeroes(memory_, spec_.page_size.offset_of(start),
                              spec_.page_size.bytes(count), spec_.page_size);
  };
  PageCount count = claim.count();
  Status allocated = allocate(count);
  if (!allocated && count > PageCount{1}) {
    // Short of memory: what is asked for now matters, what lies ahead does not.
    count = PageCount{1};
    allocated = allocate(count);
  }
  if (!allocated && claim.count() > PageCount{1}) {
    failed_fills_.fetch_add(1);
    log(start, allocated.error().message());
  }
  if (!allocated) count = PageCount{0};
  finish(claim, count, allocated ? 0 : allocated.error().code());
  const PageCount supplied = ready + count;
  if (supplied == PageCount{0}) waiter(Supply::failed);
  return supplied;
}

void MemoryObject::drop_slots_locked(PageIndex first, PageCount count) {
  for (const SwapSlots& slots : swapped_.take(first, count)) {
    swap_->give_back(slots);
    swapped_count_.fetch_sub(slots.count.value(), std::memory_order_relaxed);
  }
}

void MemoryObject::finish(PageClaim& claim, PageCount supplied, int error) {
  const PageIndex first = claim.first();
  const PageCount count = claim.count();
  const PageCount lost = count - supplied;
  std::unique_ptr<PageClaim> ended;
  if (supplied > PageCount{0}) tell_watcher(first, supplied);
  {
    const std::lock_guard lock(claims_mutex_);
    if (swapped_.holds(first)) {
      // Where it came from has the only copy, and is given up.
      pages_.set_marks(first, supplied, wire::kPageDirty);
      drop_slots_locked(first, supplied);
    }
    pages_.finish_fill(first, supplied);
    // Which of several failed is not known yet: each is asked for alone.
    pages_.mark(first + supplied, lost,
                count == PageCount{1} ? PageState::poisoned : PageState::lost);
    const auto found = std::find_if(claims_.begin(), claims_.end(),
                                    [&](const auto& c) { return c.get() == &claim; });
    ended = std::move(*found);
    claims_.erase(found);
  }
  if (lost > PageCount{0} && count == PageCount{1}) {
    failed_fills_.fetch_add(1);
    log(first, "it could not be supplied: " + std::generic_category().message(error));
  }
  for (auto& [page, waiter] : ended->take_waiters()) {
    if (page < first + supplied) {
      waiter(Supply::ready);
    } else {
      waiter(count == PageCount{1} ? Supply::failed : Supply::retry_alone);
    }
  }
}

Result<bool> MemoryObject::holds(PageIndex first, PageCount count) const {
  if (!huge()) return memfd_.holds(spec_.page_size.offset_of(first), spec_.page_size.bytes(count));
  for (PageIndex page = first; page < first + count; page = page + PageCount{1}) {
    auto held = kernel::HoleGuard::holds(memory_, spec_.page_size.offset_of(page));
    if (!held || *held) return held;
  }
  return false;
}

void MemoryObject::bring_back(PageIndex page, std::function<void()> then) {
  // On the pager's thread: whoever asks may be one whom the watcher waits for when a page comes.
  pager_->post([self = shared_from_this(), page, then = std::move(then)] {
    self->recheck(page);
    const PageCount ready = self->populate(page, PageCount{1}, [then](Supply) { then(); });
    if (ready > PageCount{0}) then();
  });
}

PageCount MemoryObject::run_of_holes(PageIndex first, PageCount limit) const {
  PageCount known;
  for (PageCount step = kHoleStep; known < limit; step = step + step) {
    const PageCount next = std::min(step, limit - known);
    const Result<bool> held = holds(first + known, next);
    if (!held || *held) break;
    known = known + next;
  }
  return known;
}

PageCount MemoryObject::swapped_in(PageIndex first, PageCount count) {
  constexpr std::size_t kRunsAtOnce = 1024;
  const PageIndex end = first + count;
  PageCount here;
  for (PageIndex page = first; page < end && swapped() > PageCount{0};) {
    const std::lock_guard lock(claims_mutex_);
    const SwappedPages::Counted counted = swapped_.count(page, end - page, kRunsAtOnce);
    here = here + counted.here;
    page = counted.reached;
  }
  return here;
}

void MemoryObject::cool(PageIndex first, PageCount count) {
  const PageIndex end = first + count;
  for (PageIndex page = first; page < end; page = page + PageCount{1}) {
    if ((page - first).value() % kHoleStep.value() == 0) {
      page = page + run_of_holes(page, end - page);
      if (page >= end) return;
    }
    if (pages_.referenced(page)) (void)pages_.take_marks(page, wire::kPageReferenced);
  }
}

bool MemoryObject::leave_to_kernel() {
  const std::lock_guard lock(claims_mutex_);
  if (taking_out_) return false;
  unserved_ = true;
  return true;
}

bool MemoryObject::kernel_has_locked(PageIndex page) const {
  const PageState state = pages_.state(page);
  return state == PageState::resident || state == PageState::evicting;
}

PageCount MemoryObject::run_kernel_has(PageIndex first, PageCount limit) {
  const std::lock_guard lock(claims_mutex_);
  if (!from_file()) return swapped_.run_not_here(first, limit);
  PageIndex end = first;
  while (end < first + limit && kernel_has_locked(end)) end = end + PageCount{1};
  return end - first;
}

PageCount MemoryObject::run_kernel_lacks(PageIndex first, PageCount limit) {
  const std::lock_guard lock(claims_mutex_);
  if (!from_file()) return swapped_.run(first, limit).value_or(SwapSlots{}).count;
  PageIndex end = first;
  while (end < first + limit && !kernel_has_locked(end)) end = end + PageCount{1};
  return end - first;
}

bool MemoryObject::drop_swapped(PageIndex first, PageCount count) {
  if (!swap_) return true;
  bool settled = true;
  const PageIndex end = first + count;
  const std::lock_guard lock(claims_mutex_);
  if (eviction_ != nullptr && eviction_->first() < end &&
      first < eviction_->first() + eviction_->count()) {
    settled = false;
  }
  for (auto page = swapped_.next(first); page && *page < end;
       page = swapped_.next(*page + PageCount{1})) {
    if (pages_.state(*page) == PageState::filling) {
      settled = false;
    } else {
      drop_slots_locked(*page, PageCount{1});
    }
  }
  return settled;
}

std::optional<PageIndex> MemoryObject::next_swapped(PageIndex page) {
  const std::lock_guard lock(claims_mutex_);
  return swapped_.next(page);
}

PageCount MemoryObject::run_of_zeroes(PageIndex first, PageCount limit) {
  if (from_file()) return PageCount{0};
  std::unique_lock lock(claims_mutex_, std::defer_lock);
  // Only so are a page's state and its slot of one moment.
  if (swap_) lock.lock();
  PageCount absent = pages_.run_in_no_memory(first, limit);
  if (swap_ && absent > PageCount{0}) absent = swapped_.run_not_here(first, absent);
  if (absent == PageCount{0}) return absent;
  // A client may have written to the memfd itself, which no fault told of.
  for (const PageCount count : {absent, PageCount{1}}) {
    const Result<bool> held = holds(first, count);
    if (held && !*held) return count;
  }
  return PageCount{0};
}

void MemoryObject::recheck(PageIndex page) {
  // Under the mutex no fill begins or ends between the look and the change.
  const std::lock_guard lock(claims_mutex_);
  const Result<bool> held = holds(page, PageCount{1});
  if (!held) {
    log(page, held.error().message());
  } else if (!*held) {
    pages_.forget(page);
  }
}

Result<std::uint64_t> MemoryObject::peek(ByteCount offset) const {
  const std::uint64_t from = offset.value() & ~std::uint64_t{3};
  // No word is in two pages; the next one may be in no memory, and has to stay so.
  const std::uint64_t page = spec_.page_size.bytes().value();
  const std::uint64_t there = std::min<std::uint64_t>(sizeof(std::uint64_t), page - from % page);
  std::uint64_t value = 0;
  auto read = kernel::read_own_memory(memory_.data() + from,
                                      std::as_writable_bytes(std::span(&value, 1)).first(there));
  if (!read) return propagate(read);
  return value;
}

// Eight bytes of where a page's content is, read for somebody who must not have the page in memory
// for that.
class MemoryObject::Glance final : public kernel::RingOperation {
 public:
  using Seen = std::function<void(Result<std::uint64_t>)>;
  Glance(std::shared_ptr<MemoryObject> object, ByteCount from, const ContentSource& source,
         Seen seen)
      : object_(std::move(object)), from_(from), source_(source), seen_(std::move(seen)) {}

  static void begin(std::unique_ptr<Glance> glance) {
    FilePager& pager = *glance->object_->pager_;
    pager.post([raw = glance.release()] { raw->read(); });
  }
  void on_complete(int result) override {
    if (result == -EINTR || result == -EAGAIN) return read();
    const std::unique_ptr<Glance> done(this);
    // A slot may have got another page's content since it was looked up.
    if (source_.swapped && !still_there()) return object_->glance(from_, seen_);
    if (result < 0) return seen_(fail(-result, "reading a word of an object's content"));
    seen_(value_);  // what is past the end is 0
  }

 private:
  void read() {
    auto into = std::as_writable_bytes(std::span(&value_, 1));
    object_->pager_->read(*this, source_.fd,
                          into.first(std::min<std::uint64_t>(source_.length.value(), into.size())),
                          source_.offset, source_.begin);
  }
  [[nodiscard]] bool still_there() const {
    const PageSize page_size = object_->page_size();
    const ByteCount in_page = from_ - page_size.round_down(from_);
    const std::lock_guard lock(object_->claims_mutex_);
    const auto slot = object_->swapped_.run(page_size.index_of(from_), PageCount{1});
    return slot && SwapFile::offset_of(slot->first) + in_page == source_.offset;
  }

  const std::shared_ptr<MemoryObject> object_;
  const ByteCount from_;
  const ContentSource source_;
  const Seen seen_;
  std::uint64_t value_ = 0;
};

void MemoryObject::glance(ByteCount offset, std::function<void(Result<std::uint64_t>)> seen) {
  const ByteCount from{offset.value() & ~std::uint64_t{3}};
  const ByteCount start = spec_.page_size.round_down(from);
  const PageIndex page = spec_.page_size.index_of(from);
  // A client may have written to the memfd itself, which no fault told of.
  const Result<bool> held = holds(page, PageCount{1});
  if (held && *held) {
    auto value = peek(from);
    if (value || !may_wait()) return seen(std::move(value));
  }
  std::unique_lock lock(claims_mutex_);
  if (PageClaim* const claim = claim_on_locked(page)) {
    // Where its content is can be told when it has come, or gone.
    return claim->add_waiter(
        page, [self = shared_from_this(), from, seen = std::move(seen)](Supply supply) {
          if (supply == Supply::failed) return seen(fail(EIO, "reading a word of an object"));
          self->glance(from, seen);
        });
  }
  PageCount one{1};
  auto source = source_locked(page, one);
  lock.unlock();
  if (!source) return seen(std::uint64_t{0});
  const ByteCount skip = from - start;
  source->offset = source->offset + skip;
  source->length = source->length > skip ? source->length - skip : ByteCount{0};
  Glance::begin(std::make_unique<Glance>(shared_from_this(), from, *source, std::move(seen)));
}

Status MemoryObject::poke(ByteCount offset, std::uint32_t value) {
  const ByteCount from{offset.value() & ~std::uint64_t{3}};
  const PageIndex page = spec_.page_size.index_of(from);
  // Under the mutex no eviction begins: what is stored is there when one does.
  const std::lock_guard lock(claims_mutex_);
  if (pages_.state(page) == PageState::evicting) {
    return fail(EFAULT, "storing to a page that leaves memory");
  }
  auto written =
      kernel::write_own_memory(memory_.data() + from.value(), std::as_bytes(std::span(&value, 1)));
  if (written) stored(page, PageCount{1});
  return written;
}

}  // namespace faultline::memory
