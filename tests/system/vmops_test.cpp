// Operations on memory that is mapped already: at chosen addresses, with changed access, discarded,
// moved, grown, advised about, populated; through memory contents, for shared and private mappings
// of zeroes and of files, and with every error that faultline.h names.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "faultline/faultline.hpp"
#include "tests/system/harness.hpp"
#include "tests/unit/holes.hpp"

namespace faultline::testing {
namespace {

constexpr std::byte kOld{0x11};
constexpr std::byte kNew{0x22};
constexpr std::byte kMine{0x33};
constexpr std::uint32_t kShared = FL_MAP_SHARED | FL_MAP_WRITE;
constexpr std::uint32_t kPrivate = FL_MAP_PRIVATE | FL_MAP_WRITE;

// Whether an access ends a process that makes it with this signal.
bool dies(int signal, const std::function<void()>& access) {
  return in_child([&] {
           const rlimit no_core{0, 0};
           ::setrlimit(RLIMIT_CORE, &no_core);
           access();
           return 0;
         })
      .killed_by(signal);
}

bool mapped(const void* address) {
  unsigned char resident = 0;
  return ::mincore(const_cast<void*>(address), 1, &resident) == 0 || errno != ENOMEM;
}

// Addresses at which nothing is mapped.
std::byte* hole(std::size_t bytes) {
  void* const found = ::mmap(hint_for_holes(), bytes, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  EXPECT_NE(found, MAP_FAILED) << std::strerror(errno);
  ::munmap(found, bytes);
  return static_cast<std::byte*>(found);
}

std::span<std::byte> map_at(fl_object* object, void* at, std::size_t bytes, std::uint32_t flags,
                            std::uint64_t offset = 0) {
  void* address = at;
  EXPECT_EQ(fl_map(object, offset, bytes, flags, &address), 0) << fl_last_error();
  EXPECT_EQ(address, at);
  return {static_cast<std::byte*>(at), bytes};
}

bool all_are(std::span<const std::byte> memory, std::byte value) {
  return std::all_of(memory.begin(), memory.end(), [&](std::byte b) { return b == value; });
}

bool same(std::span<const std::byte> memory, std::span<const std::byte> expected) {
  return memory.size() == expected.size() &&
         std::memcmp(memory.data(), expected.data(), memory.size()) == 0;
}

std::span<std::byte> page(std::span<std::byte> memory, std::size_t index, std::size_t count = 1) {
  return memory.subspan(index * kPage, count * kPage);
}

void fill(std::span<std::byte> memory, std::byte value) {
  std::fill(memory.begin(), memory.end(), value);
}

// Ranges that no function on mappings takes, beside `memory`, of which all is mapped.
struct BadRange {
  void* address;
  std::size_t length;
};
std::vector<BadRange> bad_ranges(std::span<std::byte> memory) {
  return {
      {memory.data(), 0},
      {memory.data(), 1},
      {memory.data(), memory.size() - 1},
      {memory.data() + 1, kPage},
      {memory.data(), memory.size() + kPage},
      {memory.data() - kPage, 2 * kPage},
      {memory.data(), 0 - reinterpret_cast<std::uintptr_t>(memory.data())},
      {memory.data(), ~std::size_t{0} - kPage + 1},
      {nullptr, kPage},
  };
}

// What a file of 16 pages, or as many zeroes, look like through a mapping, shared or private.
struct Kind {
  const char* name;
  bool from_file;
  std::uint32_t flags;
};
std::ostream& operator<<(std::ostream& out, const Kind& kind) {
  return out << kind.name;
}

class VmOpsOfAllKinds : public SystemTest, public ::testing::WithParamInterface<Kind> {
 protected:
  static constexpr std::size_t kPages = 16;

  void SetUp() override {
    SystemTest::SetUp();
    object_ =
        GetParam().from_file ? create_from(client_, file_.fd()) : create(client_, kPages * kPage);
    if (!GetParam().from_file) fill(expected_, std::byte{0});
    memory_ = map(object_, kPages * kPage, GetParam().flags);
  }
  [[nodiscard]] static bool shared() { return (GetParam().flags & FL_MAP_SHARED) != 0; }
  // Through the mapping, and where it is shared, of the object.
  void write(std::size_t index, std::byte value) {
    fill(page(memory_, index), value);
    fill(page(expected_, index), value);
  }
  // What the object has at a page after all that this process wrote through its mapping.
  [[nodiscard]] std::byte object_byte(std::size_t index, std::byte written) const {
    if (shared()) return written;
    return GetParam().from_file ? file_.bytes()[index * kPage] : std::byte{0};
  }

  PatternFile file_{kPages * kPage};
  std::vector<std::byte> expected_ = file_.bytes();
  Object object_;
  std::span<std::byte> memory_;
};

INSTANTIATE_TEST_SUITE_P(Mappings, VmOpsOfAllKinds,
                         ::testing::Values(Kind{"SharedZeroes", false, kShared},
                                           Kind{"PrivateZeroes", false, kPrivate},
                                           Kind{"SharedFile", true, kShared},
                                           Kind{"PrivateFile", true, kPrivate}),
                         [](const auto& kind) { return std::string(kind.param.name); });

class VmOps : public SystemTest {
 protected:
  // Of one value, mapped shared.
  Object object_of(std::byte value, std::size_t pages) const {
    Object object = create(client_, pages * kPage);
    const auto memory = map(object, pages * kPage, kShared);
    fill(memory, value);
    EXPECT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0) << fl_last_error();
    return object;
  }
  void expect_unmaps(std::span<std::byte> memory) const {
    EXPECT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0) << fl_last_error();
#if !defined(__SANITIZE_ADDRESS__)  // whose allocator may have come there
    EXPECT_FALSE(mapped(memory.data()));
#endif
  }
  Object read_only(const char* name) const {
    fl_object* opened = nullptr;
    EXPECT_EQ(fl_object_open(client_, name, FL_READ_ONLY, &opened), 0) << fl_last_error();
    return Object{opened};
  }
};

// --- at chosen addresses

// The new mapping shows its part of the object; what it replaced is gone, and the pages on either
// side keep what they had, private ones too.
TEST_P(VmOpsOfAllKinds, AFixedMappingTakesThePlaceOfPartsOfTwoOthers) {
  const Object first = create(client_, 4 * kPage);
  const Object second = create(client_, 4 * kPage);
  std::byte* const at = hole(8 * kPage);
  const auto left = map_at(first, at, 4 * kPage, kPrivate | FL_MAP_FIXED_NOREPLACE);
  const auto right = map_at(second, at + 4 * kPage, 4 * kPage, kShared | FL_MAP_FIXED_NOREPLACE);
  fill(left, kMine);
  fill(right, kOld);
  const auto middle =
      map_at(object_, at + 2 * kPage, 4 * kPage, GetParam().flags | FL_MAP_FIXED, 3 * kPage);
  EXPECT_TRUE(same(middle, page(expected_, 3, 4)));
  EXPECT_TRUE(all_are(page(left, 0, 2), kMine));
  EXPECT_TRUE(all_are(page(right, 2, 2), kOld));
  fill(page(middle, 1), kNew);
  EXPECT_TRUE(all_are(page(left, 0, 2), kMine));
  EXPECT_EQ(stats_of(client_, middle.data()).start,
            reinterpret_cast<std::uintptr_t>(middle.data()));
  EXPECT_EQ(stats_of(client_, left.data()).length, 2 * kPage);
  EXPECT_EQ(stats_of(client_, right.data() + 2 * kPage).length, 2 * kPage);
  const auto again = map(second, 4 * kPage, kShared);
  EXPECT_TRUE(all_are(again, kOld)) << "the object lost nothing";
  EXPECT_EQ(fl_unmap(client_, at, 8 * kPage), 0) << "all of it is mapped: " << fl_last_error();
  EXPECT_FALSE(mapped(at + 3 * kPage));
}

TEST_F(VmOps, AFixedMappingReplacesMemoryOfAnybody) {
  const Object object = object_of(kNew, 2);
  void* const own =
      ::mmap(nullptr, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const std::span<std::byte> memory{static_cast<std::byte*>(own), 4 * kPage};
  fill(memory, kOld);
  const auto placed = map_at(object, own, 2 * kPage, kPrivate | FL_MAP_FIXED);
  EXPECT_TRUE(all_are(placed, kNew));
  EXPECT_TRUE(all_are(page(memory, 2, 2), kOld));
  expect_unmaps(placed);
  expect_refused(EINVAL, "unmapping",
                 [&] { return fl_unmap(client_, memory.data() + 2 * kPage, kPage); });
  ::munmap(memory.data() + 2 * kPage, 2 * kPage);
}

// The kernel likes to choose the very hole that is asked for, so the library must step aside: in a
// hole of that size, and in one that is a little larger on either side.
TEST_F(VmOps, AFixedMappingFitsIntoAHole) {
  const Object object = object_of(kNew, 64);
  for (const std::size_t spare : {0U, 1U, 63U}) {
    for (const std::uint32_t how : {FL_MAP_FIXED, FL_MAP_FIXED_NOREPLACE}) {
      std::byte* const at = hole((64 + 2 * spare) * kPage) + spare * kPage;
      const auto memory = map_at(object, at, 64 * kPage, kShared | how);
      EXPECT_TRUE(all_are(memory, kNew));
      expect_unmaps(memory);
    }
  }
}

TEST_F(VmOps, WhereSomethingIsNothingIsPlacedWithNoreplace) {
  const Object object = object_of(kNew, 4);
  const auto ours = map(object_of(kOld, 4), 4 * kPage, kPrivate);
  void* const own =
      ::mmap(nullptr, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  std::memset(own, 0x11, 4 * kPage);
  for (void* const taken : {static_cast<void*>(ours.data()), own}) {
    for (const std::ptrdiff_t shift : {-3, 0, 3}) {
      void* const wanted = static_cast<std::byte*>(taken) + shift * std::ptrdiff_t{kPage};
      void* address = wanted;
      expect_refused(EEXIST, "mapping", [&] {
        return fl_map(object, 0, 4 * kPage, kShared | FL_MAP_FIXED_NOREPLACE, &address);
      });
      EXPECT_EQ(address, wanted);
    }
    EXPECT_TRUE(all_are({static_cast<std::byte*>(taken), 4 * kPage}, kOld));
  }
  fl_stats stats{};
  EXPECT_EQ(fl_process_stats(client_, &stats), 0);
  EXPECT_EQ(stats.mappings, 1U);
  ::munmap(own, 4 * kPage);
}

TEST_F(VmOps, AFixedMappingThatCannotBeReplacesNothing) {
  const Object object = create(client_, 4 * kPage, "fixed", 0600);
  const Object reader = read_only("fixed");
  const auto there = map(object_of(kOld, 4), 4 * kPage, kPrivate);
  const auto refused = [&](int code, const char* words, fl_object* from, std::uint64_t offset,
                           std::size_t length, std::uint32_t flags, void* wanted) {
    void* address = wanted;
    expect_refused(code, words, [&] { return fl_map(from, offset, length, flags, &address); });
    EXPECT_EQ(address, wanted);
  };
  const std::uint32_t both = FL_MAP_FIXED | FL_MAP_FIXED_NOREPLACE;
  refused(EINVAL, "both", object, 0, kPage, kShared | both, there.data());
  refused(EACCES, "read-only", reader, 0, kPage, kShared | FL_MAP_FIXED, there.data());
  refused(EINVAL, "past the end", object, kPage, 4 * kPage, kShared | FL_MAP_FIXED, there.data());
  for (const std::uint32_t how : {FL_MAP_FIXED, FL_MAP_FIXED_NOREPLACE}) {
    refused(EINVAL, "no address", object, 0, kPage, kShared | how, nullptr);
    refused(EINVAL, "multiple", object, 0, kPage, kShared | how, there.data() + 1);
    // The last page there could be: the range wraps.
    void* const top = reinterpret_cast<void*>(~std::uintptr_t{0} - kPage + 1);
    refused(EINVAL, "multiple", object, 0, kPage, kShared | how, top);
  }
  void* const beyond = reinterpret_cast<void*>(std::uintptr_t{1} << 60);
  refused(EINVAL, "mapping", object, 0, kPage, kShared | FL_MAP_FIXED, beyond);
#if !defined(__SANITIZE_THREAD__)  // which answers such an mmap(2) itself
  refused(ENOMEM, "mapping", object, 0, kPage, kShared | FL_MAP_FIXED_NOREPLACE, beyond);
#endif
  EXPECT_TRUE(all_are(there, kOld));
  expect_unmaps(there);
  EXPECT_EQ(fl_object_unlink(client_, "fixed"), 0);
}

// A thread that reads all the while sees one of the two values, and memory at all times.
TEST_F(VmOps, ReplacingAMappingLeavesNoMomentWithoutOne) {
  const Object old_one = object_of(kOld, 4);
  const Object new_one = object_of(kNew, 4);
  const auto memory = map(old_one, 4 * kPage, kShared);
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> seen_old{0};
  std::atomic<std::uint64_t> seen_new{0};
  std::atomic<std::uint64_t> seen_other{0};
  std::thread reader([&] {
    while (!stop) {
      const std::byte value = *static_cast<const volatile std::byte*>(&memory[2 * kPage + 5]);
      ++(value == kOld ? seen_old : value == kNew ? seen_new : seen_other);
    }
  });
  for (int i = 0; i < 300; ++i) {
    map_at(i % 2 == 0 ? new_one : old_one, memory.data(), 4 * kPage, kShared | FL_MAP_FIXED);
  }
  stop = true;
  reader.join();
  EXPECT_GT(seen_old + seen_new, 0U);
  EXPECT_EQ(seen_other, 0U);
  EXPECT_TRUE(all_are(memory, kOld)) << "the last of them";
  expect_unmaps(memory);
}

// --- access

TEST_P(VmOpsOfAllKinds, AccessIsTakenAwayAndGivenBack) {
  write(3, kMine);
  (void)touch(memory_[4 * kPage]);
  ASSERT_EQ(fl_protect(client_, page(memory_, 2).data(), 4 * kPage, 0), 0) << fl_last_error();
  EXPECT_TRUE(same(memory_, expected_)) << "nothing is lost";
  for (const std::size_t index : {2U, 3U, 4U, 5U}) {
    EXPECT_TRUE(dies(SIGSEGV, [&] { memory_[index * kPage] = kNew; })) << index;
  }
  write(1, kNew);
  write(6, kNew);
  ASSERT_EQ(fl_protect(client_, page(memory_, 3).data(), 2 * kPage, FL_PROTECT_WRITE), 0)
      << fl_last_error();
  write(3, kNew);
  write(4, kNew);
  EXPECT_TRUE(dies(SIGSEGV, [&] { memory_[2 * kPage] = kNew; }));
  EXPECT_TRUE(dies(SIGSEGV, [&] { memory_[5 * kPage] = kNew; }));
  ASSERT_EQ(fl_protect(client_, memory_.data(), memory_.size(), FL_PROTECT_WRITE), 0)
      << fl_last_error();
  write(2, kNew);
  write(5, kNew);
  EXPECT_TRUE(same(memory_, expected_));
  const auto object = map(object_, memory_.size(), FL_MAP_SHARED);
  for (const std::size_t index : {1U, 2U, 3U, 4U, 5U, 6U}) {
    EXPECT_EQ(object[index * kPage], object_byte(index, kNew)) << index;
  }
}

// Pages that were mapped while nobody could write to them are still the object's when the mapping
// becomes writable: the first write of each is a break.
TEST_P(VmOpsOfAllKinds, AMappingThatWasMadeReadOnlyCanBecomeWritable) {
  const std::uint32_t kind = GetParam().flags & ~FL_MAP_WRITE;
  const auto view = map(object_, memory_.size(), kind);
  EXPECT_TRUE(same(view, expected_));
  ASSERT_EQ(fl_protect(client_, view.data(), view.size(), FL_PROTECT_WRITE), 0) << fl_last_error();
  fill(page(view, 7), kMine);
  EXPECT_TRUE(all_are(page(view, 7), kMine));
  const auto object = map(object_, memory_.size(), FL_MAP_SHARED);
  EXPECT_EQ(object[7 * kPage], object_byte(7, kMine));
}

TEST_F(VmOps, ASharedMappingOfAReadOnlyObjectStaysReadOnly) {
  const Object object = create(client_, 4 * kPage, "reader", 0600);
  const Object reader = read_only("reader");
  const auto shared = map(reader, 4 * kPage, FL_MAP_SHARED);
  const auto view = map(reader, 4 * kPage, FL_MAP_PRIVATE);
  expect_refused(EACCES, "read-only",
                 [&] { return fl_protect(client_, shared.data(), kPage, FL_PROTECT_WRITE); });
  EXPECT_EQ(fl_protect(client_, shared.data(), kPage, 0), 0) << fl_last_error();
  EXPECT_TRUE(dies(SIGSEGV, [&] { shared[0] = kNew; }));
  ASSERT_EQ(fl_protect(client_, view.data(), 4 * kPage, FL_PROTECT_WRITE), 0) << fl_last_error();
  fill(view, kMine);
  EXPECT_TRUE(all_are(shared, std::byte{0}));
  EXPECT_EQ(fl_object_unlink(client_, "reader"), 0);
}

TEST_F(VmOps, AnAccessThatCannotBeIsRefusedAndChangesNothing) {
  const auto memory = map(create(client_, 4 * kPage), 4 * kPage, kPrivate);
  for (const BadRange& bad : bad_ranges(memory)) {
    expect_refused(EINVAL, "", [&] { return fl_protect(client_, bad.address, bad.length, 0); });
  }
  expect_refused(EINVAL, "unknown flag",
                 [&] { return fl_protect(client_, memory.data(), kPage, 2); });
  expect_refused(EINVAL, "null", [&] { return fl_protect(nullptr, memory.data(), kPage, 0); });
  fill(memory, kMine);
  EXPECT_TRUE(all_are(memory, kMine));
}

// A mapping whose parts differed in access is one again when they do not: then it can be moved
// whole.
TEST_F(VmOps, PartsThatHaveTheSameAccessAgainAreOneMapping) {
  SKIP_WITH_HUGE_PAGES("the kernel never joins mappings");
  const auto memory = map(object_of(kOld, 8), 8 * kPage, kPrivate);
  fill(page(memory, 3), kMine);
  ASSERT_EQ(fl_protect(client_, page(memory, 2).data(), 3 * kPage, 0), 0) << fl_last_error();
  void* to = hole(8 * kPage);
  const auto move = [&] {
    return fl_remap(client_, memory.data(), 8 * kPage, 8 * kPage, FL_REMAP_MAYMOVE | FL_REMAP_FIXED,
                    &to);
  };
  expect_refused(EINVAL, "one access", move);
  EXPECT_TRUE(all_are(page(memory, 3), kMine));
  ASSERT_EQ(fl_protect(client_, page(memory, 2).data(), 3 * kPage, FL_PROTECT_WRITE), 0);
  ASSERT_EQ(move(), 0) << fl_last_error();
  const std::span<std::byte> moved{static_cast<std::byte*>(to), 8 * kPage};
  EXPECT_TRUE(all_are(page(moved, 0, 3), kOld));
  EXPECT_TRUE(all_are(page(moved, 3), kMine));
  EXPECT_TRUE(all_are(page(moved, 4, 4), kOld));
}

// --- discarding

// Private pages become the object's again, as it is by then; shared ones are not touched.
TEST_P(VmOpsOfAllKinds, DiscardedCopiesAreTheObjectsPagesAgain) {
  const auto object = map(object_, memory_.size(), kShared);
  for (std::size_t index = 2; index < 8; ++index) fill(page(memory_, index), kMine);
  fill(page(object, 4), kNew);
  ASSERT_EQ(fl_discard(client_, page(memory_, 4).data(), 2 * kPage, FL_DISCARD_COPIES), 0)
      << fl_last_error();
  EXPECT_TRUE(all_are(page(memory_, 2, 2), kMine));
  EXPECT_TRUE(all_are(page(memory_, 6, 2), kMine));
  EXPECT_TRUE(all_are(page(memory_, 4), kNew));
  if (shared()) {
    EXPECT_TRUE(all_are(page(memory_, 5), kMine));
  } else {
    EXPECT_TRUE(same(page(memory_, 5), page(expected_, 5)));
    EXPECT_TRUE(same(page(object, 5), page(expected_, 5)));
  }
  fill(page(memory_, 5), kNew);
  EXPECT_EQ(object[5 * kPage], object_byte(5, kNew)) << "a copy again";
}

// Every process that maps the object sees zeroes, or its file anew; private pages stay.
TEST_P(VmOpsOfAllKinds, DiscardedContentIsGoneForEverybody) {
  const auto object = map(object_, memory_.size(), kShared);
  fill(object, kOld);
  fill(page(memory_, 5), kMine);
  const auto content = [&](std::span<std::byte> view, std::size_t index) {
    std::vector<std::byte> original(kPage);
    if (GetParam().from_file) {
      std::memcpy(original.data(), file_.bytes().data() + index * kPage, kPage);
    }
    return same(page(view, index), original);
  };
  Gate ready;
  Gate discarded;
  Child other([&] {
    const Client client = connect(daemon_.socket());
    const auto view = map(object_, memory_.size(), FL_MAP_SHARED);
    if (!all_are(page(view, 4), kOld)) return 1;
    ready.open();
    if (!discarded.pass()) return 2;
    if (!content(view, 4) || !content(view, 5)) return 3;
    if (!all_are(page(view, 3), kOld) || !all_are(page(view, 6), kOld)) return 4;
    return 0;
  });
  ASSERT_TRUE(ready.pass());
  ASSERT_EQ(fl_discard(client_, page(object, 4).data(), 2 * kPage, FL_DISCARD_CONTENT), 0)
      << fl_last_error();
  discarded.open();
  EXPECT_TRUE(content(object, 4));
  EXPECT_TRUE(content(object, 5));
  EXPECT_TRUE(all_are(page(object, 3), kOld));
  EXPECT_TRUE(all_are(page(object, 6), kOld));
  // On hugetlbfs the kernel drops private copies with what they were copied from.
  const bool dropped = shared() || kHugePages;
  EXPECT_TRUE(dropped ? content(memory_, 5) : all_are(page(memory_, 5), kMine));
  EXPECT_TRUE(content(memory_, 4));
  const Outcome outcome = other.wait();
  EXPECT_TRUE(outcome.exited(0)) << outcome;
  fill(page(object, 4), kNew);
  EXPECT_TRUE(all_are(page(memory_, 4), kNew)) << "it can be written again";
}

TEST_F(VmOps, ADiscardThatCannotBeIsRefusedAndLosesNothing) {
  SKIP_WITH_HUGE_PAGES("what is locked can be discarded");
  const Object object = create(client_, 4 * kPage, "discard", 0600);
  // With memory of others on either side.
  void* const walls =
      ::mmap(nullptr, 6 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(walls, MAP_FAILED);
  const auto shared =
      map_at(object, static_cast<std::byte*>(walls) + kPage, 4 * kPage, kShared | FL_MAP_FIXED);
  fill(shared, kOld);
  const auto view = map(object, 4 * kPage, kPrivate);
  fill(view, kMine);
  const auto content = [&](std::span<std::byte> memory) {
    return fl_discard(client_, memory.data(), memory.size(), FL_DISCARD_CONTENT);
  };
  for (const std::uint32_t what : {FL_DISCARD_COPIES, FL_DISCARD_CONTENT}) {
    for (const BadRange& bad : bad_ranges(shared)) {
      expect_refused(EINVAL, "",
                     [&] { return fl_discard(client_, bad.address, bad.length, what); });
    }
    expect_refused(EINVAL, "null", [&] { return fl_discard(nullptr, view.data(), kPage, what); });
  }
  for (const std::uint32_t what : {0U, 3U, 4U, 0x8000'0000U}) {
    expect_refused(EINVAL, "neither",
                   [&] { return fl_discard(client_, view.data(), kPage, what); });
  }
  expect_refused(EINVAL, "private", [&] { return content(view); });
  expect_refused(EACCES, "read-only",
                 [&] { return content(map(object, 4 * kPage, FL_MAP_SHARED)); });
  expect_refused(EACCES, "read-only",
                 [&] { return content(map(read_only("discard"), 4 * kPage, FL_MAP_SHARED)); });
  ASSERT_EQ(fl_protect(client_, page(shared, 3).data(), kPage, 0), 0);
  expect_refused(EACCES, "read-only", [&] { return content(shared); });
  ASSERT_EQ(fl_protect(client_, page(shared, 3).data(), kPage, FL_PROTECT_WRITE), 0);
  // Sanitizers make nothing of mlock(3).
  ASSERT_EQ(::syscall(SYS_mlock, shared.data(), kPage), 0) << std::strerror(errno);
  ASSERT_EQ(::syscall(SYS_mlock, view.data(), kPage), 0) << std::strerror(errno);
  expect_refused(EBUSY, "discarding", [&] { return content(shared); });
  expect_refused(EBUSY, "discarding",
                 [&] { return fl_discard(client_, view.data(), kPage, FL_DISCARD_COPIES); });
  expect_refused(EBUSY, "COLD",
                 [&] { return fl_advise(client_, view.data(), kPage, FL_ADVICE_COLD); });
  EXPECT_TRUE(all_are(shared, kOld));
  EXPECT_TRUE(all_are(view, kMine));
  EXPECT_EQ(fl_object_unlink(client_, "discard"), 0);
}

// --- moving and growing

TEST_P(VmOpsOfAllKinds, AShrunkMappingLosesItsEndAlone) {
  write(2, kMine);
  write(9, kMine);
  void* now = nullptr;
  ASSERT_EQ(fl_remap(client_, memory_.data(), memory_.size(), 4 * kPage, 0, &now), 0)
      << fl_last_error();
  EXPECT_EQ(now, memory_.data());
  EXPECT_TRUE(same(page(memory_, 0, 4), page(expected_, 0, 4)));
  EXPECT_FALSE(mapped(page(memory_, 4).data()));
  EXPECT_EQ(stats_of(client_, memory_.data()).length, 4 * kPage);
  expect_refused(EINVAL, "unmapping", [&] { return fl_unmap(client_, memory_.data(), 5 * kPage); });
  EXPECT_EQ(fl_unmap(client_, memory_.data(), 4 * kPage), 0) << fl_last_error();
}

// Onto parts of another mapping and of nothing; what was private stays so, what was not yet there
// comes from the right part of the object.
TEST_P(VmOpsOfAllKinds, AMovedMappingTakesItsPagesAlong) {
  write(2, kMine);
  (void)touch(memory_[3 * kPage]);
  const Object other = create(client_, 8 * kPage);
  std::byte* const at = hole(40 * kPage);
  const auto there = map_at(other, at, 8 * kPage, kPrivate | FL_MAP_FIXED_NOREPLACE);
  fill(there, kOld);
  void* now = page(there, 6).data();
  ASSERT_EQ(fl_remap(client_, memory_.data(), memory_.size(), memory_.size(),
                     FL_REMAP_MAYMOVE | FL_REMAP_FIXED, &now),
            0)
      << fl_last_error();
  const std::span<std::byte> moved{static_cast<std::byte*>(now), memory_.size()};
  ASSERT_EQ(moved.data(), page(there, 6).data());
  EXPECT_TRUE(same(moved, expected_));
  EXPECT_TRUE(all_are(page(there, 0, 6), kOld));
  EXPECT_FALSE(mapped(memory_.data()));
  fill(page(moved, 2), kNew);
  fill(page(moved, 9), kNew);
  const auto object = map(object_, memory_.size(), FL_MAP_SHARED);
  EXPECT_EQ(object[2 * kPage], object_byte(2, kNew));
  EXPECT_EQ(object[9 * kPage], object_byte(9, kNew));
  EXPECT_EQ(fl_unmap(client_, at, 6 * kPage + moved.size()), 0) << fl_last_error();
}

// A part leaves its mapping, shorter than it was; both sides of it stay.
TEST_P(VmOpsOfAllKinds, APartCanBeMovedAndShrunkAtOnce) {
  write(5, kMine);
  void* now = hole(8 * kPage);
  ASSERT_EQ(fl_remap(client_, page(memory_, 4).data(), 6 * kPage, 3 * kPage,
                     FL_REMAP_MAYMOVE | FL_REMAP_FIXED, &now),
            0)
      << fl_last_error();
  const std::span<std::byte> moved{static_cast<std::byte*>(now), 3 * kPage};
  EXPECT_TRUE(same(moved, page(expected_, 4, 3)));
  EXPECT_TRUE(same(page(memory_, 0, 4), page(expected_, 0, 4)));
  EXPECT_TRUE(same(page(memory_, 10, 6), page(expected_, 10, 6)));
  for (const std::size_t index : {4U, 6U, 7U, 9U}) {
    EXPECT_FALSE(mapped(page(memory_, index).data())) << index;
  }
  // Back into the hole: it is one mapping again, as far as it goes.
  void* back = page(memory_, 4).data();
  ASSERT_EQ(fl_remap(client_, moved.data(), 3 * kPage, 3 * kPage, FL_REMAP_MAYMOVE | FL_REMAP_FIXED,
                     &back),
            0)
      << fl_last_error();
  EXPECT_TRUE(same(page(memory_, 0, 7), page(expected_, 0, 7)));
  EXPECT_EQ(fl_unmap(client_, memory_.data(), 7 * kPage), 0) << fl_last_error();
  EXPECT_EQ(fl_unmap(client_, page(memory_, 10).data(), 6 * kPage), 0) << fl_last_error();
}

// Where there is room the mapping stays where it is; what it gains is what follows in the object,
// and is known to the daemon.
TEST_P(VmOpsOfAllKinds, AMappingGrowsWhereItIs) {
  SKIP_WITH_HUGE_PAGES("mappings do not grow");
  std::byte* const at = hole(16 * kPage);
  const auto view =
      map_at(object_, at, 4 * kPage, GetParam().flags | FL_MAP_FIXED_NOREPLACE, 2 * kPage);
  fill(page(view, 1), kMine);
  void* now = nullptr;
  ASSERT_EQ(fl_remap(client_, at, 4 * kPage, 14 * kPage, 0, &now), 0) << fl_last_error();
  ASSERT_EQ(now, at);
  const std::span<std::byte> grown{at, 14 * kPage};
  EXPECT_TRUE(all_are(page(grown, 1), kMine));
  EXPECT_EQ(stats_of(client_, at + 13 * kPage).mappings, 1U) << "before any fault";
  EXPECT_TRUE(same(page(grown, 2, 12), page(expected_, 4, 12)));
  fill(page(grown, 12), kNew);
  EXPECT_EQ(map(object_, memory_.size(), FL_MAP_SHARED)[14 * kPage], object_byte(14, kNew));
  EXPECT_EQ(fl_unmap(client_, at, 14 * kPage), 0) << fl_last_error();
}

TEST_P(VmOpsOfAllKinds, AMappingThatCannotGrowWhereItIsMoves) {
  SKIP_WITH_HUGE_PAGES("mappings do not grow");
  std::byte* const at = hole(8 * kPage);
  const auto view = map_at(object_, at, 4 * kPage, GetParam().flags | FL_MAP_FIXED_NOREPLACE);
  const auto wall = map_at(object_, at + 4 * kPage, 4 * kPage,
                           FL_MAP_PRIVATE | FL_MAP_FIXED_NOREPLACE, 12 * kPage);
  fill(page(view, 1), kMine);
  void* now = nullptr;
  expect_refused(ENOMEM, "mremap",
                 [&] { return fl_remap(client_, at, 4 * kPage, 12 * kPage, 0, &now); });
  EXPECT_EQ(now, nullptr);
  ASSERT_EQ(fl_remap(client_, at, 4 * kPage, 12 * kPage, FL_REMAP_MAYMOVE, &now), 0)
      << fl_last_error();
  ASSERT_NE(now, at);
  const std::span<std::byte> grown{static_cast<std::byte*>(now), 12 * kPage};
  EXPECT_TRUE(all_are(page(grown, 1), kMine));
  EXPECT_TRUE(same(page(grown, 2, 10), page(expected_, 2, 10)));
  EXPECT_TRUE(same(wall, page(expected_, 12, 4)));
  EXPECT_FALSE(mapped(at));
  EXPECT_EQ(fl_unmap(client_, grown.data(), grown.size()), 0) << fl_last_error();
}

// The private pages are at the new address alone; the old one shows the object.
TEST_P(VmOpsOfAllKinds, TheOldRangeCanStayMapped) {
  SKIP_WITH_HUGE_PAGES("mremap(2) refuses");
  write(2, kMine);
  void* now = nullptr;
  ASSERT_EQ(fl_remap(client_, memory_.data(), memory_.size(), memory_.size(),
                     FL_REMAP_MAYMOVE | FL_REMAP_DONTUNMAP, &now),
            0)
      << fl_last_error();
  ASSERT_NE(now, memory_.data());
  const std::span<std::byte> moved{static_cast<std::byte*>(now), memory_.size()};
  EXPECT_TRUE(same(moved, expected_));
  EXPECT_EQ(memory_[2 * kPage], object_byte(2, kMine));
  EXPECT_TRUE(same(page(memory_, 3, 13), page(expected_, 3, 13)));
  fill(page(memory_, 7), kNew);
  EXPECT_EQ(moved[7 * kPage], shared() ? kNew : expected_[7 * kPage]);
  EXPECT_EQ(fl_unmap(client_, memory_.data(), memory_.size()), 0) << fl_last_error();
  EXPECT_EQ(fl_unmap(client_, moved.data(), moved.size()), 0) << fl_last_error();
}

TEST_F(VmOps, ARemapThatCannotBeIsRefusedAndChangesNothing) {
  const auto memory = map(object_of(kOld, 8), 4 * kPage, kPrivate);
  fill(page(memory, 1), kMine);
  std::byte* const free = hole(8 * kPage);
  const auto refused = [&](int code, const char* words, std::size_t old_length,
                           std::size_t new_length, std::uint32_t flags, void* to = nullptr) {
    void* address = to;
    expect_refused(code, words, [&] {
      return fl_remap(client_, memory.data(), old_length, new_length, flags, &address);
    });
    EXPECT_EQ(address, to);
  };
  constexpr std::uint32_t kFixed = FL_REMAP_MAYMOVE | FL_REMAP_FIXED;
  constexpr std::uint32_t kKeep = FL_REMAP_MAYMOVE | FL_REMAP_DONTUNMAP;
  const std::size_t bytes = memory.size();
  for (const BadRange& bad : bad_ranges(memory)) {
    void* address = nullptr;
    expect_refused(EINVAL, "", [&] {
      return fl_remap(client_, bad.address, bad.length, kPage, FL_REMAP_MAYMOVE, &address);
    });
  }
  refused(EINVAL, "zero", bytes, 0, 0);
  refused(EINVAL, "multiple", bytes, kPage + 1, 0);
  refused(EINVAL, "past the end", bytes, 9 * kPage, FL_REMAP_MAYMOVE);
  refused(EINVAL, "past the end", bytes, std::size_t{1} << 62, FL_REMAP_MAYMOVE);
  refused(EINVAL, "unknown flag", bytes, bytes, 8);
  refused(EINVAL, "MAYMOVE", bytes, bytes, FL_REMAP_FIXED, free);
  refused(EINVAL, "MAYMOVE", bytes, bytes, FL_REMAP_DONTUNMAP);
  refused(EINVAL, "another length", bytes, 2 * kPage, kKeep);
  refused(EINVAL, "no address", bytes, bytes, kFixed, nullptr);
  refused(EINVAL, "multiple", bytes, bytes, kFixed, free + 1);
  refused(EINVAL, "itself", bytes, bytes, kFixed, memory.data());
  refused(EINVAL, "itself", bytes, bytes, kFixed, memory.data() + kPage);
  refused(EINVAL, "itself", bytes, bytes, kFixed, memory.data() - kPage);
  refused(EINVAL, "mremap", bytes, bytes, kFixed, reinterpret_cast<void*>(std::uintptr_t{1} << 60));
  EXPECT_EQ(fl_remap(client_, memory.data(), bytes, bytes, 0, nullptr), -EINVAL);
  void* address = nullptr;
  EXPECT_EQ(fl_remap(nullptr, memory.data(), bytes, bytes, 0, &address), -EINVAL);
  // Over two mappings that touch.
  const Object more = object_of(kOld, 8);
  const auto left = map_at(more, free, 2 * kPage, kShared | FL_MAP_FIXED_NOREPLACE);
  map_at(more, free + 2 * kPage, 2 * kPage, kShared | FL_MAP_FIXED_NOREPLACE, 2 * kPage);
  expect_refused(EINVAL, "one mapping", [&] {
    return fl_remap(client_, left.data(), 4 * kPage, 4 * kPage, FL_REMAP_MAYMOVE, &address);
  });
  EXPECT_TRUE(all_are(page(memory, 0), kOld));
  EXPECT_TRUE(all_are(page(memory, 1), kMine));
  EXPECT_EQ(stats_of(client_, memory.data()).length, bytes);
}

// Cut in the kernel alone, by a system call of the program's own: the words are the kernel's.
TEST_F(VmOps, AMappingThatTheKernelKeepsInPartsIsNotMoved) {
  SKIP_WITH_HUGE_PAGES("refused with another error");
  const auto memory = map(object_of(kOld, 8), 8 * kPage, kShared);
  ASSERT_EQ(::mprotect(page(memory, 3).data(), kPage, PROT_READ), 0);
  void* now = nullptr;
  expect_refused(EFAULT, "mremap", [&] {
    return fl_remap(client_, memory.data(), memory.size(), memory.size(),
                    FL_REMAP_MAYMOVE | FL_REMAP_DONTUNMAP, &now);
  });
  EXPECT_TRUE(all_are(memory, kOld));
}

// --- advice

TEST_P(VmOpsOfAllKinds, AdviceChangesNoContent) {
  write(3, kMine);
  for (const std::uint32_t advice :
       {FL_ADVICE_SEQUENTIAL, FL_ADVICE_RANDOM, FL_ADVICE_COLD, FL_ADVICE_NORMAL}) {
    EXPECT_EQ(fl_advise(client_, page(memory_, 2).data(), 8 * kPage, advice), 0) << fl_last_error();
    EXPECT_TRUE(same(memory_, expected_)) << advice;
    EXPECT_EQ(fl_advise(client_, memory_.data(), memory_.size(), advice), 0) << fl_last_error();
    EXPECT_TRUE(same(memory_, expected_)) << advice;
  }
}

TEST_P(VmOpsOfAllKinds, WhatWillBeNeededComesByItself) {
  ASSERT_EQ(fl_advise(client_, memory_.data(), memory_.size(), FL_ADVICE_WILL_NEED), 0)
      << fl_last_error();
  EXPECT_TRUE(eventually([&] {
    return stats_of(client_, memory_.data()).resident_bytes == memory_.size();
  })) << stats_of(client_, memory_.data()).resident_bytes;
  const fl_stats before = stats_of(client_, memory_.data());
  EXPECT_EQ(before.private_bytes, 0U) << "for reading: no copies";
  EXPECT_TRUE(same(memory_, expected_));
  const fl_stats after = stats_of(client_, memory_.data());
  EXPECT_EQ(after.missing_faults + after.minor_faults, before.missing_faults + before.minor_faults);
}

TEST_F(VmOps, AdviceThatCannotBeIsRefused) {
  const auto memory = map(create(client_, 4 * kPage), 4 * kPage, kPrivate);
  for (std::uint32_t advice = FL_ADVICE_NORMAL; advice <= FL_ADVICE_PAGEOUT; ++advice) {
    for (const BadRange& bad : bad_ranges(memory)) {
      expect_refused(EINVAL, "",
                     [&] { return fl_advise(client_, bad.address, bad.length, advice); });
    }
  }
  for (const std::uint32_t advice : {6U, 100U, 0xffff'ffffU}) {
    expect_refused(EINVAL, "unknown advice",
                   [&] { return fl_advise(client_, memory.data(), kPage, advice); });
  }
  expect_refused(EINVAL, "null", [&] { return fl_advise(nullptr, memory.data(), kPage, 0); });
}

// --- populating

// Afterwards everything is there and mapped: using it raises no fault, and for reading no page was
// copied.
TEST_P(VmOpsOfAllKinds, APopulatedRangeRaisesNoFaultWhenItIsRead) {
  ASSERT_EQ(fl_populate(client_, page(memory_, 2).data(), 10 * kPage, 0), 0) << fl_last_error();
  const fl_stats before = stats_of(client_, memory_.data());
  EXPECT_EQ(before.resident_bytes, 10 * kPage);
  EXPECT_EQ(before.private_bytes, 0U);
  EXPECT_TRUE(same(page(memory_, 2, 10), page(expected_, 2, 10)));
  const fl_stats after = stats_of(client_, memory_.data());
  EXPECT_EQ(after.missing_faults + after.minor_faults + after.wp_faults,
            before.missing_faults + before.minor_faults + before.wp_faults);
}

TEST_P(VmOpsOfAllKinds, ARangePopulatedForWritingRaisesNoFaultWhenItIsWritten) {
  fill(page(memory_, 3), kMine);
  (void)touch(memory_[4 * kPage]);  // mapped already, read-only where private
  ASSERT_EQ(fl_populate(client_, page(memory_, 2).data(), 10 * kPage, FL_POPULATE_WRITE), 0)
      << fl_last_error();
  const fl_stats before = stats_of(client_, memory_.data());
  // The kernel copies the page that was mapped already when it is written.
  EXPECT_EQ(before.private_bytes, shared() ? 0U : 9 * kPage);
  EXPECT_TRUE(all_are(page(memory_, 3), kMine));
  EXPECT_TRUE(same(page(memory_, 4, 8), page(expected_, 4, 8)));
  fill(page(memory_, 2, 10), kNew);
  const fl_stats after = stats_of(client_, memory_.data());
  EXPECT_EQ(after.missing_faults + after.minor_faults + after.wp_faults,
            before.missing_faults + before.minor_faults + before.wp_faults);
  EXPECT_EQ(map(object_, memory_.size(), FL_MAP_SHARED)[7 * kPage], object_byte(7, kNew));
}

struct FreeJob {
  void operator()(fl_job* job) const { EXPECT_EQ(fl_job_free(job), 0) << fl_last_error(); }
};
using Job = std::unique_ptr<fl_job, FreeJob>;

Job start(fl_client* client, std::span<std::byte> memory, std::uint32_t flags = 0) {
  fl_job* job = nullptr;
  EXPECT_EQ(fl_populate_start(client, memory.data(), memory.size(), flags, &job), 0)
      << fl_last_error();
  return Job{job};
}

fl_progress progress_of(const Job& job) {
  fl_progress progress{};
  EXPECT_EQ(fl_job_progress(job.get(), &progress), 0) << fl_last_error();
  return progress;
}

bool ended(int fd) {
  pollfd waiting{fd, POLLIN, 0};
  return ::poll(&waiting, 1, 5000) == 1;
}

TEST_P(VmOpsOfAllKinds, AJobTellsHowFarItIsAndWhenItHasEnded) {
  const Job job = start(client_, memory_);
  ASSERT_NE(job, nullptr);
  EXPECT_EQ(progress_of(job).pages_wanted, kPages * kCounted);
  EXPECT_TRUE(ended(fl_job_fd(job.get())));
  const fl_progress progress = progress_of(job);
  EXPECT_EQ(progress.ended, 1U);
  EXPECT_EQ(progress.pages_done, kPages * kCounted);
  EXPECT_EQ(progress.pages_failed, 0U);
  EXPECT_EQ(progress.error, 0);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(fl_job_wait(job.get()), 0) << fl_last_error();
  EXPECT_TRUE(ended(fl_job_fd(job.get()))) << "it stays readable";
}

// What was discarded of an object is zeroes, which are there for the asking.
TEST_P(VmOpsOfAllKinds, ARangeThatWasDiscardedIsPopulatedAnew) {
  if (!shared()) GTEST_SKIP() << "private pages are no content of the object's";
  fill(page(memory_, 0, 4), kMine);
  ASSERT_EQ(fl_discard(client_, memory_.data(), 4 * kPage, FL_DISCARD_CONTENT), 0)
      << fl_last_error();
  for (const std::uint32_t flags : {std::uint32_t{0}, std::uint32_t{FL_POPULATE_WRITE}}) {
    EXPECT_EQ(fl_populate(client_, memory_.data(), memory_.size(), flags), 0) << fl_last_error();
  }
  EXPECT_EQ(stats_of(client_, memory_.data()).resident_bytes, memory_.size());
}

// Nothing of it is there any more: to pass it over takes no step for each of its pages.
TEST_F(VmOps, AJobWhoseMappingIsGoneEndsSoonHoweverLargeItWas) {
  SKIP_WITH_HUGE_PAGES("every page is reserved");
#if defined(__SANITIZE_THREAD__)  // which leaves less room
  constexpr std::size_t kLarge = std::size_t{1} << 36;
#else
  constexpr std::size_t kLarge = std::size_t{1} << 41;
#endif
  const auto memory = map(create(client_, kLarge), kLarge, FL_MAP_SHARED);
  const Job job = start(client_, memory);
  ASSERT_NE(job, nullptr);
  ASSERT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0) << fl_last_error();
  EXPECT_TRUE(ended(fl_job_fd(job.get())));
  const fl_progress progress = progress_of(job);
  EXPECT_EQ(progress.pages_done + progress.pages_failed, kLarge / kPage);
  EXPECT_EQ(progress.error, -ECANCELED);
}

// The file lost its second half: what is there comes, and the job says what did not.
TEST_F(VmOps, AJobTellsWhichPagesCouldNotBeHad) {
  const PatternFile file(16 * kPage);
  const auto memory = map(create_from(client_, file.fd()), 16 * kPage, kShared);
  file.truncate(8 * kPage);
  expect_refused(EIO, "populating",
                 [&] { return fl_populate(client_, memory.data(), memory.size(), 0); });
  const Job job = start(client_, memory);
  EXPECT_EQ(fl_job_wait(job.get()), -EIO);
  const fl_progress progress = progress_of(job);
  EXPECT_EQ(progress.error, -EIO);
  EXPECT_EQ(progress.pages_done + progress.pages_failed, 16 * kCounted);
  EXPECT_EQ(progress.pages_failed, 8 * kCounted);
  EXPECT_TRUE(same(page(memory, 0, 8), std::span(file.bytes()).first(8 * kPage)));
}

// More than can be done before the next call comes.
class VmOpsOnMuch : public VmOps {
 protected:
  static constexpr std::size_t kMuch = std::size_t{kHugePages ? 1 : 4} << 30;

  std::span<std::byte> map_much() const { return map(create(client_, kMuch), kMuch, kShared); }
};

TEST_F(VmOpsOnMuch, AJobEndsWhenItsRangeIsUnmapped) {
  const auto memory = map_much();
  const Job job = start(client_, memory);
  EXPECT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0) << fl_last_error();
  EXPECT_EQ(fl_job_wait(job.get()), -ECANCELED) << fl_last_error();
  EXPECT_EQ(progress_of(job).error, -ECANCELED);
}

// Freed, it stops: no more memory comes.
TEST_F(VmOpsOnMuch, AJobThatIsFreedStops) {
  const auto memory = map_much();
  {
    const Job job = start(client_, memory);
    EXPECT_TRUE(eventually([&] { return progress_of(job).pages_done > 0; }));
  }
  std::uint64_t before = 0;
  EXPECT_TRUE(eventually([&] {
    const std::uint64_t now = stats_of(client_, memory.data()).resident_bytes;
    return std::exchange(before, now) == now;
  }));
  EXPECT_GT(before, 0U);
  EXPECT_LT(before, memory.size());
}

TEST_F(VmOpsOnMuch, OtherThreadsCallWhileOneWaits) {
  const auto memory = map_much();
  Job job = start(client_, memory);
  std::atomic<bool> waited{false};
  std::thread waiter([&] {
    (void)fl_job_wait(job.get());
    waited = true;
  });
  for (int i = 0; i < 20; ++i) {
    fl_stats stats{};
    EXPECT_EQ(fl_process_stats(client_, &stats), 0) << fl_last_error();
  }
  EXPECT_FALSE(waited);
  EXPECT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0) << fl_last_error();
  waiter.join();
}

// So many and no more; one that is freed makes room, and what else the client does goes on.
TEST_F(VmOps, JobsThatAreNotFreedAreLimited) {
  const auto memory = map(create(client_, 4 * kPage), 4 * kPage, kShared);
  std::vector<Job> jobs;
  for (int i = 0; i < FL_JOBS_MAX; ++i) jobs.push_back(start(client_, memory));
  fl_job* more = nullptr;
  const auto again = [&] {
    return fl_populate_start(client_, memory.data(), memory.size(), 0, &more);
  };
  expect_refused(EUSERS, "populating", again);
  EXPECT_EQ(more, nullptr);
  expect_refused(EUSERS, "populating", [&] {
    return fl_advise(client_, memory.data(), memory.size(), FL_ADVICE_WILL_NEED);
  });
  jobs.pop_back();
  jobs.push_back(start(client_, memory));
  for (const Job& job : jobs) EXPECT_EQ(fl_job_wait(job.get()), 0) << fl_last_error();
  jobs.clear();
  // Of what nobody asks about, no place stays taken.
  for (int i = 0; i < 3 * FL_JOBS_MAX && !HasFailure(); ++i) {
    EXPECT_TRUE(eventually([&] {
      return fl_advise(client_, memory.data(), memory.size(), FL_ADVICE_WILL_NEED) == 0;
    })) << fl_last_error();
  }
}

TEST_F(VmOps, AForkChildDoesNotHaveItsParentsJobs) {
  const auto memory = map(create(client_, 4 * kPage), 4 * kPage, kShared);
  Job job = start(client_, memory);
  const Outcome outcome = in_child([&] {
    fl_progress progress{};
    if (fl_job_progress(job.get(), &progress) != -ESTALE) return 1;
    if (fl_job_wait(job.get()) != -ESTALE) return 2;
    if (fl_populate(client_, memory.data(), memory.size(), 0) != 0) return 3;
    // The child's own job has the number that the parent's has.
    if (fl_job_wait(job.get()) != -ESTALE) return 4;
    return fl_job_free(job.release()) == -ESTALE ? 0 : 5;
  });
  EXPECT_TRUE(outcome.exited(0)) << outcome;
  EXPECT_EQ(fl_job_wait(job.get()), 0) << fl_last_error();
}

TEST_F(VmOpsOnMuch, WhoeverWaitsIsToldThatTheDaemonIsGone) {
  const auto memory = map_much();
  fl_job* job = nullptr;
  ASSERT_EQ(fl_populate_start(client_, memory.data(), memory.size(), 0, &job), 0);
  std::thread waiter([&] { EXPECT_EQ(fl_job_wait(job), -EPIPE) << fl_last_error(); });
  daemon_.stop();
  waiter.join();
  fl_progress progress{};
  EXPECT_EQ(fl_job_progress(job, &progress), -EPIPE);
  EXPECT_EQ(fl_job_free(job), -EPIPE);
}

TEST_F(VmOps, PopulatingThatCannotBeIsRefused) {
  const auto memory = map(create(client_, 4 * kPage), 4 * kPage, FL_MAP_PRIVATE);
  fl_job* job = nullptr;
  const auto refused = [&](int code, const char* words, void* address, std::size_t length,
                           std::uint32_t flags) {
    expect_refused(code, words,
                   [&] { return fl_populate_start(client_, address, length, flags, &job); });
    EXPECT_EQ(job, nullptr);
    expect_refused(code, words, [&] { return fl_populate(client_, address, length, flags); });
  };
  for (const BadRange& bad : bad_ranges(memory)) refused(EINVAL, "", bad.address, bad.length, 0);
  refused(EINVAL, "unknown flag", memory.data(), kPage, 2);
  refused(EACCES, "read-only", memory.data(), kPage, FL_POPULATE_WRITE);
  expect_refused(EINVAL, "null",
                 [&] { return fl_populate_start(nullptr, memory.data(), kPage, 0, &job); });
  expect_refused(EINVAL, "null",
                 [&] { return fl_populate_start(client_, memory.data(), kPage, 0, nullptr); });
  fl_progress progress{};
  expect_refused(EINVAL, "null", [&] { return fl_job_progress(nullptr, &progress); });
  expect_refused(EINVAL, "null", [&] { return fl_job_wait(nullptr); });
  EXPECT_EQ(fl_job_fd(nullptr), -EINVAL);
  EXPECT_EQ(fl_job_free(nullptr), 0);
}

// --- forks, and a daemon that is gone

// A child changes what it inherited, and its parent's mappings stay as they were.
TEST_P(VmOpsOfAllKinds, AForkChildChangesItsOwnMappings) {
  for (const std::size_t index : {2U, 3U, 9U}) write(index, kMine);
  const Outcome outcome = in_child([&] {
    void* now = hole(kPages * kPage);
    auto* const to = static_cast<std::byte*>(now);
    if (fl_discard(client_, page(memory_, 3).data(), kPage, FL_DISCARD_COPIES) != 0) return 1;
    if (memory_[3 * kPage] != object_byte(3, kMine)) return 2;
    if (fl_protect(client_, page(memory_, 8).data(), 2 * kPage, 0) != 0) return 3;
    if (fl_remap(client_, memory_.data(), 8 * kPage, 8 * kPage, FL_REMAP_MAYMOVE | FL_REMAP_FIXED,
                 &now) != 0) {
      return 4;
    }
    if (to[2 * kPage] != kMine || to[4 * kPage] != expected_[4 * kPage]) return 5;
    if (fl_protect(client_, page(memory_, 8).data(), 2 * kPage, FL_PROTECT_WRITE) != 0) return 6;
    if (memory_[9 * kPage] != kMine) return 7;
    if (!shared()) memory_[9 * kPage] = kNew;
    return fl_unmap(client_, to, 8 * kPage) == 0 ? 0 : 8;
  });
  EXPECT_TRUE(outcome.exited(0)) << outcome;
  EXPECT_TRUE(same(memory_, expected_));
  write(8, kNew);
  EXPECT_TRUE(same(memory_, expected_));
}

// What only the kernel does works on; what the daemon must know fails, and growth in place is taken
// back.
TEST_F(VmOps, WithoutADaemonWhatItNeedNotKnowWorks) {
  SKIP_WITH_HUGE_PAGES("mappings do not grow");
  const Object object = object_of(kOld, 8);
  std::byte* const at = hole(16 * kPage);
  const auto memory = map_at(object, at, 4 * kPage, kPrivate | FL_MAP_FIXED_NOREPLACE);
  fill(memory, kMine);
  const auto whole = map(object, 8 * kPage, kShared);
  EXPECT_TRUE(all_are(whole, kOld));
  daemon_.stop();
  void* now = nullptr;
  expect_refused(EPIPE, "daemon",
                 [&] { return fl_remap(client_, at, 4 * kPage, 8 * kPage, 0, &now); });
  EXPECT_EQ(now, at);
  EXPECT_FALSE(mapped(at + 4 * kPage));
  EXPECT_TRUE(all_are(memory, kMine));
  expect_refused(EPIPE, "daemon", [&] { return fl_protect(client_, at, kPage, 0); });
  EXPECT_TRUE(dies(SIGSEGV, [&] { memory[0] = kNew; })) << "changed all the same";
  expect_refused(EPIPE, "daemon", [&] { return fl_protect(client_, at, kPage, FL_PROTECT_WRITE); });
  memory[0] = kMine;
  expect_refused(EPIPE, "daemon", [&] { return fl_populate(client_, at, kPage, 0); });
  expect_refused(EPIPE, "daemon", [&] { return fl_advise(client_, at, kPage, FL_ADVICE_RANDOM); });
  void* wanted = whole.data();
  expect_refused(EPIPE, "daemon",
                 [&] { return fl_map(object, 0, 8 * kPage, kPrivate | FL_MAP_FIXED, &wanted); });
  EXPECT_TRUE(all_are(whole, kOld)) << "nothing was replaced";
  void* to = hole(4 * kPage);
  EXPECT_EQ(fl_remap(client_, at, 4 * kPage, 4 * kPage, FL_REMAP_MAYMOVE | FL_REMAP_FIXED, &to), 0)
      << fl_last_error();
  const std::span<std::byte> moved{static_cast<std::byte*>(to), 4 * kPage};
  EXPECT_TRUE(all_are(moved, kMine));
  EXPECT_EQ(fl_discard(client_, to, kPage, FL_DISCARD_COPIES), 0) << fl_last_error();
  EXPECT_TRUE(all_are(page(moved, 0), kOld));
  EXPECT_TRUE(all_are(page(moved, 1, 3), kMine));
  expect_unmaps(moved);
}

// --- behind the library's back

// What the kernel reports of plain system calls is followed; what it does not changes nothing that
// is read or written.
TEST_P(VmOpsOfAllKinds, PlainSystemCallsAreFollowed) {
  write(1, kMine);
  ASSERT_EQ(::mprotect(page(memory_, 1).data(), 2 * kPage, PROT_READ), 0);
  EXPECT_TRUE(same(memory_, expected_));
  EXPECT_TRUE(dies(SIGSEGV, [&] { memory_[kPage] = kNew; }));
  ASSERT_EQ(::mprotect(page(memory_, 1).data(), 2 * kPage, PROT_READ | PROT_WRITE), 0);
  write(1, kNew);
  write(2, kNew);
  EXPECT_TRUE(same(memory_, expected_));
  ASSERT_EQ(::madvise(page(memory_, 1).data(), kPage, MADV_DONTNEED), 0);
  EXPECT_EQ(memory_[kPage], object_byte(1, kNew));
  void* const over = ::mmap(page(memory_, 4).data(), 2 * kPage, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  ASSERT_EQ(over, page(memory_, 4).data());
  EXPECT_TRUE(all_are(page(memory_, 4, 2), std::byte{0}));
  EXPECT_TRUE(same(page(memory_, 6, 10), page(expected_, 6, 10)));
  std::byte* const to = hole(4 * kPage);
  ASSERT_EQ(
      ::mremap(page(memory_, 8).data(), 4 * kPage, 4 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, to),
      to);
  EXPECT_TRUE(same({to, 4 * kPage}, page(expected_, 8, 4)));
  ASSERT_EQ(::munmap(page(memory_, 14).data(), 2 * kPage), 0);
  fl_stats stats{};
  ASSERT_EQ(fl_process_stats(client_, &stats), 0);
  EXPECT_EQ(stats.length, (4 + 2 + 2 + 4) * kPage);
}

// --- C++

using VmOpsInCpp = SystemTest;

TEST_F(VmOpsInCpp, AMappingIsChangedByItsOwnFunctions) {
  SKIP_WITH_HUGE_PAGES("the kernel never joins mappings");
  const auto client = client::connect(daemon_.socket());
  const auto object = client.create({.size = 8 * kPage, .page_size = kPage});
  auto view = object.map(sharing::private_copy);
  auto all = object.map(sharing::shared);
  fill(all.bytes(), kOld);
  fill(view.bytes(), kMine);
  view.discard(discard::copies, kPage, kPage);
  EXPECT_TRUE(all_are(page(view.bytes(), 1), kOld));
  EXPECT_TRUE(all_are(page(view.bytes(), 2), kMine));
  view.protect(protection::read, 0, 2 * kPage);
  EXPECT_TRUE(dies(SIGSEGV, [&] { view.bytes()[0] = kNew; }));
  view.protect(protection::read_write);
  view.bytes()[0] = kNew;
  view.advise(advice::random);
  view.resize(4 * kPage);
  EXPECT_EQ(view.size(), 4 * kPage);
  std::byte* const to = hole(4 * kPage);
  view.move_to(to);
  EXPECT_EQ(view.data(), to);
  EXPECT_TRUE(all_are(page(view.bytes(), 3), kMine));
  const auto placed = object.map_at(to + kPage, placing::replace, sharing::shared, protection::read,
                                    4 * kPage, 2 * kPage);
  EXPECT_TRUE(all_are(placed.bytes(), kOld));
  EXPECT_TRUE(all_are(page(view.bytes(), 3), kMine));
  EXPECT_THROW((void)object.map_at(to, placing::only_where_free, sharing::shared), error);
  all.discard(discard::content);
  EXPECT_TRUE(all_are(all.bytes(), std::byte{0}));
}

// Where another mapping may stand.
TEST_F(VmOpsInCpp, WhatIsPastAMappingsEndIsRefused) {
  const auto client = client::connect(daemon_.socket());
  const auto object = client.create({.size = 8 * kPage, .page_size = kPage});
  std::byte* const at = hole(8 * kPage);
  const auto first = object.map_at(at, placing::only_where_free, sharing::private_copy,
                                   protection::read_write, 0, 4 * kPage);
  const auto second = object.map_at(at + 4 * kPage, placing::only_where_free, sharing::private_copy,
                                    protection::read_write, 0, 4 * kPage);
  fill(second.bytes(), kMine);
  EXPECT_THROW(first.discard(discard::copies, 4 * kPage, kPage), error);
  EXPECT_THROW(first.discard(discard::copies, 4 * kPage), error);
  EXPECT_THROW(first.discard(discard::copies, 5 * kPage), error);
  EXPECT_THROW(first.discard(discard::copies, 3 * kPage, 2 * kPage), error);
  EXPECT_TRUE(all_are(second.bytes(), kMine));
}

TEST_F(VmOpsInCpp, AJobIsOwned) {
  const auto client = client::connect(daemon_.socket());
  const auto view =
      client.create({.size = 8 * kPage, .page_size = kPage}).map(sharing::private_copy);
  view.populate(populate::write, kPage, 2 * kPage);
  job running = view.start_populate(populate::read);
  const job moved = std::move(running);
  // NOLINTNEXTLINE(bugprone-use-after-move): the header says what it is then
  EXPECT_FALSE(running);
  ASSERT_TRUE(moved);
  moved.wait();
  EXPECT_TRUE(ended(moved.fd()));
  EXPECT_EQ(moved.progress().pages_done, 8 * kCounted);
}

}  // namespace
}  // namespace faultline::testing
