// Reads the files behind objects, on a thread and an io_uring of its own. Must never look at a
// client's memory: a client can hold that up for long, and everybody who wants a page of the file
// with it.
//
// One a user, so that a file system that hangs holds up the objects of those who gave it to us.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <span>
#include <thread>

#include "daemon/kernel/mailbox.hpp"
#include "daemon/kernel/ring.hpp"
#include "daemon/kernel/units.hpp"

namespace faultline::memory {

class FilePager {
 public:
  // Errors: as io_uring_setup(2) and eventfd(2).
  static Result<std::unique_ptr<FilePager>> create();
  FilePager(const FilePager&) = delete;
  FilePager& operator=(const FilePager&) = delete;
  ~FilePager();

  // Thread-safe, and does not block. The operation completes on the pager's thread; once the pager
  // has stopped it never does.
  void read(kernel::RingOperation& op, int fd, std::span<std::byte> into, ByteCount offset,
            kernel::Ring::Begin begin);

  // For tests that hold its thread up.
  [[nodiscard]] kernel::Mailbox& mailbox_for_test() const { return *mailbox_; }

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
