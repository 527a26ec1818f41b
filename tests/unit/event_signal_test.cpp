// Signalling a client's eventfd: it tells, and never blocks, whatever the client did to it.
#include "daemon/kernel/event_signal.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

namespace faultline::kernel {
namespace {

constexpr std::uint64_t kTop = std::numeric_limits<std::uint64_t>::max() - 1;

bool readable(int fd) {
  pollfd waiting{fd, POLLIN, 0};
  return ::poll(&waiting, 1, 0) == 1 && (waiting.revents & POLLIN) != 0;
}

std::shared_ptr<EventSignal> make() {
  auto made = EventSignal::create();
  EXPECT_TRUE(made) << made.error().message();
  return made ? *made : nullptr;
}

TEST(EventSignal, MakesAnEventfdReadableOnce) {
  const auto signal = make();
  const ForeignFd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  EXPECT_FALSE(readable(event.get()));
  ASSERT_TRUE(signal->signal(event));
  EXPECT_TRUE(readable(event.get()));
  std::uint64_t count = 0;
  ASSERT_EQ(::read(event.get(), &count, sizeof(count)), static_cast<ssize_t>(sizeof(count)));
  EXPECT_EQ(count, 1U);
}

// A write would block here for ever: the control shows it, with the alarm that would end this test
// too.
TEST(EventSignal, DoesNotBlockWhereTheCountIsAtTheTopAndWritesBlock) {
  const auto signal = make();
  const ForeignFd event{::eventfd(0, EFD_CLOEXEC)};  // no O_NONBLOCK
  ASSERT_EQ(::write(event.get(), &kTop, sizeof(kTop)), static_cast<ssize_t>(sizeof(kTop)));
  pollfd writable{event.get(), POLLOUT, 0};
  ASSERT_EQ(::poll(&writable, 1, 0), 0) << "a write would not block";
  ::alarm(10);
  EXPECT_TRUE(signal->signal(event));
  EXPECT_TRUE(signal->signal(event)) << "at the very top now";
  ::alarm(0);
  EXPECT_TRUE(readable(event.get()));
}

// The one ring serves all clients: one of them that is refused leaves it as it was.
TEST(EventSignal, WhatIsNoEventfdIsRefusedAndTheNextIsServed) {
  const auto signal = make();
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const ForeignFd reader{ends[0]};
  const ForeignFd writer{ends[1]};
  const ForeignFd none;
  for (const ForeignFd* wrong : {&reader, &writer, &none}) {
    EXPECT_FALSE(EventSignal::is_eventfd(wrong->get()));
    EXPECT_FALSE(signal->signal(*wrong));
  }
  EXPECT_FALSE(readable(reader.get()));
  const ForeignFd event{::eventfd(0, EFD_CLOEXEC)};
  EXPECT_TRUE(EventSignal::is_eventfd(event.get()));
  EXPECT_TRUE(signal->signal(event));
  EXPECT_TRUE(readable(event.get()));
}

// A file of that name is none.
TEST(EventSignal, AFileWithTheNameOfAnEventfdIsNone) {
  const ForeignFd file{::memfd_create("anon_inode:[eventfd]", MFD_CLOEXEC)};
  EXPECT_FALSE(EventSignal::is_eventfd(file.get()));
}

TEST(EventSignal, SignalsOfManyThreadsAllArrive) {
  const auto signal = make();
  constexpr std::uint64_t kEach = 500;
  std::vector<ForeignFd> events;
  for (int i = 0; i < 4; ++i) events.emplace_back(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  std::vector<std::thread> threads;
  for (const ForeignFd& event : events) {
    threads.emplace_back([&] {
      for (std::uint64_t i = 0; i < kEach; ++i) EXPECT_TRUE(signal->signal(event));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const ForeignFd& event : events) {
    std::uint64_t count = 0;
    EXPECT_EQ(::read(event.get(), &count, sizeof(count)), static_cast<ssize_t>(sizeof(count)));
    EXPECT_EQ(count, kEach);
  }
}

}  // namespace
}  // namespace faultline::kernel
