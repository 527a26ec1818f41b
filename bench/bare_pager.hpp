// The least that a pager in another process can do for a fault: threads that each read one message
// of one userfaultfd with read(2), and answer it with one ioctl(2). What Faultline is measured
// against as the floor. Must never look anything up, count anything, or use any part of Faultline.
//
// Life of a view:
//   1. The pager is forked with a userfaultfd of this process's memory and a memfd full of pages.
//   2. A view maps the memfd and registers the mapping; the pager answers its faults.
//   3. The view is unmapped, which ends its registration.
#pragma once

#include <cstddef>

#include "bench/client.hpp"
#include "bench/process.hpp"
#include "faultline/wire/unique_fd.hpp"

namespace faultline::bench {

class BarePager {
 public:
  // Fork it before the process has threads or connections.
  BarePager(std::size_t bytes, unsigned workers);
  BarePager(const BarePager&) = delete;
  BarePager& operator=(const BarePager&) = delete;
  ~BarePager() = default;

  [[nodiscard]] pid_t pid() const { return child_.pid(); }

  // All of the memfd. A read of it, or a write where it is shared, is answered by UFFDIO_CONTINUE;
  // a write to a private one by UFFDIO_COPY.
  class View {
   public:
    View(const BarePager& pager, bool shared);
    View(const View&) = delete;
    View& operator=(const View&) = delete;
    ~View();
    [[nodiscard]] Bytes bytes() const { return bytes_; }

   private:
    Bytes bytes_;
  };

 private:
  void serve() const;

  std::size_t bytes_;
  unsigned workers_;
  UniqueFd memfd_;
  UniqueFd userfaultfd_;
  std::byte* source_;  // the memfd, mapped here and in the child for good
  Child child_;
};

}  // namespace faultline::bench
