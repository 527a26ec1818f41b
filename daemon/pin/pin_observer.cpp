#include "daemon/pin/pin_observer.hpp"

#include "daemon/pin/pin_service.hpp"

namespace faultline::pin {

void PinObserver::unmapped(SpaceId space, const std::vector<space::Vma>& gone) {
  if (!gone.empty()) pins_.unmapped(space, gone);
  next_.unmapped(space, gone);
}

void PinObserver::moved(SpaceId space, const space::VaRange& from, Vaddr to,
                        const std::vector<space::Vma>& there) {
  pins_.moved(space, from, to);
  next_.moved(space, from, to, there);
}

void PinObserver::discarded(SpaceId space, const space::Vma& piece) {
  // First the frames go, then who relied on them is looked for.
  next_.discarded(space, piece);
  pins_.discarded(space, piece);
}

void PinObserver::stay_own(SpaceId space, const space::Vma& piece, PageIndex first, PageCount count,
                           const std::function<void(PageIndex, PageCount)>& own) {
  pins_.stay_own(space, piece, first, count, own);
  next_.stay_own(space, piece, first, count, own);
}

void PinObserver::ended(SpaceId space, const std::vector<space::Vma>& mapped) {
  pins_.ended(space);
  next_.ended(space, mapped);
}

}  // namespace faultline::pin
