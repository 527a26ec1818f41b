// An address space of this very process, whose steps are taken here one by one.
#include "daemon/space/address_space.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

namespace faultline::space {
namespace {

constexpr std::size_t kPage = 4096;

class Host final : public SpaceHost {
 public:
  Host() {
    auto ring = kernel::Ring::create(8);
    EXPECT_TRUE(ring) << ring.error().message();
    ring_ = std::move(*ring);
    EXPECT_TRUE(ring_->own());
    mailbox_ = std::move(*kernel::Mailbox::create());
  }
  kernel::Ring& ring() override { return *ring_; }
  std::shared_ptr<kernel::Mailbox> mailbox() override { return mailbox_; }
  SpaceId next_space_id() override { return SpaceId{2}; }
  void answered() override {}
  void ask_for_help(AddressSpace&, std::size_t) override {}
  void adopt(std::shared_ptr<AddressSpace>) override {}

  void wait_until(const std::function<bool()>& condition) const {
    while (!condition()) ASSERT_TRUE(ring_->wait());
  }

 private:
  std::unique_ptr<kernel::Ring> ring_;
  std::shared_ptr<kernel::Mailbox> mailbox_;
};

class AddressSpaceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    UniqueFd fd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))};
    if (!fd) GTEST_SKIP() << "SKIPPED: no userfaultfd without privilege here, run as root";
    watched_ = UniqueFd{::dup(fd.get())};
    auto uffd = kernel::Userfaultfd::adopt(kernel::ForeignFd{std::move(fd)});
    ASSERT_TRUE(uffd) << uffd.error().message();
    memory::ObjectSpec spec;
    spec.content_size = ByteCount{kPage};
    object_ = *memory::MemoryObject::create(ObjectId{1}, std::move(spec));
    space_ = std::make_shared<AddressSpace>(SpaceId{1}, Owner{}, std::move(*uffd),
                                            std::make_shared<HandleTable>(), std::nullopt,
                                            Surroundings{domain_, feed_});
    space_->start(host_);
  }
  void TearDown() override {
    if (!space_) return;
    space_->retire();
    host_.wait_until([&] { return space_->wind_up(); });
    space_.reset();
  }

  void* map() {
    void* memory = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED,
                          object_->memfd().writable_fd(), 0);
    EXPECT_NE(memory, MAP_FAILED);
    MapRequest request;
    request.address = Vaddr{reinterpret_cast<std::uintptr_t>(memory)};
    request.length = ByteCount{kPage};
    request.object = object_;
    const Status mapped = space_->map(request);
    EXPECT_TRUE(mapped) << mapped.error().message();
    return memory;
  }
  [[nodiscard]] bool knows(void* memory) const {
    return space_->vma_at(Vaddr{reinterpret_cast<std::uintptr_t>(memory)}).has_value();
  }
  void wait_for_an_event() const {
    pollfd readable{watched_.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&readable, 1, 5000), 1);
  }

  epoch::Domain domain_{"test"};
  EventFeed feed_;
  Host host_;
  UniqueFd watched_;
  std::shared_ptr<memory::MemoryObject> object_;
  std::shared_ptr<AddressSpace> space_;
};

// An unmap ends the space in the middle of a check, which remembers removals from before it.
TEST_F(AddressSpaceTest, TheLastUnmapMayComeWhileTheEndOfTheSessionIsChecked) {
  void* const first = map();
  void* const last = map();
  std::thread unmapping_first([&] { ::munmap(first, kPage); });
  host_.wait_until([&] { return !knows(first); });
  unmapping_first.join();

  std::thread unmapping_last([&] { ::munmap(last, kPage); });
  wait_for_an_event();
  space_->session_closed();
  EXPECT_TRUE(space_->dead());
  unmapping_last.join();
}

}  // namespace
}  // namespace faultline::space
