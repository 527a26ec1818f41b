#include "daemon/wait/word_wakes.hpp"

#include "daemon/wait/word_in_vma.hpp"

namespace faultline::wait {

namespace {

void wake_one(const std::vector<const kernel::FutexWord*>& futexes, std::uint32_t mask) {
  for (const kernel::FutexWord* futex : futexes) {
    if (kernel::futex_wake_shared(*futex, 1, mask) > 0) return;
  }
}

}  // namespace

Result<int> WordWakes::wake(SpaceId space, const space::Vma& vma, Vaddr address, int count,
                            std::uint32_t mask) {
  auto found = words_.find(space, vma, address);
  if (!found) return propagate(found);
  if (found->kind == WordKind::shared || found->kind == WordKind::clean) {
    return unqueued_.wake_at_object(*vma.object, offset_in(vma, address), count, mask);
  }
  return words_.wake(space, address, count, mask);
}

void WordWakes::hand_on(const Woken& woken) {
  if (woken.object != nullptr) {
    (void)unqueued_.wake_at_object(*woken.object, ByteCount{woken.offset}, 1, woken.mask);
  } else if (woken.frame != space::FrameId{}) {
    wake_one(words_.frame_group(woken.frame, woken.address), woken.mask);
  } else {
    wake_one(words_.group(woken.space, woken.address), woken.mask);
  }
}

void WordWakes::hand_on(SpaceId space, const space::Vma& vma, Vaddr address) {
  const auto found = words_.find(space, vma, address);
  if (!found) return;
  if (found->kind == WordKind::shared || found->kind == WordKind::clean) {
    (void)unqueued_.wake_at_object(*vma.object, offset_in(vma, address), 1, kernel::kEveryBit);
  } else {
    wake_one(words_.group(space, address), kernel::kEveryBit);
  }
}

}  // namespace faultline::wait
