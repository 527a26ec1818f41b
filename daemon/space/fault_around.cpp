#include "daemon/space/fault_around.hpp"

#include <algorithm>

namespace faultline::space {

FaultAround::Window FaultAround::window(PageIndex page, AccessKind kind, Advice advice) {
  if (advice == Advice::random) return window_at_random();
  ++clock_;
  std::size_t oldest = 0;
  for (std::size_t i = 0; i < kStreams; ++i) {
    Stream& stream = streams_.at(i);
    if (stream.kind == kind && continues(stream, page)) {
      stream.used_at = clock_;
      // A fault that had to wait asks again; its having waited says nothing about the access.
      if (stream.pending && stream.asked == page) return {stream.window, i, clock_};
      stream.window = std::min(PageCount{stream.window.value() * kGrowth}, kMaxWindow);
      stream.ahead = PageCount{0};
      stream.asked = page;
      stream.pending = true;
      return {stream.window, i, clock_};
    }
    if (stream.used_at < streams_.at(oldest).used_at) oldest = i;
  }
  Stream& stream = streams_.at(oldest);
  unused_ += stream.ahead.value();
  // A copy made ahead in vain costs a page, so a writer has to show that it goes on.
  const bool open = advice == Advice::sequential && kind == AccessKind::read;
  stream = Stream{.expected = page,
                  .asked = page,
                  .window = open ? kMaxWindow : PageCount{1},
                  .used_at = clock_,
                  .kind = kind,
                  .pending = true};
  return {stream.window, oldest, clock_};
}

bool FaultAround::continues(const Stream& stream, PageIndex page) {
  // A page read ahead in vain costs a page table entry, a page copied ahead in vain costs the page:
  // a reader may skip some, a writer may not.
  const PageCount reach = stream.kind == AccessKind::read ? stream.window : PageCount{1};
  return page >= stream.expected && page < stream.expected + reach;
}

void FaultAround::installed(const Window& window, PageIndex page, PageCount count,
                            PageCount ahead) {
  if (!window.in_stream() || streams_.at(window.stream).used_at != window.asked_at) {
    unused_ += ahead.value();  // another fault has taken the stream over, or there is none
    return;
  }
  Stream& stream = streams_.at(window.stream);
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
