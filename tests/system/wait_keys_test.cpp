// Who wakes whom: by kinds of mappings, processes, sizes and pages, over fork, mremap, unmap and
// death; and what waiting leaves in memory. Each wake's count is checked, those of 0 as well.
#include <linux/futex.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/system/harness.hpp"
#include "tests/system/waiters.hpp"

namespace faultline::testing {
namespace {

constexpr std::size_t kBytes = 4 * kPage;
constexpr int kDontUnmap = 4;  // MREMAP_DONTUNMAP, not in every libc's headers
constexpr std::uint32_t kByPage = FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE;

struct Kind {
  const char* name;
  std::uint32_t flags;
  bool broken;
  // Whether its words are the object's.
  [[nodiscard]] bool objects() const {
    return (flags & FL_MAP_SHARED) != 0 || ((flags & FL_MAP_WAIT_BY_PAGE) != 0 && !broken);
  }
  [[nodiscard]] bool writable() const { return (flags & FL_MAP_WRITE) != 0; }
};
constexpr std::array kKinds{
    Kind{"shared", FL_MAP_SHARED | FL_MAP_WRITE, false},
    Kind{"shared, read-only", FL_MAP_SHARED, false},
    Kind{"private", FL_MAP_PRIVATE | FL_MAP_WRITE, false},
    Kind{"private, broken", FL_MAP_PRIVATE | FL_MAP_WRITE, true},
    Kind{"by page, clean", kByPage, false},
    Kind{"by page, clean, read-only", FL_MAP_PRIVATE | FL_MAP_WAIT_BY_PAGE, false},
    Kind{"by page, broken", kByPage, true},
};

struct Size {
  std::uint32_t flags;
  std::size_t offset;
};
// None at the beginning of a page, each at the worst place that it can have.
constexpr std::array kSizes{Size{FL_WAIT_U32, 68}, Size{FL_WAIT_U8, 101}, Size{FL_WAIT_U16, 134},
                            Size{FL_WAIT_U64, 168}, Size{FL_WAIT_U8, 204}};

long raw_wake(const void* word, int count = 1) {
  return ::syscall(SYS_futex, word, FUTEX_WAKE, count, nullptr, nullptr, 0);
}

class WaitKeys : public SystemTest {
 protected:
  std::span<std::byte> map_kind(fl_object* object, const Kind& kind) {
    const auto memory = map(object, kBytes, kind.flags);
    for (std::size_t page = 0; kind.broken && page < kBytes; page += kPage) {
      memory[page + 2048] = std::byte{1};
    }
    return memory;
  }
  std::uint64_t resident(fl_object* object) {
    fl_object_info info{};
    EXPECT_EQ(fl_object_stat(object, &info), 0) << fl_last_error();
    return info.resident_bytes;
  }
};

// One who waits for the word at `waits` is woken at `wakes`, or only at its own.
void expect_key(bool same, const std::byte* waits, const std::byte* wakes, std::uint32_t size,
                const std::string& what) {
  Waiter waiter(waits, 0, size);
  ASSERT_TRUE(waiter.queued()) << what;
  EXPECT_EQ(fl_wake(wakes, 1), same ? 1 : 0) << what;
  if (!same) {
    EXPECT_EQ(fl_wake(waits, 1), 1) << what;
  }
  EXPECT_EQ(waiter.result(), 0) << what;
}

// The table of keys, in one process: every kind of mapping with every other, words of every size.
TEST_F(WaitKeys, AreThoseOfTheTable) {
  const Object object = create(client_, kBytes);
  std::vector<std::span<std::byte>> memory;
  for (const Kind& kind : kKinds) memory.push_back(map_kind(object, kind));
  for (std::size_t i = 0; i < kKinds.size(); ++i) {
    for (std::size_t j = 0; j < kKinds.size(); ++j) {
      const bool same = i == j || (kKinds.at(i).objects() && kKinds.at(j).objects());
      for (const Size& size : kSizes) {
        expect_key(same, memory[i].data() + size.offset, memory[j].data() + size.offset, size.flags,
                   std::string(kKinds.at(i).name) + " is woken by " + kKinds.at(j).name +
                       ", size " + std::to_string(size.flags));
      }
    }
  }
}

// The same in two processes, each of which has mapped the object for itself.
TEST_F(WaitKeys, AreTheSameInOtherProcesses) {
  const Object object = create(client_, kBytes, "keys");
  for (const Kind& here : kKinds) {
    const auto mine = map_kind(object, here);
    for (const Kind& there : kKinds) {
      const bool same = here.objects() && there.objects();
      Waiter waiter(mine.data() + 68);
      ASSERT_TRUE(waiter.queued());
      const Outcome outcome = in_child([&] {
        die_if_this_lasts();
        const Client client = connect(daemon_.socket());
        fl_object* opened = nullptr;
        if (fl_object_open(client, "keys", FL_READ_WRITE, &opened) != 0) return 100;
        const Object handle{opened};
        return fl_wake(map_kind(handle, there).data() + 68, 8);
      });
      EXPECT_TRUE(outcome.exited(same ? 1 : 0))
          << here.name << " by " << there.name << ": " << outcome;
      if (!same) {
        EXPECT_EQ(fl_wake(mine.data() + 68, 8), 1);
      }
      EXPECT_EQ(waiter.result(), 0);
    }
    EXPECT_EQ(fl_unmap(client_, mine.data(), kBytes), 0);
  }
}

// After a fork: which side's wakes reach which side's waits, begun before the fork or after it,
// before and after each side has written to the page.
TEST_F(WaitKeys, AfterAFork) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP()
      << "SKIPPED: ThreadSanitizer cannot begin threads in the fork child of a process that "
         "has others";
#endif
  enum class Writes : std::uint8_t { nobody, parent, child };
  const Object object = create(client_, kBytes);
  for (const Kind& kind : kKinds) {
    for (const Writes writes : {Writes::nobody, Writes::parent, Writes::child}) {
      if (writes != Writes::nobody && !kind.writable()) continue;
      const auto memory = map_kind(object, kind);
      const bool shared = (kind.flags & FL_MAP_SHARED) != 0;
      const bool by_page = (kind.flags & FL_MAP_WAIT_BY_PAGE) != 0;
      const bool same = shared || (by_page && writes == Writes::nobody);
      const std::string what =
          std::string(kind.name) + ", written by " + std::to_string(static_cast<int>(writes));
      Waiter before(memory.data() + 68);
      ASSERT_TRUE(before.queued()) << what;
      Gate forked;
      Gate written;
      Gate woken;
      Gate waits;
      Gate tried;
      Child child([&] {
        die_if_this_lasts();
        forked.open();
        if (writes == Writes::child) memory[3000] = std::byte{1};
        if (!written.pass()) return 2;
        const int count = fl_wake(memory.data() + 68, 8);
        if (count != (same ? 1 : 0)) return 10 + count;
        Waiter waiter(memory.data() + 68);
        if (!waiter.queued()) return 3;
        waits.open();
        if (!tried.pass()) return 4;
        if (!same && fl_wake(memory.data() + 68, 8) != 1) return 5;
        return waiter.result() == 0 ? 0 : 6;
      });
      ASSERT_TRUE(forked.pass()) << what;
      if (writes == Writes::parent) memory[3000] = std::byte{1};
      written.open();
      const bool child_waits = waits.pass();
      EXPECT_TRUE(child_waits) << what;
      EXPECT_EQ(fl_wake(memory.data() + 68, 8), 1) << what;  // this side's waiter, or the child's
      if (!same) {
        EXPECT_EQ(fl_wake(memory.data() + 68, 8), 0) << what;
      }
      tried.open();
      EXPECT_EQ(before.result(), 0) << what;
      const Outcome outcome = child.wait();
      EXPECT_TRUE(outcome.exited(0)) << what << ": " << outcome;
      EXPECT_EQ(fl_unmap(client_, memory.data(), kBytes), 0);
    }
  }
}

// A page that is private to two fork relatives stays one for those two when a third writes to it.
TEST_F(WaitKeys, OfAFamilyPartOneByOne) {
  const Object object = create(client_, kBytes);
  const auto memory = map_kind(object, kKinds.back());
  Gate ready;
  Gate go;
  Gate gone;
  const auto life = [&](bool writes) {
    return [&, writes] {
      die_if_this_lasts();
      if (writes) memory[3000] = std::byte{1};
      Waiter waiter(memory.data() + 68);
      if (!waiter.queued()) return 2;
      ready.open();
      if (writes) {
        if (!go.pass()) return 3;
        if (fl_wake(memory.data() + 68, 8) != 1) return 4;
      }
      if (waiter.result() != 0) return 5;
      return 0;
    };
  };
  Child stays(life(false));
  ASSERT_TRUE(ready.pass());
  Child parts(life(true));
  ASSERT_TRUE(ready.pass());
  Waiter mine(memory.data() + 68);
  ASSERT_TRUE(mine.queued());
  EXPECT_EQ(fl_wake(memory.data() + 68, 8), 2);
  EXPECT_EQ(mine.result(), 0);
  EXPECT_TRUE(stays.wait().exited(0));
  go.open();
  EXPECT_TRUE(parts.wait().exited(0));
}

// Waits go where fl_remap and mremap(2) take their memory, and are not where it was. Asked about at
// once: of a mremap(2) that leaves the old place mapped the kernel tells by one message, and goes
// on when that has been read.
TEST_F(WaitKeys, FollowTheirMemory) {
  enum class Move : std::uint8_t { library, plain, leaving };
  const Object object = create(client_, kBytes);
  for (const Kind& kind : kKinds) {
    for (const Move move : {Move::library, Move::plain, Move::leaving}) {
      if (kHugePages && move == Move::leaving) continue;  // the kernel refuses that
      const std::string what = std::string(kind.name) +
                               (move == Move::library ? ", fl_remap" : ", mremap") +
                               (move == Move::leaving ? ", MREMAP_DONTUNMAP" : "");
      const auto memory = map_kind(object, kind);
      Waiter word(memory.data() + 68);
      Waiter byte(memory.data() + 101, 0, FL_WAIT_U8);
      Waiter bits(memory.data() + 200, 0, 0, 4);
      Waiter either({{memory.data() + 304, 0, 0, 0}, {memory.data() + kPage, 0, 0, 0}});
      ASSERT_TRUE(word.queued() && byte.queued() && bits.queued() && either.queued()) << what;
      void* there = ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (move != Move::library) {
        const int flags = MREMAP_MAYMOVE | MREMAP_FIXED | (move == Move::leaving ? kDontUnmap : 0);
        ASSERT_EQ(::mremap(memory.data(), kBytes, kBytes, flags, there), there) << what;
      } else {
        ASSERT_EQ(fl_remap(client_, memory.data(), kBytes, kBytes,
                           FL_REMAP_MAYMOVE | FL_REMAP_FIXED, &there),
                  0)
            << fl_last_error();
      }
      auto* const at = static_cast<std::byte*>(there);
      EXPECT_EQ(fl_wake(at + 72, 8), 0) << what;
      EXPECT_EQ(fl_wake(at + 68, 8), 1) << what;
      EXPECT_EQ(fl_wake(at + 101, 8), 1) << what;
      EXPECT_EQ(fl_wake(at + 200, 8), 1) << what;
      EXPECT_EQ(fl_wake(at + kPage, 8), 1) << what;
      EXPECT_EQ(word.result(), 0) << what;
      EXPECT_EQ(byte.result(), 0) << what;
      EXPECT_EQ(bits.result(), 0) << what;
      EXPECT_EQ(either.result(), 1) << what;
      expect_key(true, at + 68, at + 68, 0, what + ", begun there");
      ::munmap(there, kBytes);
      if (move == Move::leaving) ::munmap(memory.data(), kBytes);
    }
  }
}

// What is unmapped ends its waits; what is left of the mapping keeps its.
TEST_F(WaitKeys, OfTheRestOfAMappingStay) {
  const Object object = create(client_, kBytes);
  for (const Kind& kind : kKinds) {
    for (const bool plain : {false, true}) {
      const std::string what = std::string(kind.name) + (plain ? ", munmap" : ", fl_unmap");
      const auto memory = map_kind(object, kind);
      std::vector<std::unique_ptr<Waiter>> waiters;
      for (std::size_t page = 0; page < kBytes; page += kPage) {
        waiters.push_back(std::make_unique<Waiter>(memory.data() + page + 68));
        ASSERT_TRUE(waiters.back()->queued()) << what;
      }
      if (plain) {
        ASSERT_EQ(::munmap(memory.data() + kPage, kPage), 0);
      } else {
        ASSERT_EQ(fl_unmap(client_, memory.data() + kPage, kPage), 0) << fl_last_error();
      }
      EXPECT_EQ(waiters[1]->result(), -EFAULT) << what;
      for (const std::size_t page : {std::size_t{0}, std::size_t{2}, std::size_t{3}}) {
        EXPECT_EQ(fl_wake(memory.data() + page * kPage + 68, 8), 1) << what;
        EXPECT_EQ(waiters[page]->result(), 0) << what;
      }
      ::munmap(memory.data(), kBytes);
    }
  }
}

// Waiting for a word of a page that is in no memory brings it into none, nor does waking.
TEST_F(WaitKeys, OfAbsentPagesLeaveThemAbsent) {
  const PatternFile file(kBytes);
  for (const bool from_file : {false, true}) {
    const Object object = from_file ? create_from(client_, file.fd()) : create(client_, kBytes);
    const auto value = [&](std::size_t offset, std::size_t bytes) {
      std::uint64_t all = 0;
      if (from_file) std::memcpy(&all, file.bytes().data() + offset, bytes);
      return all;
    };
    for (const Kind& kind : kKinds) {
      if (kind.broken) continue;
      const std::string what = std::string(kind.name) + (from_file ? " of a file" : "");
      const auto memory = map(object, kBytes, kind.flags);
      constexpr std::array<std::size_t, 4> kBytesOf{4, 1, 2, 8};
      for (const Size& size : kSizes) {
        const std::byte* const word = memory.data() + size.offset;
        const std::uint64_t right = value(size.offset, kBytesOf.at(size.flags));
        const timespec soon{0, 3'000'000};
        EXPECT_EQ(fl_wait(word, right + 1, nullptr, size.flags), -EAGAIN) << what;
        EXPECT_EQ(fl_wait(word, right, &soon, size.flags), -ETIMEDOUT) << what;
        Waiter waiter(word, right, size.flags);
        ASSERT_TRUE(waiter.queued()) << what;
        EXPECT_EQ(fl_wake(word, 8), 1) << what;
        EXPECT_EQ(waiter.result(), 0) << what;
        EXPECT_EQ(fl_wake(word, 8), 0) << what;
      }
      // The last word of the object, of any of several: none is left waited for.
      std::vector<fl_waiter> words;
      for (std::size_t i = 0; i < 5; ++i) {
        const std::size_t offset = kBytes - 8 * (i + 1);
        words.push_back({memory.data() + offset, value(offset, 4), 0, 0});
      }
      Waiter any(words);
      ASSERT_TRUE(any.queued()) << what;
      EXPECT_EQ(fl_wake(words[3].address, 8), 1) << what;
      EXPECT_EQ(any.result(), 3) << what;
      for (const fl_waiter& word : words) EXPECT_EQ(fl_wake(word.address, 8), 0) << what;
      EXPECT_EQ(resident(object), 0U) << what << ": a wait has brought a page";
      EXPECT_EQ(stats_of(client_, memory.data()).pages_copied, 0U) << what;
      EXPECT_EQ(stats_of(client_, memory.data()).pages_mapped, 0U) << what;
    }
  }
}

// Who waits for a word of an absent page is woken when the page has come meanwhile, also by a raw
// futex(2), and also when the page came by a private write.
TEST_F(WaitKeys, OfPagesThatComeMeanwhile) {
  enum class Comes : std::uint8_t { by_store, by_read, by_private_write };
  for (const Kind& kind : kKinds) {
    if (kind.broken) continue;
    for (const Comes comes : {Comes::by_store, Comes::by_read, Comes::by_private_write}) {
      if (comes == Comes::by_private_write && !kind.writable()) continue;
      const std::string what =
          std::string(kind.name) + ", comes " + std::to_string(static_cast<int>(comes));
      const Object object = create(client_, kBytes);
      const auto shared = map(object, kBytes, FL_MAP_SHARED | FL_MAP_WRITE);
      const auto memory = map(object, kBytes, kind.flags);
      Waiter word(memory.data() + 68);
      Waiter byte(memory.data() + 101, 0, FL_WAIT_U8);
      Waiter either({{memory.data() + 300, 0, 0, 0}, {memory.data() + 304, 0, 0, 0}});
      ASSERT_TRUE(word.queued() && byte.queued() && either.queued()) << what;
      switch (comes) {
        case Comes::by_store:
          shared[2000] = std::byte{1};
          break;
        case Comes::by_read:
          (void)touch(memory[2000]);
          break;
        case Comes::by_private_write:
          memory[2000] = std::byte{1};
          break;
      }
      const bool private_now =
          comes == Comes::by_private_write && (kind.flags & FL_MAP_PRIVATE) != 0;
      EXPECT_EQ(raw_wake(shared.data() + 68), kind.objects() && !private_now ? 1 : 0) << what;
      EXPECT_EQ(fl_wake(memory.data() + 68, 8), kind.objects() && !private_now ? 0 : 1) << what;
      EXPECT_EQ(fl_wake(memory.data() + 101, 8), 1) << what;
      EXPECT_EQ(fl_wake(memory.data() + 304, 8), 1) << what;
      EXPECT_EQ(word.result(), 0) << what;
      EXPECT_EQ(byte.result(), 0) << what;
      EXPECT_EQ(either.result(), 1) << what;
      EXPECT_EQ(fl_wake(memory.data() + 300, 8), 0) << what;
    }
  }
}

// futex(2) and these calls wake each other at an object's words.
TEST_F(WaitKeys, AreTheKernelsForAnObjectsWords) {
  const Object object = create(client_, kBytes);
  const auto shared = map(object, kBytes, FL_MAP_SHARED | FL_MAP_WRITE);
  shared[0] = std::byte{0};
  for (const Kind& kind : kKinds) {
    const auto memory = map_kind(object, kind);
    Waiter waiter(memory.data() + 68);
    Waiter any({{memory.data() + 72, 0, 0, 0}, {memory.data() + 76, 0, 0, 0}});
    ASSERT_TRUE(waiter.queued() && any.queued()) << kind.name;
    EXPECT_EQ(raw_wake(shared.data() + 68), kind.objects() ? 1 : 0) << kind.name;
    EXPECT_EQ(raw_wake(shared.data() + 76), kind.objects() ? 1 : 0) << kind.name;
    EXPECT_EQ(fl_wake(memory.data() + 68, 1), kind.objects() ? 0 : 1) << kind.name;
    EXPECT_EQ(fl_wake(memory.data() + 76, 1), kind.objects() ? 0 : 1) << kind.name;
    EXPECT_EQ(waiter.result(), 0) << kind.name;
    EXPECT_EQ(any.result(), 1) << kind.name;

    std::atomic<bool> ended{false};
    std::thread raw([&] {
      EXPECT_EQ(::syscall(SYS_futex, shared.data() + 80, FUTEX_WAIT, 0, nullptr, nullptr, 0), 0);
      ended = true;
    });
    if (kind.objects()) {
      EXPECT_TRUE(eventually([&] { return fl_wake(memory.data() + 80, 1) == 1; })) << kind.name;
    } else {
      EXPECT_FALSE(eventually([&] { return fl_wake(memory.data() + 80, 1) != 0; },
                              std::chrono::milliseconds(20)));
      EXPECT_TRUE(eventually([&] { return raw_wake(shared.data() + 80) == 1; }));
    }
    raw.join();
  }
}

// fl_waitv of words of every kind at once, present and absent: it says which was woken, and waits
// for none of the others any more.
TEST_F(WaitKeys, OfEveryKindAtOnce) {
  const PatternFile file(kBytes);
  const Object object = create(client_, kBytes);
  const Object absent = create_from(client_, file.fd());
  std::vector<fl_waiter> words;
  for (const Kind& kind : kKinds) {
    const auto memory = map_kind(object, kind);
    // At places of their own, so that no two are one word.
    for (const Size& size : kSizes) {
      const std::size_t offset = 256 * words.size() + size.offset;
      words.push_back({memory.data() + offset, 0, size.flags, 0});
    }
    std::uint32_t value = 0;
    std::memcpy(&value, file.bytes().data() + 4 * words.size(), sizeof value);
    const auto nowhere = map(absent, kBytes, kind.flags);
    words.push_back({nowhere.data() + 4 * words.size(), value, 0, 0});
  }
  // By offset 2048 of broken pages there is a 1; none of the words is there.
  for (std::size_t which = 0; which < words.size(); ++which) {
    Waiter waiter(words);
    ASSERT_TRUE(waiter.queued()) << which;
    EXPECT_EQ(fl_wake(words[which].address, 8), 1) << which;
    const int woken = waiter.result();
    EXPECT_EQ(woken, static_cast<int>(which));
    for (std::size_t other = 0; other < words.size(); ++other) {
      EXPECT_TRUE(eventually([&] { return fl_wake(words[other].address, 8) == 0; })) << other;
    }
  }
}

// An object that counts its waits: a wake reaches the same, whoever waits, in whatever process.
TEST_F(WaitKeys, OfAnObjectThatCountsItsWaits) {
  const Object object = create(client_, kBytes, nullptr, 0600, FL_COUNTED_WAITS);
  std::vector<std::span<std::byte>> memory;
  for (const Kind& kind : kKinds) memory.push_back(map_kind(object, kind));
  for (std::size_t i = 0; i < kKinds.size(); ++i) {
    for (std::size_t j = 0; j < kKinds.size(); ++j) {
      const bool same = i == j || (kKinds.at(i).objects() && kKinds.at(j).objects());
      expect_key(same, memory[i].data() + 68, memory[j].data() + 68, 0,
                 std::string(kKinds.at(i).name) + " by " + kKinds.at(j).name);
      expect_key(same, memory[i].data() + 101, memory[j].data() + 101, FL_WAIT_U8,
                 std::string(kKinds.at(i).name) + " by " + kKinds.at(j).name + ", a byte");
    }
  }
  EXPECT_TRUE(in_child([&] {
                die_if_this_lasts();
                Waiter waiter(memory[0].data() + 68);
                if (!waiter.queued()) return 2;
                return fl_wake(memory[1].data() + 68, 8) == 1 && waiter.result() == 0 ? 0 : 3;
              }).exited(0));
}

// --- processes that end

// A process that was woken and died before it ran has not swallowed the wake: another who waits is
// woken for it. Of every kind of word that two processes can wait for.
TEST_F(WaitKeys, AWakeThatADeadProcessTookGoesToAnother) {
  const Object object = create(client_, kBytes);
  for (const Kind& kind : kKinds) {
    const bool common = (kind.flags & (FL_MAP_SHARED | FL_MAP_WAIT_BY_PAGE)) != 0;
    if (!common) continue;
    const auto memory = map_kind(object, kind);
    for (const Size& size : kSizes) {
      for (const std::uint32_t bitset : {FL_WAIT_ANY, 6U}) {
        const std::string what = std::string(kind.name) + ", size " + std::to_string(size.flags) +
                                 ", bits " + std::to_string(bitset);
        SCOPED_TRACE(what);
        const std::byte* const word = memory.data() + size.offset;
        Gate waits;
        Child child([&] {
          Waiter waiter(word, 0, size.flags, bitset);
          if (!waiter.queued()) return 2;
          waits.open();
          return waiter.result();
        });
        ASSERT_TRUE(waits.pass()) << what;
        Waiter next(word, 0, size.flags);
        ASSERT_TRUE(next.queued()) << what;
        child.kill(SIGSTOP);
        ASSERT_TRUE(eventually([&] {
          std::ifstream stat("/proc/" + std::to_string(child.pid()) + "/stat");
          std::string line;
          std::getline(stat, line);
          return line.substr(line.rfind(')') + 2, 1) == "T";
        }));
        // Of relatives that share a private page, each process's own come first.
        int woken = fl_wake(word, 1);
        EXPECT_EQ(woken, 1) << what;
        child.kill(SIGKILL);
        EXPECT_TRUE(child.wait().killed_by(SIGKILL)) << what;
        EXPECT_EQ(next.result(), 0) << what;
      }
    }
  }
}

// Processes that exit, exec or are killed while they wait take nobody else's waits along, and
// leave none behind.
TEST_F(WaitKeys, EndsOfOthersLeaveWaitsAlone) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP()
      << "SKIPPED: ThreadSanitizer cannot begin threads in the fork child of a process that "
         "has others";
#endif
  const Object object = create(client_, kBytes);
  for (const Kind& kind : kKinds) {
    const auto memory = map_kind(object, kind);
    for (const int way : {0, 1, 2}) {
      const std::string what = std::string(kind.name) + ", way " + std::to_string(way);
      Waiter mine(memory.data() + 68);
      Waiter byte(memory.data() + 101, 0, FL_WAIT_U8);
      ASSERT_TRUE(mine.queued() && byte.queued()) << what;
      Gate waits;
      Child child([&] {
        std::thread([&] { (void)fl_wait(memory.data() + 72, 0, nullptr, 0); }).detach();
        std::thread([&] { (void)fl_wait(memory.data() + 73, 0, nullptr, FL_WAIT_U8); }).detach();
        Waiter waiter(memory.data() + 76);
        if (!waiter.queued()) return 2;
        waits.open();
        if (way == 0) ::_exit(0);
        if (way == 1) ::execl("/bin/true", "true", nullptr);
        ::kill(::getpid(), SIGKILL);
        return 3;
      });
      ASSERT_TRUE(waits.pass()) << what;
      const Outcome outcome = child.wait();
      EXPECT_TRUE(outcome.exited(0) || (way == 2 && outcome.killed_by(SIGKILL))) << what << outcome;
      EXPECT_FALSE(mine.ended() || byte.ended()) << what;
      // The dead process's waits are gone, at the latest a moment later.
      EXPECT_TRUE(eventually([&] { return fl_wake(memory.data() + 76, 8) == 0; })) << what;
      EXPECT_EQ(fl_wake(memory.data() + 68, 8), 1) << what;
      EXPECT_EQ(fl_wake(memory.data() + 101, 8), 1) << what;
      EXPECT_EQ(mine.result(), 0) << what;
      EXPECT_EQ(byte.result(), 0) << what;
    }
  }
}

// A thread's first wait in a fork child is the child's own, whatever its parent remembered.
TEST_F(WaitKeys, AreNotRememberedAcrossAFork) {
  const Object object = create(client_, kBytes);
  const auto memory = map(object, kBytes, FL_MAP_PRIVATE | FL_MAP_WRITE);
  const timespec none{0, 0};
  ASSERT_EQ(fl_wait(memory.data() + 68, 0, &none, 0), -ETIMEDOUT);
  Waiter waiter(memory.data() + 68);
  ASSERT_TRUE(waiter.queued());
  EXPECT_TRUE(in_child([&] {
                die_if_this_lasts();
                return fl_wake(memory.data() + 68, 8);
              }).exited(0));
  EXPECT_EQ(fl_wake(memory.data() + 68, 8), 1);
  EXPECT_EQ(waiter.result(), 0);
}

}  // namespace
}  // namespace faultline::testing
