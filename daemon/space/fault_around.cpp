#include "daemon/space/fault_around.hpp"

#include <algorithm>

namespace faultline::space {

PageCount FaultAround::window(PageIndex page, AccessKind kind) {
  ++clock_;
  std::size_t oldest = 0;
  for (std::size_t i = 0; i < kStreams; ++i) {
    Stream& stream = streams_.at(i);
    if (stream.kind == kind && continues(stream, page)) {
      current_ = i;
      stream.used_at = clock_;
      // A fault that had to wait asks again; its having waited says nothing about the access.
      if (stream.pending && stream.asked == page) return stream.window;
      stream.window = std::min(PageCount{stream.window.value() * kGrowth}, kMaxWindow);
      stream.ahead = PageCount{0};
      stream.asked = page;
      stream.pending = true;
      return stream.window;
    }
    if (stream.used_at < streams_.at(oldest).used_at) oldest = i;
  }
  Stream& stream = streams_.at(oldest);
  unused_ += stream.ahead.value();
  stream = Stream{.expected = page,
                  .asked = page,
                  .window = PageCount{1},
                  .used_at = clock_,
                  .kind = kind,
                  .pending = true};
  current_ = oldest;
  return stream.window;
}

bool FaultAround::continues(const Stream& stream, PageIndex page) {
  // A page read ahead in vain costs a page table entry, a page copied ahead in vain costs the page:
  // a reader may skip some, a writer may not.
  const PageCount reach = stream.kind == AccessKind::read ? stream.window : PageCount{1};
  return page >= stream.expected && page < stream.expected + reach;
}

void FaultAround::installed(PageIndex page, PageCount count, PageCount ahead) {
  Stream& stream = streams_.at(current_);
  stream.expected = page + count;
  stream.ahead = ahead;
  stream.pending = false;
}

std::uint64_t FaultAround::unused_ahead() const {
  std::uint64_t unused = unused_;
  for (const Stream& stream : streams_) unused += stream.ahead.value();
  return unused;
}

}  // namespace faultline::space
