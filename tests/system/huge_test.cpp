// What objects of 2 MiB pages have of their own: the pool that their pages come from, ranges that
// cut a page, and words that lie far apart in one page.
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <thread>

#include "faultline/faultline.h"
#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"
#include "tests/system/huge_pages.hpp"

namespace faultline::testing {
namespace {

constexpr std::byte kOne{1};
constexpr std::byte kTwo{2};
constexpr std::uint32_t kShared = FL_MAP_SHARED | FL_MAP_WRITE;
constexpr std::uint32_t kPrivate = FL_MAP_PRIVATE | FL_MAP_WRITE;
#ifndef MAP_HUGE_2MB
#define MAP_HUGE_2MB (21 << 26)
#endif

fl_object_spec spec_of(std::size_t pages) {
  fl_object_spec spec{};
  spec.struct_size = sizeof(spec);
  spec.size = pages * kHuge;
  spec.mode = 0600;
  spec.page_size = kHuge;
  return spec;
}

Object create_huge(fl_client* client, const fl_object_spec& spec) {
  fl_object* object = nullptr;
  EXPECT_EQ(fl_object_create(client, &spec, &object), 0) << fl_last_error();
  return Object{object};
}

Object create_huge(fl_client* client, std::size_t pages) {
  return create_huge(client, spec_of(pages));
}

fl_object_info info_of(fl_object* object) {
  fl_object_info info{};
  EXPECT_EQ(fl_object_stat(object, &info), 0) << fl_last_error();
  return info;
}

// All pages of the pool that nobody was promised.
class Hog {
 public:
  Hog()
      : bytes_(huge_pages_left() * kHuge),
        memory_(::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB | MAP_POPULATE, -1,
                       0)) {
    EXPECT_NE(memory_, MAP_FAILED) << std::strerror(errno);
  }
  Hog(const Hog&) = delete;
  Hog& operator=(const Hog&) = delete;
  ~Hog() { ::munmap(memory_, bytes_); }

 private:
  std::size_t bytes_;
  void* memory_;
};

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): a signal handler's
sigjmp_buf past_the_access;

// Whether the store raised SIGBUS.
bool store_raises_sigbus(std::byte& byte) {
  struct sigaction action {};
  action.sa_handler = [](int) { siglongjmp(past_the_access, 1); };
  ::sigaction(SIGBUS, &action, nullptr);
  volatile bool raised = true;  // by the jump
  if (sigsetjmp(past_the_access, 1) == 0) {
    *static_cast<volatile std::byte*>(&byte) = kTwo;
    raised = false;
  }
  ::signal(SIGBUS, SIG_DFL);
  return raised;
}

class Huge : public SystemTest {
 protected:
  void SetUp() override {
    if (!pages_.there()) {
      GTEST_SKIP() << "SKIPPED: pages of 2 MiB cannot be had (vm.nr_hugepages)";
    }
    SystemTest::SetUp();
  }

  HugePages pages_{48};
};

using HugeWithoutAPool = SystemTest;

