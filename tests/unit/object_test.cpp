// Objects and their directory: rights, names, limits, and reading from files.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <future>
#include <thread>

#include "daemon/memory/object_directory.hpp"
#include "daemon/space/handle_table.hpp"
#include "tests/unit/slower.hpp"

namespace faultline::memory {
namespace {

ObjectSpec named(const std::string& name, std::uint64_t bytes, uid_t uid = 1000,
                 mode_t mode = 0640) {
  ObjectSpec spec;
  spec.name = name;
  spec.uid = uid;
  spec.gid = 50;
  spec.mode = mode;
  spec.content_size = ByteCount{bytes};
  return spec;
}

int code(const Result<std::shared_ptr<MemoryObject>>& result) {
  return result ? 0 : result.error().code();
}

TEST(ObjectDirectory, OpensByOwnerGroupAndMode) {
  ObjectDirectory directory{ObjectLimits{}};
  ASSERT_TRUE(directory.create(named("data", 4096)));
  EXPECT_EQ(code(directory.open("data", Access::read_write, {1000, 1})), 0) << "the owner";
  EXPECT_EQ(code(directory.open("data", Access::read_only, {2000, 50})), 0) << "the group reads";
  EXPECT_EQ(code(directory.open("data", Access::read_write, {2000, 50})), EACCES);
  EXPECT_EQ(code(directory.open("data", Access::read_only, {2000, 60})), EACCES) << "others";
  EXPECT_EQ(code(directory.open("data", Access::read_write, {0, 0})), 0) << "root";
  EXPECT_EQ(code(directory.open("none", Access::read_only, {0, 0})), ENOENT);
}

TEST(ObjectDirectory, RefusesNamesThatAreTooLongOrOdd) {
  ObjectDirectory directory{ObjectLimits{}};
  for (const std::string& bad :
       {std::string(129, 'a'), std::string("a/b"), std::string(".hidden"), std::string("tab\there"),
        std::string("nul\0l", 5), std::string("\xc3\xa4")}) {
    EXPECT_EQ(code(directory.create(named(bad, 4096))), EINVAL) << bad;
  }
  EXPECT_EQ(code(directory.create(named(std::string(128, 'a'), 4096))), 0);
}

TEST(ObjectDirectory, RefusesZeroTooLargeAndTaken) {
  ObjectDirectory directory{ObjectLimits{ByteCount{1 << 20}, 2}};
  EXPECT_EQ(code(directory.create(named("a", 0))), EINVAL);
  EXPECT_EQ(code(directory.create(named("a", (1 << 20) + 1))), EFBIG);
  EXPECT_EQ(code(directory.create(named("a", 1 << 20))), 0);
  EXPECT_EQ(code(directory.create(named("a", 4096))), EEXIST);
  EXPECT_EQ(code(directory.create(named("b", 4096))), 0);
  EXPECT_EQ(code(directory.create(named("c", 4096))), EUSERS);
}

TEST(ObjectDirectory, AnUnlinkedObjectLivesAsLongAsSomebodyHasIt) {
  ObjectDirectory directory{ObjectLimits{}};
  auto object = directory.create(named("a", 4096));
  ASSERT_TRUE(object);
  EXPECT_FALSE(directory.unlink("a", {1001, 50})) << "neither the owner nor root";
  ASSERT_TRUE(directory.unlink("a", {1000, 1}));
  EXPECT_EQ(code(directory.open("a", Access::read_only, {1000, 1})), ENOENT);
  EXPECT_FALSE(directory.linked(**object));
  EXPECT_EQ(directory.all().size(), 1U);
  *object = nullptr;
  EXPECT_EQ(directory.all().size(), 0U);
}

TEST(Memfd, ItsReadOnlyDescriptorCannotWriteAndItsSizeIsSealed) {
  auto memfd = kernel::Memfd::create("test", ByteCount{8192});
  ASSERT_TRUE(memfd) << memfd.error().message();
  EXPECT_EQ(::pwrite(memfd->read_only_fd(), "x", 1, 0), -1);
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memfd->read_only_fd(), 0),
            MAP_FAILED);
  EXPECT_EQ(::ftruncate(memfd->writable_fd(), 4096), -1);
  EXPECT_EQ(::ftruncate(memfd->writable_fd(), 16384), -1);
  EXPECT_EQ(::fcntl(memfd->writable_fd(), F_ADD_SEALS, F_SEAL_WRITE), -1);
}

