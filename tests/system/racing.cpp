#include "tests/system/racing.hpp"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <vector>

namespace faultline::testing {

// --- objects

namespace {

Object make(fl_client* client, std::size_t id, std::size_t pages, bool from_file) {
  std::vector<Word> words(pages * kWords);
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = tag(id, i / kWords, i % kWords);
  const auto bytes = std::as_bytes(std::span(words));
  if (from_file) {
    const UniqueFd file{::memfd_create("tagged", MFD_CLOEXEC)};
    EXPECT_EQ(::pwrite(file.get(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
    return create_from(client, file.get());
  }
  Object object = create(client, bytes.size());
  const auto memory = map(object, bytes.size(), FL_MAP_SHARED | FL_MAP_WRITE);
  for (std::size_t page = 0; page < pages; page += 2) {
    std::memcpy(memory.data() + page * kPage, bytes.data() + page * kPage, kPage);
  }
  EXPECT_EQ(fl_unmap(client, memory.data(), memory.size()), 0) << fl_last_error();
  return object;
}

}  // namespace

Tagged::Tagged(fl_client* client, std::size_t id, std::size_t pages, bool from_file)
    : id_(id), pages_(pages), from_file_(from_file), object_(make(client, id, pages, from_file)) {}

std::string describe(Word value) {
  std::ostringstream out;
  out << std::hex << "0x" << value << std::dec;
  const auto kind = static_cast<std::uint8_t>(value >> 56);
  if (kind == 0xa5) out << " (object " << (value >> 48 & 0xff) << " page ";
  if (kind == static_cast<std::uint8_t>(Through::shared)) out << " (written shared, slot ";
  if (kind == static_cast<std::uint8_t>(Through::private_copy)) out << " (written private, slot ";
  if (value != 0) out << (value >> 16 & 0xffffffff) << " word " << (value & 0xffff) << ")";
  return out.str();
}

// --- accesses

namespace {

// NOLINTBEGIN(cppcoreguidelines-avoid-non-const-global-variables): what a signal handler can reach
thread_local sigjmp_buf landing;
thread_local volatile sig_atomic_t landing_is_ready = 0;
std::uintptr_t survivable_start = 0;
std::uintptr_t survivable_end = 0;
// NOLINTEND(cppcoreguidelines-avoid-non-const-global-variables)

void land(int signal, siginfo_t* info, void* /*context*/) {
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  if (landing_is_ready != 0 && address >= survivable_start && address < survivable_end) {
    landing_is_ready = 0;
    ::siglongjmp(landing, signal);
  }
  ::signal(signal, SIG_DFL);  // the access is made again, and is the end
}

// Threads race on purpose here, and an access may end in the middle.
#define FAULTLINE_RACES __attribute__((noinline, no_sanitize("thread")))
FAULTLINE_RACES Word raw_load(const std::byte* from) {
  return *reinterpret_cast<const volatile Word*>(from);
}
FAULTLINE_RACES void raw_store(std::byte* into, Word value) {
  *reinterpret_cast<volatile Word*>(into) = value;
}
#undef FAULTLINE_RACES

// The jump leaves the handler without giving back the mask that it ran with. SA_NODEFER makes that
// the one before, but for ThreadSanitizer, which has every handler run with all signals blocked.
#ifdef __SANITIZE_THREAD__
constexpr int kSaveMask = 1;
#else
constexpr int kSaveMask = 0;
#endif

Ending ending_of(int signal) {
  return signal == SIGBUS ? Ending::bus : Ending::segv;
}

}  // namespace

void survive_signals_in(const std::byte* start, std::size_t bytes) {
  survivable_start = reinterpret_cast<std::uintptr_t>(start);
  survivable_end = survivable_start + bytes;
  struct sigaction action {};
  action.sa_sigaction = &land;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  EXPECT_EQ(::sigaction(SIGSEGV, &action, nullptr), 0);
  EXPECT_EQ(::sigaction(SIGBUS, &action, nullptr), 0);
}

Ending load(const std::byte* from, Word& value) {
  if (const int signal = sigsetjmp(landing, kSaveMask); signal != 0) return ending_of(signal);
  landing_is_ready = 1;
  value = raw_load(from);
  landing_is_ready = 0;
  return Ending::data;
}

Ending store(std::byte* into, Word value) {
  if (const int signal = sigsetjmp(landing, kSaveMask); signal != 0) return ending_of(signal);
  landing_is_ready = 1;
  raw_store(into, value);
  landing_is_ready = 0;
  return Ending::data;
}

// --- the watchdog

Watchdog::Watchdog() : thread_([this] { run(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stops_.notify_all();
  thread_.join();
}

Watchdog::Thread& Watchdog::watch(std::string name) {
  const std::lock_guard lock(mutex_);
  return threads_.emplace_back(std::move(name));
}

// Each child, and the function of the kernel that it sleeps in: handle_userfault is a fault that
// nobody has answered.
std::string Watchdog::where_children_wait() {
  std::ostringstream text;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream children(task.path() / "children");
    for (pid_t child = 0; children >> child;) {
      std::string where;
      std::getline(std::ifstream("/proc/" + std::to_string(child) + "/wchan") >> std::ws, where);
      text << "  child " << child << ": " << (where.empty() ? "runs" : where) << "\n";
    }
  }
  return text.str();
}

void Watchdog::run() {
  std::unique_lock lock(mutex_);
  while (!stops_.wait_for(lock, std::chrono::milliseconds(200), [this] { return stopping_; })) {
    look();
  }
}

void Watchdog::look() {
  const auto now = std::chrono::steady_clock::now();
  for (Thread& thread : threads_) {
    const std::uint64_t steps = thread.steps();
    if (steps != thread.seen_ || thread.what_.load(std::memory_order_relaxed) == nullptr) {
      thread.seen_ = steps;
      thread.since_ = now;
    } else if (now - thread.since_ > kAtMost) {
      std::ostringstream text;
      text << thread.name_ << " hangs. Where all of them are:\n";
      for (const Thread& each : threads_) {
        const char* const what = each.what_.load(std::memory_order_relaxed);
        text << "  " << each.name_ << ": " << (what == nullptr ? "rests" : what) << " at "
             << each.where_.load(std::memory_order_relaxed) << ", step " << each.steps() << "\n";
      }
      std::cerr << text.str() << where_children_wait() << std::flush;
      ::_exit(kExitCode);
    }
  }
}

}  // namespace faultline::testing
