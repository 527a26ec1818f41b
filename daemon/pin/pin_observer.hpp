// Tells the pins what becomes of a user's memory, and passes everything on to the room above that
// observes it too. Must never keep anything from it.
#pragma once

#include "daemon/space/space_observer.hpp"

namespace faultline::pin {

class PinService;

class PinObserver final : public space::SpaceObserver {
 public:
  PinObserver(PinService& pins, space::SpaceObserver& next) : pins_(pins), next_(next) {}

  PageCount page_parts(SpaceId space, const space::Vma& vma, PageIndex page) override {
    return next_.page_parts(space, vma, page);
  }
  void unmapped(SpaceId space, const std::vector<space::Vma>& gone) override;
  void moved(SpaceId space, const space::VaRange& from, Vaddr to,
             const std::vector<space::Vma>& there) override;
  void discarded(SpaceId space, const space::Vma& piece) override;
  void stay_own(SpaceId space, const space::Vma& piece, PageIndex first, PageCount count,
                const std::function<void(PageIndex, PageCount)>& own) override;
  void carried_out(SpaceId space) override { next_.carried_out(space); }
  void ended(SpaceId space, const std::vector<space::Vma>& mapped) override;

 private:
  PinService& pins_;
  space::SpaceObserver& next_;
};

}  // namespace faultline::pin
