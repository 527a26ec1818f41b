// Every change of a word that the comment at the head of word_table.hpp lists: where it is waited
// for before and after, who follows it, and what hangs on it.
#include "daemon/wait/word_table.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "tests/unit/kernel_waits.hpp"
#include "tests/unit/lot_view.hpp"
#include "tests/unit/mapped_words.hpp"

namespace faultline::wait {
namespace {

using space::ByPage;
using space::Sharing;
using space::Vma;
using testing::forked;
using testing::KernelWait;
using testing::mapping_of;

constexpr SpaceId kParent{1};
constexpr SpaceId kChild{2};
constexpr SpaceId kGrandchild{3};
constexpr Vaddr kStart{0x10'0000};
constexpr Vaddr kElsewhere{0x90'0000};
constexpr Vaddr kWord{0x10'0044};  // in the first page
constexpr Vaddr kNextPage{0x10'1044};
constexpr PageIndex kPage{0};
constexpr PageCount kOne{1};

class WordTableTest : public ::testing::Test {
 protected:
  void TearDown() override { waits_.forget(); }

  [[nodiscard]] Vma mapped(Sharing sharing, ByPage by_page = ByPage::no) const {
    return mapping_of(object_, sharing, by_page, kStart);
  }
  // By page, the first page of which has parted from the object.
  [[nodiscard]] Vma parted() {
    Vma vma = mapped(Sharing::private_copy, ByPage::yes);
    vma.activity->record_break(kPage, kOne);
    return vma;
  }
  WordTable::Found find(SpaceId space, const Vma& vma, Vaddr address = kWord,
                        WaitHook* hook = nullptr) {
    const auto found = table_.find(space, vma, address, hook);
    EXPECT_TRUE(found) << found.error().message();
    return found ? *found : WordTable::Found{};
  }
  // One who looked the word up, and queues where it was said to be.
  KernelWait& wait_at(const WordTable::Found& found) {
    return waits_.begin(table_.futex(found.slot), found.generation);
  }
  KernelWait& wait(SpaceId space, const Vma& vma, Vaddr address = kWord) {
    return wait_at(find(space, vma, address));
  }
  int wake(SpaceId space, Vaddr address = kWord, int count = INT_MAX) {
    const auto woken = table_.wake(space, address, count);
    EXPECT_TRUE(woken) << woken.error().message();
    waits_.look();
    return woken ? *woken : -1;
  }
  int wake_at(SlotIndex slot) {
    const int woken = kernel::futex_wake_shared(table_.futex(slot), INT_MAX);
    waits_.look();
    return woken;
  }
  // Whether what was looked up does not hold any more.
  bool outdated(const WordTable::Found& found) {
    KernelWait& tried = wait_at(found);
    waits_.cancel(tried);
    return tried.result() == -EAGAIN;
  }

  std::shared_ptr<memory::MemoryObject> object_ = testing::object_of_pages();
  WordTable table_{*Lot::create()};
  testing::KernelWaits waits_;
};

// --- what a word is

// A shared word is its object's, and takes no room in the table until a wait hangs on it.
TEST_F(WordTableTest, ASharedWordIsTheObjects) {
  const Vma vma = mapped(Sharing::shared);
  EXPECT_EQ(find(kParent, vma).kind, WordKind::shared);
  EXPECT_EQ(table_.size(kParent), 0U);
  WaitHook hook;
  EXPECT_EQ(find(kParent, vma, kWord, &hook).kind, WordKind::shared);
  EXPECT_EQ(table_.size(kParent), 1U);
  EXPECT_TRUE(table_.group(kParent, kWord).empty()) << "it is at no slot";
  EXPECT_EQ(wake(kParent), 0);
  EXPECT_TRUE(table_.unhook(hook).hung);
}

// A private word has a slot, the same one each time, and another word another one.
TEST_F(WordTableTest, APrivateWordHasASlotOfItsOwn) {
  const Vma vma = mapped(Sharing::private_copy);
  const auto first = find(kParent, vma);
  EXPECT_EQ(first.kind, WordKind::own);
  EXPECT_EQ(find(kParent, vma).slot, first.slot);
  EXPECT_NE(find(kParent, vma, kWord + ByteCount{1}).slot, first.slot);
  EXPECT_NE(find(kChild, vma).slot, first.slot);
}

// A word by page is the object's until its page parts, and then its page's.
TEST_F(WordTableTest, AWordByPageIsWhatItsPageIs) {
  const Vma vma = parted();
  EXPECT_EQ(find(kParent, vma).kind, WordKind::frame);
  EXPECT_EQ(find(kParent, vma, kNextPage).kind, WordKind::clean);
  EXPECT_EQ(table_.show(kParent, kWord)->frame, vma.activity->identity(kPage));
  EXPECT_EQ(table_.show(kParent, kNextPage)->frame, space::FrameId{});
  EXPECT_FALSE(table_.show(kParent, kStart));
}

// Fork relatives are one group as long as they share the page, and each begins with its own slot.
TEST_F(WordTableTest, RelativesThatShareAPageAreAGroup) {
  const Vma parent = parted();
  const Vma child = forked(parent);
  const auto in_parent = find(kParent, parent);
  const auto in_child = find(kChild, child);
  EXPECT_NE(in_parent.slot, in_child.slot);
  const std::vector both{&table_.futex(in_parent.slot), &table_.futex(in_child.slot)};
  EXPECT_EQ(table_.group(kParent, kWord), both);
  EXPECT_EQ(table_.group(kChild, kWord), std::vector(both.rbegin(), both.rend()));
  // By its offset in the page, and by nothing else.
  const std::uint64_t offset = kWord.value() % 4096;
  EXPECT_EQ(table_.wake(parent.activity->identity(kPage), offset + 4, 1).value_or(-1), 0);

  const KernelWait& of_child = wait_at(in_child);
  const KernelWait& of_parent = wait_at(in_parent);
  const auto one = table_.wake(parent.activity->identity(kPage), kWord.value() % 4096, 1);
  ASSERT_TRUE(one);
  EXPECT_EQ(*one, 1);
  EXPECT_EQ(wake(kChild, kWord, 5), 1);
  waits_.look();
  EXPECT_TRUE(of_child.woken() && of_parent.woken());
}

// --- part

// frame -> frame: who waits in the space whose page parts follows it, the relatives' stay a group
// without it, and what was looked up in that space before holds no more.
TEST_F(WordTableTest, APageThatPartsFromARelativesTakesItsOwnAlong) {
  const Vma parent = parted();
  const Vma child = forked(parent);
  const Vma grandchild = forked(child);
  const auto before = find(kParent, parent);
  const auto of_child = find(kChild, child);
  KernelWait& in_parent = wait_at(before);
  KernelWait& in_child = wait_at(of_child);
  KernelWait& in_grandchild = wait(kGrandchild, grandchild);

  EXPECT_TRUE(table_.part(kParent, parent, kPage).moving.empty());

  EXPECT_TRUE(outdated(before));
  EXPECT_FALSE(outdated(of_child));
  EXPECT_NE(find(kParent, parent).slot, before.slot);
  EXPECT_EQ(wake_at(before.slot), 0);
  EXPECT_EQ(table_.group(kParent, kWord).size(), 1U);
  EXPECT_EQ(table_.group(kChild, kWord).size(), 2U);
  EXPECT_EQ(wake(kChild), 2);
  EXPECT_TRUE(in_child.woken() && in_grandchild.woken() && in_parent.queued());
  EXPECT_EQ(wake(kParent), 1);
  EXPECT_TRUE(in_parent.woken());
}

// Words of other pages, and the same word of other spaces, are left alone.
TEST_F(WordTableTest, APageThatPartsLeavesOthersAlone) {
  const Vma vma = mapped(Sharing::private_copy, ByPage::yes);
  vma.activity->record_break(PageIndex{1}, kOne);
  const auto next = find(kParent, vma, kNextPage);
  const auto first = find(kParent, vma);
  (void)table_.part(kParent, vma, PageIndex{2});
  EXPECT_FALSE(outdated(next));
  EXPECT_FALSE(outdated(first));
  (void)table_.part(kParent, vma, kPage);
  EXPECT_FALSE(outdated(next));
  EXPECT_TRUE(outdated(first));
}

// A page that is written again while it is nobody else's has the words that it had.
TEST_F(WordTableTest, APageThatIsItsOwnAlreadyChangesNothing) {
  const Vma vma = parted();
  const auto found = find(kParent, vma);
  EXPECT_EQ(table_.part(kParent, vma, kPage).pages, PageCount{0});
  EXPECT_FALSE(outdated(found));
}

// clean -> frame without waits: at the slot at once, and with another generation.
TEST_F(WordTableTest, ACleanWordWithoutWaitsIsAtItsSlotAtOnce) {
  const Vma vma = mapped(Sharing::private_copy, ByPage::yes);
  const auto before = find(kParent, vma);
  ASSERT_EQ(before.kind, WordKind::clean);
  EXPECT_TRUE(table_.group(kParent, kWord).empty());
  const auto result = table_.part(kParent, vma, kPage);
  EXPECT_EQ(result.pages, kOne);
  EXPECT_TRUE(result.moving.empty());
  EXPECT_TRUE(outdated(before));
  EXPECT_EQ(find(kParent, vma).kind, WordKind::frame);
  const KernelWait& waits = wait(kParent, vma);
  EXPECT_EQ(wake(kParent), 1);
  EXPECT_TRUE(waits.woken());
}

// clean -> frame with waits: until they are settled nobody is told where the word is, nor woken
// there; the slot where they are to queue is known from the beginning.
TEST_F(WordTableTest, ACleanWordWithWaitsIsMovingUntilItIsSettled) {
  const Vma vma = mapped(Sharing::private_copy, ByPage::yes);
  std::array<WaitHook, 2> hooks;
  for (WaitHook& hook : hooks) (void)find(kParent, vma, kWord, &hook);
  const auto other = find(kParent, mapped(Sharing::private_copy), kNextPage);
  KernelWait& elsewhere = wait_at(other);

  const auto result = table_.part(kParent, vma, kPage);
  ASSERT_EQ(result.moving.size(), 1U);
  EXPECT_EQ(table_.hooks_of(*result.moving[0]), (std::vector{hooks.data(), &hooks[1]}));
  EXPECT_EQ(table_.find(kParent, vma, kWord).error().code(), EBUSY);
  EXPECT_EQ(table_.wake(kParent, kWord, 1).error().code(), EBUSY);
  EXPECT_EQ(table_.wake(kParent, kNextPage, 1).error().code(), EBUSY) << "of whatever word";
  EXPECT_TRUE(elsewhere.queued());
  std::uint32_t generation = 0;
  const kernel::FutexWord* const slot = table_.slot_of(hooks[0], generation);
  KernelWait& moved = waits_.begin(*slot, generation);

  table_.settle(result.moving);
  EXPECT_EQ(&table_.futex(find(kParent, vma).slot), slot);
  EXPECT_EQ(wake(kParent), 1);
  EXPECT_TRUE(moved.woken());
  EXPECT_EQ(wake(kParent, kNextPage), 1);
  for (WaitHook& hook : hooks) {
    EXPECT_EQ(table_.unhook(hook).frame, vma.activity->identity(kPage));
  }
}

// A page that parts from a relative's before the words that move from the object are settled: they
// are still told their slot, which is the newest.
TEST_F(WordTableTest, AMovingWordCanPartOnceMore) {
  const Vma vma = mapped(Sharing::private_copy, ByPage::yes);
  WaitHook hook;
  (void)find(kParent, vma, kWord, &hook);
  const auto first = table_.part(kParent, vma, kPage);
  const Vma child = forked(vma);
  std::uint32_t generation = 0;
  const kernel::FutexWord* const before = table_.slot_of(hook, generation);
  KernelWait& moved = waits_.begin(*before, generation);
  EXPECT_TRUE(table_.part(kParent, vma, kPage).moving.empty());
  EXPECT_NE(table_.slot_of(hook, generation), before);
  table_.settle(first.moving);
  EXPECT_EQ(wake(kParent), 1);
  EXPECT_TRUE(moved.woken());
  (void)table_.unhook(hook);
}

// --- gone

// What is unmapped has no words, its waits are ended with the error, and who queued at a slot is
// found there by nobody.
TEST_F(WordTableTest, WhatIsDroppedIsGone) {
  const Vma vma = parted();
  WaitHook hook;
  const auto before = find(kParent, vma, kWord, &hook);
  const auto next = find(kParent, vma, kNextPage);
  KernelWait& waits = wait_at(before);
  table_.drop(kParent, kStart, kStart + ByteCount{4096}, EFAULT);
  EXPECT_TRUE(outdated(before));
  EXPECT_FALSE(outdated(next)) << "the page beside it";
  EXPECT_EQ(wake_at(before.slot), 0);
  EXPECT_EQ(wake(kParent), 0);
  EXPECT_EQ(table_.wake(vma.activity->identity(kPage), kWord.value() % 4096, 1).value_or(-1), 0);
  EXPECT_EQ(table_.hooks(), 0U);
  EXPECT_EQ(table_.take_ended(), std::vector{&hook});
  EXPECT_TRUE(table_.take_ended().empty());
  std::uint32_t generation = 0;
  EXPECT_EQ(table_.slot_of(hook, generation), nullptr);
  const auto was = table_.unhook(hook);
  EXPECT_TRUE(was.hung);
  EXPECT_EQ(was.ended, EFAULT);
  EXPECT_EQ(was.frame, vma.activity->identity(kPage)) << "so that its wake can go to a relative";
  EXPECT_FALSE(table_.unhook(hook).hung) << "once";
  EXPECT_TRUE(waits.queued());
  EXPECT_NE(find(kParent, vma).slot, before.slot);
}

// A relative's waits stay when the memory of one is gone.
TEST_F(WordTableTest, ARelativesWordStays) {
  const Vma parent = parted();
  const Vma child = forked(parent);
  (void)find(kParent, parent);
  KernelWait& in_child = wait(kChild, child);
  table_.drop_all(kParent, EOWNERDEAD);
  EXPECT_EQ(table_.size(kParent), 0U);
  EXPECT_EQ(table_.group(kChild, kWord).size(), 1U);
  EXPECT_EQ(wake(kChild), 1);
  EXPECT_TRUE(in_child.woken());
}

// What is dropped while it moves stays where those who move it find it, without its waits, until
// they have settled it; other words can be woken then.
TEST_F(WordTableTest, WhatIsDroppedWhileItMovesStaysUntilItIsSettled) {
  const Vma vma = mapped(Sharing::private_copy, ByPage::yes);
  WaitHook hook;
  (void)find(kParent, vma, kWord, &hook);
  const auto result = table_.part(kParent, vma, kPage);
  ASSERT_EQ(result.moving.size(), 1U);
  table_.drop(kParent, kStart, kStart + ByteCount{4096}, EFAULT);
  EXPECT_TRUE(table_.hooks_of(*result.moving[0]).empty());
  EXPECT_EQ(table_.take_ended(), std::vector{&hook});
  EXPECT_EQ(table_.wake(kParent, kWord, 1), 0) << "it is not known any more";
  table_.settle(result.moving);
  EXPECT_EQ(table_.unhook(hook).ended, EFAULT);
  KernelWait& waits = wait(kParent, vma);
  EXPECT_EQ(wake(kParent), 1);
  EXPECT_TRUE(waits.woken());
}

// A discard takes out the words of private pages alone: those are the object's again.
TEST_F(WordTableTest, ADiscardTakesOutTheWordsOfPrivatePages) {
  const Vma vma = parted();
  std::array<WaitHook, 2> hooks;
  const auto before = find(kParent, vma, kWord, hooks.data());
  const auto clean = find(kParent, vma, kNextPage, &hooks[1]);
  EXPECT_EQ(table_.discard(kParent, vma, ECANCELED), std::set{kWord});
  EXPECT_TRUE(outdated(before));
  EXPECT_FALSE(outdated(clean));
  EXPECT_EQ(table_.take_ended(), std::vector{hooks.data()});
  EXPECT_EQ(table_.unhook(hooks[0]).ended, ECANCELED);
  EXPECT_EQ(table_.unhook(hooks[1]).ended, 0);
  EXPECT_EQ(vma.activity->identity(kPage), space::FrameId{});
  EXPECT_EQ(find(kParent, vma).kind, WordKind::clean);
}

// A discard of a piece of a mapping leaves the rest of it alone.
TEST_F(WordTableTest, ADiscardOfAPieceLeavesTheRestAlone) {
  const Vma vma = parted();
  vma.activity->record_break(PageIndex{1}, kOne);
  const auto first = find(kParent, vma);
  const auto next = find(kParent, vma, kNextPage);
  const Vma piece = vma.part(kStart + ByteCount{4096}, vma.end);
  EXPECT_EQ(table_.discard(kParent, piece, ECANCELED), std::set{kNextPage});
  EXPECT_FALSE(outdated(first));
  EXPECT_TRUE(outdated(next));
  EXPECT_NE(vma.activity->identity(kPage), space::FrameId{});
}

// A page that is discarded and parts again has another identity than before.
TEST_F(WordTableTest, APageThatPartsAgainIsAnother) {
  const Vma vma = parted();
  const Vma child = forked(vma);
  KernelWait& in_child = wait(kChild, child);
  (void)find(kParent, vma);
  (void)table_.discard(kParent, vma, ECANCELED);
  (void)table_.part(kParent, vma, kPage);
  (void)find(kParent, vma);
  EXPECT_EQ(wake(kParent), 0);
  EXPECT_TRUE(in_child.queued());
}

// --- moved

// Words go with their memory, with everybody who waits, whatever they are.
TEST_F(WordTableTest, WordsGoWithTheirMemory) {
  for (const Vma& vma : {mapped(Sharing::private_copy), parted()}) {
    WaitHook hook;
    const auto before = find(kParent, vma, kWord, &hook);
    KernelWait& waits = wait_at(before);
    EXPECT_TRUE(
        table_.move(kParent, {vma.start, vma.length()}, kElsewhere, {vma.moved_to(kElsewhere)})
            .empty());
    const Vma there = vma.moved_to(kElsewhere);
    const Vaddr word = kElsewhere + (kWord - kStart);
    EXPECT_TRUE(outdated(before));
    EXPECT_EQ(wake(kParent), 0) << "where it was";
    EXPECT_EQ(find(kParent, there, word).kind, before.kind);
    EXPECT_EQ(table_.hooks(), 1U);
    EXPECT_EQ(wake(kParent, word), 1);
    EXPECT_TRUE(waits.woken());
    const auto was = table_.unhook(hook);
    EXPECT_TRUE(was.hung);
    EXPECT_EQ(was.ended, 0);
    table_.drop_all(kParent, EFAULT);
  }
}

// A word that moves stays one with the relatives', by its offset in the page.
TEST_F(WordTableTest, AWordThatMovesStaysInItsGroup) {
  const Vma parent = parted();
  const Vma child = forked(parent);
  KernelWait& in_parent = wait(kParent, parent);
  KernelWait& in_child = wait(kChild, child);
  EXPECT_TRUE(
      table_
          .move(kParent, {parent.start, parent.length()}, kElsewhere, {parent.moved_to(kElsewhere)})
          .empty());
  EXPECT_EQ(table_.group(kChild, kWord).size(), 2U);
  EXPECT_EQ(wake(kChild), 2);
  EXPECT_TRUE(in_parent.woken() && in_child.woken());
}

// A clean word's slot tells by its generation that the word has moved.
TEST_F(WordTableTest, ACleanWordThatMovesIsFoundOut) {
  const Vma vma = mapped(Sharing::private_copy, ByPage::yes);
  const auto before = find(kParent, vma);
  EXPECT_TRUE(
      table_.move(kParent, {vma.start, vma.length()}, kElsewhere, {vma.moved_to(kElsewhere)})
          .empty());
  EXPECT_TRUE(outdated(before));
  EXPECT_EQ(table_.show(kParent, kElsewhere + (kWord - kStart))->kind, WordKind::clean);
}

// Words beside the range stay where they are.
TEST_F(WordTableTest, WhatIsBesideTheRangeStays) {
  const Vma vma = mapped(Sharing::private_copy);
  const auto below = find(kParent, vma);
  (void)find(kParent, vma, kNextPage);
  const auto above = find(kParent, vma, kStart + ByteCount{8192});
  EXPECT_TRUE(
      table_.move(kParent, {kStart + ByteCount{4096}, ByteCount{4096}}, kElsewhere, {}).empty());
  EXPECT_FALSE(outdated(below));
  EXPECT_FALSE(outdated(above));
  EXPECT_FALSE(table_.show(kParent, kNextPage));
  EXPECT_TRUE(table_.show(kParent, kElsewhere + ByteCount{0x44}));
}

// Who saw the new mapping first may have looked a word up there, before the words have moved: the
// two are one then, with all who wait for either.
TEST_F(WordTableTest, AWordThatIsMovedToOneThatWasLookedUpThereIsOneWithIt) {
  for (const Vma& vma : {mapped(Sharing::private_copy), parted()}) {
    const Vma there = vma.moved_to(kElsewhere);
    const Vaddr word = kElsewhere + (kWord - kStart);
    std::array<WaitHook, 2> hooks;
    const auto before = find(kParent, vma, kWord, hooks.data());
    const KernelWait& moved = wait_at(before);
    const KernelWait& early = wait_at(find(kParent, there, word, &hooks[1]));
    EXPECT_TRUE(
        table_.move(kParent, {vma.start, vma.length()}, kElsewhere, {vma.moved_to(kElsewhere)})
            .empty());
    EXPECT_EQ(table_.size(kParent), 1U);
    EXPECT_TRUE(outdated(before));
    EXPECT_EQ(table_.group(kParent, word).size(), 1U);
    EXPECT_EQ(wake(kParent, word), 2);
    EXPECT_TRUE(moved.woken() && early.woken());
    for (WaitHook& hook : hooks) EXPECT_TRUE(table_.unhook(hook).hung);
    EXPECT_EQ(table_.hooks(), 0U);
    table_.drop_all(kParent, EFAULT);
  }
}

// The same where the page has parted in between: the waits that hang on the word that moves are
// still at the object's, and are to be settled.
TEST_F(WordTableTest, AWordThatIsMovedToOneThatHasPartedIsMoving) {
  const Vma vma = mapped(Sharing::private_copy, ByPage::yes);
  const Vma there = vma.moved_to(kElsewhere);
  const Vaddr word = kElsewhere + (kWord - kStart);
  WaitHook hook;
  ASSERT_EQ(find(kParent, vma, kWord, &hook).kind, WordKind::clean);
  (void)table_.part(kParent, there, kPage);
  ASSERT_EQ(find(kParent, there, word).kind, WordKind::frame);
  const auto moving =
      table_.move(kParent, {vma.start, vma.length()}, kElsewhere, {vma.moved_to(kElsewhere)});
  ASSERT_EQ(moving.size(), 1U);
  EXPECT_EQ(table_.hooks_of(*moving[0]), std::vector{&hook});
  EXPECT_EQ(table_.find(kParent, there, word).error().code(), EBUSY);
  std::uint32_t generation = 0;
  const kernel::FutexWord* const slot = table_.slot_of(hook, generation);
  const KernelWait& waits = waits_.begin(*slot, generation);
  table_.settle(moving);
  EXPECT_EQ(wake(kParent, word), 1);
  EXPECT_TRUE(waits.woken());
  (void)table_.unhook(hook);
}

// The same where nobody had looked a word up there: it is found to have parted as it comes.
TEST_F(WordTableTest, AWordWhosePagePartedBeforeItCameFollowsThePage) {
  const Vma vma = mapped(Sharing::private_copy, ByPage::yes);
  const Vma there = vma.moved_to(kElsewhere);
  const Vaddr word = kElsewhere + (kWord - kStart);
  WaitHook hook;
  ASSERT_EQ(find(kParent, vma, kWord, &hook).kind, WordKind::clean);
  (void)table_.part(kParent, there, kPage);
  const auto moving = table_.move(kParent, {vma.start, vma.length()}, kElsewhere, {there});
  ASSERT_EQ(moving.size(), 1U);
  EXPECT_EQ(table_.hooks_of(*moving[0]), std::vector{&hook});
  EXPECT_EQ(table_.show(kParent, word)->frame, there.activity->identity(kPage));
  table_.settle(moving);
  EXPECT_EQ(find(kParent, there, word).kind, WordKind::frame);
  (void)table_.unhook(hook);
}

// No word is made of a mapping that is gone: its words were dropped, and nobody would drop this
// one.
TEST_F(WordTableTest, NoWordIsMadeWhereTheMappingIsGone) {
  const Vma vma = mapped(Sharing::private_copy);
  const auto refused = table_.find(kParent, vma, kWord, nullptr, [] { return false; });
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), EFAULT);
  EXPECT_EQ(table_.size(kParent), 0U);
  // One that is known is dropped with the mapping.
  (void)find(kParent, vma);
  EXPECT_TRUE(table_.find(kParent, vma, kWord, nullptr, [] { return false; }));
}

// Who has to wait until nothing moves is told when the last has settled, and not before.
TEST_F(WordTableTest, TellsWhenTheLastWordHasSettled) {
  const Vma vma = mapped(Sharing::private_copy, ByPage::yes);
  WaitHook hook;
  (void)find(kParent, vma, kWord, &hook);
  const auto now = std::chrono::steady_clock::now;
  EXPECT_TRUE(table_.await_settled(now())) << "nothing moves";
  const auto parted = table_.part(kParent, vma, kPage);
  ASSERT_EQ(parted.moving.size(), 1U);
  EXPECT_FALSE(table_.await_settled(now()));
  constexpr std::chrono::seconds kPatience{10};
  const auto begin = now();
  std::thread settles([&] { table_.settle(parted.moving); });
  EXPECT_TRUE(table_.await_settled(begin + kPatience));
  EXPECT_LT(now() - begin, kPatience / 2) << "told, not found at the end of its time";
  settles.join();
  (void)table_.unhook(hook);
}

// --- limits

// A space has no more than so many words; those that nobody waits for make room for others, and
// those that somebody waits for, by itself or through the daemon, do not.
TEST_F(WordTableTest, IdleWordsMakeRoomForOthers) {
  object_ = testing::object_of_pages(1024);
  const Vma vma = mapped(Sharing::private_copy, ByPage::yes);
  vma.activity->record_break(kPage, PageCount{512});  // frames, and clean words
  const auto nth = [](std::size_t n) { return kStart + ByteCount{n * 8}; };
  WaitHook hook;
  const auto hung = find(kParent, vma, nth(0), &hook);
  KernelWait& own = wait(kParent, vma, nth(1));
  const auto idle = find(kParent, vma, nth(2));
  for (std::size_t i = 3; i < WordTable::kMostWords; ++i) (void)find(kParent, vma, nth(i));
  EXPECT_EQ(table_.size(kParent), WordTable::kMostWords);
  EXPECT_FALSE(outdated(idle));
  (void)find(kParent, vma, nth(WordTable::kMostWords));
  EXPECT_EQ(table_.size(kParent), 3U) << "those that are waited for, and the new one";
  EXPECT_TRUE(outdated(idle));
  EXPECT_FALSE(outdated(hung));
  EXPECT_EQ(wake(kParent, nth(1)), 1);
  EXPECT_TRUE(own.woken());
  (void)table_.unhook(hook);
}

// Where all words are waited for there is room for none more, and the next one is told.
TEST_F(WordTableTest, WordsThatAreWaitedForMakeNoRoom) {
  object_ = testing::object_of_pages(1024);
  const Vma vma = mapped(Sharing::private_copy);
  const auto nth = [](std::size_t n) { return kStart + ByteCount{n * 8}; };
  std::vector<WaitHook> hooks(WordTable::kMostWords);
  for (std::size_t i = 0; i < hooks.size(); ++i) (void)find(kParent, vma, nth(i), &hooks[i]);
  const auto refused = table_.find(kParent, vma, nth(hooks.size()));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), EUSERS);
  EXPECT_TRUE(table_.find(kChild, vma, nth(hooks.size()))) << "another space has room";
  EXPECT_EQ(table_.hooks(), WordTable::kMostWords);
  (void)table_.unhook(hooks.back());
  EXPECT_TRUE(table_.find(kParent, vma, nth(hooks.size())));
  for (WaitHook& hook : hooks) (void)table_.unhook(hook);
  EXPECT_EQ(table_.hooks(), 0U);
}

// A word that is taken out because it is idle leaves its group; one that is not stays in it.
TEST_F(WordTableTest, AWordThatMakesRoomLeavesItsGroup) {
  object_ = testing::object_of_pages(1024);
  const Vma parent = parted();
  const Vma child = forked(parent);
  const Vaddr idle = kWord + ByteCount{8};
  KernelWait& in_parent = wait(kParent, parent);
  (void)find(kParent, parent, idle);
  KernelWait& of_idle = wait(kChild, child, idle);
  (void)find(kChild, child);
  const Vaddr far = kStart + ByteCount{4096};
  for (std::size_t i = 0; i + 1 < WordTable::kMostWords; ++i) {
    (void)find(kParent, parent, far + ByteCount{i * 8});
  }
  EXPECT_EQ(table_.size(kParent), 2U) << "that which is waited for, and the last";
  EXPECT_EQ(table_.group(kChild, idle).size(), 1U);
  EXPECT_EQ(table_.group(kChild, kWord).size(), 2U);
  EXPECT_EQ(wake(kChild), 1);
  EXPECT_TRUE(in_parent.woken());
  EXPECT_EQ(wake(kChild, idle), 1);
  EXPECT_TRUE(of_idle.woken());
}

// Nor is a word that moves taken out, though nothing hangs on it any more: its mover holds on to
// it.
TEST_F(WordTableTest, AWordThatMovesMakesNoRoom) {
  object_ = testing::object_of_pages(1024);
  const Vma vma = mapped(Sharing::private_copy, ByPage::yes);
  WaitHook hook;
  (void)find(kParent, vma, kWord, &hook);
  const WordTable::Parted result = table_.part(kParent, vma, kPage);
  ASSERT_EQ(result.moving.size(), 1U);
  (void)table_.unhook(hook);  // it was woken meanwhile
  const Vaddr far = kStart + ByteCount{4096};
  for (std::size_t i = 0; i < WordTable::kMostWords; ++i) {
    (void)find(kParent, vma, far + ByteCount{i * 8});
  }
  ASSERT_TRUE(table_.show(kParent, kWord));
  EXPECT_TRUE(table_.hooks_of(*result.moving[0]).empty());
  table_.settle(result.moving);
  EXPECT_EQ(find(kParent, vma).kind, WordKind::frame);
}

// Without a slot left nothing is looked up, and who waits still follows its page.
TEST_F(WordTableTest, WithoutSlotsNobodyIsLost) {
  Lot lot = *Lot::create();
  for (std::uint32_t i = 3; i < wire::kLotSlots; ++i) (void)lot.take();
  WordTable table(std::move(lot));
  const Vma parent = parted();
  const auto found = table.find(kParent, parent, kWord);
  ASSERT_TRUE(found);
  const auto refused = table.find(kParent, parent, kNextPage);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), EUSERS);
  const KernelWait& waits = waits_.begin(table.futex(found->slot), found->generation);
  const Vma child = forked(parent);
  (void)table.part(kParent, parent, kPage);
  EXPECT_EQ(table.show(kParent, kWord)->frame, parent.activity->identity(kPage));
  EXPECT_EQ(table.wake(kParent, kWord, 8), 1);
  waits_.look();
  EXPECT_TRUE(waits.woken());
}

