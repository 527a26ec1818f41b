// Clients that put nonsense into their pin ledgers, or ask to pin what they may not, harm nobody
// but themselves: the daemon goes on, evictions go on, and what others pin stays.
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <limits>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "faultline/pin.h"
#include "faultline/wire/ledger.hpp"
#include "libclient/connection.hpp"
#include "libclient/place.hpp"
#include "libclient/thread_records.hpp"
#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/hostile.hpp"
#include "tests/unit/seed.hpp"
#include "tests/unit/slower.hpp"

namespace faultline::testing {
namespace {

using wire::ChannelOp;
using wire::Op;
using wire::Submission;
using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kMost = ~std::uint64_t{0};
constexpr std::size_t kPages = 64;  // of an object
constexpr std::size_t kBytes = kPages * kPage;
constexpr std::size_t kPinned = 8;  // of the good client's, from page 4 on

// A session's ledger, without the library's care.
class RawLedger {
 public:
  explicit RawLedger(const Attached& session) {
    Answer opened = session->call(Op::open_ledger);
    EXPECT_EQ(opened.header.status, 0) << opened;
    EXPECT_EQ(opened.packet.fds.size(), 2U);
    fd_ = std::move(opened.packet.fds.at(0));
    verdicts_ = std::move(opened.packet.fds.at(1));
    memory_.emplace(sizeof(wire::PinLedger), MAP_SHARED, fd_.get());
  }
  wire::PinLedger* operator->() const {
    return reinterpret_cast<wire::PinLedger*>(memory_->data());
  }
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] int verdicts() const { return verdicts_.get(); }

  // Every slot says this, but for the first page, which each has another of.
  void fill(std::uint64_t object, std::uint64_t count, std::uint64_t pages = kPages) const {
    wire::PinLedger& ledger = *operator->();
    for (std::uint32_t i = 0; i < wire::kPinSlots; ++i) {
      wire::PinSlot& slot = ledger.slots[i];
      slot.use = i + 1;
      slot.first = i % pages;
      slot.count = count;
      slot.object = object;
    }
    ledger.slots_used = wire::kPinSlots;
  }

 private:
  UniqueFd fd_;
  UniqueFd verdicts_;
  std::optional<Memory> memory_;
};

std::vector<std::string> with_swap(std::vector<std::string> options) {
  const std::string directory = std::filesystem::temp_directory_path().string();
  options.insert(options.end(), {"--swap-file", directory, "--swap-bytes", "268435456"});
  return options;
}

// Beside a good client, which has some pages of an object pinned.
class HostilePins : public Hostile {
 protected:
  static constexpr const char* kName = "pinned";

  explicit HostilePins(std::vector<std::string> options = {"--max-pinned-per-process", "536870912"})
      : Hostile(with_swap(std::move(options))) {}
  void SetUp() override {
    client_ = connect(socket());
    object_ = create(client_, kBytes, kName, 0666);
    memory_ = map(object_, kBytes, FL_MAP_SHARED | FL_MAP_WRITE);
    ASSERT_EQ(fl_pin(&memory_[4 * kPage], kPinned * kPage, FL_PIN_WRITE, &pin_), 0)
        << fl_last_error();
    fl_object_info info{};
    ASSERT_EQ(fl_object_stat(object_, &info), 0);
    id_ = info.id;
    Hostile::SetUp();
  }

