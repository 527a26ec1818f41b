// Clients that put nonsense into their channel and thread records harm nobody but themselves: the
// daemon goes on, and those beside them wait and wake as before.
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "libclient/connection.hpp"
#include "libclient/place.hpp"
#include "libclient/thread_records.hpp"
#include "tests/system/harness.hpp"
#include "tests/system/waiters.hpp"
#include "tests/unit/seed.hpp"
#include "tests/unit/slower.hpp"

namespace faultline::testing {
namespace {

using wire::ChannelOp;
using wire::Delivery;
using wire::Submission;

std::uint64_t number(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address);
}

// The rings of this process's channel, without the library's care.
class RawChannel {
 public:
  explicit RawChannel(const void* mapped)
      : channel_(client::connection_of(number(mapped))->channel()) {}
  [[nodiscard]] wire::Rings& rings() const { return channel_->rings(); }
  void ring() const { channel_->ring_doorbell(); }
  // Puts it in; waits for room.
  void put(const Submission& asked) const {
    wire::RingIndexes& indexes = rings().indexes;
    const std::uint32_t tail = indexes.submission_tail.load();
    while (tail - indexes.submission_head.load() >= wire::kSubmissions) {
      ring();
      ::usleep(50);
    }
    rings().submissions[tail % wire::kSubmissions] = asked;
    indexes.submission_tail.store(tail + 1);
  }
  // Until the daemon has taken everything.
  [[nodiscard]] bool taken() const {
    ring();
    const wire::RingIndexes& indexes = rings().indexes;
    return eventually([&] { return indexes.submission_head == indexes.submission_tail; });
  }
  // Until the daemon has taken everything and carried it out: it answers what comes after.
  [[nodiscard]] bool done(const void* mapped) const {
    Submission asked;
    asked.op = ChannelOp::resolve;
    asked.address = number(mapped);
    return taken() && channel_->ask(asked).result == 0;
  }
  [[nodiscard]] wire::RingIndexes& indexes() const { return rings().indexes; }

 private:
  std::shared_ptr<client::Channel> channel_;
};

Submission waiting(const void* word, std::uint64_t user_data, Delivery delivery = Delivery::queue) {
  Submission asked;
  asked.op = ChannelOp::wait;
  asked.delivery = delivery;
  asked.address = number(word);
  asked.user_data = user_data;
  return asked;
}

std::uint64_t monotonic_after(std::chrono::seconds time) {
  return static_cast<std::uint64_t>(
      std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch() + time).count());
}