// --- what hangs on words

// Hooks are visited with their words, and counted over all spaces.
TEST_F(WordTableTest, HooksAreVisitedWithTheirWords) {
  const Vma vma = mapped(Sharing::private_copy);
  std::array<WaitHook, 3> hooks;
  (void)find(kParent, vma, kWord, hooks.data());
  (void)find(kParent, vma, kNextPage, &hooks[1]);
  (void)find(kChild, vma, kWord, &hooks[2]);
  EXPECT_EQ(table_.hooks(), 3U);
  std::vector<std::pair<Vaddr, const WaitHook*>> seen;
  table_.each_hook(kParent, [&](const WordTable::Shown& shown, const WaitHook& hook) {
    EXPECT_EQ(shown.kind, WordKind::own);
    seen.emplace_back(shown.address, &hook);
  });
  EXPECT_EQ(seen, (std::vector<std::pair<Vaddr, const WaitHook*>>{{kWord, hooks.data()},
                                                                  {kNextPage, &hooks[1]}}));
  for (WaitHook& hook : hooks) (void)table_.unhook(hook);
  EXPECT_EQ(table_.hooks(), 0U);
}

// A wake takes no more than its count, its own space's first.
TEST_F(WordTableTest, AWakeTakesNoMoreThanItsCount) {
  const Vma parent = parted();
  const Vma child = forked(parent);
  std::array<KernelWait*, 2> in_parent{&wait(kParent, parent), &wait(kParent, parent)};
  std::array<KernelWait*, 2> in_child{&wait(kChild, child), &wait(kChild, child)};
  EXPECT_EQ(wake(kParent, kWord, 0), 0);
  EXPECT_EQ(wake(kChild, kWord, 3), 3);
  EXPECT_TRUE(in_child[0]->woken() && in_child[1]->woken()) << "its own space's come first";
  EXPECT_TRUE(in_parent[0]->woken() != in_parent[1]->woken());
  EXPECT_EQ(wake(kChild, kWord, 3), 1);
}

}  // namespace
}  // namespace faultline::wait
