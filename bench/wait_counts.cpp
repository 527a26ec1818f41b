// What waiting does besides, counted and not timed: copies, faults, waiters and locks that are
// lost, by the kernel's futex and by Faultline's in the same kinds of memory.
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <climits>
#include <csignal>
#include <functional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "bench/benchmark.hpp"
#include "bench/client.hpp"
#include "bench/machine.hpp"
#include "bench/process.hpp"

namespace faultline::bench {

namespace {

using namespace std::chrono_literals;
using Word = std::atomic<std::uint32_t>;
constexpr int kWaiters = 8;

Word& word_of(Bytes bytes) {
  return *reinterpret_cast<Word*>(const_cast<std::byte*>(bytes.data()));
}

long raw_futex(const void* word, int operation, std::uint32_t value, const timespec* time) {
  return ::syscall(SYS_futex, word, operation, value, time, nullptr, 0);
}

void check(int result) {
  if (result < 0) throw std::runtime_error(fl_last_error());
}

Result counted(const char* name, double kernel, double faultline, double wanted) {
  Result result;
  result.name = name;
  result.unit = "count";
  result.kernel = {kernel};
  result.faultline = {faultline};
  result.targets = {Target{Target::Of::faultline,
                           wanted == 0 ? Target::Goal::at_most : Target::Goal::at_least, wanted,
                           false}};
  return result;
}

// Private pages that a wait on a clean one makes.
Result copies(const Client& client, const Object& object) {
  const timespec no_time{0, 0};
  const auto private_pages_after = [&](std::uint32_t flags, const auto& wait) {
    const FaultlineView view(client, object, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE | flags);
    (void)touch(view.bytes()[0]);
    wait(&word_of(view.bytes()));
    return static_cast<double>(view.stats().private_bytes) / kPage;
  };
  const double kernel =
      private_pages_after(0, [&](Word* word) { raw_futex(word, FUTEX_WAIT, 0, &no_time); });
  const double ours = private_pages_after(FL_MAP_WAIT_BY_PAGE,
                                          [&](Word* word) { (void)fl_wait(word, 0, &no_time, 0); });
  return counted("copies made by a wait on a private page", kernel, ours, 0);
}

// Faults that a wake at a page in no memory raises.
Result faults(const Client& client) {
  const auto faults_of = [&](const auto& wake) {
    const Object object = Object::create(client, kPage, nullptr);
    const FaultlineView view(client, object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    wake(&word_of(view.bytes()));
    const fl_stats stats = view.stats();
    return static_cast<double>(stats.missing_faults + stats.minor_faults);
  };
  const double kernel = faults_of([](Word* word) { raw_futex(word, FUTEX_WAKE, 1, nullptr); });
  const double ours = faults_of([](Word* word) { (void)fl_wake(word, 1); });
  return counted("faults raised by a wake at an absent page", kernel, ours, 0);
}

// How many of those who wait for a private word are found at its new address after mremap(2).
double found_after_mremap(void* memory, const std::function<void(Word*)>& wait,
                          const std::function<int(Word*)>& count_waiting,
                          const std::function<int(Word*)>& wake) {
  auto* const word = static_cast<Word*>(memory);
  *word = 1;
  std::vector<std::thread> waiters;
  for (int i = 0; i < kWaiters; ++i) waiters.emplace_back([&] { wait(word); });
  while (count_waiting(word) < kWaiters) std::this_thread::yield();
  void* const place = ::mmap(nullptr, kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  void* const moved = ::mremap(memory, kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED, place);
  if (moved == MAP_FAILED) throw std::runtime_error("mremap in a benchmark");
  const int found = wake(static_cast<Word*>(moved));
  // Those who were lost are let go where the kernel still has them: at their old address.
  (void)::mmap(memory, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
               0);
  raw_futex(memory, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr);
  for (std::thread& waiter : waiters) waiter.join();
  return found;
}

Result survivors(const Client& client, const Object& object) {
  const auto requeue_to_itself = [](Word* word, int operation) {
    return static_cast<int>(
        ::syscall(SYS_futex, word, operation, 0, static_cast<std::size_t>(kWaiters), word, 0));
  };
  void* const plain =
      ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const double kernel = found_after_mremap(
      plain, [](Word* word) { raw_futex(word, FUTEX_WAIT_PRIVATE, 1, nullptr); },
      [&](Word* word) { return requeue_to_itself(word, FUTEX_REQUEUE_PRIVATE); },
      [](Word* word) {
        return static_cast<int>(raw_futex(word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr));
      });
  void* ours = nullptr;
  check(fl_map(object.get(), 0, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE, &ours));
  const double faultline = found_after_mremap(
      ours, [](Word* word) { (void)fl_wait(word, 1, nullptr, 0); },
      [](Word* word) { return fl_requeue(word, 0, kWaiters, word); },
      [](Word* word) { return fl_wake(word, INT_MAX); });
  (void)client;
  return counted("of 8 waiters for a private word, found after mremap", kernel, faultline,
                 kWaiters);
}

// Whether a lock is marked, its owner having been killed while the lock's page was not in its page
// tables.
Result handed_over(const Client& client, const Object& object) {
  const FaultlineView view(client, object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  auto* const memory = const_cast<std::byte*>(view.bytes().data());
  const auto after_kill = [&](const std::function<void()>& lock) {
    Pipe locked;
    const Child owner([&] {
      lock();
      (void)::madvise(memory, kPage, MADV_DONTNEED);
      locked.put();
      ::pause();
    });
    locked.close_write();
    if (!locked.get()) throw std::runtime_error("an owner of a lock failed");
    (void)::kill(owner.pid(), SIGKILL);
    int status = 0;
    (void)::waitpid(owner.pid(), &status, 0);
  };
  const auto marked = [&](std::size_t offset) {
    auto& word = *reinterpret_cast<Word*>(memory + offset);
    const auto until = Clock::now() + 2s;
    while ((word & FL_ROBUST_OWNER_DIED) == 0 && Clock::now() < until) std::this_thread::yield();
    return (word & FL_ROBUST_OWNER_DIED) != 0 ? 1.0 : 0.0;
  };
  auto* const mutex = reinterpret_cast<pthread_mutex_t*>(memory);
  pthread_mutexattr_t attributes{};
  ::pthread_mutexattr_init(&attributes);
  ::pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  ::pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  ::pthread_mutex_init(mutex, &attributes);
  after_kill([&] { (void)::pthread_mutex_lock(mutex); });
  const double kernel = marked(0);

  constexpr std::size_t kOurs = 512;
  after_kill([&] {
    check(fl_robust_begin());
    *reinterpret_cast<Word*>(memory + kOurs) = fl_robust_self.tid;
    fl_robust_self.list->held[0] = reinterpret_cast<std::uintptr_t>(memory + kOurs);
    fl_robust_self.list->count = 1;
  });
  return counted("of 1 lock, handed over with its page absent", kernel, marked(kOurs), 1);
}

}  // namespace

std::vector<Result> wait_counts(const Options& options) {
  const Daemon daemon(options.daemon);
  const Client client(daemon.socket());
  const Object object = Object::create(client, kPage, nullptr);
  populate(client, object, kPage);
  return {copies(client, object), faults(client), survivors(client, object),
          handed_over(client, object)};
}

}  // namespace faultline::bench
