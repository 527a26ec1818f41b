// A change of a word's place against those who wait and wake, every step of the one between every
// two steps of the others: what docs/waiting.md says of a break, an unmap, a move and a discard.
//
// The change is made by the real table, on real futexes, and stops after each of its steps. Then
// the actors, which are written as libclient/slot_wait.cpp has it, go on by as many steps as the
// path that is explored says, in each order. A step that takes the table's lock can only come
// before the change or after it, and is not chosen in between: an actor that is about to look a
// word up waits there.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/wait/word_table.hpp"
#include "tests/unit/explore.hpp"
#include "tests/unit/kernel_waits.hpp"
#include "tests/unit/lot_view.hpp"
#include "tests/unit/mapped_words.hpp"
#include "tests/unit/slower.hpp"

namespace faultline::wait {
namespace {

using space::ByPage;
using space::Sharing;
using space::Vma;
using testing::Choose;
using testing::forked;
using testing::KernelWait;
using testing::mapping_of;

// One thread makes all steps, so that a sanitizer finds no more in all of them than in some.
constexpr bool kTooSlow = testing::kSlower > 1;

constexpr SpaceId kParent{1};
constexpr SpaceId kChild{2};
constexpr Vaddr kStart{0x10'0000};
constexpr Vaddr kElsewhere{0x90'0000};
constexpr ByteCount kOffset{0x44};
constexpr PageIndex kPage{0};

// What the actors of one run share. Time is counted in steps, the change's included.
struct Stage {
  WordTable& table;
  const testing::LotView& lot;
  testing::KernelWaits& waits;
  int now = 0;
  bool away = false;  // what was at kStart is elsewhere: looking up there fails with EFAULT
};

class Actor {
 public:
  Actor() = default;
  Actor(const Actor&) = delete;
  Actor& operator=(const Actor&) = delete;
  virtual ~Actor() = default;
  [[nodiscard]] virtual bool done() const = 0;
  // Whether its next step takes the table's lock, or waits for a group that the change has in hand.
  [[nodiscard]] virtual bool waits_for_the_change() const = 0;
  virtual void step() = 0;
};

// One process's look at one word, and what it remembers of it.
class Place {
 public:
  Place(Stage& stage, SpaceId space, const Vma& vma) : stage_(stage), space_(space), vma_(vma) {}
  void look_up() {
    const auto found = stage_.table.find(space_, vma_, vma_.start + kOffset);
    ASSERT_TRUE(found) << found.error().message();
    found_ = *found;
  }
  void forget() { found_.reset(); }
  [[nodiscard]] bool known() const { return found_.has_value(); }
  [[nodiscard]] bool holds() const {
    return found_ && stage_.lot[found_->slot].wake.load() == found_->generation;
  }
  [[nodiscard]] const WordTable::Found& found() const { return *found_; }

 private:
  Stage& stage_;
  SpaceId space_;
  Vma vma_;
  std::optional<WordTable::Found> found_;
};

// 1. looks whether what it remembers holds, or looks the word up; 2. queues at the slot, which the
// kernel refuses where the generation is another: 1.
class WaiterActor final : public Actor {
 public:
  WaiterActor(Stage& stage, SpaceId space, const Vma& vma)
      : stage_(stage), place_(stage, space, vma) {}
  [[nodiscard]] bool done() const override {
    return faulted_ || (wait_ != nullptr && wait_->result() != -EAGAIN);
  }
  [[nodiscard]] bool waits_for_the_change() const override { return !ready_ && !place_.known(); }
  void step() override {
    if (begun == 0) begun = stage_.now;
    if (!ready_) {
      if (!place_.known() && stage_.away) {
        faulted_ = true;
        return;
      }
      if (!place_.known()) place_.look_up();
      ready_ = true;
      return;
    }
    wait_ = &stage_.waits.begin(stage_.lot[place_.found().slot].wake, place_.found().generation);
    queued = stage_.now;
    ready_ = false;
    if (!done()) place_.forget();
  }
  // Before the change.
  void remember() { place_.look_up(); }
  void queue() {
    while (!done()) step();
  }
  [[nodiscard]] KernelWait& wait() const { return *wait_; }
  // It looked the word up where no memory is any more.
  [[nodiscard]] bool faulted() const { return faulted_; }

  int begun = 0;
  int queued = 0;

 private:
  Stage& stage_;
  Place place_;
  bool ready_ = false;
  bool faulted_ = false;
  KernelWait* wait_ = nullptr;
};

// 1. looks whether what it remembers holds, or looks the word up; 2. reads the group, where that
// still holds; 3. wakes at each; 4. looks whether the place and the
// group are still those, otherwise 1 or 2.
class WakerActor final : public Actor {
 public:
  WakerActor(Stage& stage, SpaceId space, const Vma& vma, int count)
      : stage_(stage), count_(count), place_(stage, space, vma) {}
  [[nodiscard]] bool done() const override { return next_ == Next::nothing; }
  [[nodiscard]] bool waits_for_the_change() const override {
    if (next_ == Next::look) return !place_.known();
    return next_ == Next::group && place_.holds() && version() % 2 != 0;
  }
  void step() override {
    if (begun == 0) begun = stage_.now;
    switch (next_) {
      case Next::look:
        if (!place_.known()) place_.look_up();
        next_ = Next::group;
        // At the object's word nobody waits here.
        if (place_.found().kind == WordKind::clean) end();
        return;
      case Next::group:
        if (!place_.holds()) return again();
        version_ = version();
        group_ = stage_.lot.group_of(place_.found().slot);
        std::ranges::reverse(group_);  // the last is taken first
        next_ = Next::wake;
        return;
      case Next::wake: {
        const SlotIndex at = group_.back();
        group_.pop_back();
        woken += std::max(kernel::futex_wake_shared(stage_.lot[at].wake, count_ - woken), 0);
        stage_.waits.look();
        if (group_.empty() || woken == count_) next_ = Next::check;
        return;
      }
      case Next::check:
        if (woken != count_ && !(place_.holds() && version() == version_)) return again();
        end();
        return;
      case Next::nothing:
        return;
    }
  }
  void remember() { place_.look_up(); }

  int begun = 0;
  int ended = 0;
  int woken = 0;

 private:
  enum class Next : std::uint8_t { look, group, wake, check, nothing };
  void end() {
    next_ = Next::nothing;
    ended = stage_.now;
  }
  [[nodiscard]] std::uint32_t version() const {
    return stage_.lot[place_.found().slot].version.load();
  }
  void again() {
    if (place_.holds()) {
      next_ = Next::group;
      return;
    }
    place_.forget();
    next_ = Next::look;
  }
  Stage& stage_;
  const int count_;
  Place place_;
  Next next_ = Next::look;
  std::vector<SlotIndex> group_;
  std::uint32_t version_ = 0;  // of the group
};

// Takes a wait back.
class CancelActor final : public Actor {
 public:
  CancelActor(Stage& stage, KernelWait& wait) : stage_(stage), wait_(wait) {}
  [[nodiscard]] bool done() const override { return done_; }
  [[nodiscard]] bool waits_for_the_change() const override { return false; }
  void step() override {
    stage_.waits.cancel(wait_);
    done_ = true;
  }

 private:
  Stage& stage_;
  KernelWait& wait_;
  bool done_ = false;
};

// When each step of the change was done; 0: there was none such.
using Times = std::array<int, 5>;

class BreakInterleavings : public ::testing::Test {
 protected:
  BreakInterleavings() {
    object_ = testing::object_of_pages();
    auto lot = Lot::create({.hook = [this](BreakStep step) { reached(step); }});
    EXPECT_TRUE(lot);
    view_ = std::make_unique<testing::LotView>(lot->fd());
    table_ = std::make_unique<WordTable>(
        std::move(*lot), WordTable::Options{[this](BreakStep step) { reached(step); }});
  }

  // Runs the change, and the actors in between as choose says, all of them to their ends.
  void interleave(Stage& stage, const Choose& choose, const std::function<void()>& change,
                  const std::vector<Actor*>& actors) {
    times_ = {};
    const auto go_on = [&](bool locked, bool change_is_next) {
      for (;;) {
        std::vector<Actor*> ready;
        for (Actor* actor : actors) {
          if (!actor->done() && !(locked && actor->waits_for_the_change())) ready.push_back(actor);
        }
        const std::size_t ways = ready.size() + (change_is_next ? 1 : 0);
        if (ways == 0) return;
        const std::size_t chosen = choose(ways);
        ++stage.now;
        if (chosen == ready.size()) return;
        ready[chosen]->step();
      }
    };
    go_on(false, true);
    hook_ = [&](BreakStep step) {
      times_.at(static_cast<std::size_t>(step)) = stage.now;
      go_on(true, true);
    };
    change();
    hook_ = nullptr;
    ++stage.now;
    go_on(false, false);
  }
  // When the change reached it.
  [[nodiscard]] int when(BreakStep step) const { return times_.at(static_cast<std::size_t>(step)); }

  [[nodiscard]] Stage stage() { return {*table_, *view_, waits_}; }
  [[nodiscard]] Vma private_mapping() const {
    return mapping_of(object_, Sharing::private_copy, ByPage::no, kStart);
  }
  // Of two fork relatives that share their first page.
  struct Family {
    Vma parent;
    Vma child;
  };
  [[nodiscard]] Family family() const {
    const Vma parent = mapping_of(object_, Sharing::private_copy, ByPage::yes, kStart);
    parent.activity->record_break(kPage, PageCount{1});
    return {parent, forked(parent)};
  }
  int wake_now(SpaceId space, const Vma& vma) {
    const auto found = table_->find(space, vma, vma.start + kOffset);
    EXPECT_TRUE(found);
    int woken = 0;
    for (const kernel::FutexWord* word : table_->group(space, vma.start + kOffset)) {
      woken += kernel::futex_wake_shared(*word, INT_MAX);
    }
    waits_.look();
    return woken;
  }
  void clear() {
    waits_.forget();
    table_->drop_all(kParent, EFAULT);
    table_->drop_all(kChild, EFAULT);
  }

 private:
  void reached(BreakStep step) {
    if (hook_) hook_(step);
  }

  std::function<void(BreakStep)> hook_;
  Times times_{};
  std::shared_ptr<memory::MemoryObject> object_;

 protected:
  std::unique_ptr<testing::LotView> view_;
  std::unique_ptr<WordTable> table_;
  testing::KernelWaits waits_;
};

// --- a break

// Who is about to wait while its own page parts, or a relative's: it ends up in one queue, in which
// its own process finds it, and no relative.
TEST_F(BreakInterleavings, AWaiterIsInOneQueueAtAnyTime) {
  for (const bool own : {true, false}) {
    for (const bool remembers : {false, true}) {
      std::size_t refused = 0;
      const std::size_t runs = testing::explore([&](const Choose& choose) {
        const Family relatives = family();
        const Vma& parent = relatives.parent;
        const Vma& child = relatives.child;
        Stage stage = this->stage();
        WaiterActor waiter(stage, kParent, parent);
        if (remembers) waiter.remember();
        ASSERT_TRUE(table_->find(kParent, parent, kStart + kOffset));
        ASSERT_TRUE(table_->find(kChild, child, kStart + kOffset));
        const auto first = table_->find(kParent, parent, kStart + kOffset)->slot;
        interleave(stage, choose,
                   [&] { (void)table_->part(own ? kParent : kChild, own ? parent : child, kPage); },
                   {&waiter});
        EXPECT_TRUE(waiter.wait().queued());
        EXPECT_EQ(wake_now(kChild, child), 0);
        EXPECT_EQ(wake_now(kParent, parent), 1);
        EXPECT_TRUE(waiter.wait().woken());
        EXPECT_EQ(kernel::futex_wake_shared((*view_)[first].wake, INT_MAX), 0);
        if (waiter.begun < when(BreakStep::closed) && waiter.queued > when(BreakStep::closed) &&
            own)
          ++refused;
        clear();
      });
      EXPECT_GE(runs, remembers ? 21U : 8U);
      EXPECT_EQ(refused > 0, own) << "some were refused by the kernel, and looked again";
    }
  }
}

class BreakAgainstOwnWake : public BreakInterleavings {
 protected:
  void run(const Choose& choose, bool own, bool remembers, bool waits_before) {
    const Family relatives = family();
    const Vma& parent = relatives.parent;
    const Vma& child = relatives.child;
    Stage stage = this->stage();
    WaiterActor waiter(stage, kParent, parent);
    WakerActor waker(stage, kParent, parent, 8);
    ASSERT_TRUE(table_->find(kChild, child, kStart + kOffset));
    if (waits_before) waiter.queue();
    if (remembers) waker.remember();
    if (remembers && !waits_before) waiter.remember();
    std::vector<Actor*> actors{&waker};
    if (!waits_before) actors.push_back(&waiter);
    interleave(
        stage, choose,
        [&] { (void)table_->part(own ? kParent : kChild, own ? parent : child, kPage); }, actors);
    EXPECT_EQ(waker.woken, waiter.wait().woken() ? 1 : 0);
    if (waits_before || waiter.queued < waker.begun) {
      EXPECT_EQ(waker.woken, 1);
    }
    if (!waits_before && waiter.queued > waker.ended) {
      EXPECT_EQ(waker.woken, 0);
    }
    EXPECT_EQ(wake_now(kChild, child), 0);
    EXPECT_EQ(wake_now(kParent, parent), 1 - waker.woken);
    clear();
  }
};

// A wake by the waiter's own process, while its page or a relative's parts: it finds whoever waited
// before it began, at whatever point it is; nobody twice; and it counts right.
TEST_F(BreakAgainstOwnWake, FindsItsWaiter) {
  for (const bool own : {true, false}) {
    for (const bool remembers : {false, true}) {
      for (const bool waits_before : {true, false}) {
        if (!waits_before && kTooSlow) continue;
        const std::size_t runs = testing::explore(
            [&](const Choose& choose) { run(choose, own, remembers, waits_before); });
        EXPECT_GT(runs, waits_before ? 50U : 1000U);
      }
    }
  }
}

class BreakAgainstARelativesWake : public BreakInterleavings {
 protected:
  void run(const Choose& choose, bool remembers, bool waits_before,
           std::array<std::size_t, 2>& outcomes) {
    const Family relatives = family();
    const Vma& parent = relatives.parent;
    const Vma& child = relatives.child;
    Stage stage = this->stage();
    WaiterActor waiter(stage, kParent, parent);
    WakerActor waker(stage, kChild, child, 8);
    ASSERT_TRUE(table_->find(kParent, parent, kStart + kOffset));
    ASSERT_TRUE(table_->find(kChild, child, kStart + kOffset));
    if (waits_before) waiter.queue();
    if (remembers) waker.remember();
    if (remembers && !waits_before) waiter.remember();
    std::vector<Actor*> actors{&waker};
    if (!waits_before) actors.push_back(&waiter);
    interleave(
        stage, choose, [&] { (void)table_->part(kParent, parent, kPage); }, actors);
    EXPECT_EQ(waker.woken, waiter.wait().woken() ? 1 : 0);
    const bool waited_first = waits_before || waiter.queued < waker.begun;
    if (waited_first && waker.ended <= when(BreakStep::recorded)) {
      EXPECT_EQ(waker.woken, 1);
    }
    const bool break_came_first = waker.begun > when(BreakStep::left) ||
                                  (!waits_before && waiter.queued > when(BreakStep::closed));
    if (break_came_first) {
      EXPECT_EQ(waker.woken, 0);
    }
    ++outcomes.at(static_cast<std::size_t>(waker.woken));
    EXPECT_EQ(wake_now(kChild, child), 0);
    EXPECT_EQ(wake_now(kParent, parent), 1 - waker.woken);
    clear();
  }
};

// A wake by a relative while the waiter's page parts: it finds whoever waited before both, as long
// as the break has not moved them; nobody once it has; and what it did not wake, the waiter's own
// process finds.
TEST_F(BreakAgainstARelativesWake, IsBeforeItOrAfterIt) {
  for (const bool remembers : {false, true}) {
    for (const bool waits_before : {true, false}) {
      if (!waits_before && kTooSlow) continue;
      std::array<std::size_t, 2> outcomes{};
      const std::size_t runs = testing::explore(
          [&](const Choose& choose) { run(choose, remembers, waits_before, outcomes); });
      EXPECT_GT(runs, waits_before ? 50U : 1000U);
      EXPECT_GT(outcomes[0], 0U);
      EXPECT_GT(outcomes[1], 0U);
    }
  }
}

// A wake by a relative whose own page parts meanwhile: the relatives that it leaves keep their
// slots. A wake that began after the break finds none of theirs. One that had read the group before
// it may find those, and also who began to wait after the break: one wake too many.
TEST_F(BreakInterleavings, AWakeByTheOneThatPartsEndsAtTheBreak) {
  for (const bool waits_before : {true, false}) {
    std::size_t too_many = 0;
    const std::size_t runs = testing::explore([&](const Choose& choose) {
      const Family relatives = family();
      const Vma& parent = relatives.parent;
      const Vma& child = relatives.child;
      Stage stage = this->stage();
      WaiterActor waiter(stage, kParent, parent);
      WakerActor waker(stage, kChild, child, 8);
      ASSERT_TRUE(table_->find(kParent, parent, kStart + kOffset));
      ASSERT_TRUE(table_->find(kChild, child, kStart + kOffset));
      if (waits_before) waiter.queue();
      std::vector<Actor*> actors{&waker};
      if (!waits_before) actors.push_back(&waiter);
      interleave(
          stage, choose, [&] { (void)table_->part(kChild, child, kPage); }, actors);
      EXPECT_EQ(waker.woken, waiter.wait().woken() ? 1 : 0);
      const bool waited_first = waits_before || waiter.queued < waker.begun;
      if (waited_first && waker.ended <= when(BreakStep::recorded)) {
        EXPECT_EQ(waker.woken, 1);
      }
      if (waker.begun > when(BreakStep::left)) {
        EXPECT_EQ(waker.woken, 0);
      }
      if (waker.woken == 1 && !waits_before && waiter.begun > when(BreakStep::named)) ++too_many;
      EXPECT_EQ(wake_now(kChild, child), 0);
      EXPECT_EQ(wake_now(kParent, parent), 1 - waker.woken);
      clear();
    });
    EXPECT_GT(runs, waits_before ? 50U : 1000U);
    EXPECT_EQ(too_many > 0, !waits_before);
  }
}

// A wait that is taken back during the break, with a wake under way: it was woken and counted, or
// taken back and not.
TEST_F(BreakInterleavings, AWaitThatIsTakenBackIsWokenOrNot) {
  for (const bool own_wake : {true, false}) {
    std::array<std::size_t, 2> outcomes{};
    (void)testing::explore([&](const Choose& choose) {
      const Family relatives = family();
      const Vma& parent = relatives.parent;
      const Vma& child = relatives.child;
      Stage stage = this->stage();
      WaiterActor waiter(stage, kParent, parent);
      WaiterActor other(stage, kParent, parent);
      ASSERT_TRUE(table_->find(kChild, child, kStart + kOffset));
      waiter.queue();
      other.queue();
      WakerActor waker(stage, own_wake ? kParent : kChild, own_wake ? parent : child, 1);
      CancelActor cancel(stage, waiter.wait());
      interleave(stage, choose, [&] { (void)table_->part(kParent, parent, kPage); },
                 {&waker, &cancel});
      const bool cancelled = waiter.wait().result() == -ECANCELED;
      EXPECT_TRUE(cancelled || waiter.wait().woken());
      const int woken = (waiter.wait().woken() ? 1 : 0) + (other.wait().woken() ? 1 : 0);
      EXPECT_EQ(waker.woken, woken);
      if (own_wake) {
        EXPECT_EQ(woken, 1) << "the other took the wake, where this one was taken back";
      }
      ++outcomes.at(cancelled ? 1 : 0);
      EXPECT_EQ(wake_now(kParent, parent), other.wait().woken() ? 0 : 1);
      clear();
    });
    EXPECT_GT(outcomes[0], 0U);
    EXPECT_GT(outcomes[1], 0U);
  }
}

// Who waits where its page parts and is wanted one at a time: of two waiters a wake of one takes
// one, whichever point it is at, and the other stays where its process finds it.
TEST_F(BreakInterleavings, AWakeOfOneTakesOne) {
  (void)testing::explore([&](const Choose& choose) {
    const Family relatives = family();
    const Vma& parent = relatives.parent;
    const Vma& child = relatives.child;
    Stage stage = this->stage();
    WaiterActor first(stage, kParent, parent);
    WaiterActor second(stage, kParent, parent);
    ASSERT_TRUE(table_->find(kChild, child, kStart + kOffset));
    first.queue();
    WakerActor waker(stage, kParent, parent, 1);
    interleave(stage, choose, [&] { (void)table_->part(kParent, parent, kPage); },
               {&waker, &second});
    EXPECT_EQ(waker.woken, 1);
    EXPECT_NE(first.wait().woken(), second.wait().woken());
    EXPECT_TRUE(first.wait().woken() || second.queued < waker.ended);
    EXPECT_EQ(wake_now(kParent, parent), 1);
    clear();
  });
}

// --- the memory goes, moves, or is the object's again

// A wake against an unmap: whoever waits was woken and counted, or can be woken by nobody, so that
// it must be ended; its thread's record does that.
TEST_F(BreakInterleavings, AWakeAgainstAnUnmap) {
  for (const bool waits_before : {true, false}) {
    (void)testing::explore([&](const Choose& choose) {
      const Vma vma = private_mapping();
      Stage stage = this->stage();
      WaiterActor waiter(stage, kParent, vma);
      WakerActor waker(stage, kParent, vma, 8);
      WaitHook hook;
      ASSERT_TRUE(table_->find(kParent, vma, kStart + kOffset, &hook));
      if (waits_before) waiter.queue();
      waker.remember();
      std::vector<Actor*> actors{&waker};
      if (!waits_before) {
        waiter.remember();
        actors.push_back(&waiter);
      }
      interleave(
          stage, choose, [&] { table_->drop(kParent, vma.start, vma.end, EFAULT); }, actors);
      EXPECT_EQ(table_->take_ended(), std::vector{&hook});
      EXPECT_EQ(table_->unhook(hook).ended, EFAULT);
      EXPECT_EQ(waker.woken, waiter.wait().woken() ? 1 : 0);
      const bool waited_first = waits_before || waiter.queued < waker.begun;
      if (waited_first && waker.ended <= when(BreakStep::closed)) {
        EXPECT_EQ(waker.woken, 1);
      }
      // Who queued before the slot was closed, and was not woken, is where nobody wakes it.
      const bool at_the_old_slot = waits_before || waiter.queued <= when(BreakStep::closed);
      if (at_the_old_slot && !waiter.wait().woken()) {
        EXPECT_EQ(wake_now(kParent, vma), 0);
        EXPECT_TRUE(waiter.wait().queued());
      }
      // Who came later looked up what is there now.
      if (!at_the_old_slot) {
        EXPECT_EQ(wake_now(kParent, vma), 1 - waker.woken);
      }
      clear();
    });
  }
}

// A discard against wait and wake, of a page that relatives share: the relatives are left alone
// throughout, and whoever is not woken is where nobody wakes it.
TEST_F(BreakInterleavings, AWakeAgainstADiscard) {
  for (const bool own_wake : {true, false}) {
    std::array<std::size_t, 3> outcomes{};
    (void)testing::explore([&](const Choose& choose) {
      const Family relatives = family();
      const Vma& parent = relatives.parent;
      const Vma& child = relatives.child;
      Stage stage = this->stage();
      WaiterActor waiter(stage, kParent, parent);
      WaiterActor in_child(stage, kChild, child);
      waiter.queue();
      in_child.queue();
      WakerActor waker(stage, own_wake ? kParent : kChild, own_wake ? parent : child, 8);
      waker.remember();
      interleave(stage, choose,
                 [&] { EXPECT_EQ(table_->discard(kParent, parent, ECANCELED).size(), 1U); },
                 {&waker});
      const int woken = (waiter.wait().woken() ? 1 : 0) + (in_child.wait().woken() ? 1 : 0);
      EXPECT_EQ(waker.woken, woken);
      ++outcomes.at(static_cast<std::size_t>(woken));
      if (waker.ended <= when(BreakStep::left)) {
        EXPECT_EQ(woken, 2);
      }
      if (waker.begun > when(BreakStep::closed)) {
        EXPECT_EQ(woken, own_wake ? 0 : 1);
      }
      if (!own_wake) {
        EXPECT_TRUE(in_child.wait().woken());
      }
      EXPECT_EQ(table_->find(kParent, parent, kStart + kOffset)->kind, WordKind::clean);
      EXPECT_EQ(wake_now(kParent, parent), 0);
      EXPECT_EQ(wake_now(kChild, child), in_child.wait().woken() ? 0 : 1);
      clear();
    });
    EXPECT_GT(outcomes[own_wake ? 0 : 1], 0U);
    EXPECT_GT(outcomes[2], 0U);
  }
}

class MoveAgainstAWake : public BreakInterleavings {
 protected:
  void run(const Choose& choose, bool grouped, bool waits_before) {
    const Family relatives = family();
    const Vma& parent = relatives.parent;
    const Vma& child = relatives.child;
    const Vma vma = grouped ? parent : private_mapping();
    const Vma there = vma.moved_to(kElsewhere);
    Stage stage = this->stage();
    WaiterActor waiter(stage, kParent, vma);
    WakerActor relative(stage, kChild, child, 8);
    WakerActor waker(stage, kParent, there, 8);  // which knows where it goes
    if (waits_before) {
      waiter.queue();
    } else {
      waiter.remember();
    }
    if (grouped) relative.remember();
    std::vector<Actor*> actors;
    if (!waits_before) actors.push_back(&waiter);
    if (grouped) actors.push_back(&relative);
    const auto change = [&] {
      (void)table_->move(kParent, {vma.start, vma.length()}, kElsewhere, {there});
      stage.away = true;
    };
    interleave(stage, choose, change, actors);
    EXPECT_EQ(relative.woken, waiter.wait().woken() ? 1 : 0);
    if (grouped && waits_before) {
      EXPECT_EQ(relative.woken, 1) << "the page is one all the time";
    }
    if (waiter.faulted()) {
      EXPECT_EQ(waiter.wait().result(), -EAGAIN);
      EXPECT_GT(waiter.queued, when(BreakStep::closed)) << "only what came too late is refused";
    }
    const int left = waiter.faulted() || waiter.wait().woken() ? 0 : 1;
    while (!waker.done()) waker.step();
    EXPECT_EQ(waker.woken, left);
    clear();
  }
};

// A move against wait and wake, by whoever had looked the word up where it was: the waiter is found
// at the new address unless it was woken, once; who has not yet queued is refused.
TEST_F(MoveAgainstAWake, LosesNobody) {
  for (const bool grouped : {false, true}) {
    for (const bool waits_before : {true, false}) {
      (void)testing::explore([&](const Choose& choose) { run(choose, grouped, waits_before); });
    }
  }
}

}  // namespace
}  // namespace faultline::wait
