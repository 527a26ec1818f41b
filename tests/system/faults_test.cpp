// Every kind of fault with every permission, raised by user code and inside system calls.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <thread>

#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

constexpr std::byte kOne{1};
constexpr std::byte kTwo{2};

// Pages: as many as make a race.
constexpr std::size_t kMany = kHugePages ? 32 : 512;

using Faults = SystemTest;

// A page in no memory reads zero, and the fault counts as missing.
TEST_F(Faults, SharedReadOfAnAbsentPageIsAMissingFaultAndReadsZero) {
  const auto memory = map(create(client_, 8 * kPage), 8 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  EXPECT_EQ(memory[3 * kPage + 17], std::byte{0});
  const fl_stats stats = stats_of(client_, memory.data());
  EXPECT_EQ(stats.missing_faults, 1U);
  EXPECT_EQ(stats.write_faults, 0U);
  EXPECT_EQ(stats.resident_bytes, kPage);
}

// A page that another mapping made resident is a minor fault, and is the same page.
TEST_F(Faults, SharedReadThroughASecondMappingIsAMinorFault) {
  const Object object = create(client_, 4 * kPage);
  const auto first = map(object, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto second = map(object, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  first[kPage] = kOne;
  EXPECT_EQ(second[kPage], kOne);
  const fl_stats stats = stats_of(client_, second.data());
  EXPECT_EQ(stats.minor_faults, 1U);
  EXPECT_EQ(stats.missing_faults, 0U);
  second[kPage] = kTwo;
  EXPECT_EQ(first[kPage], kTwo);
}

TEST_F(Faults, SharedWriteOfAnAbsentPageIsAWriteFault) {
  const auto memory = map(create(client_, kPage), kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  memory[0] = kOne;
  const fl_stats stats = stats_of(client_, memory.data());
  EXPECT_EQ(stats.write_faults, 1U);
  EXPECT_EQ(memory[0], kOne);
}

TEST_F(Faults, PrivateReadMapsTheObjectsOwnPageAndSeesItChange) {
  const Object object = create(client_, kPage);
  const auto shared = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto view = map(object, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  shared[0] = kOne;
  EXPECT_EQ(view[0], kOne);
  shared[0] = kTwo;
  EXPECT_EQ(view[0], kTwo) << "a clean private page is the object's";
  const fl_stats stats = stats_of(client_, view.data());
  EXPECT_EQ(stats.shared_bytes, kPage);
  EXPECT_EQ(stats.private_bytes, 0U);
  EXPECT_EQ(stats.breaks, 0U);
}

// First write to a page that is not mapped: the daemon makes the copy.
TEST_F(Faults, PrivateWriteToAnUnmappedPageCopiesIt) {
  const Object object = create(client_, kPage);
  const auto shared = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  shared[1] = kOne;
  const auto view = map(object, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  view[0] = kTwo;
  EXPECT_EQ(view[1], kOne) << "the copy has the object's content";
  EXPECT_EQ(shared[0], std::byte{0}) << "the object never changes through a private writer";
  shared[1] = kTwo;
  EXPECT_EQ(view[1], kOne) << "a page once written never changes through anyone else";
  const fl_stats stats = stats_of(client_, view.data());
  EXPECT_EQ(stats.pages_copied, 1U);
  EXPECT_EQ(stats.breaks, 1U);
  EXPECT_EQ(stats.wp_faults, 0U);
  EXPECT_EQ(stats.private_bytes, kPage);
}

// First write to a page mapped by a read: the protection is lifted and the kernel copies.
TEST_F(Faults, PrivateWriteAfterAReadIsAWriteProtectFault) {
  const Object object = create(client_, kPage);
  const auto shared = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  shared[1] = kOne;
  const auto view = map(object, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  EXPECT_EQ(view[1], kOne);
  view[0] = kTwo;
  shared[1] = kTwo;
  EXPECT_EQ(view[1], kOne);
  EXPECT_EQ(shared[0], std::byte{0});
  const fl_stats stats = stats_of(client_, view.data());
  EXPECT_EQ(stats.wp_faults, 1U);
  EXPECT_EQ(stats.breaks, 1U);
  EXPECT_EQ(stats.private_bytes, kPage);
}

TEST_F(Faults, PrivateWriteToAbsentZeroPagesLeavesTheObjectWithoutMemory) {
  const Object object = create(client_, 64 * kPage);
  const auto view = map(object, 64 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  for (std::size_t page = 0; page < 64; ++page) view[page * kPage] = kOne;
  fl_object_info info{};
  ASSERT_EQ(fl_object_stat(object, &info), 0) << fl_last_error();
  EXPECT_EQ(info.resident_bytes, 0U);
  EXPECT_EQ(stats_of(client_, view.data()).private_bytes, 64 * kPage);
}

TEST_F(Faults, AStoreThroughAReadOnlyMappingIsASegmentationFault) {
  const Object object = create(client_, kPage);
  for (const std::uint32_t kind : {FL_MAP_SHARED, FL_MAP_PRIVATE}) {
    const auto memory = map(object, kPage, kind);
    EXPECT_EQ(memory[0], std::byte{0});
    EXPECT_TRUE(in_child([&] {
                  memory[0] = kOne;
                  return 0;
                }).killed_by(SIGSEGV));
  }
}

// The kernel's own accesses on our behalf raise the same faults: read(2) into a mapping.
TEST_F(Faults, ReadIntoAMappingFillsIt) {
  const PatternFile file(16 * kPage);
  for (const std::uint32_t kind : {FL_MAP_SHARED, FL_MAP_PRIVATE}) {
    const auto memory = map(create(client_, 16 * kPage), 16 * kPage, kind | FL_MAP_WRITE);
    ASSERT_EQ(::pread(file.fd(), memory.data(), memory.size(), 0),
              static_cast<ssize_t>(memory.size()));
    EXPECT_EQ(std::memcmp(memory.data(), file.bytes().data(), memory.size()), 0);
  }
}

// ... and write(2) from one.
TEST_F(Faults, WriteFromAMappingOfAFileSendsItsContent) {
  const PatternFile file(16 * kPage);
  const Object object = create_from(client_, file.fd());
  for (const std::uint32_t kind : {FL_MAP_SHARED, FL_MAP_PRIVATE}) {
    const auto memory = map(object, 16 * kPage, kind);
    const PatternFile target(kPage);
    ASSERT_EQ(::pwrite(target.fd(), memory.data(), memory.size(), 0),
              static_cast<ssize_t>(memory.size()));
    std::vector<std::byte> back(memory.size());
    ASSERT_EQ(::pread(target.fd(), back.data(), back.size(), 0), static_cast<ssize_t>(back.size()));
    EXPECT_EQ(back, file.bytes());
  }
}

TEST_F(Faults, AFileObjectReadsAsItsFileAndZeroBehindIt) {
  const PatternFile file(10 * kPage + 123);
  const Object object = create_from(client_, file.fd());
  const auto memory = map(object, 11 * kPage, FL_MAP_SHARED);
  EXPECT_EQ(std::memcmp(memory.data(), file.bytes().data(), file.bytes().size()), 0);
  for (std::size_t i = file.bytes().size(); i < memory.size(); ++i) {
    ASSERT_EQ(memory[i], std::byte{0}) << "byte " << i;
  }
}

TEST_F(Faults, PartOfAFileIsTakenFromItsOffset) {
  const PatternFile file(20 * kPage);
  fl_object_spec spec{};
  spec.struct_size = sizeof(spec);
  spec.flags = FL_FROM_FILE;
  spec.file_fd = file.fd();
  spec.page_size = kPage;
  spec.file_offset = 5 * kPage;
  spec.size = 2 * kPage + 1;
  fl_object* created = nullptr;
  ASSERT_EQ(fl_object_create(client_, &spec, &created), 0) << fl_last_error();
  const Object object{created};
  const auto memory = map(object, 2 * kPage, FL_MAP_PRIVATE, kPage);
  EXPECT_EQ(std::memcmp(memory.data(), file.bytes().data() + 6 * kPage, kPage + 1), 0);
  EXPECT_EQ(memory[kPage + 1], std::byte{0});
}

// The page that the file lost is poisoned; every other page, and every other process, goes on.
TEST_F(Faults, AFileThatShrinksRaisesSigbusForWhatItLostAlone) {
  const PatternFile file(64 * kPage);
  const Object object = create_from(client_, file.fd());
  const auto memory = map(object, 64 * kPage, FL_MAP_SHARED);
  EXPECT_EQ(memory[0], file.bytes()[0]);
  file.truncate(32 * kPage);
  EXPECT_TRUE(in_child([&] { return touch(memory[40 * kPage]); }).killed_by(SIGBUS));
  EXPECT_EQ(memory[31 * kPage], file.bytes()[31 * kPage]);
  const auto spaces = daemon_.ask(wire::AdminQuery::objects);
  EXPECT_GE(spaces["objects"][0]["failed_fills"].get<int>(), 1) << spaces.dump(1);
  EXPECT_NE(daemon_.log().find("could not supply"), std::string::npos) << "the reason is logged";
}

TEST_F(Faults, AMappingOfATerabyteTakesWhatIsTouched) {
  SKIP_WITH_HUGE_PAGES("every page is reserved");
  constexpr std::uint64_t kTerabyte = std::uint64_t{1} << 40;
  const Object object = create(client_, kTerabyte);
  const auto memory = map(object, kTerabyte, FL_MAP_SHARED | FL_MAP_WRITE);
  memory[kTerabyte - 1] = kOne;
  memory[kTerabyte / 2] = kTwo;
  EXPECT_EQ(memory[0], std::byte{0});
  fl_object_info info{};
  ASSERT_EQ(fl_object_stat(object, &info), 0) << fl_last_error();
  EXPECT_EQ(info.resident_bytes, 3 * kPage);
  EXPECT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0) << fl_last_error();
}

// Threads that fault on the same pages at once all get on, with the content of the file.
TEST_F(Faults, ManyThreadsOnTheSamePagesAllSeeTheContent) {
  const PatternFile file(256 * kPage);
  const Object object = create_from(client_, file.fd());
  for (int round = 0; round < 20; ++round) {
    const auto memory = map(object, 256 * kPage, round % 2 == 0 ? FL_MAP_SHARED : FL_MAP_PRIVATE);
    std::vector<std::thread> threads;
    std::array<bool, 4> equal{};
    for (bool& mine : equal) {
      threads.emplace_back(
          [&] { mine = std::memcmp(memory.data(), file.bytes().data(), memory.size()) == 0; });
    }
    for (std::thread& thread : threads) thread.join();
    for (const bool e : equal) ASSERT_TRUE(e);
    ASSERT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0) << fl_last_error();
  }
}

// A reader that maps the page while a writer asks for its copy: the copy meets a page that is there
// already, and the writer must go on all the same (EEXIST at COPY).
TEST_F(Faults, ReadersAndAPrivateWriterRacingOnOnePageAllGoOn) {
  const PatternFile file(kMany * kPage);
  const Object object = create_from(client_, file.fd());
  for (int round = 0; round < 10; ++round) {
    const auto view = map(object, kMany * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
    bool same = true;
    std::thread reader([&] {
      for (std::size_t page = 0; page < kMany; ++page) {
        same = same && view[page * kPage + 1] == file.bytes()[page * kPage + 1];
      }
    });
    for (std::size_t page = 0; page < kMany; ++page) view[page * kPage] = kTwo;
    reader.join();
    EXPECT_TRUE(same);
    for (std::size_t page = 0; page < kMany; ++page) ASSERT_EQ(view[page * kPage], kTwo);
    ASSERT_EQ(fl_unmap(client_, view.data(), view.size()), 0) << fl_last_error();
  }
}

// The client's own mprotect cuts its mapping into several of the kernel's VMAs, which one ioctl may
// not span.
TEST_F(Faults, SequentialAccessCrossesTheClientsOwnMprotect) {
  const Object object = create(client_, 256 * kPage);
  const auto memory = map(object, 256 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  for (std::size_t page = 10; page < 256; page += 20) {
    ASSERT_EQ(::mprotect(memory.data() + page * kPage, kPage, PROT_READ), 0);
  }
  for (std::size_t page = 0; page < 256; ++page) ASSERT_EQ(memory[page * kPage], std::byte{0});
}

// Sequential private writes open a window of copies; a random write closes it, and what was copied
// ahead for nothing is counted.
TEST_F(Faults, CopiesAheadAreCountedWhereTheyWereNotUsed) {
  SKIP_WITH_HUGE_PAGES("none are made");
  const Object object = create(client_, 2048 * kPage);
  const auto view = map(object, 2048 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  for (std::size_t page = 0; page < 100; ++page) view[page * kPage] = kOne;
  const fl_stats stats = stats_of(client_, view.data());
  EXPECT_LT(stats.write_faults, 20U) << "the window opened";
  EXPECT_GT(stats.ahead_copies, 80U);
  EXPECT_EQ(stats.pages_copied, stats.write_faults + stats.ahead_copies);
  EXPECT_GE(stats.ahead_unused, stats.pages_copied - 100) << "what lies past the last write";
}

TEST_F(Faults, CopiesAheadOfAMappingThatWasCutAreCountedOnce) {
  SKIP_WITH_HUGE_PAGES("none are made");
  const Object object = create(client_, 2048 * kPage);
  const auto view = map(object, 2048 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  for (std::size_t page = 0; page < 100; ++page) view[page * kPage] = kOne;
  fl_stats before{};
  ASSERT_EQ(fl_process_stats(client_, &before), 0) << fl_last_error();
  EXPECT_GT(before.ahead_unused, 0U);
  ASSERT_EQ(fl_unmap(client_, view.data() + 1024 * kPage, kPage), 0) << fl_last_error();
  fl_stats cut{};
  ASSERT_EQ(fl_process_stats(client_, &cut), 0) << fl_last_error();
  EXPECT_EQ(cut.mappings, 2U);
  EXPECT_EQ(cut.ahead_unused, before.ahead_unused);
  ASSERT_EQ(::munmap(view.data(), view.size()), 0) << std::strerror(errno);
  fl_stats after{};
  ASSERT_EQ(fl_process_stats(client_, &after), 0) << fl_last_error();
  EXPECT_EQ(after.mappings, 0U);
  EXPECT_EQ(after.ahead_unused, before.ahead_unused);
}

TEST_F(Faults, ManyMappingsOfOneObjectInOneProcess) {
  const Object object = create(client_, 4 * kPage);
  std::vector<std::span<std::byte>> views;
  for (int i = 0; i < 1200; ++i)
    views.push_back(map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE, kPage));
  views.front()[7] = kTwo;
  for (const auto& view : views) ASSERT_EQ(view[7], kTwo);
  fl_stats stats{};
  ASSERT_EQ(fl_process_stats(client_, &stats), 0) << fl_last_error();
  EXPECT_EQ(stats.mappings, 1200U);
}

TEST_F(Faults, AnUnmappedPartIsGoneAndTheRestStays) {
  const PatternFile file(30 * kPage);
  const Object object = create_from(client_, file.fd());
  const auto memory = map(object, 30 * kPage, FL_MAP_SHARED);
  ASSERT_EQ(fl_unmap(client_, memory.data() + 10 * kPage, 10 * kPage), 0) << fl_last_error();
  EXPECT_EQ(std::memcmp(memory.data(), file.bytes().data(), 10 * kPage), 0);
  EXPECT_EQ(std::memcmp(memory.data() + 20 * kPage, file.bytes().data() + 20 * kPage, 10 * kPage),
            0);
  EXPECT_TRUE(in_child([&] { return static_cast<int>(memory[15 * kPage]); }).killed_by(SIGSEGV));
  fl_stats stats{};
  EXPECT_EQ(fl_mapping_stats(client_, memory.data() + 15 * kPage, &stats), -ENOENT);
}

// mremap(2) of an old length of 0 copies a shared mapping. How much of it, the kernel does not
// tell: the first fault in the copy finds out, in this process and in a child alike.
TEST_F(Faults, ACopyOfAMappingMadeByMremapShowsTheSamePages) {
  SKIP_WITH_HUGE_PAGES("mremap(2) makes none");
  const PatternFile file(8 * kPage);
  const Object object = create_from(client_, file.fd());
  const auto memory = map(object, 8 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  for (const std::size_t page : {0U, 3U}) {
    void* const copied = ::mremap(memory.data() + page * kPage, 0, 2 * kPage, MREMAP_MAYMOVE);
    ASSERT_NE(copied, MAP_FAILED) << std::strerror(errno);
    const auto* const copy = static_cast<const std::byte*>(copied);
    const auto shows_the_pages = [&] {
      return std::memcmp(copy, file.bytes().data() + page * kPage, 2 * kPage) == 0 ? 0 : 1;
    };
    EXPECT_TRUE(in_child(shows_the_pages).exited(0));
    EXPECT_EQ(shows_the_pages(), 0);
    fl_stats stats{};
    ASSERT_EQ(fl_process_stats(client_, &stats), 0) << fl_last_error();
    EXPECT_EQ(stats.mappings, 2U);
    ASSERT_EQ(::munmap(copied, 2 * kPage), 0);
  }
  EXPECT_EQ(std::memcmp(memory.data(), file.bytes().data(), memory.size()), 0);
}

// Discarding private pages (madvise(2), MADV_DONTNEED) brings the object's back.
TEST_F(Faults, ADiscardedPrivatePageIsTheObjectsAgain) {
  const Object object = create(client_, kPage);
  const auto shared = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto view = map(object, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  shared[0] = kOne;
  view[0] = kTwo;
  ASSERT_EQ(::madvise(view.data(), kPage, MADV_DONTNEED), 0);
  EXPECT_EQ(view[0], kOne);
}

// A client that may write tears the pages out of the memfd: they are supplied anew.
TEST_F(Faults, APunchedHoleIsSuppliedAnew) {
  const Object object = create(client_, 8 * kPage);
  const auto first = map(object, 8 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  first[kPage] = kOne;
  ASSERT_EQ(::fallocate(fl_object_fd(object), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                        static_cast<off_t>(8 * kPage)),
            0)
      << std::strerror(errno);
  EXPECT_EQ(first[kPage], std::byte{0});
  const auto second = map(object, 8 * kPage, FL_MAP_SHARED);
  EXPECT_EQ(second[kPage], std::byte{0});
}

// write(2) holds the file's own lock while it waits for the page that it reads from.
TEST_F(Faults, AnObjectCanBeWrittenToFromAMappingOfItself) {
  SKIP_WITH_HUGE_PAGES("there is no write(2)");
  constexpr unsigned kWithinSeconds = 20;
  const Outcome outcome = in_child([&] {
    ::alarm(kWithinSeconds);
    const PatternFile file(64 * kPage);
    for (const Object& object : {create(client_, 64 * kPage), create_from(client_, file.fd())}) {
      const auto shared = map(object, 64 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
      const auto view = map(object, 64 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
      const int fd = fl_object_fd(object);
      touch(shared[0]);  // from the file it would come over what is written
      if (::pwrite(fd, shared.data() + 32 * kPage, kPage, 0) != kPage) return 1;
      if (::pwrite(fd, view.data() + 48 * kPage, kPage, kPage) != kPage) return 2;
      if (std::memcmp(shared.data(), shared.data() + 32 * kPage, kPage) != 0) return 3;
    }
    return 0;
  });
  EXPECT_TRUE(outcome.exited(0)) << outcome;
}

TEST_F(Faults, AFirstPrivateWriteKeepsWhatWasWrittenThroughTheDescriptor) {
  SKIP_WITH_HUGE_PAGES("there is no write(2)");
  const Object object = create(client_, 8 * kPage);
  const std::vector<std::byte> text(kPage, kOne);
  ASSERT_EQ(::pwrite(fl_object_fd(object), text.data(), kPage, 2 * kPage), kPage);
  const auto view = map(object, 8 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  for (std::size_t page = 0; page < 8; ++page) {
    view[page * kPage] = kTwo;
    EXPECT_EQ(view[page * kPage + 1], page == 2 ? kOne : std::byte{0}) << page;
  }
}

}  // namespace
}  // namespace faultline::testing
