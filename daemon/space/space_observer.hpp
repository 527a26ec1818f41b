// What a room above is told about the memory of address spaces, while it happens: the callback of
// the vcache of 2002. Whoever implements it must not wait for anything that a client can hold up,
// and must take no turn of a space.
//
// Each call returns before the client's thread that brought it about goes on, or, where the kernel
// has let it go on already (an unmap), before the next change of the space.
#pragma once

#include <functional>
#include <vector>

#include "daemon/space/vma.hpp"

namespace faultline::space {

class SpaceObserver {
 public:
  SpaceObserver() = default;
  SpaceObserver(const SpaceObserver&) = delete;
  SpaceObserver& operator=(const SpaceObserver&) = delete;
  virtual ~SpaceObserver() = default;

  // A private page of a mapping that is waited for by page is about to part: from the object, or
  // from the fork relatives that share it. To be recorded in the mapping's activity; returns what
  // that returns. Called by workers that answer faults, several at a time, outside the turn.
  virtual PageCount page_parts(SpaceId space, const Vma& vma, PageIndex page) = 0;
  // The others are called in the turn.
  virtual void unmapped(SpaceId space, const std::vector<Vma>& gone) = 0;
  // there: the pieces, as they are mapped now.
  virtual void moved(SpaceId space, const VaRange& from, Vaddr to,
                     const std::vector<Vma>& there) = 0;
  // The private pages of a piece of a private mapping are dropped: they are the object's again. To
  // be recorded in the mapping's activity.
  virtual void discarded(SpaceId space, const Vma& piece) = 0;
  // Which private pages of a piece, in a run of them, must stay this process's own at a fork: calls
  // own(first, count) for each run. They were guarded just now, which may have come too late for
  // who relies on them; from here on nobody does any more.
  virtual void stay_own(SpaceId /*space*/, const Vma& /*piece*/, PageIndex /*first*/,
                        PageCount /*count*/,
                        const std::function<void(PageIndex, PageCount)>& /*own*/) {}
  // What a read gave has been carried out, of which somebody had asked to be told
  // (message_reads.hpp). By a worker that has the turn.
  virtual void carried_out(SpaceId /*space*/) {}
  // The address space is gone, and with it what is mapped there.
  virtual void ended(SpaceId space, const std::vector<Vma>& mapped) = 0;
};

// Who only records what parts.
[[nodiscard]] SpaceObserver& nobody_observes();

}  // namespace faultline::space
