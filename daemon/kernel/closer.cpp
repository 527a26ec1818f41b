#include "daemon/kernel/closer.hpp"
#include "daemon/kernel/log.hpp"

#include <pthread.h>
#include <sys/socket.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "daemon/kernel/signals.hpp"

namespace faultline::kernel {

namespace {

// So long without any progress, with every thread at work, is no burst.
constexpr std::chrono::seconds kStuckAfter{1};

class Closer : public std::enable_shared_from_this<Closer> {
 public:
  void take(UniqueFd fd) {
    bool start = false;
    std::size_t stuck = 0;
    {
      const std::lock_guard lock(mutex_);
      const auto now = std::chrono::steady_clock::now();
      if (queue_.empty()) progress_at_ = now;
      queue_.push_back(std::move(fd));
      start = queue_.size() > idle_ && threads_ < kMaxClosers;
      if (start) ++threads_;
      if (!start && idle_ == 0 && !said_ && now - progress_at_ > kStuckAfter) {
        said_ = true;
        stuck = queue_.size();
      }
    }
    if (start) {
      start_thread();
    } else {
      work_.notify_one();
    }
    if (stuck > 0) {
      log::error("closing descriptors of clients: {} threads are stuck, {} descriptors wait",
                 kMaxClosers, stuck);
    }
  }

 private:
  void start_thread() {
    const SignalsBlocked none_for_it;
    try {
      std::thread([self = shared_from_this()] { self->run(); }).detach();
    } catch (const std::system_error&) {
      // No thread to be had: the queue keeps the descriptor for one of the others, or the next try.
      const std::lock_guard lock(mutex_);
      --threads_;
    }
  }

  [[noreturn]] void run() {
    ::pthread_setname_np(::pthread_self(), "closer");
    for (;;) {
      UniqueFd fd = next();
      // Waits for whoever holds the socket's lock: here, and not in the caller. ENOTSOCK else.
      const linger off{};
      (void)::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &off, sizeof(off));
    }
  }

  UniqueFd next() {
    std::unique_lock lock(mutex_);
    ++idle_;
    work_.wait(lock, [this] { return !queue_.empty(); });
    --idle_;
    UniqueFd fd = std::move(queue_.front());
    queue_.pop_front();
    progress_at_ = std::chrono::steady_clock::now();
    said_ = false;
    return fd;
  }

  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<UniqueFd> queue_;
  std::chrono::steady_clock::time_point progress_at_;  // when one was taken from the queue
  std::size_t idle_ = 0;
  unsigned threads_ = 0;
  bool said_ = false;
};

}  // namespace

void close_elsewhere(UniqueFd fd) noexcept {
  if (!fd) return;
  try {
    // Its threads have it for ever, whatever becomes of this reference at the end of the process.
    static const auto closer = std::make_shared<Closer>();
    closer->take(std::move(fd));
  } catch (const std::exception&) {
    // No memory for the queue. The descriptor was closed here then, on the way.
  }
}

}  // namespace faultline::kernel
