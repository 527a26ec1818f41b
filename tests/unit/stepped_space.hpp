// What it takes to have an address space of this very process whose steps are taken one by one, for
// tests: a host that does nothing by itself, and an answer that is held up half-way. Must never go
// on by itself.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <memory>
#include <thread>
#include <utility>

#include "daemon/space/address_space.hpp"

namespace faultline::testing {

class SteppedHost final : public space::SpaceHost {
 public:
  SteppedHost() {
    auto ring = kernel::Ring::create(8);
    EXPECT_TRUE(ring) << ring.error().message();
    ring_ = std::move(*ring);
    EXPECT_TRUE(ring_->own());
    mailbox_ = std::move(*kernel::Mailbox::create());
  }
  kernel::Ring& ring() override { return *ring_; }
  std::shared_ptr<kernel::Mailbox> mailbox() override { return mailbox_; }
  SpaceId next_space_id() override { return SpaceId{2}; }
  bool stay(space::AddressSpace&) override { return false; }
  void answered(space::AddressSpace&) override {}
  void adopt(std::shared_ptr<space::AddressSpace>) override {}

  void wait_until(const std::function<bool()>& condition) const {
    while (!condition()) ASSERT_TRUE(ring_->wait());
  }

 private:
  std::unique_ptr<kernel::Ring> ring_;
  std::shared_ptr<kernel::Mailbox> mailbox_;
};

// Holds up the first answer of a space between its look-up and what it does: whoever watches is
// told there.
class HeldAnswer {
 public:
  explicit HeldAnswer(space::EventFeed& feed)
      : watching_(feed.subscribe(0, faults_only(),
                                 [held = held_] {
                                   held->reached.set_value();
                                   held->released.wait();
                                 })
                      .value()) {}
  HeldAnswer(const HeldAnswer&) = delete;
  HeldAnswer& operator=(const HeldAnswer&) = delete;
  ~HeldAnswer() { release(); }

  void wait_until_held() { held_->reached.get_future().wait(); }
  void release() {
    if (!std::exchange(is_released_, true)) release_.set_value();
  }

 private:
  struct Held {
    std::promise<void> reached;
    std::shared_future<void> released;
  };
  static space::EventFilter faults_only() {
    space::EventFilter filter;
    filter.kinds = wire::bit_of(wire::EventKind::fault);
    return filter;
  }

  std::promise<void> release_;
  std::shared_ptr<Held> held_ = std::make_shared<Held>(Held{{}, release_.get_future().share()});
  bool is_released_ = false;
  space::EventFeed::Subscription watching_;
};

inline std::thread toucher(void* memory) {
  return std::thread([memory] { *static_cast<volatile std::byte*>(memory) = std::byte{1}; });
}

}  // namespace faultline::testing
