// Slots of a lot: what the kernel's queues do with those who queue there, and what a client sees.
#include "daemon/wait/lot.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <set>
#include <thread>
#include <vector>

#include "tests/unit/kernel_waits.hpp"
#include "tests/unit/lot_view.hpp"
#include "tests/unit/slower.hpp"

namespace faultline::wait {
namespace {

using testing::KernelWait;
using testing::kSlower;
using testing::LotView;

class LotTest : public ::testing::Test {
 protected:
  SlotIndex take() {
    const auto taken = lot_.take();
    EXPECT_TRUE(taken);
    return *taken;
  }
  KernelWait& wait_at(SlotIndex slot) {
    return waits_.begin(lot_.word(slot), lot_.generation(slot));
  }
  [[nodiscard]] int wake(SlotIndex slot, int count = INT_MAX) {
    const int woken = kernel::futex_wake_shared(lot_.word(slot), count);
    waits_.look();
    return woken;
  }

  Lot lot_{*Lot::create()};
  const LotView view_{lot_.fd()};
  testing::KernelWaits waits_;
};

// Slots that are in use at the same time are different ones, none of them the two that have a
// meaning of their own, and each is alone in its group.
TEST_F(LotTest, TakenSlotsAreDifferentOnes) {
  std::set<SlotIndex> taken;
  for (int i = 0; i < 1000; ++i) {
    const SlotIndex slot = take();
    EXPECT_GT(slot.value(), 1U);
    EXPECT_EQ(view_.group_of(slot), std::vector{slot});
    taken.insert(slot);
  }
  EXPECT_EQ(taken.size(), 1000U);
}

// A client reads in its own mapping what the daemon writes, can wake there, and cannot write.
TEST_F(LotTest, ClientsReadAndWakeButCannotWrite) {
  const SlotIndex slot = take();
  KernelWait& wait = wait_at(slot);
  EXPECT_EQ(view_[slot].wake.load(), lot_.generation(slot));
  EXPECT_EQ(kernel::futex_wake_shared(view_[slot].wake, 1), 1);
  waits_.look();
  EXPECT_TRUE(wait.woken());
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, lot_.fd(), 0), MAP_FAILED);
  EXPECT_EQ(errno, EPERM);
}

// Everybody at a slot that moves on queues at the other one, in the same order, and is counted.
TEST_F(LotTest, MovingOnTakesEverybodyAlongInTheirOrder) {
  const SlotIndex from = take();
  const SlotIndex to = take();
  std::array<KernelWait*, 3> waits{&wait_at(from), &wait_at(from), &wait_at(from)};
  EXPECT_EQ(lot_.move_on(from, to), 3);
  EXPECT_EQ(wake(from), 0);
  for (std::size_t i = 0; i < waits.size(); ++i) {
    EXPECT_EQ(wake(to, 1), 1);
    for (std::size_t j = 0; j < waits.size(); ++j) {
      EXPECT_EQ(waits.at(j)->woken(), j <= i) << i << " " << j;
    }
  }
}

// Who looked a slot up before it was given up cannot queue there any more.
TEST_F(LotTest, NobodyQueuesAtASlotThatWasGivenUp) {
  const SlotIndex slot = take();
  const std::uint32_t before = lot_.generation(slot);
  lot_.give_up(slot);
  EXPECT_NE(lot_.generation(slot), before);
  EXPECT_EQ(waits_.begin(lot_.word(slot), before).result(), -EAGAIN);
  const SlotIndex other = take();
  const SlotIndex next = take();
  const std::uint32_t of_other = lot_.generation(other);
  EXPECT_EQ(lot_.move_on(other, next), 0);
  EXPECT_EQ(waits_.begin(lot_.word(other), of_other).result(), -EAGAIN);
}

// Who is at a slot as it is given up is woken neither there nor at any slot that is taken later.
TEST_F(LotTest, WhoQueuesAtASlotThatIsGivenUpIsWokenByNobody) {
  const SlotIndex slot = take();
  const KernelWait& wait = wait_at(slot);
  lot_.give_up(slot);
  EXPECT_EQ(wake(slot), 0);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(wake(take()), 0);
  EXPECT_TRUE(wait.queued());
}

