// One read of a run of an object's pages, in parts of a buffer's size. Keeps its object alive until
// the read has ended. Must never put a page into the memfd but as a whole.
#pragma once

#include <memory>

#include "daemon/kernel/mapped_memory.hpp"
#include "daemon/kernel/ring.hpp"
#include "daemon/memory/page_claim.hpp"

namespace faultline::memory {

class MemoryObject;

// Where a run of pages is read from.
struct ContentSource {
  int fd = -1;  // lives as long as the object
  ByteCount offset;
  ByteCount length;  // what follows it in the last page is zero
  kernel::Ring::Begin begin = kernel::Ring::Begin::here;
  bool swapped = false;  // from the swap file: it has the only copy
};

class Fill final : public PageClaim, public kernel::RingOperation {
 public:
  Fill(std::shared_ptr<MemoryObject> object, PageIndex first, PageCount count,
       const ContentSource& source);
  void submit();
  [[nodiscard]] const ContentSource& source() const { return source_; }
  void on_complete(int result) override;

 private:
  // The pager's thread, as all that follows.
  void begin();
  void go_on();
  Status put_what_came();
  void end(int error);
  // How much of the source the buffer is to hold now.
  [[nodiscard]] ByteCount part() const;

  std::shared_ptr<MemoryObject> object_;
  const ContentSource source_;
  kernel::MappedMemory buffer_;
  ByteCount done_;  // of the source, in the memfd: whole buffers, until the last
  ByteCount got_;   // in the buffer
};

}  // namespace faultline::memory
