// Addresses, page indexes and byte counts do not mix.
#include "daemon/kernel/units.hpp"

#include <gtest/gtest.h>

#include <type_traits>

namespace faultline {
namespace {

template <typename A, typename B>
concept Addable = requires(A a, B b) {
  a + b;
};
template <typename A, typename B>
concept Comparable = requires(A a, B b) {
  a == b;
};

static_assert(Addable<Vaddr, ByteCount>);
static_assert(Addable<PageIndex, PageCount>);
static_assert(!Addable<Vaddr, PageCount>, "an address moves by bytes");
static_assert(!Addable<PageIndex, ByteCount>, "an index moves by pages");
static_assert(!Addable<Vaddr, Vaddr>, "two addresses have no sum");
static_assert(!Comparable<ByteCount, PageCount>);
static_assert(!Comparable<Vaddr, PageIndex>);
static_assert(!std::is_convertible_v<std::uint64_t, Vaddr>, "a bare number is no address");

TEST(PageSize, BridgesBytesAndPages) {
  const PageSize huge{21};
  EXPECT_EQ(huge.bytes().value(), std::uint64_t{2} << 20);
  EXPECT_EQ(huge.index_of(ByteCount{(std::uint64_t{2} << 20) * 3 + 5}), PageIndex{3});
  EXPECT_EQ(kBasePage.round_down(Vaddr{0x1fff}), Vaddr{0x1000});
  EXPECT_EQ(kBasePage.round_up(ByteCount{1}), ByteCount{4096});
  EXPECT_EQ(kBasePage.round_up(ByteCount{4096}), ByteCount{4096});
  EXPECT_TRUE(kBasePage.aligned(8192));
  EXPECT_FALSE(kBasePage.aligned(8193));
}

}  // namespace
}  // namespace faultline
