#include "daemon/space/space_observer.hpp"

namespace faultline::space {

namespace {

class Nobody final : public SpaceObserver {
 public:
  PageCount page_parts(SpaceId, const Vma& vma, PageIndex page) override {
    return vma.activity->record_break(page, PageCount{1});
  }
  void unmapped(SpaceId, const std::vector<Vma>&) override {}
  void moved(SpaceId, const VaRange&, Vaddr, const std::vector<Vma>&) override {}
  void discarded(SpaceId, const Vma& piece) override {
    piece.activity->forget_break(piece.first, piece.pages());
  }
  void ended(SpaceId, const std::vector<Vma>&) override {}
};

}  // namespace

SpaceObserver& nobody_observes() {
  static Nobody nobody;
  return nobody;
}

}  // namespace faultline::space
