// Who can tell which pages must stay in memory, by a room above this one: pins.
#pragma once

#include <functional>

#include "daemon/kernel/units.hpp"

namespace faultline::memory {

class MemoryObject;

class PageHolds {
 public:
  PageHolds() = default;
  PageHolds(const PageHolds&) = delete;
  PageHolds& operator=(const PageHolds&) = delete;
  virtual ~PageHolds() = default;

  // Of pages whose entries say evicting, all of [first, first + count) that are to go: calls hold()
  // for each run that is held. Who is not seen here sees the entries.
  // Called on threads that evict. Blocks for no client.
  virtual void held(const MemoryObject& object, PageIndex first, PageCount count,
                    const std::function<void(PageIndex, PageCount)>& hold) = 0;
};

}  // namespace faultline::memory
