#include "daemon/space/fault_around.hpp"

#include <gtest/gtest.h>

namespace faultline::space {
namespace {

// Faults at page and takes all that is offered, as the fault engine does with a resident object.
PageCount fault(FaultAround& around, std::uint64_t page, AccessKind kind = AccessKind::read,
                Advice advice = Advice::normal) {
  const FaultAround::Window window = around.window(PageIndex{page}, kind, advice);
  const bool copies = kind == AccessKind::copy;
  around.installed(window, PageIndex{page}, window.pages,
                   PageCount{copies ? window.pages.value() - 1 : 0});
  return window.pages;
}

TEST(FaultAround, SequentialAccessOpensTheWindowToTwoMebibytes) {
  FaultAround around;
  std::uint64_t page = 100;
  std::uint64_t before = 0;
  for (int i = 0; i < 6; ++i) {
    const std::uint64_t got = fault(around, page).value();
    EXPECT_GE(got, before);
    before = got;
    page += got;
  }
  EXPECT_EQ(before, 512U);
}

TEST(FaultAround, RandomAccessGetsThePageItAskedForAndNoMore) {
  FaultAround around;
  for (std::uint64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(fault(around, (i * 7919) % 100'003), PageCount{1}) << "fault " << i;
  }
}

TEST(FaultAround, RandomAccessClosesAnOpenWindow) {
  FaultAround around;
  std::uint64_t page = 0;
  for (int i = 0; i < 5; ++i) page += fault(around, page).value();
  for (std::uint64_t i = 0; i < FaultAround::kStreams; ++i) fault(around, 1'000'000 + i * 5000);
  EXPECT_EQ(fault(around, page), PageCount{1});
}

TEST(FaultAround, ThreadsInAreasOfTheirOwnAreAllSequential) {
  FaultAround around;
  std::array<std::uint64_t, FaultAround::kStreams> at{};
  for (std::size_t t = 0; t < at.size(); ++t) at.at(t) = t * 1'000'000;
  for (int round = 0; round < 5; ++round) {
    for (std::uint64_t& page : at) {
      const PageCount window = fault(around, page);
      if (round == 4) {
        EXPECT_EQ(window, PageCount{512});
      }
      page += window.value();
    }
  }
}

TEST(FaultAround, ReadsDoNotOpenTheWindowOfAPrivateWriter) {
  FaultAround around;
  std::uint64_t page = 0;
  for (int i = 0; i < 5; ++i) page += fault(around, page, AccessKind::read).value();
  EXPECT_EQ(fault(around, page, AccessKind::copy), PageCount{1});
}

TEST(FaultAround, AFaultThatAsksAgainGetsTheSameWindow) {
  FaultAround around;
  EXPECT_EQ(around.window(PageIndex{5}, AccessKind::copy).pages, PageCount{1});
  const FaultAround::Window again = around.window(PageIndex{5}, AccessKind::copy);
  EXPECT_EQ(again.pages, PageCount{1});
  around.installed(again, PageIndex{5}, PageCount{1}, PageCount{0});
  const PageCount opened = around.window(PageIndex{6}, AccessKind::copy).pages;
  EXPECT_GT(opened, PageCount{1});
  EXPECT_EQ(around.window(PageIndex{6}, AccessKind::copy).pages, opened);
}

TEST(FaultAround, AWriterThatSkipsPagesGetsNoCopiesAhead) {
  FaultAround around;
  for (std::uint64_t page = 0; page < 1000; page += 2) {
    EXPECT_EQ(fault(around, page, AccessKind::copy), PageCount{1}) << "page " << page;
  }
  EXPECT_EQ(around.unused_ahead(), 0U);
}

TEST(FaultAround, AReaderThatSkipsPagesOpensTheWindow) {
  FaultAround around;
  PageCount window;
  std::uint64_t page = 0;
  for (int i = 0; i < 8; ++i) {
    window = fault(around, page);
    page += window.value() + window.value() / 2;
  }
  EXPECT_EQ(window, PageCount{512});
}

TEST(FaultAround, CopiesAheadCountAsUnusedUntilTheRunGoesOn) {
  FaultAround around;
  std::uint64_t page = 0;
  page += fault(around, page, AccessKind::copy).value();
  EXPECT_EQ(around.unused_ahead(), 0U);
  const std::uint64_t window = fault(around, page, AccessKind::copy).value();
  ASSERT_GT(window, 1U);
  EXPECT_EQ(around.unused_ahead(), window - 1);
  page += window;
  const std::uint64_t next = fault(around, page, AccessKind::copy).value();
  EXPECT_EQ(around.unused_ahead(), next - 1) << "the run passed over the earlier ones";
}

// Two workers ask, and are done in the other order: each answer counts for its own stream.
TEST(FaultAround, AnswersMayComeInAnotherOrderThanTheirQuestions) {
  FaultAround around;
  const FaultAround::Window low = around.window(PageIndex{10}, AccessKind::read);
  const FaultAround::Window high = around.window(PageIndex{9000}, AccessKind::read);
  around.installed(high, PageIndex{9000}, high.pages, PageCount{0});
  around.installed(low, PageIndex{10}, low.pages, PageCount{0});
  EXPECT_GT(fault(around, 11), PageCount{1});
  EXPECT_GT(fault(around, 9001), PageCount{1});
}

TEST(FaultAround, AnAnswerWhoseStreamWasTakenOverCountsItsCopiesAsUnused) {
  FaultAround around;
  const FaultAround::Window late = around.window(PageIndex{10}, AccessKind::copy);
  for (std::uint64_t i = 1; i <= FaultAround::kStreams; ++i) {
    fault(around, i * 1000, AccessKind::copy);
  }
  around.installed(late, PageIndex{10}, PageCount{4}, PageCount{3});
  EXPECT_EQ(around.unused_ahead(), 3U);
}

TEST(FaultAround, SequentialAdviceOpensAReadersWindowAtOnceAndNotAWriters) {
  FaultAround around;
  EXPECT_EQ(fault(around, 10, AccessKind::read, Advice::sequential), FaultAround::kMaxWindow);
  EXPECT_EQ(fault(around, 9000, AccessKind::copy, Advice::sequential), PageCount{1});
}

TEST(FaultAround, RandomAdviceKeepsTheWindowClosedWhateverTheFaultsLookLike) {
  FaultAround around;
  for (std::uint64_t page = 0; page < 20; ++page) {
    EXPECT_EQ(fault(around, page, AccessKind::read, Advice::random), PageCount{1});
  }
}

}  // namespace
}  // namespace faultline::space
