// Pages that leave memory and come back: what they hold is exact, whoever reads, writes, forks and
// waits meanwhile.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "faultline/pin.h"
#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"
#include "tests/unit/seed.hpp"

namespace faultline::testing {
namespace {

constexpr std::size_t kPages = 600;
constexpr std::size_t kBytes = kPages * kPage;
constexpr std::uint32_t kShared = FL_MAP_SHARED | FL_MAP_WRITE;
constexpr std::uint32_t kPrivate = FL_MAP_PRIVATE | FL_MAP_WRITE;

std::vector<std::string> with_swap(std::size_t pages = 65'536) {
  return {"--swap-file", std::filesystem::temp_directory_path().string(), "--swap-bytes",
          std::to_string(pages * kPage)};
}

class Evicting : public ::testing::Test {
 protected:
  explicit Evicting(std::vector<std::string> options) : daemon_(std::move(options)) {}
  void SetUp() override {
    ASSERT_TRUE(daemon_.ready()) << daemon_.log();
    client_ = connect(daemon_.socket());
    ASSERT_TRUE(client_);
  }

  void page_out(std::span<std::byte> memory) {
    ASSERT_EQ(fl_advise(client_, memory.data(), memory.size(), FL_ADVICE_PAGEOUT), 0)
        << fl_last_error();
  }
  nlohmann::json evict(const std::string& arguments) {
    const Ran ran =
        run(FAULTCTL_BINARY " --socket " + daemon_.socket() + " evict --json " + arguments);
    EXPECT_EQ(ran.code, 0) << ran.output;
    return ran.code == 0 ? nlohmann::json::parse(ran.output) : nlohmann::json{};
  }
  std::uint64_t resident(fl_object* object) {
    fl_object_info info{};
    EXPECT_EQ(fl_object_stat(object, &info), 0) << fl_last_error();
    return info.resident_bytes;
  }
  std::uint64_t swapped() {
    return daemon_.ask(wire::AdminQuery::status)["status"]["swapped_bytes"].get<std::uint64_t>();
  }

