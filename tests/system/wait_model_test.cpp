// Processes that give each other tokens by words of one object, through mappings that part, come
// back, move and go meanwhile, and that are forked and killed: no wake is lost, none is counted
// that nobody got.
//
// A token is a count in a word, stored to the object. Who gives one wakes one; who takes one waits
// while there is none, through any mapping that has the word's key at that moment. In between, each
// process writes to pages of its private mapping, drops them again, moves mappings and unmaps them:
// who waits there at that moment is told, or follows.
//   - All woken are counted by who wakes and by who is woken: the sums agree, but for what killed
//     processes had no time to count, and what is handed on for them.
//   - When nobody disturbs any more, all tokens are taken, by wakes that came before.
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/system/harness.hpp"
#include "tests/system/waiters.hpp"
#include "tests/unit/seed.hpp"
#include "tests/unit/slower.hpp"

namespace faultline::testing {
namespace {

constexpr std::size_t kPages = 3;
constexpr std::size_t kBytes = kPages * kPage;
constexpr std::size_t kWords = 6;  // two a page
constexpr std::size_t kProcesses = 3;
constexpr std::size_t kTakers = 4;  // of a process

constexpr std::size_t offset_of(std::size_t word) {
  return word / 2 * kPage + 64 + word % 2 * 128;
}

enum class Phase : std::uint32_t { run, settle, stop };

// In memory that all processes share.
struct Board {
  std::atomic<Phase> phase{Phase::run};
  std::atomic<std::uint64_t> woken{0};     // as fl_wake counted
  std::atomic<std::uint64_t> returned{0};  // waits that returned 0
  std::atomic<std::uint64_t> given{0};
  std::atomic<std::uint64_t> taken{0};
  std::atomic<std::uint64_t> parted{0};
  std::atomic<std::uint64_t> ended{0};  // waits that their memory's change ended
  std::atomic<std::uint32_t> disturbing{0};
  std::atomic<std::int32_t> strange{0};  // a result that there should not be
};

unsigned long times_of(const char* variable, unsigned long otherwise) {
  const char* const given = std::getenv(variable);
  return given == nullptr ? otherwise : std::stoul(given);
}

class WaitModel : public SystemTest {
 protected:
  void SetUp() override {
    SystemTest::SetUp();
    object_ = create(client_, kBytes);
    stable_ = map(object_, kBytes, FL_MAP_SHARED | FL_MAP_WRITE);
    void* const memory =
        ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    board_ = new (memory) Board;
  }
  [[nodiscard]] std::atomic<std::uint32_t>& tokens(std::size_t word) const {
    return *reinterpret_cast<std::atomic<std::uint32_t>*>(stable_.data() + offset_of(word));
  }
  [[nodiscard]] std::uint32_t all_tokens() const {
    std::uint32_t sum = 0;
    for (std::size_t word = 0; word < kWords; ++word) sum += tokens(word);
    return sum;
  }
  // One round: processes that live through it, and with kills some that do not.
  void round(std::uint64_t seed, bool kills, std::chrono::milliseconds lasting);
  int live(std::uint64_t seed, std::size_t process);
  void take(std::size_t word, std::uint64_t seed);
  void give(std::uint64_t seed);
  void disturb(std::uint64_t seed);