class FileObject : public ::testing::Test {
 protected:
  void SetUp() override {
    file_ = UniqueFd{::memfd_create("source", MFD_CLOEXEC)};
    content_.resize(3 * 4096 + 100);
    for (std::size_t i = 0; i < content_.size(); ++i) content_[i] = static_cast<char>('a' + i % 23);
    ASSERT_EQ(::write(file_.get(), content_.data(), content_.size()),
              static_cast<ssize_t>(content_.size()));
    auto pager = FilePager::create();
    ASSERT_TRUE(pager) << pager.error().message();
    pager_ = std::move(*pager);
    ObjectSpec spec = named("file", content_.size());
    spec.file = FileSource{kernel::ForeignFd{::dup(file_.get())}, ByteCount{0}, spec.content_size};
    auto object = MemoryObject::create(ObjectId{1}, std::move(spec), pager_.get());
    ASSERT_TRUE(object) << object.error().message();
    object_ = *object;
  }

  Supply populate(std::uint64_t first, std::uint64_t window) {
    std::promise<Supply> answer;
    const PageCount ready = object_->populate(PageIndex{first}, PageCount{window},
                                              [&](Supply supply) { answer.set_value(supply); });
    return ready > PageCount{0} ? Supply::ready : answer.get_future().get();
  }

  UniqueFd file_;
  std::string content_;
  std::unique_ptr<FilePager> pager_;
  std::shared_ptr<MemoryObject> object_;
};

TEST_F(FileObject, ReadsItsPagesAndPadsTheLastWithZeroes) {
  ASSERT_EQ(object_->page_count(), PageCount{4});
  ASSERT_EQ(populate(0, 4), Supply::ready);
  EXPECT_EQ(std::memcmp(object_->content(PageIndex{0}), content_.data(), content_.size()), 0);
  const std::byte* tail = object_->content(PageIndex{0}) + content_.size();
  for (std::size_t i = 0; i < 4096 - 100; ++i) ASSERT_EQ(tail[i], std::byte{0}) << i;
}

TEST_F(FileObject, AFileThatShrankFailsOnlyThePagesItLost) {
  ASSERT_EQ(::ftruncate(file_.get(), 4096 + 10), 0);
  EXPECT_EQ(populate(0, 4), Supply::ready) << "the first page is all there";
  EXPECT_EQ(populate(1, 3), Supply::retry_alone) << "one of several is not to be had";
  EXPECT_EQ(populate(1, 1), Supply::failed);
  EXPECT_EQ(object_->pages().state(PageIndex{1}), PageState::poisoned);
  EXPECT_EQ(object_->failed_fills(), 1U);
  ASSERT_EQ(::ftruncate(file_.get(), 0), 0);
  ASSERT_EQ(::pwrite(file_.get(), content_.data(), content_.size(), 0),
            static_cast<ssize_t>(content_.size()));
  EXPECT_EQ(populate(1, 1), Supply::ready) << "and it recovers with its file";
}

TEST_F(FileObject, TwoWhoWantOnePageShareOneRead) {
  std::promise<Supply> first;
  std::promise<Supply> second;
  std::promise<void> both_wait;
  // The pager's thread is held until both have asked.
  pager_->post([released = both_wait.get_future().share()] { released.wait(); });
  EXPECT_EQ(object_->populate(PageIndex{0}, PageCount{2}, [&](Supply s) { first.set_value(s); }),
            PageCount{0});
  EXPECT_EQ(object_->populate(PageIndex{1}, PageCount{1}, [&](Supply s) { second.set_value(s); }),
            PageCount{0});
  EXPECT_EQ(object_->fills(), 1U);
  both_wait.set_value();
  EXPECT_EQ(first.get_future().get(), Supply::ready);
  EXPECT_EQ(second.get_future().get(), Supply::ready);
}

// A worker that found a page resident maps it a moment later. If a writer took it out meanwhile and
// it is being read again, that worker must find nothing there rather than a half of it.
TEST_F(FileObject, NothingOfAPageIsInTheMemoryBeforeItsWholeContentIs) {
  constexpr std::size_t kPart = 1000;
  constexpr std::size_t kSize = std::size_t{2} * 4096;
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd writer{ends[1]};
  const int reader = ends[0];
  ObjectSpec spec = named("parts", kSize);
  spec.file = FileSource{kernel::ForeignFd{reader}, ByteCount{0}, spec.content_size};
  auto object = MemoryObject::create(ObjectId{2}, std::move(spec), pager_.get());
  ASSERT_TRUE(object) << object.error().message();
  std::promise<Supply> answer;
  ASSERT_EQ((*object)->populate(PageIndex{0}, PageCount{2},
                                [&](Supply supply) { answer.set_value(supply); }),
            PageCount{0});
  const auto write = [&](std::size_t bytes) {
    const std::string text(bytes, 'x');
    EXPECT_EQ(::write(writer.get(), text.data(), bytes), static_cast<ssize_t>(bytes));
  };
  const auto holds_any = [&] { return *(*object)->memfd().holds(ByteCount{0}, ByteCount{kSize}); };
  write(4096 + kPart);
  int unread = 1;
  while (unread != 0) ASSERT_EQ(::ioctl(reader, FIONREAD, &unread), 0);
  EXPECT_FALSE(holds_any());
  write(4096 - kPart);
  ASSERT_EQ(answer.get_future().get(), Supply::ready);
  EXPECT_TRUE(holds_any());
  EXPECT_EQ(std::string(kSize, 'x'),
            std::string(reinterpret_cast<const char*>((*object)->content(PageIndex{0})), kSize));
}

