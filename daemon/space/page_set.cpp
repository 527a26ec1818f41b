#include "daemon/space/page_set.hpp"

#include <algorithm>
#include <bit>
#include <cassert>

namespace faultline::space {

namespace {
constexpr std::uint64_t kBits = 64;
std::uint64_t words_for(PageCount size) {
  return (size.value() + kBits - 1) / kBits;
}
}  // namespace

Result<PageSet> PageSet::create(PageIndex first, PageCount size) {
  const ByteCount bytes{std::max<std::uint64_t>(words_for(size), 1) * sizeof(std::uint64_t)};
  auto words = kernel::MappedMemory::create(bytes, PROT_READ | PROT_WRITE,
                                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  if (!words) return propagate(words);
  return PageSet{std::move(*words), first, size};
}

Result<PageSet> PageSet::clone() const {
  auto copy = create(first_, size_);
  if (!copy) return copy;
  // Only what is set is written, so that the copy stays as sparse as the original.
  for (std::uint64_t i = 0; i < words_for(size_); ++i) {
    if (words()[i] != 0) copy->words()[i] = words()[i];
  }
  return copy;
}

std::uint64_t* PageSet::words() const {
  return reinterpret_cast<std::uint64_t*>(words_.data());
}

template <typename Visit>
void PageSet::each_word(PageIndex first, PageCount count, Visit visit) const {
  assert(first >= first_ && first + count <= first_ + size_);
  std::uint64_t at = (first - first_).value();
  const std::uint64_t end = at + count.value();
  while (at < end) {
    const std::uint64_t bit = at % kBits;
    const std::uint64_t n = std::min(kBits - bit, end - at);
    const std::uint64_t ones = n == kBits ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
    visit(at / kBits, ones << bit);
    at += n;
  }
}

bool PageSet::contains(PageIndex page) const {
  return count(page, PageCount{1}) == PageCount{1};
}

PageCount PageSet::insert(PageIndex first, PageCount count) {
  std::uint64_t changed = 0;
  each_word(first, count, [&](std::uint64_t i, std::uint64_t mask) {
    changed += static_cast<std::uint64_t>(std::popcount(mask & ~words()[i]));
    words()[i] |= mask;
  });
  return PageCount{changed};
}

PageCount PageSet::erase(PageIndex first, PageCount count) {
  std::uint64_t changed = 0;
  each_word(first, count, [&](std::uint64_t i, std::uint64_t mask) {
    const std::uint64_t set = mask & words()[i];
    if (set == 0) return;  // a word never written stays without memory
    changed += static_cast<std::uint64_t>(std::popcount(set));
    words()[i] &= ~mask;
  });
  return PageCount{changed};
}

PageCount PageSet::count(PageIndex first, PageCount count) const {
  std::uint64_t set = 0;
  each_word(first, count, [&](std::uint64_t i, std::uint64_t mask) {
    set += static_cast<std::uint64_t>(std::popcount(mask & words()[i]));
  });
  return PageCount{set};
}

}  // namespace faultline::space
