// The feed of events: who gets what, what is lost and how it is told, and what it costs those who
// publish when nobody watches.
#include "daemon/space/event_feed.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace faultline::space {
namespace {

constexpr uid_t kRoot = 0;
constexpr std::size_t kAtOnce = 8;

SpaceEvent event_of(EventKind kind, pid_t pid = 10, uid_t uid = 1000) {
  SpaceEvent event;
  event.kind = kind;
  event.pid = pid;
  event.uid = uid;
  return event;
}

SpaceEvent about(ObjectId object, const std::string& name) {
  SpaceEvent event = event_of(EventKind::map);
  event.object = object;
  name.copy(event.object_name.data(), event.object_name.size() - 1);
  return event;
}

SpaceEvent numbered(std::uint64_t number) {
  SpaceEvent event = event_of(EventKind::fault);
  event.page = PageIndex{number};
  return event;
}

EventFeed::Subscription watch(EventFeed& feed, EventFilter filter = {}) {
  auto subscription = feed.subscribe(kRoot, std::move(filter), [] {});
  EXPECT_TRUE(subscription) << subscription.error().message();
  return std::move(*subscription);
}

struct Taken {
  std::vector<SpaceEvent> events;
  std::uint64_t lost = 0;
  std::vector<std::size_t> gaps;  // how many events came before each
};

Taken take_all(EventFeed::Subscription& subscription) {
  Taken taken;
  for (;;) {
    const EventBatch batch = subscription.take(kAtOnce);
    if (batch.empty()) return taken;
    EXPECT_LE(batch.events.size(), kAtOnce);
    if (batch.lost > 0) taken.gaps.push_back(taken.events.size());
    taken.lost += batch.lost;
    taken.events.insert(taken.events.end(), batch.events.begin(), batch.events.end());
  }
}

std::size_t seen(EventFilter filter, const std::vector<SpaceEvent>& events) {
  EventFeed feed;
  auto subscription = watch(feed, std::move(filter));
  for (const SpaceEvent& event : events) feed.publish(event);
  return take_all(subscription).events.size();
}

// Whoever publishes builds nothing unless somebody watches at that moment.
TEST(EventFeed, BuildsNoEventWhenNobodyWatches) {
  EventFeed feed;
  int built = 0;
  const auto make = [&] {
    ++built;
    return event_of(EventKind::fault);
  };
  EXPECT_FALSE(feed.watched());
  const auto outline = [] { return event_of(EventKind::fault).outline(); };
  feed.tell(outline, make);
  EXPECT_EQ(built, 0);
  {
    auto subscription = watch(feed);
    EXPECT_TRUE(feed.watched());
    feed.tell(outline, make);
    EXPECT_EQ(built, 1);
    EXPECT_EQ(take_all(subscription).events.size(), 1U);
  }
  EXPECT_FALSE(feed.watched());
  feed.tell(outline, make);
  EXPECT_EQ(built, 1);
}

// What nobody takes is counted for those who should have had it, and for nobody else.
TEST(EventFeed, BuildsNoEventForAWatcherThatIsFull) {
  EventFeed feed;
  auto slow = watch(feed);
  EventFilter others;
  others.pid = 11;
  auto other = watch(feed, others);
  int built = 0;
  const auto tell = [&](pid_t pid) {
    feed.tell([&] { return event_of(EventKind::fault, pid).outline(); },
              [&] {
                ++built;
                return event_of(EventKind::fault, pid);
              });
  };
  for (std::size_t i = 0; i < EventFeed::kBuffered; ++i) tell(10);
  EXPECT_EQ(built, EventFeed::kBuffered);
  for (int i = 0; i < 5; ++i) tell(10);
  EXPECT_EQ(built, EventFeed::kBuffered);
  tell(11);  // one takes it, the other loses it
  EXPECT_EQ(built, EventFeed::kBuffered + 1);
  const Taken of_other = take_all(other);
  EXPECT_EQ(of_other.events.size(), 1U);
  EXPECT_EQ(of_other.lost, 0U);
  const Taken of_slow = take_all(slow);
  EXPECT_EQ(of_slow.events.size(), EventFeed::kBuffered);
  EXPECT_EQ(of_slow.lost, 6U);
}

// The flag shares no cache line with anything that is written while events are published.
TEST(EventFeed, KeepsItsFlagOnACacheLineOfItsOwn) {
  EXPECT_EQ(alignof(EventFeed) % 64, 0U);
  EXPECT_GE(sizeof(EventFeed), 128U);
}

// Events come in the order they were published in, whatever the size of the batches.
TEST(EventFeed, GivesEventsInOrder) {
  EventFeed feed;
  auto subscription = watch(feed);
  for (std::uint64_t i = 0; i < 100; ++i) feed.publish(numbered(i));
  const Taken taken = take_all(subscription);
  ASSERT_EQ(taken.events.size(), 100U);
  for (std::uint64_t i = 0; i < 100; ++i) EXPECT_EQ(taken.events[i].page, PageIndex{i});
  EXPECT_EQ(taken.lost, 0U);
}

// A watcher of some kinds gets those alone.
TEST(EventFeed, FiltersByKind) {
  const std::vector<SpaceEvent> events = {
      event_of(EventKind::map),       event_of(EventKind::unmap), event_of(EventKind::fault),
      event_of(EventKind::cow_break), event_of(EventKind::fork),  event_of(EventKind::exit)};
  EXPECT_EQ(seen({}, events), events.size());
  for (const SpaceEvent& event : events) {
    EventFilter filter;
    filter.kinds = wire::bit_of(event.kind);
    EXPECT_EQ(seen(filter, events), 1U);
    EXPECT_EQ(seen(filter, {event}), 1U);
  }
}

// A watcher of one process gets nothing of another, nor of one that is not known yet.
TEST(EventFeed, FiltersByProcess) {
  EventFilter filter;
  filter.pid = 10;
  EXPECT_EQ(seen(filter, {event_of(EventKind::map, 10)}), 1U);
  EXPECT_EQ(seen(filter, {event_of(EventKind::map, 11), event_of(EventKind::map, 0)}), 0U);
}

// A watcher who may see one user's processes gets nothing of another's.
TEST(EventFeed, FiltersByUser) {
  EventFilter filter;
  filter.only_of = 1000;
  EXPECT_EQ(seen(filter, {event_of(EventKind::map, 10, 1000)}), 1U);
  EXPECT_EQ(seen(filter, {event_of(EventKind::map, 10, 1001), event_of(EventKind::map, 10, 0)}),
            0U);
}

// An object is named by its id or its name; what is about no object is not about this one.
TEST(EventFeed, FiltersByObject) {
  EventFilter by_id;
  by_id.object = ObjectId{7};
  EXPECT_EQ(seen(by_id, {about(ObjectId{7}, "")}), 1U);
  EXPECT_EQ(seen(by_id, {about(ObjectId{8}, "7"), event_of(EventKind::fork)}), 0U);
  EventFilter by_name;
  by_name.object_name = "book";
  EXPECT_EQ(seen(by_name, {about(ObjectId{7}, "book")}), 1U);
  EXPECT_EQ(seen(by_name, {about(ObjectId{7}, "boo"), about(ObjectId{7}, "books"),
                           about(ObjectId{7}, ""), event_of(EventKind::exit)}),
            0U);
  EventFilter either;
  either.object = ObjectId{7};
  either.object_name = "7";
  EXPECT_EQ(seen(either, {about(ObjectId{7}, "x"), about(ObjectId{9}, "7")}), 2U);
}

// What does not fit is counted, exactly, and the count stands where the events would have.
TEST(EventFeed, CountsWhatASlowWatcherLoses) {
  EventFeed feed;
  auto slow = watch(feed);
  auto quick = watch(feed);
  constexpr std::uint64_t kMore = 100;
  std::size_t quick_got = 0;
  for (std::uint64_t i = 0; i < EventFeed::kBuffered + kMore; ++i) {
    feed.publish(numbered(i));
    quick_got += take_all(quick).events.size();
  }
  EXPECT_EQ(quick_got, EventFeed::kBuffered + kMore) << "one watcher's slowness is its own";
  const Taken taken = take_all(slow);
  EXPECT_EQ(taken.events.size(), EventFeed::kBuffered);
  EXPECT_EQ(taken.events.back().page, PageIndex{EventFeed::kBuffered - 1});
  EXPECT_EQ(taken.lost, kMore);
  EXPECT_EQ(taken.gaps, std::vector<std::size_t>{EventFeed::kBuffered});
  EXPECT_TRUE(slow.take(kAtOnce).empty()) << "a loss is told once";
}

// The gap is told before the first event that came after it.
TEST(EventFeed, TellsALossWhereItWas) {
  EventFeed feed;
  auto slow = watch(feed);
  for (std::uint64_t i = 0; i < EventFeed::kBuffered + 3; ++i) feed.publish(numbered(i));
  std::size_t before = 0;
  while (before < EventFeed::kBuffered / 2) before += slow.take(kAtOnce).events.size();
  feed.publish(numbered(9999));
  const Taken taken = take_all(slow);
  EXPECT_EQ(taken.lost, 3U);
  EXPECT_EQ(taken.gaps, std::vector<std::size_t>{EventFeed::kBuffered - before});
  EXPECT_EQ(taken.events.back().page, PageIndex{9999});
}

// A buffer that was full takes nothing until half of it is free: one gap, not many small ones.
TEST(EventFeed, AFullBufferIsHalfEmptiedBeforeItTakesMore) {
  EventFeed feed;
  auto slow = watch(feed);
  for (std::uint64_t i = 0; i < EventFeed::kBuffered; ++i) feed.publish(numbered(i));
  std::size_t taken = 0;
  std::size_t lost = 0;
  while (taken + kAtOnce < EventFeed::kBuffered / 2) {
    taken += slow.take(kAtOnce).events.size();
    feed.publish(numbered(9999));
    ++lost;
  }
  const Taken rest = take_all(slow);
  EXPECT_EQ(taken + rest.events.size(), EventFeed::kBuffered);
  EXPECT_EQ(rest.lost, lost);
  EXPECT_EQ(rest.gaps.size(), 1U);
}

// A filtered event neither fills a buffer nor counts as lost: not even a number tells of it.
TEST(EventFeed, WhatAWatcherMayNotSeeIsNotCountedAsLost) {
  EventFeed feed;
  EventFilter filter;
  filter.only_of = 1000;
  auto subscription = watch(feed, filter);
  for (std::size_t i = 0; i < 3 * EventFeed::kBuffered; ++i) {
    feed.publish(event_of(EventKind::fault, 10, 1001));
  }
  feed.publish(event_of(EventKind::fault, 10, 1000));
  const Taken taken = take_all(subscription);
  EXPECT_EQ(taken.events.size(), 1U);
  EXPECT_EQ(taken.lost, 0U);
}

// on_ready is called with the first event after a take found nothing, and not with the next.
TEST(EventFeed, TellsAWatcherOnceUntilItHasTakenAll) {
  EventFeed feed;
  int told = 0;
  auto subscription = feed.subscribe(kRoot, {}, [&] { ++told; });
  ASSERT_TRUE(subscription);
  feed.publish(numbered(1));
  feed.publish(numbered(2));
  EXPECT_EQ(told, 1);
  EXPECT_EQ(subscription->take(kAtOnce).events.size(), 2U);
  feed.publish(numbered(3));
  EXPECT_EQ(told, 1) << "it has not found its buffer empty yet";
  (void)take_all(*subscription);
  feed.publish(numbered(4));
  EXPECT_EQ(told, 2);
}

// One user's watchers are limited, and take no other user's place; one that goes makes room.
TEST(EventFeed, LimitsTheWatchersOfAUser) {
  EventFeed feed;
  std::vector<EventFeed::Subscription> all;
  for (std::size_t i = 0; i < EventFeed::kMostWatchersOfUser; ++i) all.push_back(watch(feed));
  const auto refused = feed.subscribe(kRoot, {}, [] {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), EUSERS);
  EXPECT_TRUE(feed.subscribe(1000, {}, [] {}));
  all.pop_back();
  EXPECT_TRUE(feed.subscribe(kRoot, {}, [] {}));
  EXPECT_EQ(feed.watcher_count(), EventFeed::kMostWatchersOfUser - 1);
}

// Takes a few events, which must be this publisher's, one after the other or a count in their
// place.
void expect_all_of(pid_t publisher, EventFeed::Subscription& subscription) {
  std::optional<std::uint64_t> next;
  for (std::size_t got = 0; got < 20;) {
    const EventBatch batch = subscription.take(kAtOnce);
    if (batch.empty()) std::this_thread::yield();
    got += batch.events.size();
    if (next) *next += batch.lost;
    for (const SpaceEvent& event : batch.events) {
      EXPECT_EQ(event.pid, publisher);
      EXPECT_EQ(event.page.value(), next.value_or(event.page.value()));
      next = event.page.value() + 1;
    }
  }
}

// Watchers come and go, and take, while other threads publish; each sees each publisher's events in
// order, and every one of them or a count in its place.
TEST(EventFeed, WatchersComeAndGoWhileThreadsPublish) {
  constexpr pid_t kPublishers = 3;
  constexpr int kRounds = 200;
  EventFeed feed;
  std::atomic<bool> stop{false};
  std::vector<std::thread> publishers;
  for (pid_t pid = 1; pid <= kPublishers; ++pid) {
    publishers.emplace_back([&, pid] {
      for (std::uint64_t i = 0; !stop; ++i) {
        SpaceEvent event = numbered(i);
        event.pid = pid;
        feed.tell([&] { return event.outline(); }, [&] { return event; });
      }
    });
  }
  std::vector<std::thread> watchers;
  for (int w = 0; w < 2; ++w) {
    watchers.emplace_back([&] {
      for (int round = 0; round < kRounds; ++round) {
        const auto told = std::make_shared<std::atomic<int>>(0);
        EventFilter filter;
        filter.pid = 1 + round % kPublishers;
        auto subscription = feed.subscribe(kRoot, filter, [told] { told->fetch_add(1); });
        ASSERT_TRUE(subscription);
        expect_all_of(filter.pid, *subscription);
      }
    });
  }
  for (std::thread& watcher : watchers) watcher.join();
  stop = true;
  for (std::thread& publisher : publishers) publisher.join();
  EXPECT_FALSE(feed.watched());
  EXPECT_EQ(feed.watcher_count(), 0U);
}

}  // namespace
}  // namespace faultline::space
