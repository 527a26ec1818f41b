#include "daemon/memory/fill.hpp"

#include <algorithm>
#include <cerrno>

#include "daemon/memory/memory_object.hpp"

namespace faultline::memory {

Fill::Fill(std::shared_ptr<MemoryObject> object, PageIndex first, PageCount count,
           const ContentSource& source)
    : PageClaim(first, count), object_(std::move(object)), source_(source) {}

void Fill::submit() {
  object_->pager_->post([this] { begin(); });
}

void Fill::on_complete(int result) {
  if (result == -EINTR || result == -EAGAIN) return go_on();
  if (result > 0) {
    got_ = got_ + ByteCount{static_cast<std::uint64_t>(result)};
    if (got_ < part()) return go_on();  // a short read is not yet the end of the file
  }
  if (auto put = put_what_came(); !put) return end(put.error().code());
  if (result <= 0) return end(result < 0 ? -result : ENODATA);
  if (done_ == source_.length) return end(0);
  go_on();
}

void Fill::begin() {
  auto buffer = object_->pager_->take_buffer(FilePager::buffer_for(object_->page_size()));
  if (!buffer) return end(buffer.error().code());
  buffer_ = std::move(*buffer);
  go_on();
}

void Fill::go_on() {
  object_->pager_->read(*this, source_.fd,
                        buffer_.bytes().subspan(got_.value(), (part() - got_).value()),
                        source_.offset + done_ + got_, source_.begin);
}

Status Fill::put_what_came() {
  const PageSize page_size = object_->page_size();
  ByteCount bytes = got_;
  if (got_ == part()) {
    bytes = page_size.round_up(got_);
    std::ranges::fill(buffer_.bytes().first(bytes.value()).subspan(got_.value()), std::byte{0});
  } else {
    // Whole pages only: the page in which the file now ends has lost content that it had.
    got_ = bytes = page_size.round_down(got_);
  }
  auto put = object_->guard_->put(object_->memory_, page_size.offset_of(first()) + done_,
                                  buffer_.bytes().first(bytes.value()), page_size);
  if (put) done_ = done_ + got_;
  got_ = ByteCount{0};
  return put;
}

void Fill::end(int error) {
  if (buffer_.data() != nullptr) object_->pager_->give_back(std::move(buffer_));
  const PageCount supplied = done_ == source_.length ? count() : object_->page_size().pages(done_);
  const std::shared_ptr<MemoryObject> object = object_;  // finish destroys this fill
  object->finish(*this, supplied, error);
}

ByteCount Fill::part() const {
  return std::min(FilePager::buffer_for(object_->page_size()), source_.length - done_);
}

}  // namespace faultline::memory
