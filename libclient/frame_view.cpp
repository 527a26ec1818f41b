#include "libclient/frame_view.hpp"

#include <sys/mman.h>

#include "libclient/failure.hpp"
#include "libclient/place.hpp"

namespace faultline::client {

std::shared_ptr<const FrameView> FrameView::open(const wire::OpenFramesReply& reply,
                                                 const UniqueFd& frames) {
  void* const mapped = ::mmap(nullptr, reply.pages * sizeof(std::uint64_t), PROT_READ,
                              MAP_SHARED | MAP_NORESERVE, frames.get(), 0);
  if (mapped == MAP_FAILED) throw_errno("mapping the frames of a private mapping");
  // A fork child has other pages.
  if (::madvise(mapped, reply.pages * sizeof(std::uint64_t), MADV_DONTFORK) != 0) {
    const int code = errno;
    ::munmap(mapped, reply.pages * sizeof(std::uint64_t));
    throw Failure(code, "madvise(MADV_DONTFORK)");
  }
  return {new FrameView(reply, static_cast<const std::atomic<std::uint64_t>*>(mapped)),
          [](const FrameView* view) {
            places_changed();
            give_back_later(std::unique_ptr<const Retirable>(view));
          }};
}

FrameView::~FrameView() {
  if (made_in_ != life.load(std::memory_order_relaxed)) return;
  ::munmap(const_cast<std::atomic<std::uint64_t>*>(entries_), count_ * sizeof(std::uint64_t));
}

}  // namespace faultline::client