// A slot that was given up is taken again when kRest others were given up after it, no earlier, and
// with a generation that it did not have in its former use.
TEST_F(LotTest, RestsUntilSoManyOthersWereGivenUp) {
  const SlotIndex slot = take();
  const std::uint32_t before = lot_.generation(slot);
  lot_.give_up(slot);
  for (std::size_t others = 0; others < Lot::kRest; ++others) {
    const SlotIndex other = take();
    ASSERT_NE(other, slot) << "after " << others << " others";
    lot_.give_up(other);
  }
  EXPECT_EQ(take(), slot);
  EXPECT_NE(lot_.generation(slot), before);
  EXPECT_EQ(waits_.begin(lot_.word(slot), before).result(), -EAGAIN);
}

// Where all slots are in use there is none; the one that is given up then need not rest.
TEST_F(LotTest, HasNoneWhereAllAreInUse) {
  std::vector<bool> seen(wire::kLotSlots);
  std::size_t taken = 0;
  while (const auto slot = lot_.take()) {
    ASSERT_FALSE(seen.at(slot->value()));
    seen[slot->value()] = true;
    ++taken;
  }
  EXPECT_EQ(taken, wire::kLotSlots - 2) << "all but none, and where nobody wakes anybody";
  const SlotIndex slot{wire::kLotSlots / 2};
  const SlotIndex later{wire::kLotSlots / 2 + 1};
  lot_.give_up(slot);
  lot_.give_up(later);
  EXPECT_EQ(lot_.take(), slot) << "the one that rested longest";
  EXPECT_EQ(lot_.take(), later);
  EXPECT_FALSE(lot_.take());
}

// Linked slots are a ring that is found whole from each of them; who leaves is alone.
TEST_F(LotTest, GroupsAreRings) {
  std::vector<SlotIndex> group{take(), take(), take(), take()};
  lot_.link(group);
  for (const SlotIndex slot : group) {
    const auto found = view_.group_of(slot);
    EXPECT_EQ(std::set(found.begin(), found.end()), std::set(group.begin(), group.end()));
    EXPECT_EQ(view_[slot].version.load() % 2, 0U);
  }
  const SlotIndex leaving = group[1];
  group.erase(group.begin() + 1);
  lot_.unlink(leaving, group);
  EXPECT_EQ(view_.group_of(leaving), std::vector{leaving});
  for (const SlotIndex slot : group) {
    const auto found = view_.group_of(slot);
    EXPECT_EQ(std::set(found.begin(), found.end()), std::set(group.begin(), group.end()));
  }
}

// The last of a group leaves nobody behind.
TEST_F(LotTest, TheLastOfAGroupCanLeave) {
  const std::array group{take()};
  lot_.link(group);
  lot_.unlink(group[0], {});
  EXPECT_EQ(view_.group_of(group[0]), std::vector{group[0]});
}

// A slot that was in a group is alone when it is taken again.
TEST_F(LotTest, ASlotThatIsTakenAgainIsInNoGroup) {
  while (lot_.take()) {
  }
  const std::array group{SlotIndex{5}, SlotIndex{6}};
  lot_.link(group);
  lot_.unlink(group[0], {&group[1], 1});
  lot_.give_up(group[0]);
  EXPECT_EQ(lot_.take(), group[0]);
  EXPECT_EQ(view_.group_of(group[0]), std::vector{group[0]});
}

// A client that reads a group while the daemon changes it finds one of the two groups that there
// were, never a mixture: a member that stays is in both, and one that leaves takes nobody along.
TEST_F(LotTest, AGroupThatIsReadWhileItChangesIsOneOrTheOther) {
  const std::vector<SlotIndex> all{take(), take(), take(), take()};
  const std::vector<SlotIndex> rest{all[0], all[1], all[3]};
  lot_.link(all);
  std::atomic<bool> stop{false};
  std::thread daemon([&] {
    while (!stop) {
      lot_.unlink(all[2], rest);
      lot_.link(all);
    }
  });
  for (int i = 0; i < 100'000 / kSlower; ++i) {
    const auto found = view_.group_of(all[0]);
    const std::set<SlotIndex> distinct(found.begin(), found.end());
    const bool whole = distinct == std::set(all.begin(), all.end());
    const bool without = distinct == std::set(rest.begin(), rest.end());
    ASSERT_TRUE(whole || without) << found.size();
  }
  stop = true;
  daemon.join();
}

}  // namespace
}  // namespace faultline::wait
