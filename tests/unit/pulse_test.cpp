// Whether a worker goes round its loop, and whose fault it is where it does not.
#include "daemon/kernel/pulse.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
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

// As a worker is that answers a fault while a client has its memory map: the ioctl reads from
// memory that nobody supplies until the end of the test.
TEST_F(PulseTest, AnIoctlThatDoesNotReturnIs) {
  const UniqueFd uffd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC))};
  if (!uffd) GTEST_SKIP() << "userfaultfd(2) of this user: " << std::strerror(errno);
  uffdio_api api{};
  api.api = UFFD_API;
  ASSERT_EQ(::ioctl(uffd.get(), UFFDIO_API, &api), 0);
  char* const memory = static_cast<char*>(
      ::mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  uffdio_register range{};
  range.range = {reinterpret_cast<std::uintptr_t>(memory), 2 * kPage};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  ASSERT_EQ(::ioctl(uffd.get(), UFFDIO_REGISTER, &range), 0);

  std::jthread worker([&] {
    pulse_->begin();
    uffdio_copy copy{};
    copy.dst = reinterpret_cast<std::uintptr_t>(memory);
    copy.src = copy.dst + kPage;
    copy.len = kPage;
    EXPECT_EQ(::ioctl(uffd.get(), UFFDIO_COPY, &copy), 0);
  });
  uffd_msg message{};
  ASSERT_EQ(::read(uffd.get(), &message, sizeof(message)), sizeof(message));  // it is in there
  await_sleep(pulse_->thread());
  EXPECT_TRUE(pulse_->held_up_by_client());

  uffdio_zeropage zero{};
  zero.range = {reinterpret_cast<std::uintptr_t>(memory) + kPage, kPage};
  EXPECT_EQ(::ioctl(uffd.get(), UFFDIO_ZEROPAGE, &zero), 0);
  worker.join();
  ::munmap(memory, 2 * kPage);
}

}  // namespace
}  // namespace faultline::kernel
