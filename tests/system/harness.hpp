// Verbs for tests against a real daemon: start it, ask it, run code in other processes, wait for a
// state. Must never hide a failure: what cannot be set up fails the test in words.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "faultline/faultline.h"
#include "faultline/wire/packet.hpp"

namespace faultline::testing {

// Of the objects that are made below. Tests that hold for pages of any size are built for both.
#ifndef FAULTLINE_TEST_PAGE
#define FAULTLINE_TEST_PAGE 4096
#endif
inline constexpr std::size_t kPage = FAULTLINE_TEST_PAGE;
inline constexpr bool kHugePages = kPage != 4096;
// What fl_progress counts in.
inline constexpr std::size_t kCounted = kPage / 4096;
// A test of what cannot be, or means nothing, there.
#define SKIP_WITH_HUGE_PAGES(why) \
  if (kHugePages) GTEST_SKIP() << "with pages of 2 MiB: " << (why)

// A faultlined of the test's own, in a directory of its own. Stopped with SIGTERM, and it must exit
// 0.
class Daemon {
 public:
  explicit Daemon(std::vector<std::string> options = {}, uid_t uid = 0);
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;
  ~Daemon();

  [[nodiscard]] const std::string& socket() const { return socket_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] const std::filesystem::path& directory() const { return directory_; }
  [[nodiscard]] bool ready() const { return ready_; }
  // SIGTERM, and the wait status; -1 when it was stopped before.
  int stop();
  // Has it stand still; returns when all of its threads do.
  void pause() const;
  void resume() const;
  // What it wrote to its log so far.
  [[nodiscard]] std::string log() const;
  // An admin question, as faultctl asks it.
  [[nodiscard]] nlohmann::json ask(wire::AdminQuery query, pid_t pid = 0) const;
  // One or two may be on their way out: what came from clients is closed a little later. So compare
  // for "not more than before".
  [[nodiscard]] std::size_t open_descriptors() const;
  // What each of them is, a line each.
  [[nodiscard]] std::string describe_descriptors() const;

 private:
  std::filesystem::path directory_;
  std::string socket_;
  pid_t pid_ = -1;
  bool ready_ = false;
};

// What a child process came to: how waitpid(2) tells it, in words that a failed expectation can
// show.
struct Outcome {
  int status = 0;
  [[nodiscard]] bool exited(int code) const;
  [[nodiscard]] bool killed_by(int signal) const;
};
std::ostream& operator<<(std::ostream& out, const Outcome& outcome);

// A process forked from this one. body's result is its exit code; it never returns into the test.
class Child {
 public:
  explicit Child(const std::function<int()>& body);
  Child(Child&& other) noexcept;
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child();  // kills and reaps what was not waited for

  [[nodiscard]] pid_t pid() const { return pid_; }
  void kill(int signal) const;
  Outcome wait();

 private:
  pid_t pid_;
};
inline Outcome in_child(const std::function<int()>& body) {
  return Child(body).wait();
}

// One byte across, each way to be used once or more: how processes of a test take turns.
class Gate {
 public:
  Gate();
  void open() const;
  // False when nobody can open it any more.
  [[nodiscard]] bool pass() const;

 private:
  UniqueFd read_;
  UniqueFd write_;
};

// Until the condition holds; false after the time given. For what the daemon does by itself, and
// only shows when asked.
bool eventually(const std::function<bool()>& condition,
                std::chrono::milliseconds within = std::chrono::milliseconds(3000));

// Closed at the end of its scope; passes for the library's own pointer.
template <typename T, int (*kClose)(T*)>
class Handle {
 public:
  Handle() = default;
  explicit Handle(T* raw) : raw_(raw) {}
  Handle(Handle&& other) noexcept : raw_(other.release()) {}
  Handle& operator=(Handle&& other) noexcept {
    reset();
    raw_ = other.release();
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { reset(); }

  operator T*() const { return raw_; }  // NOLINT(google-explicit-constructor): see above
  T* release() { return std::exchange(raw_, nullptr); }
  void reset() { (void)kClose(release()); }

 private:
  T* raw_ = nullptr;
};
using Client = Handle<fl_client, fl_disconnect>;
using Object = Handle<fl_object, fl_object_close>;

// The client side in a few words. Each fails the test, and says why, where the library fails.
Client connect(const std::string& socket);
Object create(fl_client* client, std::size_t bytes, const char* name = nullptr,
              std::uint32_t mode = 0600, std::uint32_t flags = 0);
Object create_from(fl_client* client, int file, std::size_t bytes = 0, const char* name = nullptr);
std::span<std::byte> map(fl_object* object, std::size_t bytes, std::uint32_t flags,
                         std::uint64_t offset = 0);
fl_stats stats_of(fl_client* client, const void* address);

// The call fails with this errno, and fl_last_error() has these words, of this very failure.
void expect_refused(int code, const std::string& words, const std::function<int()>& call);

// Reads the byte for certain, whatever the optimizer thinks of it; 0.
inline int touch(const std::byte& byte) {
  (void)*static_cast<const volatile std::byte*>(&byte);
  return 0;
}

// A file in memory with a pattern that tells every byte's place.
class PatternFile {
 public:
  explicit PatternFile(std::size_t bytes);
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }
  void truncate(std::size_t bytes) const;

 private:
  UniqueFd fd_;
  std::vector<std::byte> bytes_;
};

// A test with a daemon and a connected client.
class SystemTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  Daemon daemon_;
  Client client_;
};

}  // namespace faultline::testing
