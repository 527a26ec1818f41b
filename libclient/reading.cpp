#include "libclient/reading.hpp"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace faultline::client {

class Readers {
 public:
  void add() {
    const std::lock_guard lock(mutex);
    threads_.push_back(&reading_mark);
  }
  void remove() {
    const std::lock_guard lock(mutex);
    std::erase(threads_, &reading_mark);
  }
  void give_back_later(std::unique_ptr<const Retirable> taken) noexcept {
    std::unique_ptr<const Retirable> given_back;  // goes after the lock
    const std::lock_guard lock(mutex);
    const_cast<Retirable&>(*taken).next_ = std::move(taken_);
    taken_ = std::move(taken);
    if (!barrier()) return;
    const bool nobody = std::ranges::none_of(threads_, [](const ReadingMark* mark) {
      return mark->looks.load(std::memory_order_acquire);
    });
    if (nobody) given_back = std::move(taken_);
  }
  void forget_others() {
    std::erase_if(threads_, [](const ReadingMark* mark) { return mark != &reading_mark; });
    registered_ = false;
  }

  std::mutex mutex;  // guards all

 private:
  bool barrier() noexcept {
    if (!registered_) {
      registered_ = ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
    }
    return registered_ && ::syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0;
  }

  std::vector<ReadingMark*> threads_;
  std::unique_ptr<const Retirable> taken_;  // a list
  bool registered_ = false;
};

namespace {

// Leaked on purpose: threads may still be inside the library while the process exits.
Readers& readers() {
  // NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): a process has one list
  static auto* const instance = std::make_unique<Readers>().release();
  return *instance;
}

struct Introduction {
  Introduction() { readers().add(); }
  Introduction(const Introduction&) = delete;
  Introduction& operator=(const Introduction&) = delete;
  ~Introduction() { readers().remove(); }
};

}  // namespace

void introduce_thread() {
  static thread_local const Introduction until_its_end;
  reading_mark.known = true;
}

void give_back_later(std::unique_ptr<const Retirable> taken) noexcept {
  readers().give_back_later(std::move(taken));
}

void lock_readers() {
  readers().mutex.lock();
}
void unlock_readers() {
  readers().mutex.unlock();
}
void forget_other_readers() {
  readers().forget_others();
}

}  // namespace faultline::client