// Whoever may read an object can allocate a page of zeroes in its memory, by a mapping of his own.
TEST_F(FileObject, APageThatSomebodyElseAllocatedGetsTheContentOfTheFile) {
  const auto mapped = kernel::MappedMemory::create(object_->size(), PROT_READ, MAP_SHARED,
                                                   object_->memfd().read_only_fd());
  ASSERT_TRUE(mapped) << mapped.error().message();
  const volatile char* const page = reinterpret_cast<const char*>(mapped->data()) + 4096;
  ASSERT_EQ(+*page, 0);
  ASSERT_EQ(populate(0, 4), Supply::ready);
  EXPECT_EQ(std::memcmp(mapped->data(), content_.data(), content_.size()), 0);
}

// ... and one that may write can take it away again, at any moment. No read fails by that.
TEST_F(FileObject, PagesThatComeAndGoDoNotFailARead) {
  const auto mapped = kernel::MappedMemory::create(object_->size(), PROT_READ, MAP_SHARED,
                                                   object_->memfd().read_only_fd());
  ASSERT_TRUE(mapped) << mapped.error().message();
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> turns{0};
  std::thread other([&] {
    const volatile char* const page = reinterpret_cast<const char*>(mapped->data()) + 4096;
    while (!stop) {
      (void)*page;
      EXPECT_EQ(::fallocate(object_->memfd().writable_fd(),
                            FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096),
                0);
      ++turns;
    }
  });
  std::uint64_t reads = 0;
  while (reads < 2000 / testing::kSlower || turns < 2000 / testing::kSlower) {
    if (populate(1, 1) != Supply::ready) break;
    ++reads;
    while (object_->pages().state(PageIndex{1}) == PageState::resident) {
      object_->recheck(PageIndex{1});
    }
  }
  stop = true;
  other.join();
  EXPECT_EQ(object_->failed_fills(), 0U);
}

// A window is larger than what is read at a time, and the file may end anywhere in it.
TEST_F(FileObject, AWindowIsReadInParts) {
  const std::size_t size = 2 * FilePager::kBuffer.value() + std::size_t{5} * 4096 + 77;
  std::string content(size, ' ');
  for (std::size_t i = 0; i < size; ++i) content[i] = static_cast<char>('a' + i / 4096 % 23);
  const UniqueFd file{::memfd_create("large", MFD_CLOEXEC)};
  ASSERT_EQ(::write(file.get(), content.data(), size), static_cast<ssize_t>(size));
  ObjectSpec spec = named("large", size);
  spec.file = FileSource{kernel::ForeignFd{::dup(file.get())}, ByteCount{0}, spec.content_size};
  auto made = MemoryObject::create(ObjectId{3}, std::move(spec), pager_.get());
  ASSERT_TRUE(made) << made.error().message();
  object_ = *made;
  const std::uint64_t pages = object_->page_count().value();
  ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(FilePager::kBuffer.value() + 4096 + 1)), 0);
  EXPECT_EQ(populate(0, pages), Supply::ready);
  const auto resident = [&] {
    return object_->pages().run(PageIndex{0}, PageCount{pages}, PageState::resident).value();
  };
  EXPECT_EQ(resident(), FilePager::kBuffer.value() / 4096 + 1) << "what the file has whole";
  ASSERT_EQ(::pwrite(file.get(), content.data(), size, 0), static_cast<ssize_t>(size));
  EXPECT_EQ(populate(resident(), pages - resident()), Supply::ready);
  EXPECT_EQ(resident(), pages);
  EXPECT_EQ(std::memcmp(object_->content(PageIndex{0}), content.data(), size), 0);
}

TEST(HandleTable, AForkChildHasACopyOfItsOwn) {
  ObjectDirectory directory{ObjectLimits{}};
  auto object = directory.create(named("a", 4096));
  ASSERT_TRUE(object);
  space::HandleTable table;
  const auto handle = table.add({*object, Access::read_write});
  ASSERT_TRUE(handle);
  EXPECT_EQ((*object)->handles(), 1);
  {
    const auto child = table.clone();
    EXPECT_EQ((*object)->handles(), 2);
    ASSERT_TRUE(table.close(*handle));
    EXPECT_TRUE(child->find(*handle));
    EXPECT_FALSE(table.find(*handle));
  }
  EXPECT_EQ((*object)->handles(), 0);
}

}  // namespace
}  // namespace faultline::memory
