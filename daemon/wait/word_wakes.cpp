#include "daemon/wait/word_wakes.hpp"

#include "daemon/wait/word_in_vma.hpp"

namespace faultline::wait {

Result<int> WordWakes::wake(const Client& client, const space::Vma& vma, Vaddr address, int count,
                            std::uint32_t mask, const std::function<void()>& again) {
  auto found =
      words_.find(client.space_id, vma, address, nullptr, [&] { return client.has(vma, address); });
  if (!found) return propagate(found);
  if (found->kind == WordKind::shared || found->kind == WordKind::clean) {
    return unqueued_.wake_at_object(*vma.object, offset_in(vma, address), count, mask, again);
  }
  return words_.wake(client.space_id, address, count, mask);
}

void WordWakes::hand_on(const Woken& woken) {
  if (woken.object != nullptr) {
    unqueued_.hand_on(woken.object, ByteCount{woken.offset}, 1, woken.mask);
  } else if (woken.frame != space::FrameId{}) {
    words_.hand_on(woken.frame, woken.in_page, woken.mask);
  } else {
    words_.hand_on(woken.space, woken.address, woken.mask);
  }
}

void WordWakes::hand_on(SpaceId space, const space::Vma& vma, Vaddr address) {
  const auto found = words_.find(space, vma, address);
  if (!found) return;
  if (found->kind == WordKind::shared || found->kind == WordKind::clean) {
    unqueued_.hand_on(vma.object, offset_in(vma, address), 1, kernel::kEveryBit);
  } else {
    words_.hand_on(space, address, kernel::kEveryBit);
  }
}

}  // namespace faultline::wait
