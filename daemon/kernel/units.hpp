// Strong types for addresses, page indexes and byte counts. Mixing them must not compile: an
// address in a client, an index into an object and a length are all 64-bit numbers, and confusing
// two is how a pager shows one client another's bytes.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace faultline {

namespace detail {
// A 64-bit number with a name. Only comparison is common to all; arithmetic is given where it has a
// meaning.
template <typename Tag>
class Number {
 public:
  constexpr Number() = default;
  constexpr explicit Number(std::uint64_t value) : value_(value) {}
  [[nodiscard]] constexpr std::uint64_t value() const { return value_; }
  friend constexpr auto operator<=>(Number, Number) = default;

 private:
  std::uint64_t value_ = 0;
};
}  // namespace detail

using ByteCount = detail::Number<struct ByteCountTag>;
using PageCount = detail::Number<struct PageCountTag>;
// An address in a client's memory; never dereferenced by the daemon.
using Vaddr = detail::Number<struct VaddrTag>;
// A page of an object, counted in the object's own page size.
using PageIndex = detail::Number<struct PageIndexTag>;

constexpr ByteCount operator+(ByteCount a, ByteCount b) {
  return ByteCount{a.value() + b.value()};
}
constexpr ByteCount operator-(ByteCount a, ByteCount b) {
  return ByteCount{a.value() - b.value()};
}
constexpr PageCount operator+(PageCount a, PageCount b) {
  return PageCount{a.value() + b.value()};
}
constexpr PageCount operator-(PageCount a, PageCount b) {
  return PageCount{a.value() - b.value()};
}

constexpr Vaddr operator+(Vaddr a, ByteCount n) {
  return Vaddr{a.value() + n.value()};
}
constexpr ByteCount operator-(Vaddr a, Vaddr b) {
  return ByteCount{a.value() - b.value()};
}

constexpr PageIndex operator+(PageIndex a, PageCount n) {
  return PageIndex{a.value() + n.value()};
}
constexpr PageCount operator-(PageIndex a, PageIndex b) {
  return PageCount{a.value() - b.value()};
}

// The size of an object's pages, and the only bridge between bytes and pages.
class PageSize {
 public:
  constexpr PageSize() = default;
  constexpr explicit PageSize(unsigned shift) : shift_(shift) {}

  [[nodiscard]] constexpr ByteCount bytes() const { return ByteCount{std::uint64_t{1} << shift_}; }
  [[nodiscard]] constexpr ByteCount bytes(PageCount n) const {
    return ByteCount{n.value() << shift_};
  }
  [[nodiscard]] constexpr ByteCount offset_of(PageIndex i) const {
    return ByteCount{i.value() << shift_};
  }
  [[nodiscard]] constexpr PageIndex index_of(ByteCount offset) const {
    return PageIndex{offset.value() >> shift_};
  }
  [[nodiscard]] constexpr PageCount pages(ByteCount n) const {
    return PageCount{n.value() >> shift_};
  }
  [[nodiscard]] constexpr bool aligned(std::uint64_t n) const {
    return (n & (bytes().value() - 1)) == 0;
  }
  [[nodiscard]] constexpr Vaddr round_down(Vaddr a) const {
    return Vaddr{a.value() & ~(bytes().value() - 1)};
  }
  [[nodiscard]] constexpr ByteCount round_down(ByteCount n) const {
    return ByteCount{n.value() & ~(bytes().value() - 1)};
  }
  // The caller has checked that rounding up does not overflow.
  [[nodiscard]] constexpr ByteCount round_up(ByteCount n) const {
    return ByteCount{(n.value() + bytes().value() - 1) & ~(bytes().value() - 1)};
  }
  friend constexpr bool operator==(PageSize, PageSize) = default;

 private:
  unsigned shift_ = 12;
};

inline constexpr PageSize kBasePage{12};
inline constexpr PageSize kHugePage{21};

using ObjectId = detail::Number<struct ObjectIdTag>;
using SpaceId = detail::Number<struct SpaceIdTag>;

}  // namespace faultline

template <typename Tag>
struct std::hash<faultline::detail::Number<Tag>> {
  std::size_t operator()(faultline::detail::Number<Tag> n) const noexcept {
    return std::hash<std::uint64_t>{}(n.value());
  }
};