class HostileWait : public SystemTest {
 protected:
  void SetUp() override {
    SystemTest::SetUp();
    object_ = create(client_, 16 * kPage);
    shared_ = map(object_, 16 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    bystanders_ = map(object_, 16 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE);
  }
  // Somebody beside the hostile client waits and is woken, in every way.
  void expect_bystanders_served() {
    for (const std::byte* word : {shared_.data(), bystanders_.data() + kPage}) {
      Waiter plain(word);
      Waiter bits(word + 64, 0, 0, 2);
      EXPECT_TRUE(eventually([&] { return fl_wake(word, 1) == 1; }));
      EXPECT_TRUE(eventually([&] { return fl_wake_bitset(word + 64, 1, 2) == 1; }));
      EXPECT_EQ(plain.result(), 0);
      EXPECT_EQ(bits.result(), 0);
    }
  }
  // A client of its own, with a mapping of its own; nothing is left of it afterwards.
  Outcome hostile(const std::function<void(std::span<std::byte>)>& body) {
    return in_child([&] {
      die_if_this_lasts();
      const Client client = connect(daemon_.socket());
      const Object object = create(client, 4 * kPage);
      body(map(object, 4 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE));
      return ::testing::Test::HasFailure() ? 1 : 0;
    });
  }
  [[nodiscard]] std::uint64_t daemon_memory() const {  // bytes
    std::ifstream statm("/proc/" + std::to_string(daemon_.pid()) + "/statm");
    std::uint64_t size = 0;
    std::uint64_t resident = 0;
    statm >> size >> resident;
    return resident * kPage;
  }

  Object object_;
  std::span<std::byte> shared_;
  std::span<std::byte> bystanders_;
};

// Submissions and thread records of random bits, from clients that then go in different ways.
TEST_F(HostileWait, RandomRequestsAndRecordsHarmNobody) {
  const std::uint64_t seed = announce_seed();
  for (std::uint64_t round = 0; round < 12; ++round) {
    const Outcome outcome = hostile([&](std::span<std::byte> memory) {
      std::mt19937_64 dice(seed + round);
      const auto below = [&](std::uint64_t limit) { return dice() % limit; };
      const auto address = [&]() -> std::uint64_t {
        switch (below(6)) {
          case 0:
            return dice();
          case 1:
            return number(memory.data() + memory.size()) - below(16);
          case 2:
            return number(memory.data()) - below(16);
          default:
            return number(memory.data()) + below(memory.size());
        }
      };
      const RawChannel channel(memory.data());
      for (int i = 0; i < 6000; ++i) {
        Submission asked = std::bit_cast<Submission>([&] {
          std::array<std::uint64_t, 8> bits{};
          for (auto& word : bits) word = dice();
          return bits;
        }());
        if (below(8) != 0) asked.op = static_cast<ChannelOp>(below(7));
        if (below(8) != 0) asked.delivery = static_cast<Delivery>(below(5));
        if (below(8) != 0) asked.address = address();
        if (below(4) != 0) asked.expected = below(2) != 0 ? 0 : address();
        if (below(4) != 0) asked.size = static_cast<std::uint16_t>(below(5));
        if (below(4) != 0) asked.record = static_cast<std::uint32_t>(below(wire::kThreadRecords));
        if (below(4) != 0) asked.flags = static_cast<std::uint16_t>(below(4));
        if (below(4) != 0) asked.count = static_cast<std::uint32_t>(below(4));
        if (below(4) != 0)
          asked.until = below(2) != 0 ? 0 : monotonic_after(std::chrono::seconds(0));
        channel.put(asked);
        if (below(200) == 0) memory[below(memory.size())] = std::byte{0};  // pages part meanwhile
        if (below(50) == 0) channel.ring();
      }
      wire::ThreadRecord* const record = client::my_record().record;
      auto* const bits = reinterpret_cast<std::atomic<std::uint64_t>*>(record);
      for (std::size_t i = 1; i < wire::kRecordBytes / sizeof *bits; ++i) {
        bits[i] = below(2) != 0 ? dice() : address();
      }
      record->tid = static_cast<std::uint32_t>(dice());
      auto* const first = reinterpret_cast<wire::ThreadRecord*>(
          reinterpret_cast<std::byte*>(record) - wire::kRecordBytes * client::my_record().index);
      first->tid = static_cast<std::uint32_t>(dice());  // how many records there are
      channel.ring();
      switch (round % 3) {
        case 0:
          ::kill(::getpid(), SIGKILL);
          break;
        case 1:
          channel.indexes().completion_head = static_cast<std::uint32_t>(dice());
          ::munmap(memory.data(), 2 * kPage);
          break;
        default:
          break;
      }
      std::_Exit(0);
    });
    EXPECT_TRUE(outcome.exited(0) || outcome.killed_by(SIGKILL)) << outcome;
    expect_bystanders_served();
  }
}

// A tail from far beyond the ring has its owner's entries carried out again and again, and nobody
// else wait for that.
TEST_F(HostileWait, ATailBeyondTheRingHoldsUpNobodyElse) {
  Gate begun;
  Gate over;
  Child hostile_child([&] {
    return hostile([&](std::span<std::byte> memory) {
             const RawChannel channel(memory.data());
             Submission asked;
             asked.op = ChannelOp::wake;
             asked.address = number(memory.data());
             for (std::uint32_t i = 0; i < wire::kSubmissions; ++i) channel.put(asked);
             channel.indexes().submission_tail.fetch_add(0x7fffffff);
             channel.ring();
             begun.open();
             (void)over.pass();
             std::_Exit(0);
           }).exited(0)
               ? 0
               : 1;
  });
  ASSERT_TRUE(begun.pass());
  for (int i = 0; i < 5; ++i) expect_bystanders_served();
  over.open();
  EXPECT_TRUE(hostile_child.wait().exited(0));
  expect_bystanders_served();
}

// Who rings and submits up to the moment of its end leaves nothing behind that is looked at later.
TEST_F(HostileWait, ClientsThatRingAndGoLeaveNothingBehind) {
  for (int round = 0; round < 40; ++round) {
    EXPECT_TRUE(hostile([&](std::span<std::byte> memory) {
                  const RawChannel channel(memory.data());
                  Submission asked;
                  asked.op = ChannelOp::wake;
                  asked.address = number(memory.data());
                  for (std::uint32_t i = 0; i < wire::kSubmissions - 1; ++i) {
                    wire::RingIndexes& indexes = channel.indexes();
                    channel.rings().submissions[indexes.submission_tail % wire::kSubmissions] =
                        asked;
                    indexes.submission_tail.fetch_add(1);
                  }
                  channel.ring();
                  if (round % 2 == 0) ::usleep(static_cast<useconds_t>(10 * round));
                  channel.ring();
                  std::_Exit(0);
                }).exited(0));
  }
  expect_bystanders_served();
}

// A full ring is said to be full, and works again once the daemon has taken what is in it.
TEST_F(HostileWait, AFullRingIsBusyForNow) {
  const RawChannel channel(bystanders_.data());
  ASSERT_EQ(fl_wake(bystanders_.data(), 1), 0);
  ASSERT_TRUE(channel.done(bystanders_.data()));
  daemon_.pause();
  Submission asked;
  asked.op = ChannelOp::wake;
  asked.address = number(bystanders_.data());
  for (std::uint32_t i = 0; i < wire::kSubmissions; ++i) channel.put(asked);
  EXPECT_EQ(fl_wake(bystanders_.data() + 8, 1), -EBUSY);
  const timespec soon{0, 1'000'000};
  EXPECT_EQ(fl_wait(bystanders_.data() + 12, 0, &soon, 0), -EBUSY);
  daemon_.resume();
  EXPECT_TRUE(channel.taken());
  EXPECT_EQ(fl_wake(bystanders_.data() + 8, 1), 0);
  expect_bystanders_served();
}

// A wait whose time is over while the ring is full is taken back all the same, once there is room.
TEST_F(HostileWait, AFullRingKeepsNoWait) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP()
      << "SKIPPED: the test and the library write to one ring by turns that the daemon gives, "
         "which ThreadSanitizer does not see";
#endif
  const RawChannel channel(bystanders_.data());
  ASSERT_EQ(fl_wake(bystanders_.data(), 1), 0);
  std::atomic<int> result{1};
  std::thread waiter([&] {
    const timespec later{1, 500'000'000};  // longer than it takes to fill the ring
    result = fl_wait(bystanders_.data(), 0, &later, 0);
  });
  EXPECT_TRUE(
      eventually([&] { return fl_requeue(bystanders_.data(), 0, 1, bystanders_.data()) == 1; }));
  daemon_.pause();
  Submission asked;
  asked.op = ChannelOp::wake;
  asked.address = number(bystanders_.data() + 8);
  for (std::uint32_t i = 0; i < wire::kSubmissions; ++i) channel.put(asked);
  EXPECT_FALSE(eventually([&] { return result != 1; }, std::chrono::milliseconds(1700)));
  daemon_.resume();
  EXPECT_TRUE(channel.taken());
  waiter.join();
  EXPECT_EQ(result, -ETIMEDOUT);
  EXPECT_EQ(fl_wake(bystanders_.data(), 1), 0);
  expect_bystanders_served();
}

