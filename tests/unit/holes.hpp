// Where tests make holes in their own memory. Must never be near what an allocator uses: what it,
// or a sanitizer, maps by itself would come to lie in them.
#pragma once

#include <atomic>
#include <cstdint>

namespace faultline::testing {

// A hint for mmap(2), another one every time.
inline void* hint_for_holes() {
#if defined(__SANITIZE_THREAD__)  // which takes memory in few places, below 2^39 the emptiest
  constexpr std::uintptr_t kFarAway = 0x20'0000'0000;
  constexpr std::uintptr_t kApart = std::uintptr_t{1} << 30;
#else
  constexpr std::uintptr_t kFarAway = 0x2000'0000'0000;
  constexpr std::uintptr_t kApart = std::uintptr_t{1} << 32;
#endif
  static std::atomic<std::uintptr_t> next{kFarAway};
  return reinterpret_cast<void*>(next.fetch_add(kApart));
}

}  // namespace faultline::testing
