#include "daemon/memory/memory_object.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

#include "daemon/kernel/log_budget.hpp"
#include "daemon/kernel/own_memory.hpp"

namespace faultline::memory {

// One read of a run of pages, in parts of a buffer's size, and who waits for it. Keeps its object
// alive until the read has ended.
class MemoryObject::Fill final : public kernel::RingOperation {
 public:
  Fill(std::shared_ptr<MemoryObject> object, PageIndex first, PageCount count)
      : object_(std::move(object)), first_(first), count_(count) {
    const ByteCount length = object_->spec_.file->length;
    wanted_ = std::min(object_->page_size().bytes(count_), length - start());
  }

  [[nodiscard]] PageIndex first() const { return first_; }
  [[nodiscard]] PageCount count() const { return count_; }
  [[nodiscard]] bool covers(PageIndex page) const {
    return page >= first_ && page < first_ + count_;
  }
  void add_waiter(PageIndex page, Waiter waiter) { waiters_.emplace_back(page, std::move(waiter)); }
  std::vector<std::pair<PageIndex, Waiter>> take_waiters() { return std::exchange(waiters_, {}); }

  void submit() {
    object_->pager_->post([this] { begin(); });
  }

  void on_complete(int result) override {
    if (result == -EINTR || result == -EAGAIN) return go_on();
    if (result > 0) {
      got_ = got_ + ByteCount{static_cast<std::uint64_t>(result)};
      if (got_ < part()) return go_on();  // a short read is not yet the end of the file
    }
    if (auto put = put_what_came(); !put) return end(put.error().code());
    if (result <= 0) return end(result < 0 ? -result : ENODATA);
    if (done_ == wanted_) return end(0);
    go_on();
  }

 private:
  // The pager's thread, as all that follows.
  void begin() {
    auto buffer = object_->pager_->take_buffer();
    if (!buffer) return end(buffer.error().code());
    buffer_ = std::move(*buffer);
    go_on();
  }
  void go_on() {
    const FileSource& file = *object_->spec_.file;
    object_->pager_->read(
        *this, file.fd.get(), buffer_.bytes().subspan(got_.value(), (part() - got_).value()),
        file.offset + start() + done_ + got_,
        file.answered_by_others ? kernel::Ring::Begin::elsewhere : kernel::Ring::Begin::here);
  }
  Status put_what_came() {
    const PageSize page_size = object_->page_size();
    ByteCount bytes = got_;
    if (got_ == part()) {
      bytes = page_size.round_up(got_);
      std::ranges::fill(buffer_.bytes().first(bytes.value()).subspan(got_.value()), std::byte{0});
    } else {
      // Whole pages only: the page in which the file now ends has lost content that it had.
      got_ = bytes = page_size.round_down(got_);
    }
    auto put = object_->guard_->put(object_->memory_, start() + done_,
                                    buffer_.bytes().first(bytes.value()));
    if (put) done_ = done_ + got_;
    got_ = ByteCount{0};
    return put;
  }
  void end(int error) {
    if (buffer_.data() != nullptr) object_->pager_->give_back(std::move(buffer_));
    const PageCount supplied = done_ == wanted_ ? count_ : object_->page_size().pages(done_);
    const std::shared_ptr<MemoryObject> object = object_;  // finish destroys this fill
    object->finish(*this, supplied, error);
  }

  [[nodiscard]] ByteCount start() const { return object_->page_size().offset_of(first_); }
  // How much of the file the buffer is to hold now.
  [[nodiscard]] ByteCount part() const { return std::min(FilePager::kBuffer, wanted_ - done_); }