  Daemon daemon_;
  Client client_;
};
class EvictingWithSwap : public Evicting {
 protected:
  EvictingWithSwap() : Evicting(with_swap()) {}
};
class EvictingWithoutSwap : public Evicting {
 protected:
  EvictingWithoutSwap() : Evicting({}) {}
};

std::byte pattern(std::size_t at) {
  return static_cast<std::byte>((at / kPage * 31 + at % 251 + 1) & 0xff);
}
void fill(std::span<std::byte> memory) {
  for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = pattern(i);
}
::testing::AssertionResult holds_pattern(std::span<const std::byte> memory) {
  for (std::size_t i = 0; i < memory.size(); ++i) {
    if (memory[i] != pattern(i)) {
      return ::testing::AssertionFailure() << "page " << i / kPage << " byte " << i % kPage;
    }
  }
  return ::testing::AssertionSuccess();
}

// Zero-filled pages that were written to go to the swap file, out of memory, and come back exact.
TEST_F(EvictingWithSwap, WrittenPagesComeBackWithWhatTheyHeld) {
  const Object object = create(client_, kBytes);
  const auto memory = map(object, kBytes, kShared);
  fill(memory);
  page_out(memory);
  EXPECT_EQ(resident(object), 0U);
  EXPECT_EQ(swapped(), kBytes);
  EXPECT_TRUE(holds_pattern(memory));
  EXPECT_EQ(swapped(), 0U) << "what came back has no place there any more";
}

// Past a limit of file sizes pages stay, and objects are refused; the daemon goes on.
TEST_F(EvictingWithSwap, ALimitOfFileSizesKeepsPagesInMemory) {
  const Object object = create(client_, kBytes, "limited");
  const auto memory = map(object, kBytes, kShared);
  fill(memory);
  const rlimit limit{kBytes / 2, kBytes / 2};
  ASSERT_EQ(::prlimit(daemon_.pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
  const auto done = evict("limited");
  EXPECT_GT(done["kept_pages"]["failed"], 0);
  EXPECT_TRUE(holds_pattern(memory));
  EXPECT_EQ(swapped(), 0U);
  fl_object_spec spec{};
  spec.struct_size = sizeof(spec);
  spec.size = 2 * kBytes;
  fl_object* refused = nullptr;
  expect_refused(EFBIG, "", [&] { return fl_object_create(client_, &spec, &refused); });
}

// A file system whose disk takes what is written, and finds out later that it has no room for it:
// a loop device over a sparse file that a small tmpfs cannot hold.
class OverfullDisk {
 public:
  OverfullDisk() {
    EXPECT_NE(::mkdtemp(directory_.data()), nullptr) << std::strerror(errno);
    std::filesystem::create_directories(tmpfs());
    std::filesystem::create_directories(mounted());
    there_ = ran("mount -t tmpfs -o size=6m none " + tmpfs()) &&
             ran("truncate -s 64m " + tmpfs() + "/disk && mkfs.ext2 -q -F -m 0 " + tmpfs() +
                 "/disk && mount -o loop " + tmpfs() + "/disk " + mounted());
  }
  OverfullDisk(const OverfullDisk&) = delete;
  OverfullDisk& operator=(const OverfullDisk&) = delete;
  ~OverfullDisk() {
    (void)ran("umount " + mounted());
    (void)ran("umount " + tmpfs());
    std::error_code error;
    std::filesystem::remove_all(directory_, error);
  }
  [[nodiscard]] bool there() const { return there_; }
  [[nodiscard]] const std::string& why_not() const { return why_not_; }
  [[nodiscard]] std::string mounted() const { return directory_ + "/mounted"; }

 private:
  bool ran(const std::string& command) {
    const Ran done = run("( " + command + " ) 2>&1");
    why_not_ += done.output;
    return done.code == 0;
  }
  [[nodiscard]] std::string tmpfs() const { return directory_ + "/tmpfs"; }

  std::string directory_ = (std::filesystem::temp_directory_path() / "faultline-XXXXXX").string();
  std::string why_not_;
  bool there_ = false;
};

// What the disk did not take stays in memory, though write(2) took it.
TEST(EvictingToAnOverfullDisk, PagesThatTheDiskDidNotTakeStay) {
  const OverfullDisk disk;
  if (!disk.there()) GTEST_SKIP() << "SKIPPED: no loop device can be had: " << disk.why_not();
  Daemon daemon({"--swap-file", disk.mounted(), "--swap-bytes", std::to_string(32 << 20)});
  ASSERT_TRUE(daemon.ready()) << daemon.log();
  const Client client = connect(daemon.socket());
  constexpr std::size_t kMuch = 16 << 20;
  const Object object = create(client, kMuch);
  const auto memory = map(object, kMuch, kShared);
  fill(memory);
  ASSERT_EQ(fl_advise(client, memory.data(), memory.size(), FL_ADVICE_PAGEOUT), 0)
      << fl_last_error();
  EXPECT_TRUE(holds_pattern(memory));
  EXPECT_NE(daemon.log().find("to be on its disk"), std::string::npos) << daemon.log();
}

// What was never written to is no page, in memory or out of it.
TEST_F(EvictingWithSwap, APageThatNobodyTouchedStaysZeroAndTakesNoRoom) {
  const Object object = create(client_, kBytes);
  const auto memory = map(object, kBytes, kShared);
  memory[5 * kPage] = std::byte{7};
  page_out(memory);
  EXPECT_EQ(swapped(), kPage);
  EXPECT_EQ(memory[4 * kPage], std::byte{0});
  EXPECT_EQ(memory[5 * kPage], std::byte{7});
}

// A private view of a page that is in the swap file sees the object's content, and so does the copy
// that its first write makes.
TEST_F(EvictingWithSwap, PrivateViewsReadAndCopyWhatIsInTheSwapFile) {
  const Object object = create(client_, kBytes);
  const auto memory = map(object, kBytes, kShared);
  const auto view = map(object, kBytes, kPrivate);
  fill(memory);
  page_out(memory);
  for (std::size_t page = 0; page < kPages; page += 2) view[page * kPage] = std::byte{0xee};
  for (std::size_t i = 0; i < kBytes; ++i) {
    const bool own = i % (2 * kPage) == 0;
    ASSERT_EQ(view[i], own ? std::byte{0xee} : pattern(i)) << i;
  }
  page_out(view);
  EXPECT_EQ(view[0], std::byte{0xee}) << "a private page is not the object's to take out";
  EXPECT_TRUE(holds_pattern(memory));
}

// Without a swap file the pages that nobody stored to go, and those that somebody did stay.
TEST_F(EvictingWithoutSwap, OnlyCleanPagesOfAFileGo) {
  const PatternFile file(kBytes);
  const Object object = create_from(client_, file.fd(), 0, "clean");
  const auto memory = map(object, kBytes, kShared);
  for (std::size_t page = 0; page < kPages; ++page) touch(memory[page * kPage]);
  for (std::size_t page = 0; page < kPages; page += 3) memory[page * kPage + 1] = std::byte{0x77};
  const auto done = evict("clean");
  EXPECT_EQ(done["kept_pages"]["dirty"], kPages / 3);
  EXPECT_EQ(done["evicted_pages"], kPages - kPages / 3);
  EXPECT_EQ(done["swapped_pages"], 0);
  EXPECT_EQ(resident(object), kPages / 3 * kPage);
  for (std::size_t i = 0; i < kBytes; ++i) {
    const bool stored = i % (3 * kPage) == 1;
    ASSERT_EQ(memory[i], stored ? std::byte{0x77} : file.bytes()[i]) << i;
  }
}

// With one, they go as well, and what was stored is what comes back, not what the file has.
TEST_F(EvictingWithSwap, StoresToAFilesPagesGoToTheSwapFile) {
  const PatternFile file(kBytes);
  const Object object = create_from(client_, file.fd(), 0, "both");
  const auto memory = map(object, kBytes, kShared);
  for (std::size_t page = 0; page < kPages; ++page) touch(memory[page * kPage]);
  for (std::size_t page = 0; page < kPages; page += 3) memory[page * kPage + 1] = std::byte{0x77};
  const auto done = evict("both");
  EXPECT_EQ(done["evicted_pages"], kPages);
  EXPECT_EQ(done["swapped_pages"], kPages / 3);
  EXPECT_EQ(resident(object), 0U);
  for (std::size_t i = 0; i < kBytes; ++i) {
    const bool stored = i % (3 * kPage) == 1;
    ASSERT_EQ(memory[i], stored ? std::byte{0x77} : file.bytes()[i]) << i;
  }
}

// Populated for writing, a file's pages raise no fault, and count as stored to.
TEST_F(EvictingWithSwap, PagesPopulatedForWritingAreNotTakenForClean) {
  const PatternFile file(kBytes);
  const Object object = create_from(client_, file.fd(), 0, "populated");
  const auto memory = map(object, kBytes, kShared);
  for (std::size_t page = 0; page < kPages; page += 2) touch(memory[page * kPage]);
  ASSERT_EQ(fl_populate(client_, memory.data(), kBytes, FL_POPULATE_WRITE), 0) << fl_last_error();
  const auto faults = [&] { return stats_of(client_, memory.data()).write_faults; };
  const auto before = faults();
  for (std::size_t i = 0; i < kBytes; ++i) memory[i] = ~file.bytes()[i];
  EXPECT_EQ(faults(), before);
  EXPECT_EQ(evict("populated")["swapped_pages"], kPages);
  for (std::size_t i = 0; i < kBytes; ++i) ASSERT_EQ(memory[i], ~file.bytes()[i]) << i;
}

// Cold is what nobody has asked for since it was called so.
TEST_F(EvictingWithSwap, OnlyColdPagesGoWhereColdOnesAreAskedFor) {
  const Object object = create(client_, kBytes, "cold");
  const auto memory = map(object, kBytes, kShared);
  fill(memory);
  EXPECT_EQ(evict("cold --cold")["evicted_pages"], 0);
  ASSERT_EQ(fl_advise(client_, memory.data(), kBytes / 2, FL_ADVICE_COLD), 0) << fl_last_error();
  const auto done = evict("cold --cold");
  EXPECT_EQ(done["evicted_pages"], kPages / 2);
  EXPECT_EQ(done["kept_pages"]["referenced"], kPages - kPages / 2);
  EXPECT_TRUE(holds_pattern(memory));
}

// A part of an object, to the byte.
TEST_F(EvictingWithSwap, OnlyTheRangeThatWasNamedGoes) {
  const Object object = create(client_, kBytes, "part");
  const auto memory = map(object, kBytes, kShared);
  fill(memory);
  EXPECT_EQ(evict("part --offset 8192 --length 0x3000")["evicted_pages"], 3);
  EXPECT_EQ(resident(object), kBytes - 3 * kPage);
  EXPECT_TRUE(holds_pattern(memory));
  const std::string ctl = FAULTCTL_BINARY " --socket " + daemon_.socket() + " evict ";
  const Ran cut = run(ctl + "part --offset 100");
  EXPECT_EQ(cut.code, 1);
  EXPECT_NE(cut.output.find("evicting all from byte 100 on, not whole pages of 4096 bytes"),
            std::string::npos)
      << cut.output;
  EXPECT_EQ(run(ctl + "part --length 0").code, 2);
  EXPECT_EQ(run(ctl + "part --offset " + std::to_string(kBytes)).code, 1);
  EXPECT_EQ(run(ctl + "nothing").code, 1);
}

class EvictingWithLittleSwap : public Evicting {
 protected:
  EvictingWithLittleSwap() : Evicting(with_swap(kPages / 4)) {}
};

// What finds no room stays where it is, and is counted.
TEST_F(EvictingWithLittleSwap, WhatFindsNoRoomStays) {
  const Object object = create(client_, kBytes, "much");
  const auto memory = map(object, kBytes, kShared);
  fill(memory);
  const auto done = evict("much");
  EXPECT_EQ(done["evicted_pages"], kPages / 4);
  EXPECT_EQ(done["kept_pages"]["swap_full"], kPages - kPages / 4);
  EXPECT_TRUE(holds_pattern(memory));
  EXPECT_EQ(swapped(), 0U);
}

// Objects that end give their places in the swap file back.
TEST_F(EvictingWithSwap, AnObjectThatEndsGivesItsRoomBack) {
  {
    Object object = create(client_, kBytes);
    const auto memory = map(object, kBytes, kShared);
    fill(memory);
    page_out(memory);
    ASSERT_EQ(swapped(), kBytes);
    ASSERT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0);
  }
  EXPECT_TRUE(eventually([&] { return swapped() == 0; }));
}

// Content that is discarded does not come back from the swap file.
TEST_F(EvictingWithSwap, DiscardedContentIsGoneFromTheSwapFileToo) {
  const Object object = create(client_, kBytes);
  const auto memory = map(object, kBytes, kShared);
  fill(memory);
  page_out(memory);
  ASSERT_EQ(fl_discard(client_, memory.data(), kBytes / 2, FL_DISCARD_CONTENT), 0)
      << fl_last_error();
  EXPECT_EQ(swapped(), kBytes - kBytes / 2);
  for (std::size_t i = 0; i < kBytes; ++i) {
    ASSERT_EQ(memory[i], i < kBytes / 2 ? std::byte{0} : pattern(i)) << i;
  }
}

// A client that goes on after the daemon has stopped finds everything in memory again.
TEST_F(EvictingWithSwap, ADaemonThatStopsBringsEverythingBack) {
  const Object object = create(client_, kBytes);
  const auto memory = map(object, kBytes, kShared);
  fill(memory);
  page_out(memory);
  ASSERT_EQ(resident(object), 0U);
  EXPECT_EQ(daemon_.stop(), 0);
  EXPECT_TRUE(holds_pattern(memory));
  fill(memory);
}

// Whoever waits for a word goes on waiting while its page is away, sees a change of its value, and
// is woken.
TEST_F(EvictingWithSwap, WaitsGoOnWhileTheirPageIsAway) {
  const Object object = create(client_, kBytes);
  const auto memory = map(object, kBytes, kShared);
  auto* const word = reinterpret_cast<std::uint32_t*>(memory.data() + 3 * kPage);
  *word = 5;
  const auto wait = [&](std::uint32_t expected) {
    return fl_wait(word, expected, nullptr, FL_WAIT_U32);
  };
  // Queued before the page goes, and woken while it is away.
  std::atomic<int> outcome{1};
  std::thread before([&] { outcome = wait(5); });
  ASSERT_TRUE(eventually([&] {
    page_out(memory);
    return fl_wake(word, 1) == 1;
  }));
  before.join();
  EXPECT_EQ(outcome, 0);
  // Begun while it is away.
  page_out(memory);
  EXPECT_EQ(wait(6), -EAGAIN) << "the word holds 5, in the swap file";
  outcome = 1;
  std::thread meanwhile([&] { outcome = wait(5); });
  ASSERT_TRUE(eventually([&] { return fl_wake(word, 1) == 1; }));
  meanwhile.join();
  EXPECT_EQ(outcome, 0);
}

// What is pinned stays where it is, and is not even write-protected.
TEST_F(EvictingWithSwap, APinnedPageStaysAndStoresToItRaiseNoFault) {
  const Object object = create(client_, kBytes, "pinned");
  const auto memory = map(object, kBytes, kShared);
  fill(memory);
  fl_pinned pinned{};
  ASSERT_EQ(fl_pin(memory.data() + 8 * kPage, 3 * kPage, FL_PIN_WRITE, &pinned), 0)
      << fl_last_error();
  const auto done = evict("pinned");
  EXPECT_EQ(done["kept_pages"]["pinned"], 3);
  EXPECT_EQ(done["evicted_pages"], kPages - 3);
  EXPECT_EQ(resident(object), 3 * kPage);
  const std::uint64_t faults = stats_of(client_, memory.data()).wp_faults;
  for (std::size_t page = 8; page < 11; ++page) memory[page * kPage] = pattern(page * kPage);
  EXPECT_EQ(stats_of(client_, memory.data()).wp_faults, faults);
  EXPECT_EQ(fl_unpin(&pinned), 0);
  EXPECT_EQ(evict("pinned")["evicted_pages"], 3);
  EXPECT_EQ(resident(object), 0U);
  EXPECT_TRUE(holds_pattern(memory));
}

// --- under load

// Lanes: every thread and fork child owns words of its own in every page, and knows what they hold.
class Lane {
 public:
  Lane(std::span<std::byte> memory, std::size_t lane, std::uint64_t seed)
      : words_(reinterpret_cast<std::uint64_t*>(memory.data())),
        pages_(memory.size() / kPage),
        lane_(lane),
        dice_(seed),
        model_(pages_, 0) {}

  // One access of a random page; false where it is not what was stored last.
  bool step() {
    const std::size_t page = dice_() % pages_;
    std::atomic_ref word(words_[page * (kPage / 8) + lane_]);
    if (word.load(std::memory_order_relaxed) != model_[page]) return false;
    if (dice_() % 2 == 0) word.store(model_[page] = dice_(), std::memory_order_relaxed);
    return true;
  }
  bool all() {
    for (std::size_t page = 0; page < pages_; ++page) {
      if (words_[page * (kPage / 8) + lane_] != model_[page]) return false;
    }
    return true;
  }
  // The same words are another's from here on, who knows what they hold.
  [[nodiscard]] Lane in(std::span<std::byte> memory) const {
    Lane copy = *this;
    copy.words_ = reinterpret_cast<std::uint64_t*>(memory.data());
    return copy;
  }
  void learn() {
    for (std::size_t page = 0; page < pages_; ++page) {
      model_[page] = words_[page * (kPage / 8) + lane_];
    }
  }

 private:
  std::uint64_t* words_;
  std::size_t pages_;
  std::size_t lane_;
  std::mt19937_64 dice_;
  std::vector<std::uint64_t> model_;
};

constexpr std::size_t kFewPages = 48;

// Evicts for as long as it lives.
class Pressure {
 public:
  Pressure(fl_client* client, std::span<std::byte> memory)
      : thread_([this, client, memory] {
          while (!stop_) {
            EXPECT_EQ(fl_advise(client, memory.data(), memory.size(), FL_ADVICE_PAGEOUT), 0)
                << fl_last_error();
            ++turns_;
          }
        }) {}
  Pressure(const Pressure&) = delete;
  Pressure& operator=(const Pressure&) = delete;
  ~Pressure() {
    stop_ = true;
    thread_.join();
  }
  [[nodiscard]] std::uint64_t turns() const { return turns_; }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> turns_{0};
  std::thread thread_;
};

constexpr std::uint64_t kTurns = 400;
constexpr std::uint64_t kSteps = 20'000;  // of each lane

void race_in_threads(fl_client* client, fl_object* object, std::size_t lanes, std::uint64_t seed) {
  const std::size_t bytes = kFewPages * kPage;
  const auto memory = map(object, bytes, kShared);
  const auto second = map(object, bytes, kShared);
  Pressure pressure(client, memory);
  std::atomic<std::size_t> wrong{0};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < lanes; ++i) {
    threads.emplace_back([&, i] {
      Lane lane(i % 2 == 0 ? memory : second, i, seed + i);
      lane.learn();
      for (std::uint64_t steps = 0; (pressure.turns() < kTurns || steps < kSteps) && wrong == 0;
           ++steps) {
        if (!lane.step()) ++wrong;
      }
      if (!lane.all()) ++wrong;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0U) << "a store was lost, seed " << seed;
}

// Threads store and load by two shared mappings while everything is evicted again and again.
TEST_F(EvictingWithSwap, NoStoreIsLostToThreadsThatStoreMeanwhile) {
  const std::uint64_t seed = announce_seed();
  const Object object = create(client_, kFewPages * kPage);
  race_in_threads(client_, object, 4, seed);
}

// The same with a file behind the object, whose clean pages are dropped.
TEST_F(EvictingWithSwap, NoStoreToAFilesPagesIsLostEither) {
  const std::uint64_t seed = announce_seed();
  const PatternFile file(kFewPages * kPage);
  const Object object = create_from(client_, file.fd());
  race_in_threads(client_, object, 4, seed);
}

// The same without a swap file: what was stored to must not be dropped.
TEST_F(EvictingWithoutSwap, NoStoreToAFilesPagesIsLost) {
  const std::uint64_t seed = announce_seed();
  const PatternFile file(kFewPages * kPage);
  const Object object = create_from(client_, file.fd());
  race_in_threads(client_, object, 4, seed);
}

// Processes that fork all the time, whose children store to the shared pages and to private views
// and look at both.
TEST_F(EvictingWithSwap, NoStoreIsLostToForkChildrenAndPrivateViews) {
  const std::uint64_t seed = announce_seed();
  const std::size_t bytes = kFewPages * kPage;
  const Object object = create(client_, bytes);
  const auto memory = map(object, bytes, kShared);
  const auto view = map(object, bytes, kPrivate);
  Lane own_view(view, 100, seed + 100);  // nobody stores to this lane through the shared mapping
  Lane own(memory, 0, seed);
  Pressure pressure(client_, memory);
  for (std::uint64_t turn = 0; pressure.turns() < kTurns || turn < 20; ++turn) {
    // Before the fork: its pages are writable in both.
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(own.step()) << "seed " << seed;
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(own_view.step()) << "seed " << seed;
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      Lane lane(memory, 1 + turn % 8, seed + turn);
      lane.learn();
      bool right = true;
      for (int i = 0; i < 50 && right; ++i) right = lane.step() && own_view.step();
      ::_exit(right && lane.all() && own_view.all() ? 0 : 1);
    }
    for (int i = 0; i < 50; ++i) ASSERT_TRUE(own.step()) << "seed " << seed;
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0) << "in the child, turn " << turn << " seed " << seed;
  }
  EXPECT_TRUE(own.all()) << "seed " << seed;
  EXPECT_TRUE(own_view.all()) << "seed " << seed;
}

// A counter that processes take turns to count under a futex-like wait: neither a store nor a wake
// is lost while its page comes and goes.
TEST_F(EvictingWithSwap, NoWakeIsLostWhilePagesComeAndGo) {
  const Object object = create(client_, kPage);
  const auto memory = map(object, kPage, kShared);
  auto* const word = reinterpret_cast<std::uint32_t*>(memory.data() + 64);
  constexpr std::uint32_t kEnd = 400;
  Pressure pressure(client_, memory);
  const auto play = [&](std::uint32_t parity) {
    std::atomic_ref turn(*word);
    for (;;) {
      const std::uint32_t now = turn.load();
      if (now >= kEnd) return 0;
      if (now % 2 != parity) {
        const int waited = fl_wait(word, now, nullptr, FL_WAIT_U32);
        if (waited != 0 && waited != -EAGAIN) return 1;
        continue;
      }
      turn.store(now + 1);
      (void)fl_wake(word, 1);
    }
  };
  Child other([&] { return play(1); });
  EXPECT_EQ(play(0), 0);
  (void)fl_wake(word, 1);
  EXPECT_TRUE(other.wait().exited(0));
}

}  // namespace
}  // namespace faultline::testing
