// Reads the files behind objects, on a thread and an io_uring of its own. Must never look at a
// client's memory: a client can hold that up for long, and everybody who wants a page of the file
// with it.
//
// One a user, so that a file system that hangs holds up the objects of those who gave it to us.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "daemon/kernel/mailbox.hpp"
#include "daemon/kernel/mapped_memory.hpp"
#include "daemon/kernel/ring.hpp"
#include "daemon/kernel/units.hpp"

namespace faultline::memory {

class FilePager {
 public:
  // A whole number of pages, and so little that what was read is in the caches when it is copied.
  static constexpr ByteCount kBuffer{256U << 10};

  // Errors: as io_uring_setup(2) and eventfd(2).
  static Result<std::unique_ptr<FilePager>> create();
  FilePager(const FilePager&) = delete;
  FilePager& operator=(const FilePager&) = delete;
  ~FilePager();

  // Thread-safe, and does not block. The step is taken on the pager's thread; once the pager has
  // stopped it never is.
  void post(std::function<void()> step);
  // The rest on the pager's thread, on which the operation completes.
  void read(kernel::RingOperation& op, int fd, std::span<std::byte> into, ByteCount offset,
            kernel::Ring::Begin begin);
  // What is read at once of an object: kBuffer, and at least one page.
  static constexpr ByteCount buffer_for(PageSize page_size) {
    return std::max(kBuffer, page_size.bytes());
  }
  // Of so many bytes, with anything in it. Errors: ENOMEM.
  [[nodiscard]] Result<kernel::MappedMemory> take_buffer(ByteCount size);
  void give_back(kernel::MappedMemory buffer);

  void begin_stop();
  // False where a read has not come to an end until then: this object must then not be destroyed.
  [[nodiscard]] bool join_until(std::chrono::steady_clock::time_point deadline);

 private:
  class Mail final : public kernel::RingOperation {
   public:
    void on_complete(int) override { come = true; }
    bool come = false;
  };

  FilePager(std::unique_ptr<kernel::Ring> ring, std::shared_ptr<kernel::Mailbox> mailbox)
      : ring_(std::move(ring)), mailbox_(std::move(mailbox)) {}
  void run();
  void read_mail();

  std::unique_ptr<kernel::Ring> ring_;
  std::shared_ptr<kernel::Mailbox> mailbox_;
  Mail mail_;
  std::uint64_t mail_count_ = 0;
  std::vector<kernel::MappedMemory> buffers_;  // that nobody has: fresh ones cost page faults
  bool stopping_ = false;
  std::promise<void> ended_;
  std::thread thread_;
};

// The pagers of all users. Not thread-safe.
class FilePagers {
 public:
  // Made when first asked for; lives as long as this. Errors: as FilePager::create.
  Result<FilePager*> of(uid_t uid);
  // Waits for what is being read; false where that did not come to an end, see FilePager.
  [[nodiscard]] bool stop(std::chrono::steady_clock::time_point deadline);

 private:
  std::map<uid_t, std::unique_ptr<FilePager>> by_user_;
};

}  // namespace faultline::memory
