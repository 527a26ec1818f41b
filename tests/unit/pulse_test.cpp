// Whether a worker goes round its loop, and whose fault it is where it does not.
#include "daemon/kernel/pulse.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <future>
#include <string>
#include <thread>

namespace faultline::kernel {
namespace {

using std::chrono::milliseconds;
constexpr std::size_t kPage = 4096;

std::string state_of(pid_t thread) {
  std::ifstream in("/proc/self/task/" + std::to_string(thread) + "/stat");
  std::string text;
  std::getline(in, text);
  const auto name_end = text.rfind(')');
  return name_end == std::string::npos ? "" : text.substr(name_end + 2, 1);
}

void await_sleep(pid_t thread) {
  while (state_of(thread) != "S" && state_of(thread) != "D") std::this_thread::yield();
}

class PulseTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto mailbox = Mailbox::create();
    ASSERT_TRUE(mailbox) << mailbox.error().message();
    mailbox_ = std::move(*mailbox);
    pulse_ = std::make_shared<Pulse>(mailbox_, "a worker");
  }

  std::shared_ptr<Mailbox> mailbox_;
  std::shared_ptr<Pulse> pulse_;
  const Pulse::Clock::time_point start_ = Pulse::Clock::now();
};

TEST_F(PulseTest, AnAnswerIsDueUntilTheLetterIsRead) {
  EXPECT_EQ(pulse_->overdue(start_), std::nullopt) << "nobody has asked";
  pulse_->ask(start_);
  EXPECT_EQ(pulse_->overdue(start_ + milliseconds(7)), milliseconds(7));
  pulse_->ask(start_ + milliseconds(10));
  EXPECT_EQ(pulse_->overdue(start_ + milliseconds(20)), milliseconds(20)) << "since it was asked";
  std::vector<Mailbox::Letter> letters = mailbox_->take();
  ASSERT_EQ(letters.size(), 1U) << "one question at a time";
  letters.front()();
  EXPECT_EQ(pulse_->overdue(start_ + milliseconds(30)), std::nullopt);
}

TEST_F(PulseTest, WhoHasEndedOwesNothing) {
  mailbox_->close();
  pulse_->ask(start_);
  EXPECT_EQ(pulse_->overdue(start_ + milliseconds(1)), std::nullopt);
}

TEST_F(PulseTest, AWaitOfItsOwnIsNoClientsDoing) {
  std::promise<void> go;
  std::jthread worker([&] {
    pulse_->begin();
    go.get_future().wait();  // a futex
  });
  while (pulse_->thread() == 0) std::this_thread::yield();
  await_sleep(pulse_->thread());
  EXPECT_FALSE(pulse_->held_up_by_client());
  go.set_value();
}

// Memory of two pages that nobody supplies until the end of the test.
class HeldMemory {
 public:
  HeldMemory() {
    uffd_ = UniqueFd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC))};
    if (!uffd_) return;
    uffdio_api api{};
    api.api = UFFD_API;
    EXPECT_EQ(::ioctl(uffd_.get(), UFFDIO_API, &api), 0);
    base_ = static_cast<char*>(
        ::mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_NE(base_, MAP_FAILED);
    uffdio_register range{};
    range.range = {address(), 2 * kPage};
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    EXPECT_EQ(::ioctl(uffd_.get(), UFFDIO_REGISTER, &range), 0);
  }
  HeldMemory(const HeldMemory&) = delete;
  HeldMemory& operator=(const HeldMemory&) = delete;
  ~HeldMemory() {
    if (uffd_) ::munmap(base_, 2 * kPage);
  }

  [[nodiscard]] bool had() const { return static_cast<bool>(uffd_); }
  [[nodiscard]] int uffd() const { return uffd_.get(); }
  [[nodiscard]] char* base() const { return base_; }
  [[nodiscard]] std::uintptr_t address() const { return reinterpret_cast<std::uintptr_t>(base_); }

  // Until somebody has touched it, who sleeps at once.
  void await_touch() const {
    uffd_msg message{};
    ASSERT_EQ(::read(uffd_.get(), &message, sizeof(message)), sizeof(message));
  }
  void supply(std::size_t page) const {
    uffdio_zeropage zero{};
    zero.range = {address() + page * kPage, kPage};
    EXPECT_EQ(::ioctl(uffd_.get(), UFFDIO_ZEROPAGE, &zero), 0);
  }

 private:
  UniqueFd uffd_;
  char* base_ = nullptr;
};

// As a worker is that answers a fault while a client has its memory map.
TEST_F(PulseTest, AnIoctlThatDoesNotReturnIs) {
  const HeldMemory memory;
  if (!memory.had()) GTEST_SKIP() << "userfaultfd(2) of this user: " << std::strerror(errno);
  std::jthread worker([&] {
    pulse_->begin();
    uffdio_copy copy{};
    copy.dst = memory.address();
    copy.src = copy.dst + kPage;
    copy.len = kPage;
    EXPECT_EQ(::ioctl(memory.uffd(), UFFDIO_COPY, &copy), 0);
  });
  memory.await_touch();
  await_sleep(pulse_->thread());
  EXPECT_TRUE(pulse_->held_up_by_client());
  memory.supply(1);
}

// As a worker is that looks into a ring while its client punches a hole into it, slowly: the kernel
// lets nobody have a page of it meanwhile.
TEST_F(PulseTest, AFaultOfItsOwnThatDoesNotReturnIs) {
  const HeldMemory memory;
  if (!memory.had()) GTEST_SKIP() << "userfaultfd(2) of this user: " << std::strerror(errno);
  std::jthread worker([&] {
    pulse_->begin();
    EXPECT_EQ(*static_cast<volatile char*>(memory.base()), 0);
  });
  memory.await_touch();
  await_sleep(pulse_->thread());
  EXPECT_TRUE(pulse_->held_up_by_client());
  memory.supply(0);
}

// As above, where it wakes a thread of the client.
TEST_F(PulseTest, AFaultWithinAnotherSystemCallIs) {
  const HeldMemory memory;
  if (!memory.had()) GTEST_SKIP() << "userfaultfd(2) of this user: " << std::strerror(errno);
  std::jthread worker([&] {
    pulse_->begin();
    EXPECT_EQ(::syscall(SYS_futex, memory.base(), FUTEX_WAKE, 1, nullptr, nullptr, 0), 0);
  });
  memory.await_touch();
  await_sleep(pulse_->thread());
  EXPECT_TRUE(pulse_->held_up_by_client());
  memory.supply(0);
}

}  // namespace
}  // namespace faultline::kernel