// A wake ends though the daemon stopped while it linked the group anew.
TEST_F(HostileWait, AGroupThatStaysHalfLinkedHoldsNobodyUp) {
  reinterpret_cast<std::atomic<std::uint32_t>&>(bystanders_.front()) = 1;
  ASSERT_EQ(fl_wake(bystanders_.data(), 1), 0);
  std::ifstream maps("/proc/" + std::to_string(daemon_.pid()) + "/maps");
  std::string line;
  while (std::getline(maps, line) && line.find("faultline:lot") == std::string::npos) {
  }
  ASSERT_TRUE(maps);
  const std::uint64_t lot = std::stoull(line, nullptr, 16);
  const UniqueFd memory{
      ::open(("/proc/" + std::to_string(daemon_.pid()) + "/mem").c_str(), O_RDWR | O_CLOEXEC)};
  for (std::uint64_t slot = 2; slot < 64; ++slot) {
    const std::uint32_t odd = 1;
    const auto at = lot + slot * sizeof(wire::LotSlot) + offsetof(wire::LotSlot, version);
    ASSERT_EQ(::pwrite(memory.get(), &odd, sizeof odd, static_cast<off_t>(at)),
              static_cast<ssize_t>(sizeof odd));
  }
  std::atomic<int> woken{-1};
  Waiter waiter(bystanders_.data(), 1);
  EXPECT_TRUE(waiter.queued());
  std::thread waker([&] { woken = fl_wake(bystanders_.data(), 1); });
  if (!eventually([&] { return woken != -1; })) {
    ADD_FAILURE() << "a wake does not end";
    std::fflush(stdout);
    std::_Exit(1);
  }
  waker.join();
  EXPECT_EQ(woken, 1) << "by the daemon";
  EXPECT_EQ(waiter.result(), 0);
}

