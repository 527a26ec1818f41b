#include "daemon/space/fault_around.hpp"

#include <algorithm>

namespace faultline::space {

PageCount FaultAround::window(PageIndex page, AccessKind kind) {
  ++clock_;
  std::size_t oldest = 0;
  for (std::size_t i = 0; i < kStreams; ++i) {
    Stream& stream = streams_.at(i);
    // A page read ahead in vain costs a page table entry, a page copied ahead in vain costs the
    // page: a reader may skip some, a writer may not.
    const PageCount reach = kind == AccessKind::read ? stream.window : PageCount{1};
    if (stream.kind == kind && page >= stream.expected && page < stream.expected + reach) {
      stream.window = std::min(PageCount{stream.window.value() * kGrowth}, kMaxWindow);
      stream.ahead = PageCount{0};
      stream.used_at = clock_;
      current_ = i;
      return stream.window;
    }
    if (stream.used_at < streams_.at(oldest).used_at) oldest = i;
  }
  Stream& stream = streams_.at(oldest);
  unused_ += stream.ahead.value();
  stream = Stream{page, PageCount{1}, PageCount{0}, clock_, kind};
  current_ = oldest;
  return stream.window;
}

void FaultAround::installed(PageIndex page, PageCount count, PageCount ahead) {
  Stream& stream = streams_.at(current_);
  stream.expected = page + count;
  stream.ahead = ahead;
}

std::uint64_t FaultAround::unused_ahead() const {
  std::uint64_t unused = unused_;
  for (const Stream& stream : streams_) unused += stream.ahead.value();
  return unused;
}

}  // namespace faultline::space
