// Tells the feed what happens in one address space. Must never cost more than a load and a branch
// where nobody watches: what there is to tell is put together only then.
#pragma once

#include <chrono>
#include <vector>

#include "daemon/space/event_feed.hpp"
#include "daemon/space/identity.hpp"
#include "daemon/space/vma.hpp"

namespace faultline::space {

// Thread-safe. Refers to both.
class Teller {
 public:
  Teller(const Identity& identity, EventFeed& feed) : identity_(identity), feed_(feed) {}

  // About no object. complete adds what the kind has to tell.
  template <typename Complete>
  void tell(EventKind kind, Complete complete) const {
    feed_.tell([&] { return outline(kind); },
               [&] {
                 SpaceEvent event = made(kind);
                 complete(event);
                 return event;
               });
  }
  // Of [start, start + length) of the VMA.
  template <typename Complete>
  void tell(EventKind kind, const Vma& vma, Vaddr start, ByteCount length,
            Complete complete) const {
    feed_.tell(
        [&] {
          EventOutline about = outline(kind);
          about.object = vma.object->id();
          about.object_name = vma.object->name();
          return about;
        },
        [&] {
          SpaceEvent event = made(kind);
          describe(event, vma, start, length);
          complete(event);
          return event;
        });
  }
  void tell(EventKind kind, const Vma& vma, Vaddr start, ByteCount length) const {
    tell(kind, vma, start, length, [](SpaceEvent&) {});
  }
  void tell(EventKind kind, const std::vector<Vma>& whole) const {
    for (const Vma& vma : whole) tell(kind, vma, vma.start, vma.length());
  }

 private:
  [[nodiscard]] EventOutline outline(EventKind kind) const {
    return {kind, identity_.uid(), identity_.pid(), {}, {}};
  }
  [[nodiscard]] SpaceEvent made(EventKind kind) const {
    SpaceEvent event;
    event.kind = kind;
    event.time = std::chrono::system_clock::now();
    event.space = identity_.id();
    event.pid = identity_.pid();
    event.uid = identity_.uid();
    return event;
  }
  static void describe(SpaceEvent& event, const Vma& vma, Vaddr start, ByteCount length) {
    event.start = start;
    event.length = length;
    event.object = vma.object->id();
    vma.object->name().copy(event.object_name.data(), event.object_name.size() - 1);
    event.page_size = vma.page_size();
    event.page = vma.page_at(start);
    event.sharing = vma.sharing;
    event.writable = vma.writable;
  }

  const Identity& identity_;
  EventFeed& feed_;
};

}  // namespace faultline::space