  Object object_;
  std::span<std::byte> stable_;
  Board* board_ = nullptr;
  // Of one process: a mapping by page, one that is shared and one that can only be read.
  std::array<std::atomic<std::byte*>, 3> moving_{};
};

void WaitModel::take(std::size_t word, std::uint64_t seed) {
  std::mt19937_64 dice(seed);
  while (board_->phase != Phase::stop) {
    std::uint32_t there = tokens(word);
    if (there > 0) {
      if (tokens(word).compare_exchange_strong(there, there - 1)) ++board_->taken;
      continue;
    }
    const std::size_t through = dice() % 4;
    const std::byte* const base = through < 3 ? moving_.at(through).load() : stable_.data();
    if (base == nullptr) continue;
    const bool some_bits = dice() % 4 == 0;
    const fl_waiter both[] = {{base + offset_of(word), 0, 0, 0},
                              {stable_.data() + offset_of(word) + 8, 0, 0, 0}};
    const timespec soon{0, 2'000'000};
    const bool timed = dice() % 8 == 0;
    const int result = dice() % 4 == 0
                           ? fl_waitv(both, 2, timed ? &soon : nullptr, 0)
                           : fl_wait_bitset(base + offset_of(word), 0, timed ? &soon : nullptr, 0,
                                            some_bits ? 0xff : FL_WAIT_ANY);
    if (result >= 0) {
      ++board_->returned;
    } else if (result == -EFAULT || result == -ECANCELED) {
      ++board_->ended;
    } else if (result != -EAGAIN && result != -ETIMEDOUT) {
      board_->strange = result;
    }
  }
}

void WaitModel::give(std::uint64_t seed) {
  std::mt19937_64 dice(seed);
  while (board_->phase == Phase::run) {
    const std::size_t word = dice() % kWords;
    if (tokens(word) > 8) {
      ::usleep(100);
      continue;
    }
    ++tokens(word);
    ++board_->given;
    const std::size_t through = dice() % 3;
    const std::byte* base = through == 0 ? stable_.data() : moving_.at(through).load();
    if (base == nullptr) base = stable_.data();
    int woken = fl_wake(base + offset_of(word), 1);
    if (woken == -EFAULT) woken = fl_wake(stable_.data() + offset_of(word), 1);
    if (woken < 0) {
      board_->strange = woken;
    } else {
      board_->woken += static_cast<std::uint64_t>(woken);
    }
    if (dice() % 8 == 0) ::usleep(static_cast<useconds_t>(dice() % 200));
  }
}

void WaitModel::disturb(std::uint64_t seed) {
  std::mt19937_64 dice(seed);
  constexpr std::array kFlags{FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE,
                              FL_MAP_SHARED | FL_MAP_WRITE, FL_MAP_SHARED};
  ++board_->disturbing;
  while (board_->phase == Phase::run) {
    const std::size_t which = dice() % 3;
    std::byte* const base = moving_.at(which);
    switch (dice() % 4) {
      case 0: {  // another address
        void* there = nullptr;
        if (fl_remap(client_, base, kBytes, kBytes, FL_REMAP_MAYMOVE, &there) != 0 ||
            there == nullptr) {
          break;
        }
        moving_.at(which) = static_cast<std::byte*>(there);
        break;
      }
      case 1: {  // another mapping
        const auto fresh = map(object_, kBytes, kFlags.at(which));
        moving_.at(which) = fresh.data();
        if (fl_unmap(client_, base, kBytes) != 0) board_->strange = -1;
        break;
      }
      default: {  // a page parts, and comes back
        std::byte* const mine = moving_[0];
        const std::size_t page = dice() % kPages;
        std::atomic_ref(*reinterpret_cast<std::uint32_t*>(mine + page * kPage + 4000)).store(1);
        ++board_->parted;
        if (dice() % 2 == 0) ::usleep(static_cast<useconds_t>(dice() % 300));
        for (const std::size_t word : {2 * page, 2 * page + 1}) {
          const int woken = fl_wake(mine + offset_of(word), INT32_MAX);
          if (woken < 0) {
            board_->strange = woken;
          } else {
            board_->woken += static_cast<std::uint64_t>(woken);
          }
        }
        if (fl_discard(client_, mine, kBytes, FL_DISCARD_COPIES) != 0) board_->strange = -2;
        break;
      }
    }
    if (dice() % 4 == 0) ::usleep(static_cast<useconds_t>(dice() % 500));
  }
  // Nobody is left behind on a page that is private still.
  if (fl_discard(client_, moving_[0], kBytes, FL_DISCARD_COPIES) != 0) board_->strange = -3;
  --board_->disturbing;
}

int WaitModel::live(std::uint64_t seed, std::size_t process) {
  std::mt19937_64 dice(seed);
  moving_[0] = map(object_, kBytes, FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE).data();
  moving_[1] = map(object_, kBytes, FL_MAP_SHARED | FL_MAP_WRITE).data();
  moving_[2] = map(object_, kBytes, FL_MAP_SHARED).data();
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kTakers; ++i) {
    threads.emplace_back([&, i, mine = dice()] { take((process * kTakers + i) % kWords, mine); });
  }
  threads.emplace_back([&, mine = dice()] { give(mine); });
  threads.emplace_back([&, mine = dice()] { disturb(mine); });
  // One that only begins to live, and dies with threads of this one in the middle of anything.
  while (board_->phase == Phase::run) {
    ::usleep(20'000);
    Child brief([&] {
      const timespec soon{0, 1'000'000};
      const int result = fl_wait(moving_[0].load() + offset_of(0), 0, &soon, 0);
      if (result == 0) ++board_->returned;
      return result == -EPIPE ? 1 : 0;
    });
    if (!brief.wait().exited(0)) board_->strange = -4;
  }
  for (std::thread& thread : threads) thread.join();
  return ::testing::Test::HasFailure() ? 1 : 0;
}

void WaitModel::round(std::uint64_t seed, bool kills, std::chrono::milliseconds lasting) {
  std::mt19937_64 dice(seed);
  board_ = new (board_) Board;
  for (std::size_t word = 0; word < kWords; ++word) tokens(word) = 0;
  std::uint64_t killed = 0;
  {
    std::vector<Child> children;
    for (std::size_t i = 0; i < kProcesses; ++i) {
      children.emplace_back([&, i, mine = dice()] { return live(mine, i); });
    }
    const auto until = std::chrono::steady_clock::now() + lasting;
    while (std::chrono::steady_clock::now() < until) {
      ::usleep(50'000);
      if (!kills) continue;
      Child victim([&, mine = dice()] { return live(mine, 0); });
      ::usleep(static_cast<useconds_t>(5'000 + dice() % 40'000));
      victim.kill(SIGKILL);
      EXPECT_TRUE(victim.wait().killed_by(SIGKILL));
      ++killed;
    }
    if (kills) board_->disturbing = kProcesses;  // the dead did not take themselves out
    board_->phase = Phase::settle;
    // Who was killed may have been woken, and not come to take its token.
    for (std::size_t word = 0; kills && word < kWords; ++word) {
      board_->woken += static_cast<std::uint64_t>(
          std::max(fl_wake(stable_.data() + offset_of(word), INT32_MAX), 0));
    }
    // Whoever waits for a token that there is has missed a wake.
    EXPECT_TRUE(
        eventually([&] { return all_tokens() == 0; }, std::chrono::milliseconds(3000 * kSlower)))
        << all_tokens() << " tokens are not taken";
    board_->phase = Phase::stop;
    // Nobody sleeps without a time for ever: each word has its last wake.
    const auto over = [&] {
      for (std::size_t word = 0; word < kWords; ++word) {
        board_->woken += static_cast<std::uint64_t>(
            std::max(fl_wake(stable_.data() + offset_of(word), INT32_MAX), 0));
      }
      return false;
    };
    std::atomic<bool> joined{false};
    std::thread waker([&] {
      while (!joined) {
        (void)over();
        ::usleep(2000);
      }
    });
    for (Child& child : children) {
      const bool ended = eventually(
          [&] {
            return ::kill(child.pid(), 0) != 0 ||
                   ::waitpid(child.pid(), nullptr, WNOHANG | WNOWAIT) != 0;
          },
          std::chrono::milliseconds(5000 * kSlower));
      EXPECT_TRUE(ended) << "a process does not end";
      if (!ended) child.kill(SIGKILL);
      const Outcome outcome = child.wait();
      EXPECT_TRUE(outcome.exited(0)) << outcome;
    }
    joined = true;
    waker.join();
  }
  EXPECT_EQ(board_->strange, 0);
  const std::uint64_t unsure = killed * 2 * (kTakers + 2);
  const std::uint64_t woken = board_->woken;
  const std::uint64_t returned = board_->returned;
  EXPECT_LE(returned, woken + unsure);
  EXPECT_LE(woken, returned + unsure);
  EXPECT_GT(board_->taken, 100U / kSlower);
  EXPECT_GT(board_->parted, 20U / kSlower);
  EXPECT_GT(board_->returned, 50U / kSlower);
  std::cout << "given " << board_->given << ", taken " << board_->taken << ", woken " << woken
            << ", returned " << returned << ", ended " << board_->ended << ", parted "
            << board_->parted << ", killed " << killed << std::endl;
}

// Every wake that is counted is got by somebody, once, and every token is taken.
TEST_F(WaitModel, NoWakeIsLostOrDoubled) {
  const std::uint64_t seed = announce_seed();
  const unsigned long rounds = times_of("FAULTLINE_WAIT_ROUNDS", 3);
  for (unsigned long i = 0; i < rounds && !HasFailure(); ++i) {
    round(seed + i, false, std::chrono::milliseconds(500));
  }
}

// With processes that are killed at any moment: what they swallowed goes to others.
TEST_F(WaitModel, NoWakeIsLostWithTheKilled) {
  const std::uint64_t seed = announce_seed();
  const unsigned long rounds = times_of("FAULTLINE_WAIT_ROUNDS", 3);
  for (unsigned long i = 0; i < rounds && !HasFailure(); ++i) {
    round(seed + i, true, std::chrono::milliseconds(500));
  }
}

}  // namespace
}  // namespace faultline::testing
