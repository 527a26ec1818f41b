#include "daemon/space/page_set.hpp"

#include <algorithm>
#include <bit>
#include <cassert>

namespace faultline::space {

namespace {

constexpr std::uint64_t kWordBits = 64;
// A block's bits are a page of the daemon's memory: what is not set in it takes none.
constexpr std::uint64_t kBlockBits = kBasePage.bytes().value() * 8;
constexpr std::uint64_t kBlockWords = kBlockBits / kWordBits;
static_assert(kBlockBits <= UINT16_MAX);

std::uint64_t words_for(std::uint64_t bits) {
  return (bits + kWordBits - 1) / kWordBits;
}

// Calls visit(word index, mask) for every word of bits [begin, end).
template <typename Visit>
void each_word(std::uint64_t begin, std::uint64_t end, Visit visit) {
  while (begin < end) {
    const std::uint64_t bit = begin % kWordBits;
    const std::uint64_t n = std::min(kWordBits - bit, end - begin);
    const std::uint64_t ones = n == kWordBits ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
    visit(begin / kWordBits, ones << bit);
    begin += n;
  }
}

}  // namespace

Result<PageSet> PageSet::create(PageIndex first, PageCount size) {
  PageSet set{first, size};
  if (set.small()) {
    set.small_words_.resize(words_for(size.value()));
    return set;
  }
  const ByteCount bytes{set.blocks() * (kBasePage.bytes().value() + sizeof(std::uint16_t))};
  auto mapping = kernel::MappedMemory::create(bytes, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
  if (!mapping) return propagate(mapping);
  // A huge page here would make one bit of a sparse set cost 2 MiB.
  ::madvise(mapping->data(), bytes.value(), MADV_NOHUGEPAGE);
  set.mapping_ = std::move(*mapping);
  return set;
}

Result<PageSet> PageSet::clone() const {
  auto copy = create(first_, size_);
  if (!copy) return copy;
  copy->total_ = total_;
  if (small()) {
    copy->small_words_ = small_words_;
    return copy;
  }
  for (std::uint64_t block = 0; block < blocks(); ++block) {
    if (number(block) == 0) continue;
    copy->numbers()[block] = numbers()[block];
    std::copy_n(words() + block * kBlockWords, kBlockWords, copy->words() + block * kBlockWords);
  }
  return copy;
}

bool PageSet::small() const {
  return size_.value() <= kBlockBits;
}

std::uint64_t PageSet::blocks() const {
  return (size_.value() + kBlockBits - 1) / kBlockBits;
}

std::uint64_t* PageSet::words() {
  return small() ? small_words_.data() : reinterpret_cast<std::uint64_t*>(mapping_.data());
}

const std::uint64_t* PageSet::words() const {
  return small() ? small_words_.data() : reinterpret_cast<const std::uint64_t*>(mapping_.data());
}

std::uint16_t* PageSet::numbers() const {
  return reinterpret_cast<std::uint16_t*>(mapping_.data() + blocks() * kBasePage.bytes().value());
}

std::uint64_t PageSet::number(std::uint64_t block) const {
  return small() ? total_ : numbers()[block];
}

bool PageSet::whole(const Part& part) const {
  return part.begin == part.block * kBlockBits &&
         part.end == std::min((part.block + 1) * kBlockBits, size_.value());
}

template <typename Visit>
void PageSet::each_part(PageIndex first, PageCount count, Visit visit) const {
  assert(first >= first_ && first + count <= first_ + size_);
  std::uint64_t begin = (first - first_).value();
  const std::uint64_t end = begin + count.value();
  while (begin < end) {
    const std::uint64_t block = begin / kBlockBits;
    const Part part{block, begin, std::min((block + 1) * kBlockBits, end)};
    visit(part);
    begin = part.end;
  }
}

std::uint64_t PageSet::count(const Part& part) const {
  const std::uint64_t most = number(part.block);
  if (most == 0 || whole(part)) return most;
  const std::uint64_t* const words = this->words();
  std::uint64_t set = 0;
  each_word(part.begin, part.end, [&](std::uint64_t i, std::uint64_t mask) {
    set += static_cast<std::uint64_t>(std::popcount(mask & words[i]));
  });
  return set;
}

bool PageSet::contains(PageIndex page) const {
  return count(page, PageCount{1}) == PageCount{1};
}

PageCount PageSet::insert(PageIndex first, PageCount count) {
  const std::uint64_t before = total_;
  std::uint64_t* const words = this->words();
  each_part(first, count, [&](const Part& part) {
    std::uint64_t added = 0;
    each_word(part.begin, part.end, [&](std::uint64_t i, std::uint64_t mask) {
      added += static_cast<std::uint64_t>(std::popcount(mask & ~words[i]));
      words[i] |= mask;
    });
    total_ += added;
    if (!small()) numbers()[part.block] += static_cast<std::uint16_t>(added);
  });
  return PageCount{total_ - before};
}

PageCount PageSet::erase(PageIndex first, PageCount count) {
  const std::uint64_t before = total_;
  std::uint64_t* const words = this->words();
  each_part(first, count, [&](const Part& part) {
    // Nothing is written where nothing is set: a block that was never set stays without memory.
    const std::uint64_t removed = this->count(part);
    if (removed == 0) return;
    each_word(part.begin, part.end,
              [&](std::uint64_t i, std::uint64_t mask) { words[i] &= ~mask; });
    total_ -= removed;
    if (!small()) numbers()[part.block] -= static_cast<std::uint16_t>(removed);
  });
  return PageCount{before - total_};
}

PageCount PageSet::count(PageIndex first, PageCount count) const {
  if (count == size_) return PageCount{total_};
  std::uint64_t set = 0;
  each_part(first, count, [&](const Part& part) { set += this->count(part); });
  return PageCount{set};
}

}  // namespace faultline::space