  std::shared_ptr<MemoryObject> object_;
  PageIndex first_;
  PageCount count_;
  kernel::MappedMemory buffer_;
  ByteCount wanted_;  // from the file
  ByteCount done_;    // of it, in the memfd: whole buffers, until the last
  ByteCount got_;     // in the buffer
  std::vector<std::pair<PageIndex, Waiter>> waiters_;
};

MemoryObject::MemoryObject(ObjectId id, ObjectSpec spec, kernel::Memfd memfd,
                           kernel::MappedMemory memory, const kernel::HoleGuard* guard,
                           PageTable pages, FilePager* pager)
    : id_(id),
      spec_(std::move(spec)),
      memfd_(std::move(memfd)),
      memory_(std::move(memory)),
      guard_(guard),
      pages_(std::move(pages)),
      pager_(pager) {}

Result<std::shared_ptr<MemoryObject>> MemoryObject::create(ObjectId id, ObjectSpec spec,
                                                           FilePager* pager) {
  assert((pager != nullptr) == spec.file.has_value());
  const ByteCount size = spec.page_size.round_up(spec.content_size);
  auto memfd =
      kernel::Memfd::create("faultline:" + (spec.name.empty() ? "anonymous" : spec.name), size);
  if (!memfd) return propagate(memfd);
  auto memory = kernel::MappedMemory::create(size, PROT_READ | PROT_WRITE,
                                             MAP_SHARED | MAP_NORESERVE, memfd->writable_fd());
  if (!memory) return propagate(memory);
  const kernel::HoleGuard* guard = nullptr;
  if (spec.file) {
    auto of_process = kernel::HoleGuard::of_process();
    if (!of_process) return propagate(of_process);
    guard = *of_process;
    if (auto guarded = guard->guard(*memory); !guarded) return propagate(guarded);
  }
  auto pages = PageTable::create(spec.page_size.pages(size));
  if (!pages) return propagate(pages);
  return std::shared_ptr<MemoryObject>{new MemoryObject(
      id, std::move(spec), std::move(*memfd), std::move(*memory), guard, std::move(*pages), pager)};
}

void MemoryObject::log(PageIndex page, const std::string& what) const {
  kernel::log_budget_of(spec_.uid).log(spdlog::level::err, "object {} ({}) page {}: {}",
                                       id_.value(), name().empty() ? "anonymous" : name(),
                                       page.value(), what);
}

PageCount MemoryObject::populate(PageIndex first, PageCount window, Waiter waiter) {
  assert(first + window <= PageIndex{} + page_count());
  const PageCount ready = pages_.run(first, window, PageState::resident);
  if (ready == window) return ready;
  if (from_file()) return populate_file(first, window, std::move(waiter));
  return populate_zero(first, window, waiter);
}

PageCount MemoryObject::populate_zero(PageIndex first, PageCount window, const Waiter& waiter) {
  const auto allocate = [&](PageCount count) {
    return memory_.populate(spec_.page_size.offset_of(first), spec_.page_size.bytes(count));
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

PageCount MemoryObject::populate_file(PageIndex first, PageCount window, Waiter waiter) {
  const std::lock_guard lock(fills_mutex_);
  const PageCount ready = pages_.run(first, window, PageState::resident);
  if (ready == PageCount{0}) {
    const auto fill =
        std::find_if(fills_.begin(), fills_.end(), [&](const auto& f) { return f->covers(first); });
    if (fill != fills_.end()) {
      (*fill)->add_waiter(first, std::move(waiter));
      return PageCount{0};
    }
  }
  // Under the mutex nobody else claims, so what is absent here stays so until it is claimed below.
  const PageIndex start = first + ready;
  const PageCount absent = pages_.run_in_no_memory(start, window - ready);
  if (absent > PageCount{0}) {
    pages_.mark(start, absent, PageState::filling);
    auto fill = std::make_unique<Fill>(shared_from_this(), start, absent);
    if (ready == PageCount{0}) fill->add_waiter(first, std::move(waiter));
    fills_begun_.fetch_add(1);
    fill->submit();
    fills_.push_back(std::move(fill));
  }
  return ready;
}

void MemoryObject::finish(Fill& fill, PageCount supplied, int error) {
  const PageIndex first = fill.first();
  const PageCount count = fill.count();
  const PageCount lost = count - supplied;
  std::unique_ptr<Fill> ended;
  if (supplied > PageCount{0}) tell_watcher(first, supplied);
  {
    const std::lock_guard lock(fills_mutex_);
    pages_.mark(first, supplied, PageState::resident);
    pages_.mark(first + supplied, lost, PageState::absent);
    const auto found =
        std::find_if(fills_.begin(), fills_.end(), [&](const auto& f) { return f.get() == &fill; });
    ended = std::move(*found);
    fills_.erase(found);
  }
  if (lost > PageCount{0} && count == PageCount{1}) {
    failed_fills_.fetch_add(1);
    log(first, "the file could not supply it: " + std::generic_category().message(error));
  }
  for (auto& [page, waiter] : ended->take_waiters()) {
    if (page < first + supplied) {
      waiter(Supply::ready);
    } else {
      waiter(count == PageCount{1} ? Supply::failed : Supply::retry_alone);
    }
  }
}

PageCount MemoryObject::run_of_zeroes(PageIndex first, PageCount limit) const {
  if (from_file()) return PageCount{0};
  const PageCount absent = pages_.run_in_no_memory(first, limit);
  if (absent == PageCount{0}) return absent;
  // A client may have written to the memfd itself, which no fault told of.
  for (const PageCount count : {absent, PageCount{1}}) {
    const Result<bool> held =
        memfd_.holds(spec_.page_size.offset_of(first), spec_.page_size.bytes(count));
    if (held && !*held) return count;
  }
  return PageCount{0};
}

void MemoryObject::recheck(PageIndex page) {
  // Under the mutex no fill begins or ends between the look and the change.
  const std::lock_guard lock(fills_mutex_);
  const Result<bool> held = memfd_.holds(spec_.page_size.offset_of(page), spec_.page_size.bytes());
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

// Eight bytes of a file, read for somebody who must not have the page in memory for that.
class MemoryObject::Glance final : public kernel::RingOperation {
 public:
  using Seen = std::function<void(Result<std::uint64_t>)>;
  Glance(std::shared_ptr<MemoryObject> object, ByteCount from, Seen seen)
      : object_(std::move(object)), from_(from), seen_(std::move(seen)) {}

  static void begin(std::unique_ptr<Glance> glance) {
    FilePager& pager = *glance->object_->pager_;
    pager.post([raw = glance.release()] { raw->read(); });
  }
  void on_complete(int result) override {
    if (result == -EINTR || result == -EAGAIN) return read();
    const std::unique_ptr<Glance> done(this);
    if (result < 0) return seen_(fail(-result, "reading a word of an object's file"));
    seen_(value_);  // what is past the end is 0
  }

 private:
  void read() {
    const FileSource& file = *object_->spec_.file;
    const std::uint64_t left =
        file.length > from_ ? (file.length - from_).value() : std::uint64_t{0};
    auto into = std::as_writable_bytes(std::span(&value_, 1));
    object_->pager_->read(
        *this, file.fd.get(), into.first(std::min<std::uint64_t>(left, into.size())),
        file.offset + from_,
        file.answered_by_others ? kernel::Ring::Begin::elsewhere : kernel::Ring::Begin::here);
  }

  const std::shared_ptr<MemoryObject> object_;
  const ByteCount from_;
  const Seen seen_;
  std::uint64_t value_ = 0;
};

void MemoryObject::glance(ByteCount offset, std::function<void(Result<std::uint64_t>)> seen) {
  const ByteCount from{offset.value() & ~std::uint64_t{3}};
  const ByteCount page = spec_.page_size.round_down(from);
  // A client may have written to the memfd itself, which no fault told of.
  const Result<bool> held = memfd_.holds(page, spec_.page_size.bytes());
  if (held && *held) return seen(peek(from));
  if (!from_file()) return seen(std::uint64_t{0});
  Glance::begin(std::make_unique<Glance>(shared_from_this(), from, std::move(seen)));
}

Status MemoryObject::poke(ByteCount offset, std::uint32_t value) const {
  return kernel::write_own_memory(memory_.data() + (offset.value() & ~std::uint64_t{3}),
                                  std::as_bytes(std::span(&value, 1)));
}

}  // namespace faultline::memory