  [[nodiscard]] wire::EvictReply evict() const { return evict(id_); }
  [[nodiscard]] wire::EvictReply evict(std::uint64_t id) const {
    const Raw raw(socket());
    EXPECT_EQ(raw.hello().header.status, 0);
    wire::EvictRequest request;
    request.object_id = id;
    const Answer answer = raw.call(Op::evict, request);
    EXPECT_EQ(answer.header.status, 0) << answer;
    return answer.body<wire::EvictReply>();
  }
  // What it pinned stays, what it did not goes and comes back, and it can pin and unpin.
  void expect_pins_right() {
    for (std::size_t page = 0; page < kPages; ++page) {
      memory_[page * kPage] = static_cast<std::byte>(page + round_);
    }
    const wire::EvictReply evicted = evict();
    EXPECT_EQ(evicted.pinned, kPinned);
    EXPECT_EQ(evicted.evicted, kPages - kPinned);
    for (std::size_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(memory_[page * kPage], static_cast<std::byte>(page + round_)) << page;
    }
    ++round_;
    fl_pinned other{};
    ASSERT_EQ(fl_pin(&memory_[20 * kPage], 30 * kPage, 0, &other), 0) << fl_last_error();
    EXPECT_EQ(evict().pinned, kPinned + 30);
    EXPECT_EQ(fl_unpin(&other), 0) << fl_last_error();
    EXPECT_EQ(fl_pin_state(&pin_), 0);
  }
  // Of so many processes is there a ledger.
  [[nodiscard]] std::size_t ledgers() const {
    return daemon_.ask(wire::AdminQuery::pins).at("pins").size();
  }
  // A client of the library's, in a process of its own, with a private mapping; nothing is left of
  // it afterwards.
  Outcome hostile(const std::function<void(std::span<std::byte>)>& body) const {
    return in_child([&] {
      ::alarm(20);
      const Client client = connect(socket());
      const Object object = create(client, kBytes);
      body(map(object, kBytes, FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE));
      return 0;
    });
  }

