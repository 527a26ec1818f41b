// One thread, one io_uring: thousands of waits for words in shared memory, and the reading of a
// file, together. Another process sets the words, in an order of its own. Every completion is
// checked: each word is told of once, and every byte of the file is read.
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <faultline/faultline.hpp>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <system_error>
#include <vector>

namespace {

using Word = std::atomic<std::uint32_t>;

constexpr std::uint64_t kWords = 4096;
// What a completion is of: a word's number, or one of these.
constexpr std::uint64_t kRead = ~std::uint64_t{0};
constexpr std::uint64_t kEnded = kRead - 1;

void check(int result) {
  if (result < 0) throw faultline::error(-result, fl_last_error());
}

class Ring {
 public:
  Ring() {
    if (const int result = ::io_uring_queue_init(256, &ring_, 0); result < 0) {
      throw std::system_error(-result, std::generic_category(), "io_uring_setup");
    }
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() { ::io_uring_queue_exit(&ring_); }

  [[nodiscard]] int fd() const { return ring_.ring_fd; }
  void read(int file, std::array<char, 65536>& into, std::uint64_t offset) {
    io_uring_sqe* const entry = ::io_uring_get_sqe(&ring_);
    ::io_uring_prep_read(entry, file, into.data(), static_cast<unsigned>(into.size()), offset);
    entry->user_data = kRead;
    ::io_uring_submit(&ring_);
  }
  void wait_for_end(int process) {
    io_uring_sqe* const entry = ::io_uring_get_sqe(&ring_);
    ::io_uring_prep_poll_add(entry, process, POLLIN);
    entry->user_data = kEnded;
    ::io_uring_submit(&ring_);
  }
  struct Completion {
    std::uint64_t user_data;
    int result;
  };
  Completion next() {
    io_uring_cqe* entry = nullptr;
    if (const int result = ::io_uring_wait_cqe(&ring_, &entry); result < 0) {
      throw std::system_error(-result, std::generic_category(), "io_uring_wait_cqe");
    }
    const Completion completion{entry->user_data, entry->res};
    ::io_uring_cqe_seen(&ring_, entry);
    return completion;
  }

 private:
  io_uring ring_{};
};

// The other process: gives every word a value, in random order, and wakes who waits for it.
void set_all(std::span<Word> words) {
  std::vector<std::size_t> order(words.size());
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::minstd_rand(7));
  for (const std::size_t i : order) {
    words[i] = 1;
    check(fl_wake(&words[i], 1));
  }
}

}  // namespace

int main(int argc, char** argv) try {
  const char* const path = argc > 1 ? argv[1] : "/proc/self/exe";
  const int file = ::open(path, O_RDONLY | O_CLOEXEC);
  struct stat info {};
  if (file < 0 || ::fstat(file, &info) != 0) {
    throw std::system_error(errno, std::generic_category(), path);
  }

  const auto client = faultline::client::connect();
  const auto object = client.create({.size = kWords * sizeof(Word)});
  const auto memory = object.map(faultline::sharing::shared);
  const std::span words = memory.as<Word>();

  Ring ring;
  std::uint32_t target = 0;
  check(fl_target_add(client.get(), FL_TARGET_RING, ring.fd(), &target));
  for (std::uint64_t i = 0; i < kWords; ++i) {
    fl_async_wait wait{};
    wait.struct_size = sizeof(wait);
    wait.address = &words[i];
    wait.expected = 0;
    wait.bitset = FL_WAIT_ANY;
    wait.target = target;
    wait.user_data = i;
    check(fl_wait_async(&wait, nullptr));
  }
  std::printf("waiting for %lu words without a thread, and reading %s\n",
              static_cast<unsigned long>(kWords), path);
  std::fflush(stdout);
  const pid_t other = ::fork();
  if (other == 0) {
    set_all(words);
    ::_exit(0);
  }

  // The C library's own pidfd_open is not declared for C++ in glibc 2.36.
  const int process = static_cast<int>(::syscall(SYS_pidfd_open, other, 0));
  if (process < 0) throw std::system_error(errno, std::generic_category(), "pidfd_open");
  ring.wait_for_end(process);
  int status = -1;  // until it has ended

  std::vector<bool> told(kWords);
  std::uint64_t count = 0;
  std::uint64_t bytes = 0;
  std::uint64_t both = 0;  // completions of words while the file was being read
  bool reading = true;
  const auto buffer = std::make_unique<std::array<char, 65536>>();
  ring.read(file, *buffer, 0);
  while (count < kWords || reading || status != 0) {
    const auto [what, result] = ring.next();
    if (what == kEnded) {
      ::waitpid(other, &status, 0);
      if (status != 0) throw std::runtime_error("the other process failed");
      continue;
    }
    if (what == kRead) {
      if (result < 0) throw std::system_error(-result, std::generic_category(), path);
      bytes += static_cast<std::uint64_t>(result);
      reading = result > 0;
      if (reading) ring.read(file, *buffer, bytes);
      continue;
    }
    if (result != 0 || what >= kWords || told[what] || words[what] != 1) {
      throw std::runtime_error("a completion that cannot be");
    }
    told[what] = true;
    ++count;
    if (reading) ++both;
  }
  ::close(process);
  ::close(file);
  std::printf("%lu words told of, %lu of them while the file was read; %lu bytes read, of %lu\n",
              static_cast<unsigned long>(count), static_cast<unsigned long>(both),
              static_cast<unsigned long>(bytes), static_cast<unsigned long>(info.st_size));
  if (bytes != static_cast<std::uint64_t>(info.st_size)) return 1;
  std::printf("every word once, every byte: right\n");
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "event_loop: %s\n", error.what());
  return 1;
}
