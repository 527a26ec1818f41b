#include "daemon/kernel/mailbox.hpp"

#include <sys/eventfd.h>

#include <memory>
#include <utility>

namespace faultline::kernel {

Result<std::shared_ptr<Mailbox>> Mailbox::create() {
  UniqueFd event{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!event) return fail_errno("eventfd for a mailbox");
  return std::shared_ptr<Mailbox>{new Mailbox(std::move(event))};
}

bool Mailbox::post(Letter letter) {
  const std::lock_guard lock(mutex_);
  if (closed_) return false;
  letters_.push_back(std::move(letter));
  if (letters_.size() == 1) {
    // Cannot fail but by overflow of a 64-bit counter.
    (void)::eventfd_write(event_.get(), 1);
  }
  return true;
}

std::vector<Mailbox::Letter> Mailbox::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(letters_, {});
}

std::size_t Mailbox::size() const {
  const std::lock_guard lock(mutex_);
  return letters_.size();
}

void Mailbox::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
}

}  // namespace faultline::kernel