  Client client_;
  Object object_;
  std::span<std::byte> memory_;
  std::uint64_t id_ = 0;
  fl_pinned pin_{};
  std::size_t round_ = 1;
};

// --- requests

TEST_F(HostilePins, LedgersAreForThoseWhoAreAttachedAndOneEach) {
  {
    const Raw raw(socket());
    EXPECT_TRUE(raw.call(Op::open_ledger).refused_with(EPROTO)) << "before hello";
    EXPECT_EQ(raw.hello().header.status, 0);
    EXPECT_TRUE(raw.call(Op::open_ledger).refused_with(ENOTCONN));
    EXPECT_TRUE(raw.call(Op::grant_pins, wire::GrantPinsRequest{1}).refused_with(ENOTCONN));
    EXPECT_TRUE(raw.call(Op::open_frames, wire::OpenFramesRequest{1}).refused_with(ENOTCONN));
  }
  expect_unharmed("pinning without an address space");
  {
    const Attached session(socket());
    EXPECT_TRUE(session->call(Op::open_ledger, std::uint64_t{0}).refused_with(EPROTO));
    EXPECT_TRUE(session->call(Op::open_ledger, std::byte{0}).refused_with(EPROTO));
    const std::array fds{STDIN_FILENO};
    EXPECT_TRUE(
        session->exchange(bytes_of(header_of(Op::open_ledger, 0)), fds).refused_with(EPROTO));
    const std::array<std::byte, 3> few{};
    EXPECT_TRUE(session->call(Op::grant_pins, few).refused_with(EPROTO));
    EXPECT_TRUE(session->call(Op::open_frames, few).refused_with(EPROTO));
    EXPECT_TRUE(session->call(Op::grant_pins, wire::GrantPinsRequest{1}).refused_with(ENOTCONN));
    const RawLedger ledger(session);
    for (int i = 0; i < 50; ++i) EXPECT_TRUE(session->call(Op::open_ledger).refused_with(EISCONN));
    EXPECT_TRUE(session->call(Op::grant_pins, wire::GrantPinsRequest{0}).refused_with(EINVAL));
    for (const std::uint64_t all : {kMost, kMost - kPage, kMost / 2}) {
      EXPECT_TRUE(session->call(Op::grant_pins, wire::GrantPinsRequest{all}).refused_with(ENOMEM));
    }
    EXPECT_EQ(session->call(Op::grant_pins, wire::GrantPinsRequest{1}).header.status, 0);
  }
  expect_unharmed("ledgers");
  expect_pins_right();
}

TEST_F(HostilePins, FramesOfWhatIsNoPrivateMappingAreRefused) {
  {
    Attached session(socket());
    UniqueFd memfd;
    const wire::ObjectReply object = session.create(kBytes, {}, -1, &memfd);
    const Memory shared(kBytes, MAP_SHARED, memfd.get());
    const Memory own(kBytes, MAP_PRIVATE, memfd.get());
    for (const Memory* memory : {&shared, &own}) {
      wire::MapRequest request;
      request.handle = object.handle;
      request.address = memory->address();
      request.length = kBytes;
      request.flags = (memory == &shared ? wire::kMapShared : wire::kMapPrivate) | wire::kMapWrite;
      EXPECT_EQ(session->call(Op::map, request).header.status, 0);
    }
    const auto frames = [&](std::uint64_t address) {
      return session->call(Op::open_frames, wire::OpenFramesRequest{address});
    };
    for (const std::uint64_t address :
         {std::uint64_t{0}, std::uint64_t{1}, kMost, std::uint64_t{1} << 63, number(&session),
          shared.address(), shared.address() + 5}) {
      EXPECT_TRUE(frames(address).refused_with(ENOENT)) << address;
    }
    const Answer opened = frames(own.address() + kBytes - 1);
    EXPECT_EQ(opened.header.status, 0) << opened;
    ASSERT_EQ(opened.packet.fds.size(), 1U);
    EXPECT_EQ(opened.body<wire::OpenFramesReply>().pages, kPages);
    const int fd = opened.packet.fds.at(0).get();
    EXPECT_EQ(::mmap(nullptr, kPage, PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    EXPECT_NE(::ftruncate(fd, 0), 0);
    EXPECT_NE(::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPage), 0);
    EXPECT_TRUE(frames(own.address()).refused_with(EEXIST));
  }
  expect_unharmed("frames of anything");
}

TEST_F(HostilePins, RequestsToPinWhatIsNotMappedOrNotWholeAreRefused) {
  const Outcome outcome = hostile([](std::span<std::byte> memory) {
    // What is beside it is nobody's, for certain.
    ::munmap(memory.data(), kPage);
    ::munmap(memory.data() + kBytes - kPage, kPage);
    const std::uint64_t start = number(memory.data()) + kPage;
    constexpr std::uint64_t kLength = kBytes - 2 * kPage;
    const auto channel = client::connection_of(start)->channel();
    const auto ask = [&](std::uint64_t address, std::uint64_t length, std::uint16_t flags = 0) {
      Submission asked;
      asked.op = ChannelOp::pin;
      asked.address = address;
      asked.expected = length;
      asked.flags = flags;
      return channel->ask(asked).result;
    };
    for (const unsigned flags : {1U, 2U, 16U, 0x8000U, 0xffffU, 1U | wire::kPinForWriting}) {
      EXPECT_EQ(ask(start, kPage, static_cast<std::uint16_t>(flags)), -EINVAL) << flags;
    }
    for (const std::uint64_t length : {std::uint64_t{0}, std::uint64_t{1}, kPage - 1, kMost,
                                       kMost - kPage + 1, kMost - start, kMost - start + 1}) {
      EXPECT_EQ(ask(start, length), -EINVAL) << length;
      EXPECT_EQ(ask(start, length, wire::kPinWritten), -EINVAL) << length;
    }
    EXPECT_EQ(ask(start + 1, kPage), -EINVAL);
    EXPECT_EQ(ask(kMost - kPage + 1, kPage), -EINVAL);
    const std::array<std::pair<std::uint64_t, std::uint64_t>, 5> others{
        {{0, kPage},
         {start - kPage, 2 * kPage},
         {start, kLength + kPage},
         {start, std::uint64_t{1} << 62},
         {std::uint64_t{1} << 62, kPage}}};
    EXPECT_TRUE(eventually([&] { return ask(start, kLength + kPage) == -EFAULT; }));
    for (const auto& [address, length] : others) {
      for (const std::uint16_t flags :
           {std::uint16_t{0}, wire::kPinForWriting, wire::kPinWritten}) {
        EXPECT_EQ(ask(address, length, flags), -EFAULT) << address << " " << length;
      }
    }
    EXPECT_EQ(ask(start, kLength, wire::kPinForWriting), 0);
    EXPECT_EQ(ask(start, kLength, wire::kPinWritten), 0);
  });
  EXPECT_TRUE(outcome.exited(0)) << outcome;
  expect_pins_right();
}

// --- the memory of a ledger

TEST_F(HostilePins, ALedgersMemoryCannotBeTakenFromUnderTheDaemon) {
  {
    const Attached session(socket());
    const RawLedger ledger(session);
    const int fd = ledger.fd();
    for (const off_t size : {off_t{0}, off_t{1}, off_t{1} << 40}) {
      EXPECT_NE(::ftruncate(fd, size), 0) << size;
    }
    EXPECT_NE(::fallocate(fd, 0, 0, off_t{1} << 30), 0);
    EXPECT_NE(::fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, kPage), 0);
    EXPECT_NE(::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
    EXPECT_NE(::fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
    const int verdicts = ledger.verdicts();
    EXPECT_EQ(::mmap(nullptr, kPage, PROT_WRITE, MAP_SHARED, verdicts, 0), MAP_FAILED);
    EXPECT_NE(::pwrite(verdicts, "", 1, 0), 1);
    EXPECT_NE(::ftruncate(verdicts, 0), 0);
    EXPECT_NE(::fallocate(verdicts, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPage), 0);
    const std::string again = "/proc/self/fd/" + std::to_string(verdicts);
    const UniqueFd writable{::open(again.c_str(), O_RDWR | O_CLOEXEC)};
    EXPECT_FALSE(writable.valid() && ::pwrite(writable.get(), "", 1, 0) == 1);
    // A hole is zeroes, whenever it is punched.
    std::atomic<bool> over{false};
    std::thread punching([&] {
      while (!over) {
        ledger.fill(id_, kMost);
        EXPECT_EQ(
            ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, sizeof(wire::PinLedger)),
            0);
      }
    });
    for (int i = 0; i < 5; ++i) expect_pins_right();
    over = true;
    punching.join();
  }
  expect_unharmed("holes in a ledger");
}

// A client that writes random bits, what is nearly right, and numbers of others all over its
// ledger, until it is killed.
class Scribbler {
 public:
  Scribbler(const std::string& socket, std::uint64_t object, std::uint64_t seed)
      : child_([=]() -> int {
          ::alarm(60);
          const Attached session(socket);
          const RawLedger ledger(session);
          std::mt19937_64 dice(seed);
          for (;;) {
            for (int i = 0; i < 2000; ++i) scribble(*ledger.operator->(), object, dice);
            (void)session->call(Op::grant_pins, wire::GrantPinsRequest{dice() >> (dice() % 64)});
          }
        }) {}
  void end() {
    child_.kill(SIGKILL);
    EXPECT_TRUE(child_.wait().killed_by(SIGKILL));
  }

 private:
  static void scribble(wire::PinLedger& ledger, std::uint64_t object, std::mt19937_64& dice) {
    const auto below = [&](std::uint64_t limit) { return dice() % limit; };
    const auto odd = [&](std::uint64_t usual) -> std::uint64_t {
      switch (below(4)) {
        case 0:
          return dice();
        case 1:
          return kMost - below(5000);
        default:
          return below(usual);
      }
    };
    if (below(100) == 0) {
      ledger.slots_used = static_cast<std::uint32_t>(odd(wire::kPinSlots));
      ledger.threads_used = static_cast<std::uint32_t>(odd(wire::kPinThreads));
      ledger.pool = static_cast<std::int64_t>(odd(kBytes));
    }
    wire::PinThread& thread = ledger.threads[below(wire::kPinThreads)];
    thread.budget = static_cast<std::int64_t>(odd(kBytes));
    thread.busy = static_cast<std::uint32_t>(odd(2));
    thread.closed = static_cast<std::uint32_t>(odd(2));
    thread.fast = odd(100);
    wire::PinSlot& slot = ledger.slots[below(below(2) == 0 ? 64 : wire::kPinSlots)];
    slot.use = static_cast<std::uint32_t>(odd(4));
    slot.first = odd(kPages);
    slot.count = odd(kPages);
    slot.address = odd(std::uint64_t{1} << 47);
    slot.since = odd(std::uint64_t{1} << 50);
    slot.flags = static_cast<std::uint32_t>(odd(4));
    slot.object = below(2) == 0 ? object : odd(20);
  }

  Child child_;
};

TEST_F(HostilePins, RandomLedgersHarmNobody) {
  const std::uint64_t seed = announce_seed();
  for (std::uint64_t round = 0; round < (kSlower == 1 ? 3 : 1); ++round) {
    Scribbler first(socket(), id_, seed + 2 * round);
    Scribbler second(socket(), id_, seed + 2 * round + 1);
    ASSERT_TRUE(eventually([&] { return ledgers() == 3; }, std::chrono::seconds(5)));
    for (int i = 0; i < (kSlower == 1 ? 6 : 2); ++i) {
      expect_pins_right();
      EXPECT_EQ(ledgers(), 3U);
      EXPECT_TRUE(in_child([&] {
                    memory_[0] = std::byte{1};
                    return fl_pin_state(&pin_) == -ESTALE ? 0 : 1;
                  }).exited(0));
    }
    const Ran shown = run(FAULTCTL_BINARY " --socket " + socket() + " pins");
    EXPECT_EQ(shown.code, 0) << shown.output;
    first.end();
    second.end();
    EXPECT_TRUE(eventually([&] { return ledgers() == 1; }, std::chrono::seconds(1)));
  }
  expect_unharmed("random ledgers");
  expect_pins_right();
}

// Before a fork the daemon looks for pinned private pages, and writes down what it found.
TEST_F(HostilePins, MadeUpPinsOfPrivatePagesHarmNobodyAtAFork) {
  {
    Attached session(socket());
    const RawLedger ledger(session);
    UniqueFd memfd;
    const wire::ObjectReply object = session.create(kBytes, {}, -1, &memfd);
    const Memory own(kBytes, MAP_PRIVATE, memfd.get());
    wire::MapRequest request;
    request.handle = object.handle;
    request.address = own.address();
    request.length = kBytes;
    request.flags = wire::kMapPrivate | wire::kMapWrite | wire::kMapWaitByPage;
    ASSERT_EQ(session->call(Op::map, request).header.status, 0);
    for (std::size_t page = 0; page < kPages; ++page) own.data()[page * kPage] = std::byte{1};
    ledger->slots_used = 100;
    const std::uint64_t last = kMost / kPage;
    for (std::uint32_t i = 0; i < 100; ++i) {
      wire::PinSlot& slot = ledger->slots[i];
      slot.address = own.address() + (i % 10) * kPage + (i % 3);
      slot.count = last - i / 10;  // ends below where it begins
      slot.flags = wire::kPinOwn;
      slot.object = object.object_id;
    }
    EXPECT_EQ(session->call(Op::guard_pages).header.status, 0);
  }
  expect_unharmed("made-up pins at a fork");
  expect_pins_right();
}

// --- limits

// Who has the object open may hold its pages, up to what it may pin.
class HostilePinsUpToALimit : public HostilePins {
 protected:
  static constexpr std::size_t kMayPin = 40;  // pages
  HostilePinsUpToALimit()
      : HostilePins({"--max-pinned-per-process", std::to_string(kMayPin * kPage)}) {}
};

TEST_F(HostilePinsUpToALimit, ALedgerHoldsNothingBeyondWhatWasGranted) {
  {
    Attached session(socket());
    const RawLedger ledger(session);
    (void)session.open(kName, wire::Access::read_only);
    ledger.fill(id_, 1);
    for (std::uint32_t i = 0; i < kPages; ++i) ledger->slots[i].first = kPages - 1 - i;
    const auto pinned = [&] {
      for (std::size_t page = 0; page < kPages; ++page) memory_[page * kPage] = std::byte{9};
      return evict().pinned;
    };
    EXPECT_EQ(pinned(), kPinned) << "nothing was granted";
    ASSERT_EQ(session->call(Op::grant_pins, wire::GrantPinsRequest{kPage}).header.status, 0);
    EXPECT_TRUE(session->call(Op::grant_pins, wire::GrantPinsRequest{kPage}).refused_with(ENOMEM));
    EXPECT_EQ(pinned(), kMayPin + kPinned);
    ledger->pool = std::numeric_limits<std::int64_t>::max();
    ledger->slots[0].count = kMost;
    EXPECT_EQ(pinned(), kPinned);
  }
  expect_unharmed("a ledger full of pins");
  expect_pins_right();
}

// One of a user that may not pin any more leaves others theirs, whether it goes on or not.
class HostilePinsOfAUser : public HostilePins {
 protected:
  static constexpr std::size_t kOfUser = 100;  // pages
  HostilePinsOfAUser()
      : HostilePins({"--max-pinned-per-process", std::to_string(kBytes * 10),
                     "--max-pinned-per-user", std::to_string(kOfUser * kPage), "--max-pinned",
                     std::to_string(2 * kOfUser * kPage)}) {}
};

TEST_F(HostilePinsOfAUser, WhoPinsAllThatItMayAndStopsLeavesOthersTheirs) {
  const Gate pinned;
  Child greedy([&] {
    if (::setuid(65534) != 0) return 1;
    const Attached session(socket());
    const RawLedger ledger(session);
    const wire::GrantPinsRequest all{kOfUser * kPage};
    if (session->call(Op::grant_pins, all).header.status != 0) return 2;
    if (!session->call(Op::grant_pins, wire::GrantPinsRequest{1}).refused_with(ENOMEM)) return 3;
    ledger.fill(id_, 1);
    ledger->pool = std::numeric_limits<std::int64_t>::min();
    pinned.open();
    ::raise(SIGSTOP);
    return 0;
  });
  ASSERT_TRUE(pinned.pass());
  int status = 0;
  ASSERT_EQ(::waitpid(greedy.pid(), &status, WUNTRACED), greedy.pid());
  ASSERT_TRUE(WIFSTOPPED(status));
  expect_pins_right();
  fl_pinned rest{};
  ASSERT_EQ(fl_pin(memory_.data(), kBytes, 0, &rest), 0) << fl_last_error();
  fl_pinned more{};
  expect_refused(ENOMEM, "max_pinned_per_user",
                 [&] { return fl_pin(memory_.data(), kBytes, 0, &more); });
  EXPECT_EQ(fl_unpin(&rest), 0);
  // Another of the greedy one's user has nothing left, until that is gone.
  const auto of_same_user = [&] {
    return in_child([&] {
      if (::setuid(65534) != 0) return 1;
      const Attached session(socket());
      const RawLedger ledger(session);
      const Answer answer = session->call(Op::grant_pins, wire::GrantPinsRequest{kPage});
      return answer.header.status == 0 ? 0 : 2;
    });
  };
  EXPECT_TRUE(of_same_user().exited(2));
  greedy.kill(SIGKILL);
  (void)greedy.wait();
  EXPECT_TRUE(eventually([&] { return of_same_user().exited(0); }, std::chrono::seconds(1)));
}

// --- time

// It has as many pins as there can be, and stops.
TEST_F(HostilePins, AFullLedgerWhoseProcessStopsHoldsNobodyUp) {
  constexpr std::size_t kMany = 1024;  // as many as leave at a time
  const Object object = create(client_, kMany * kPage, "many", 0666);
  const auto memory = map(object, kMany * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  fl_object_info info{};
  ASSERT_EQ(fl_object_stat(object, &info), 0);
  struct Lie {
    const char* what;
    std::uint64_t count;  // pages of each pin
    bool opened;
    std::uint64_t held;  // pages
  };
  for (const Lie& lie :
       {Lie{"of more than there is", kMost, true, 0}, Lie{"of nothing", 0, true, 0},
        Lie{"of an object that it has not", 1, false, 0}, Lie{"of one page", 1, true, 1}}) {
    SCOPED_TRACE(lie.what);
    const Gate filled;
    Child child([&] {
      Attached session(socket());
      const RawLedger ledger(session);
      if (lie.opened) (void)session.open("many", wire::Access::read_only);
      const wire::GrantPinsRequest enough{wire::kPinSlots * kPage};
      if (session->call(Op::grant_pins, enough).header.status != 0) return 1;
      ledger.fill(info.id, lie.count, 1);
      filled.open();
      ::raise(SIGSTOP);
      return 0;
    });
    ASSERT_TRUE(filled.pass());
    int status = 0;
    ASSERT_EQ(::waitpid(child.pid(), &status, WUNTRACED), child.pid());
    Clock::duration best = std::chrono::hours(1);
    for (int i = 0; i < 5; ++i) {
      for (std::size_t page = 0; page < kMany; ++page) memory[page * kPage] = std::byte{9};
      const auto began = Clock::now();
      EXPECT_EQ(evict(info.id).pinned, lie.held);
      best = std::min(best, Clock::now() - began);
    }
    EXPECT_LT(best, std::chrono::milliseconds(50 * kSlower));
    const auto began = Clock::now();
    fl_pinned pin{};
    ASSERT_EQ(fl_pin(memory.data(), kMany * kPage, 0, &pin), 0) << fl_last_error();
    EXPECT_EQ(fl_unpin(&pin), 0);
    EXPECT_EQ(ledgers(), 2U);
    EXPECT_LT(Clock::now() - began, std::chrono::milliseconds(500 * kSlower));
    child.kill(SIGKILL);
    (void)child.wait();
    EXPECT_TRUE(eventually([&] { return ledgers() == 1; }, std::chrono::seconds(1)));
    expect_pins_right();
  }
}

}  // namespace
}  // namespace faultline::testing