// More than the machine has: refused when the object is made, in words that say what to do.
TEST_F(HugeWithoutAPool, AnObjectThatCannotBeReservedIsRefused) {
  fl_object* object = nullptr;
  const fl_object_spec spec = spec_of(huge_pages_left() + 100'000);
  expect_refused(ENOMEM, "vm.nr_hugepages",
                 [&] { return fl_object_create(client_, &spec, &object); });
  EXPECT_EQ(object, nullptr);
  EXPECT_EQ(daemon_.ask(wire::AdminQuery::objects)["objects"].size(), 0U);
}

TEST_F(HugeWithoutAPool, TheCheckTellsHowManyPagesThereAre) {
  const Ran check = run(FAULTLINED_BINARY " --check");
  EXPECT_EQ(check.code, 0) << check.output;
  EXPECT_NE(check.output.find("pages of 2 MiB"), std::string::npos) << check.output;
}

// A size is rounded up to whole pages, which are reserved at once, and given back with the object.
TEST_F(Huge, AllPagesAreReservedWhenTheObjectIsMade) {
  fl_object_spec spec = spec_of(4);
  spec.size -= 5;
  const std::size_t before = huge_pages_left();
  Object object = create_huge(client_, spec);
  EXPECT_EQ(before - huge_pages_left(), 4U);
  const fl_object_info info = info_of(object);
  EXPECT_EQ(info.page_size, kHuge);
  EXPECT_EQ(info.size, 4 * kHuge);
  EXPECT_EQ(info.content_size, 4 * kHuge - 5);
  EXPECT_EQ(info.resident_bytes, 0U);
  EXPECT_EQ(daemon_.ask(wire::AdminQuery::objects)["objects"][0]["page_size"], kHuge);
  object.reset();
  EXPECT_TRUE(eventually([&] { return huge_pages_left() == before; }));
}

// Whoever takes the rest of the pool takes nothing from an object.
TEST_F(Huge, NoSharedPageFailsForWantOfPages) {
  const auto memory = map(create_huge(client_, 8), 8 * kHuge, kShared);
  const Hog hog;
  for (std::size_t page = 0; page < 8; ++page) memory[page * kHuge + 77] = kOne;
  const fl_stats stats = stats_of(client_, memory.data());
  EXPECT_EQ(stats.missing_faults, 8U);
  EXPECT_EQ(stats.pages_mapped, 8U);
  EXPECT_EQ(stats.resident_bytes, 8 * kHuge);
  EXPECT_EQ(stats.shared_bytes, 8 * kHuge);
}

// A private copy needs a page of the pool; where there is none it is SIGBUS, counted and logged,
// for that page alone and until there are some again: by a copy of the daemon's, or the kernel's.
TEST_F(Huge, APrivateCopyWithoutAPageRaisesSigbus) {
  const Object object = create_huge(client_, 4);
  const auto shared = map(object, 4 * kHuge, kShared);
  for (std::size_t page = 0; page < 4; ++page) shared[page * kHuge] = kOne;
  for (const bool mapped_before : {false, true}) {
    const auto view = map(object, 4 * kHuge, kPrivate);
    if (mapped_before) {
      EXPECT_EQ(view[0], kOne);
    }
    {
      const Hog hog;
      EXPECT_TRUE(store_raises_sigbus(view[5]));
      EXPECT_EQ(view[kHuge], kOne) << "what is shared is mapped all the same";
    }
    EXPECT_EQ(daemon_.ask(wire::AdminQuery::spaces)["spaces"][0]["poisoned_pages"],
              mapped_before ? 2 : 1);
    view[2 * kHuge + 1] = kTwo;
    EXPECT_EQ(view[2 * kHuge], kOne);
    EXPECT_EQ(shared[2 * kHuge + 1], std::byte{0});
    EXPECT_EQ(fl_discard(client_, view.data(), kHuge, FL_DISCARD_COPIES), 0) << fl_last_error();
    view[5] = kTwo;
    EXPECT_EQ(view[0], kOne) << "a discard takes the mark away";
  }
  EXPECT_NE(daemon_.log().find("no page of 2 MiB is left"), std::string::npos);
}

// Huge pages leave memory for nobody: private copies of them would go too.
TEST_F(Huge, PagesStayInMemoryThoughTheyAreAskedToLeave) {
  const PatternFile file(2 * kHuge);
  fl_object_spec spec = spec_of(2);
  spec.flags = FL_FROM_FILE;
  spec.file_fd = file.fd();
  for (const fl_object_spec& kind : {spec, spec_of(2)}) {
    const Object object = create_huge(client_, kind);
    const auto shared = map(object, 2 * kHuge, kShared);
    const auto view = map(object, 2 * kHuge, kPrivate);
    const std::byte before = shared[kHuge];
    view[0] = kOne;
    EXPECT_EQ(view[kHuge], before);
    EXPECT_EQ(fl_advise(client_, shared.data(), shared.size(), FL_ADVICE_PAGEOUT), 0)
        << fl_last_error();
    EXPECT_EQ(fl_advise(client_, view.data(), view.size(), FL_ADVICE_PAGEOUT), 0)
        << fl_last_error();
    EXPECT_EQ(stats_of(client_, shared.data()).missing_faults, 1U);
    EXPECT_EQ(shared[kHuge], before);
    EXPECT_EQ(stats_of(client_, shared.data()).missing_faults, 1U) << "it was there still";
    EXPECT_EQ(view[0], kOne);
    fl_object_info info{};
    ASSERT_EQ(fl_object_stat(object, &info), 0) << fl_last_error();
    const Ran asked =
        run(FAULTCTL_BINARY " --socket " + daemon_.socket() + " evict " + std::to_string(info.id));
    EXPECT_EQ(asked.code, 0);
    EXPECT_NE(asked.output.find(": larger than 4 KiB"), std::string::npos) << asked.output;
  }
}

// A populate job for writing counts what could not be copied, and ends.
TEST_F(Huge, AJobWithoutPagesForItsCopiesEnds) {
  const auto view = map(create_huge(client_, 4), 4 * kHuge, kPrivate);
  const Hog hog;
  fl_job* job = nullptr;
  ASSERT_EQ(fl_populate_start(client_, view.data(), view.size(), FL_POPULATE_WRITE, &job), 0)
      << fl_last_error();
  expect_refused(ENOMEM, "where 8388608 bytes could not be had", [&] { return fl_job_wait(job); });
  fl_progress progress{};
  EXPECT_EQ(fl_job_progress(job, &progress), 0) << fl_last_error();
  EXPECT_EQ(progress.pages_failed, 4 * kHuge / kPage) << "pages of 4 KiB";
  EXPECT_EQ(progress.pages_wanted, 4 * kHuge / kPage);
  EXPECT_EQ(fl_job_free(job), 0);
}

// Every operation on a range that cuts a page is refused, and changes nothing.
TEST_F(Huge, RangesThatCutAPageAreRefused) {
  const Object object = create_huge(client_, 4);
  const auto memory = map(object, 4 * kHuge, kShared);
  const auto view = map(object, 4 * kHuge, kPrivate);
  for (const auto bytes : {memory, view}) {
    std::memset(bytes.data(), 1, bytes.size());
    for (const auto& [offset, length] :
         {std::pair{std::size_t{0}, kPage}, std::pair{kPage, kHuge},
          std::pair{kHuge, 2 * kHuge - kPage}, std::pair{kHuge - kPage, 2 * kPage}}) {
      std::byte* const at = bytes.data() + offset;
      const std::size_t size = length;
      void* to = nullptr;
      const auto refused = [&](const std::function<int()>& call) {
        expect_refused(EINVAL, "page", call);
      };
      refused([&] { return fl_unmap(client_, at, size); });
      refused([&] { return fl_protect(client_, at, size, 0); });
      refused([&] { return fl_discard(client_, at, size, FL_DISCARD_COPIES); });
      refused([&] { return fl_advise(client_, at, size, FL_ADVICE_RANDOM); });
      refused([&] { return fl_advise(client_, at, size, FL_ADVICE_WILL_NEED); });
      refused([&] { return fl_advise(client_, at, size, FL_ADVICE_COLD); });
      refused([&] { return fl_populate(client_, at, size, 0); });
      refused([&] { return fl_remap(client_, at, size, size, FL_REMAP_MAYMOVE, &to); });
      if (bytes.data() == memory.data()) {
        refused([&] { return fl_discard(client_, at, size, FL_DISCARD_CONTENT); });
      }
    }
    EXPECT_EQ(stats_of(client_, bytes.data()).length, 4 * kHuge) << "one mapping still";
    EXPECT_TRUE(std::ranges::all_of(bytes, [](std::byte b) { return b == kOne; }));
  }
  void* address = nullptr;
  expect_refused(EINVAL, "page", [&] { return fl_map(object, 0, kPage, FL_MAP_SHARED, &address); });
  expect_refused(EINVAL, "page",
                 [&] { return fl_map(object, kPage, kHuge, FL_MAP_SHARED, &address); });
  for (const std::uint32_t how : {FL_MAP_FIXED, FL_MAP_FIXED_NOREPLACE}) {
    address = memory.data() + kPage;
    expect_refused(EINVAL, "page",
                   [&] { return fl_map(object, 0, kHuge, FL_MAP_SHARED | how, &address); });
  }
  EXPECT_EQ(fl_advise(client_, memory.data(), memory.size(), FL_ADVICE_COLD), 0) << fl_last_error();
}

// An object of small pages cannot be put into the middle of a page, and the page stays.
TEST_F(Huge, SmallPagesDoNotReplaceAPartOfAHugeOne) {
  const auto memory = map(create_huge(client_, 2), 2 * kHuge, kShared);
  std::memset(memory.data(), 1, memory.size());
  const Object small = create(client_, 4 * kPage);
  void* address = memory.data() + kPage;
  EXPECT_LT(fl_map(small, 0, 4 * kPage, kShared | FL_MAP_FIXED, &address), 0);
  EXPECT_TRUE(std::ranges::all_of(memory, [](std::byte b) { return b == kOne; }));
  address = memory.data();
  const Object whole = create(client_, kHuge);
  ASSERT_EQ(fl_map(whole, 0, kHuge, kShared | FL_MAP_FIXED, &address), 0) << fl_last_error();
  EXPECT_EQ(memory[kPage], std::byte{0}) << "whole pages can be replaced";
  EXPECT_EQ(memory[kHuge], kOne);
}

// A page of a file is read as a whole before anybody sees it, and reads zero behind the file's end.
TEST_F(Huge, AFilesPagesComeWhole) {
  const PatternFile file(3 * kHuge - 12'345);
  fl_object_spec spec = spec_of(0);
  spec.flags = FL_FROM_FILE;
  spec.file_fd = file.fd();
  const Object object = create_huge(client_, spec);
  const auto shared = map(object, 3 * kHuge, kShared);
  std::array<std::thread, 3> readers;
  std::atomic<int> wrong{0};
  for (std::thread& reader : readers) {
    reader = std::thread([&] {
      // From its end: where a page was half there this would be what is missing.
      for (std::size_t i = file.bytes().size(); i > 0; i -= std::min<std::size_t>(i, 4099)) {
        if (shared[i - 1] != file.bytes()[i - 1]) ++wrong;
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_TRUE(std::all_of(shared.begin() + static_cast<std::ptrdiff_t>(file.bytes().size()),
                          shared.end(), [](std::byte b) { return b == std::byte{0}; }));
  EXPECT_EQ(stats_of(client_, shared.data()).poisoned_pages, 0U);
  EXPECT_EQ(daemon_.ask(wire::AdminQuery::objects)["objects"][0]["failed_fills"], 0);
}

// A file offset counts in the object's pages.
TEST_F(Huge, AFileOffsetWithinAPageIsRefused) {
  const PatternFile file(2 * kHuge);
  fl_object_spec spec = spec_of(1);
  spec.flags = FL_FROM_FILE;
  spec.file_fd = file.fd();
  spec.file_offset = kPage;
  fl_object* object = nullptr;
  expect_refused(EINVAL, "multiple of the page size",
                 [&] { return fl_object_create(client_, &spec, &object); });
}

// Words at the same place of different small pages in one huge page are different words, also
// between fork relatives, who know the page by its frame.
TEST_F(Huge, WordsFarApartInOnePageAreDifferentWords) {
  const auto view = map(create_huge(client_, 1), kHuge, kPrivate | FL_MAP_WAIT_BY_PAGE);
  view[8] = kOne;  // the page is private, and the child's by the same frame
  auto* const near = reinterpret_cast<std::uint32_t*>(view.data() + kPage);
  auto* const far = reinterpret_cast<std::uint32_t*>(view.data() + 300 * kPage);
  Child child([&] { return fl_wait(far, 0, nullptr, 0) == 0 ? 0 : 1; });
  const auto keys = [&] {
    std::vector<std::string> found;
    const nlohmann::json answer = daemon_.ask(wire::AdminQuery::waiters);
    for (const auto& waiter : answer["waiters"]) found.push_back(waiter["key"]);
    return found;
  };
  ASSERT_TRUE(eventually([&] { return keys().size() == 1; }));
  EXPECT_TRUE(keys().front().starts_with("frame:")) << keys().front();
  EXPECT_TRUE(keys().front().ends_with("+0x12c000")) << keys().front();
  EXPECT_EQ(fl_wake(near, 1), 0);
  // A thread says that it waits a moment before the kernel has queued it.
  EXPECT_TRUE(eventually([&] { return fl_wake(far, 1) == 1; }));
  EXPECT_TRUE(child.wait().exited(0));
}

// The same of a page that is the object's, and that parts while somebody waits.
TEST_F(Huge, AWaitFollowsItsPageWhenItParts) {
  const Object object = create_huge(client_, 1);
  const auto shared = map(object, kHuge, kShared);
  const auto view = map(object, kHuge, kPrivate | FL_MAP_WAIT_BY_PAGE);
  auto* const word = reinterpret_cast<std::uint32_t*>(view.data() + 511 * kPage + 8);
  EXPECT_EQ(*word, 0U);
  std::atomic<int> result{1};
  std::thread waiter([&] { result = fl_wait(word, 0, nullptr, 0); });
  ASSERT_TRUE(
      eventually([&] { return daemon_.ask(wire::AdminQuery::waiters)["waiters"].size() == 1; }));
  view[0] = kOne;  // half a page away
  EXPECT_EQ(fl_wake(shared.data() + 511 * kPage + 8, 1), 0) << "it is no longer the object's";
  EXPECT_TRUE(eventually([&] { return fl_wake(word, 1) == 1; }));
  waiter.join();
  EXPECT_EQ(result, 0);
}

}  // namespace
}  // namespace faultline::testing