// Completions that find no room in the ring come later, each once.
TEST_F(HostileWait, CompletionsAreNeverLost) {
  constexpr std::uint32_t kWaits = 3 * wire::kCompletions + 77;
  const RawChannel channel(bystanders_.data());
  wire::RingIndexes& indexes = channel.indexes();
  for (std::uint32_t i = 0; i < kWaits; ++i)
    channel.put(waiting(shared_.data() + 4 * (i % 512), i));
  ASSERT_TRUE(channel.done(bystanders_.data()));
  EXPECT_EQ(indexes.completion_tail, indexes.completion_head);
  int woken = 0;
  for (std::size_t word = 0; word < 512; ++word) woken += fl_wake(shared_.data() + 4 * word, 100);
  EXPECT_EQ(woken, static_cast<int>(kWaits));
  std::map<std::uint64_t, int> came;
  EXPECT_TRUE(eventually(
      [&] {
        std::uint32_t head = indexes.completion_head;
        while (head != indexes.completion_tail) {
          const wire::Completion completion =
              channel.rings().completions[head++ % wire::kCompletions];
          EXPECT_EQ(completion.result, 0);
          ++came[completion.user_data];
          indexes.completion_head = head;
        }
        if (indexes.completions_wait != 0) channel.ring();
        return came.size() >= kWaits;
      },
      std::chrono::seconds(5 * kSlower)));
  EXPECT_EQ(came.size(), kWaits);
  for (const auto& [user_data, times] : came) ASSERT_EQ(times, 1) << user_data;
}

// Waits for an hour keep the daemon neither busy nor from stopping.
TEST_F(HostileWait, LongTimesKeepNothingFromEnding) {
  const RawChannel channel(bystanders_.data());
  for (std::uint32_t i = 0; i < 400; ++i) {
    Submission asked = waiting(bystanders_.data() + 4 * i, i);
    asked.until = monotonic_after(std::chrono::seconds(3600 - i));
    channel.put(asked);
    ASSERT_TRUE(channel.done(bystanders_.data()));
  }
  const auto cpu = [&] {
    std::ifstream stat("/proc/" + std::to_string(daemon_.pid()) + "/stat");
    std::string line;
    std::getline(stat, line);
    std::istringstream fields(line.substr(line.rfind(')') + 2));
    std::string field;
    for (int i = 0; i < 11; ++i) fields >> field;
    long user = 0;
    long system = 0;
    fields >> user >> system;
    return user + system;  // hundredths of a second
  };
  const long before = cpu();
  ::usleep(300'000);
  EXPECT_LE(cpu() - before, 10) << "it turns in circles";
  const auto begin = std::chrono::steady_clock::now();
  (void)daemon_.stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(3 * kSlower));
}

// Times of any value at all end a wait at once, or never.
TEST_F(HostileWait, TimesOfAnyValueAreTaken) {
  const RawChannel channel(bystanders_.data());
  const std::array<std::uint64_t, 6> times{1,
                                           std::uint64_t{1} << 63,
                                           (std::uint64_t{1} << 63) + 1,
                                           ~std::uint64_t{0},
                                           (std::uint64_t{1} << 63) - 1,
                                           std::uint64_t{1} << 62};
  for (std::size_t i = 0; i < times.size(); ++i) {
    Submission asked = waiting(bystanders_.data() + 4 * i, i);
    asked.until = times.at(i);
    channel.put(asked);
    ASSERT_TRUE(channel.done(bystanders_.data()));
  }
  wire::RingIndexes& indexes = channel.indexes();
  EXPECT_TRUE(eventually([&] { return indexes.completion_tail == 4; })) << indexes.completion_tail;
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(channel.rings().completions[i].result, -ETIMEDOUT);
  }
  expect_bystanders_served();
}

// Waits of threads that there cannot be cost the daemon nothing.
TEST_F(HostileWait, WaitsWithoutEndDoNotFillTheDaemon) {
  const std::uint64_t before = daemon_memory();
  EXPECT_TRUE(hostile([&](std::span<std::byte> memory) {
                const RawChannel channel(memory.data());
                for (std::uint32_t i = 0; i < 200'000; ++i) {
                  Submission asked = waiting(memory.data(), i, Delivery::record);
                  asked.record = wire::kThreadRecords + i;
                  asked.request = 1;
                  channel.put(asked);
                }
                EXPECT_TRUE(channel.taken());
                EXPECT_LT(daemon_memory() - before, kSlower * (std::uint64_t{64} << 20));
              }).exited(0));
  expect_bystanders_served();
}

}  // namespace
}  // namespace faultline::testing
