#include "daemon/space/message_reads.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace faultline::space {
namespace {

TEST(MessageReads, NobodyIsToldOfAReadThatNobodyAwaits) {
  MessageReads reads;
  EXPECT_FALSE(reads.await()) << "none was ever begun";
  reads.begin();
  EXPECT_FALSE(reads.end());
  EXPECT_FALSE(reads.await());
}

// However many await one, whoever ends it is told once; the next is another.
TEST(MessageReads, WhoeverAwaitsOneIsToldOfItsEnd) {
  MessageReads reads;
  reads.begin();
  const auto first = reads.await();
  ASSERT_TRUE(first);
  EXPECT_EQ(reads.await(), first);
  EXPECT_FALSE(reads.over(*first));
  EXPECT_TRUE(reads.end());
  EXPECT_TRUE(reads.over(*first));
  reads.begin();
  EXPECT_TRUE(reads.over(*first)) << "what is read later is no concern of who awaited that one";
  const auto second = reads.await();
  ASSERT_TRUE(second);
  EXPECT_NE(second, first);
  EXPECT_TRUE(reads.end());
  reads.begin();
  EXPECT_FALSE(reads.end());
}

// Who learns of something that was read, as a client's thread does in the middle of it, and comes
// after what is under way, sees that it was carried out. What is carried out is not atomic, so
// ThreadSanitizer sees who comes too early. And no end that was awaited goes untold.
TEST(MessageReads, WhoComesAfterSeesWhatWasCarriedOut) {
  constexpr int kEvents = 20'000;
  constexpr int kAskers = 3;
  MessageReads reads;
  std::vector<int> carried_out(kEvents + 1);
  std::atomic<int> seen{0};  // the last event whose thread goes on
  std::atomic<int> told{0};
  std::atomic<int> left{kAskers};
  std::thread reader([&] {
    for (int event = 1; left != 0; ++event) {
      reads.begin();
      if (event <= kEvents) {
        seen.store(event, std::memory_order_release);  // the kernel's lock
        carried_out.at(static_cast<std::size_t>(event)) = event;
      }
      if (reads.end()) {
        told.fetch_add(1, std::memory_order_release);
        told.notify_all();
      }
    }
  });
  std::vector<std::thread> askers;
  for (int i = 0; i < kAskers; ++i) {
    askers.emplace_back([&] {
      for (int event = 0; event < kEvents;) {
        event = seen.load(std::memory_order_acquire);
        const int told_before = told.load(std::memory_order_acquire);
        if (const auto read = reads.await()) {
          // Would hang here for ever, where its end were told to nobody.
          while (!reads.over(*read)) told.wait(told_before, std::memory_order_acquire);
        }
        EXPECT_EQ(carried_out.at(static_cast<std::size_t>(event)), event);
      }
      --left;
    });
  }
  for (std::thread& asker : askers) asker.join();
  reader.join();
}

}  // namespace
}  // namespace faultline::space
