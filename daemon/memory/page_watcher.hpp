// Who is told that pages are about to become resident, by a room above this one.
#pragma once

#include "daemon/kernel/units.hpp"

namespace faultline::memory {

class MemoryObject;

class PageWatcher {
 public:
  PageWatcher() = default;
  PageWatcher(const PageWatcher&) = delete;
  PageWatcher& operator=(const PageWatcher&) = delete;
  virtual ~PageWatcher() = default;

  // The pages' content is in the memfd, and nobody has been told yet. Called on workers that answer
  // faults and on pagers, several times for a page where several make it resident. May block for a
  // moment, and for no client.
  virtual void pages_come(MemoryObject& object, PageIndex first, PageCount count) = 0;
};

}  // namespace faultline::memory
