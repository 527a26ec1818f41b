#include "daemon/space/frame_ids.hpp"

#include <atomic>

namespace faultline::space {

namespace {
// Beyond, a mapping of the daemon's own: it takes memory only where it is written.
constexpr std::uint64_t kSmall = 512;
}  // namespace

FrameId new_frame_id() {
  static std::atomic<std::uint64_t> given{0};
  return FrameId{given.fetch_add(1, std::memory_order_relaxed) + 1};
}

Result<FrameIds> FrameIds::create(PageIndex first, PageCount size) {
  FrameIds ids(first);
  if (size.value() <= kSmall) {
    ids.small_.resize(size.value());
    return ids;
  }
  auto mapping = kernel::MappedMemory::create(ByteCount{size.value() * sizeof(std::uint64_t)},
                                              PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  if (!mapping) return propagate(mapping);
  ids.mapping_ = std::move(*mapping);
  return ids;
}

Result<FrameIds::Published> FrameIds::create_published(PageIndex first, PageCount size) {
  auto memory = kernel::PublishedMemory::create("faultline:frames",
                                                ByteCount{size.value() * sizeof(std::uint64_t)});
  if (!memory) return propagate(memory);
  Published made{FrameIds(first), memory->take_fd()};
  made.ids.published_.emplace(std::move(*memory));
  return made;
}

}  // namespace faultline::space
