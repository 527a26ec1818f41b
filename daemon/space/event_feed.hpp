// Tells whoever watches what happens in address spaces, as it happens. Must never make an address
// space wait for a watcher, nor keep more than a fixed number of events for one.
//
// Life of an event:
//   1. The thread that it happens on asks watched(). Where nobody watches, that is all there is.
//   2. It says in outline what happened. Where no buffer that is to have it has room, the loss is
//      counted, and that was all: a watcher that is slow costs next to nothing.
//   3. publish() copies it into the buffer of each watcher whose filter lets it through: what a
//      watcher may not see never comes near it. A buffer that was full takes nothing in until half
//      of it is free again; what came meanwhile is counted, and the count given in its place.
//   4. A watcher that had found nothing is told, by its on_ready. It takes batches until it finds
//      nothing again.
//
// Life of a watcher:
//   idle  -> ready  an event is put into its empty buffer: on_ready is called, once
//   ready -> idle   a take found nothing
//   any   -> gone   its Subscription ends
//
// Locking: mutex_ guards the watchers, their buffers and counts. Held to look at the filters and to
// copy one event, or one batch; nothing is called under it. Leaf lock.
//
// Memory order: watched_ is written under mutex_ and read relaxed, for it orders nothing: all data
// is behind the mutex. Who reads an old "no" loses an event that happened at the same time as the
// subscription; what a watcher causes once it has its Subscription comes to a worker through system
// calls, hence after. Who reads an old "yes" takes the mutex and finds no watcher.
//
// Cost where nobody watches: that load, of a cache line which is written only when the first
// watcher comes and the last one goes, so every processor keeps it; and a branch that always goes
// the same way.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/kernel/error.hpp"
#include "daemon/kernel/units.hpp"
#include "daemon/space/vma.hpp"
#include "faultline/wire/protocol.hpp"

namespace faultline::space {

using wire::EventKind;
using wire::FaultKind;

// As much of an event as decides who is to have it.
struct EventOutline {
  EventKind kind{};
  uid_t uid = 0;
  pid_t pid = 0;
  ObjectId object;
  std::string_view object_name;
};

// Something that happened. What a kind does not have is left as it is made.
struct SpaceEvent {
  EventKind kind{};
  std::chrono::system_clock::time_point time;
  SpaceId space;
  pid_t pid = 0;  // 0: a fork child that has neither faulted nor connected yet
  uid_t uid = 0;

  // map, unmap, break, fault. Of a fault, start is the address, and length is 0.
  Vaddr start;
  ByteCount length;
  ObjectId object;  // 0: none
  wire::Name object_name{};
  PageSize page_size;
  PageIndex page;  // of the object, at start
  Sharing sharing = Sharing::shared;
  bool writable = false;

  FaultKind fault = FaultKind::none;
  bool write = false;
  pid_t thread = 0;

  SpaceId child;  // of a fork

  [[nodiscard]] EventOutline outline() const {
    return {kind, uid, pid, object, object_name.data()};
  }
};

// What a watcher wants to see, and may.
struct EventFilter {
  std::optional<uid_t> only_of;  // the processes of this user; nothing: everybody's
  std::uint32_t kinds = wire::kAllEvents;
  pid_t pid = 0;  // 0: any
  // Either fits, where one is given. What is about no object then does not.
  std::optional<ObjectId> object;
  std::string object_name;

  [[nodiscard]] bool lets_through(const EventOutline& event) const;
};

struct EventBatch {
  std::uint64_t lost = 0;  // between the batch before and this one
  std::vector<SpaceEvent> events;

  [[nodiscard]] bool empty() const { return lost == 0 && events.empty(); }
};

class EventFeed {
  class Watcher;

 public:
  static constexpr std::size_t kBuffered = 1024;  // events, for each watcher
  static constexpr std::size_t kMostWatchersOfUser = 16;

  // Ends the watching when it goes, on any thread. Must not outlive the feed.
  class Subscription {
   public:
    Subscription(Subscription&& other) noexcept = default;
    Subscription& operator=(Subscription&&) = delete;
    Subscription(const Subscription&) = delete;
    Subscription& operator=(const Subscription&) = delete;
    ~Subscription();

    // At most so many of the oldest events; none where there are none, and then on_ready is called
    // with the next. From one thread at a time. Does not block.
    [[nodiscard]] EventBatch take(std::size_t most);

   private:
    friend class EventFeed;
    Subscription(EventFeed& feed, std::shared_ptr<Watcher> watcher)
        : feed_(feed), watcher_(std::move(watcher)) {}

    EventFeed& feed_;
    std::shared_ptr<Watcher> watcher_;
  };

  EventFeed() = default;
  EventFeed(const EventFeed&) = delete;
  EventFeed& operator=(const EventFeed&) = delete;
  ~EventFeed() = default;

  // Whether anybody watches. Thread-safe, and costs nothing: see above.
  [[nodiscard]] bool watched() const noexcept { return watched_.load(std::memory_order_relaxed); }
  // Publishes what make_event returns, of which make_outline returns the outline. Neither is called
  // where nobody watches, nor make_event where nobody has room for it. Thread-safe.
  template <typename MakeOutline, typename MakeEvent>
  void tell(MakeOutline make_outline, MakeEvent make_event) {
    if (watched()) [[unlikely]]
      make_and_publish(make_outline, make_event);
  }
  // Thread-safe. Waits for nobody but others who copy an event or a batch.
  void publish(const SpaceEvent& event);

  // Begins to watch, for a user. on_ready is called on the publishing thread, which it must not
  // hold up; a last call may come after the subscription has ended, so it must own what it touches.
  // Thread-safe. Errors: EUSERS: the user has kMostWatchersOfUser.
  Result<Subscription> subscribe(uid_t watcher, EventFilter filter, std::function<void()> on_ready);

  [[nodiscard]] std::size_t watcher_count() const;

 private:
  static constexpr std::size_t kCacheLine = 64;

  // Out of the way of who asks in vain.
  template <typename MakeOutline, typename MakeEvent>
  [[gnu::cold, gnu::noinline]] void make_and_publish(MakeOutline& make_outline,
                                                     MakeEvent& make_event) {
    if (taken_by_any(make_outline())) publish(make_event());
  }
  // Whether one of those who are to have it has room. Where none has, they have lost it.
  bool taken_by_any(const EventOutline& event);
  void end(const std::shared_ptr<Watcher>& watcher);

  alignas(kCacheLine) std::atomic<bool> watched_{false};
  alignas(kCacheLine) mutable std::mutex mutex_;
  std::vector<std::shared_ptr<Watcher>> watchers_;
};

}  // namespace faultline::space
