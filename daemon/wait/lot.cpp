#include "daemon/wait/lot.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <climits>
#include <vector>

namespace faultline::wait {

namespace {
constexpr SlotIndex kNobodyWakes{1};
}

Result<Lot> Lot::create(Options options) {
  auto memory = kernel::PublishedMemory::create(
      "faultline:lot", ByteCount{std::uint64_t{wire::kLotSlots} * sizeof(wire::LotSlot)});
  if (!memory) return propagate(memory);
  return Lot{std::move(*memory), std::move(options)};
}

wire::LotSlot& Lot::at(SlotIndex slot) const {
  assert(slot.value() > 0 && slot.value() < wire::kLotSlots);
  return reinterpret_cast<wire::LotSlot*>(memory_.data())[slot.value()];
}

std::uint32_t Lot::generation(SlotIndex slot) const {
  return at(slot).wake.load(std::memory_order_relaxed);  // written by this process alone
}

std::optional<SlotIndex> Lot::take() {
  std::optional<SlotIndex> taken;
  const bool fresh = never_used_ < wire::kLotSlots;
  if (resting_.size() > kRest || (!fresh && !resting_.empty())) {
    taken = resting_.front();
    resting_.pop_front();
  } else if (fresh) {
    taken = SlotIndex{never_used_++};
  } else {
    return std::nullopt;
  }
  at(*taken).next.store(static_cast<std::uint32_t>(taken->value()), std::memory_order_relaxed);
  return taken;
}

void Lot::close(SlotIndex slot) {
  // From here on nobody queues at it: the kernel compares this under the lock of the queue.
  at(slot).wake.fetch_add(1, std::memory_order_seq_cst);
}

int Lot::move_on(SlotIndex from, SlotIndex to) {
  close(from);
  reached(BreakStep::closed);
  const int moved = kernel::futex_requeue_shared(at(from).wake, 0, INT_MAX, at(to).wake);
  reached(BreakStep::requeued);
  resting_.push_back(from);
  return moved;
}

void Lot::give_up(SlotIndex slot) {
  (void)move_on(slot, kNobodyWakes);
}

void Lot::hold(std::span<const SlotIndex> slots) const {
  for (const SlotIndex slot : slots) at(slot).version.fetch_add(1, std::memory_order_seq_cst);
}

void Lot::release(std::span<const SlotIndex> slots) const {
  for (const SlotIndex slot : slots) at(slot).version.fetch_add(1, std::memory_order_seq_cst);
}

void Lot::chain(std::span<const SlotIndex> group) const {
  for (std::size_t i = 0; i < group.size(); ++i) {
    const SlotIndex next = group[(i + 1) % group.size()];
    at(group[i]).next.store(static_cast<std::uint32_t>(next.value()), std::memory_order_release);
  }
}

void Lot::link(std::span<const SlotIndex> group) const {
  hold(group);
  chain(group);
  release(group);
}

int Lot::replace(std::span<const SlotIndex> group, SlotIndex from, SlotIndex to) {
  std::vector<SlotIndex> replaced(group.begin(), group.end());
  std::ranges::replace(replaced, from, to);
  hold(group);
  chain(replaced);
  const int moved = move_on(from, to);
  release(group);
  const std::array alone{from};
  link(alone);
  return moved;
}

void Lot::unlink(SlotIndex leaving, std::span<const SlotIndex> rest) const {
  const std::array alone{leaving};
  link(rest);
  link(alone);
}

}  // namespace faultline::wait
