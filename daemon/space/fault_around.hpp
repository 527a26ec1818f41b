// How far around a fault to supply pages: opened by sequential access, closed by random access.
// Must never look at memory; it sees page numbers only, and is one VMA's.
//
// A stream is a run of faults of one kind, each at the end of what the one before was given, or,
// for reads, within another window behind it. A few streams are followed at once, so that threads
// that each walk an area of their own all count as sequential. A fault that belongs to no stream
// starts one, in the place of the stream used longest ago.
#pragma once

#include <array>
#include <cstdint>

#include "daemon/kernel/units.hpp"

namespace faultline::space {

// What the client said of how it will touch a mapping, as madvise(2) takes it.
enum class Advice : std::uint8_t {
  normal,
  sequential,  // a reader's windows begin wide open
  random,      // and here no window ever opens
};

enum class AccessKind : std::uint8_t { none, read, copy, unprotect };

class FaultAround {
 public:
  static constexpr std::size_t kStreams = 8;
  static constexpr PageCount kMaxWindow{512};
  // The same, for pages of any size.
  static constexpr ByteCount kMostBytes = kBasePage.bytes(kMaxWindow);
  static constexpr std::uint64_t kGrowth = 8;

  // How many pages to supply for a fault, and which stream it was found to belong to.
  struct Window {
    PageCount pages;
    std::size_t stream = 0;
    std::uint64_t asked_at = 0;
    // Where it belongs to none there is nothing to say of it later.
    [[nodiscard]] bool in_stream() const { return stream < kStreams; }
  };
  // Where the client said that no page says anything about the next.
  static Window window_at_random() { return {PageCount{1}, kStreams, 0}; }
  // The caller then says what it did with installed; others may have asked in between.
  Window window(PageIndex page, AccessKind kind, Advice advice = Advice::normal);
  // The fault asked about was answered with count pages, the faulting one included. ahead: how many
  // private copies among them nobody had asked for.
  void installed(const Window& window, PageIndex page, PageCount count, PageCount ahead);

  // Copies made ahead that no later fault showed to be used: an upper bound of the wasted ones.
  [[nodiscard]] std::uint64_t unused_ahead() const;

 private:
  struct Stream {
    PageIndex expected{};  // where its next fault should be
    PageIndex asked{};     // where its last was
    PageCount window{};
    PageCount ahead{};  // copies not yet known to be used
    std::uint64_t used_at = 0;
    AccessKind kind = AccessKind::none;
    bool pending = false;  // the last has not been answered yet
  };
  [[nodiscard]] static bool continues(const Stream& stream, PageIndex page);

  std::array<Stream, kStreams> streams_{};
  std::uint64_t clock_ = 0;
  std::uint64_t unused_ = 0;
};

}  // namespace faultline::space
