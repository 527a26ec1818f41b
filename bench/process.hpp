// The other processes of a benchmark: the daemon, forked children, and an echo behind two pipes.
// Must never leave one behind: each dies with its owner, and with this process.
#pragma once

#include <sys/types.h>

#include <array>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "faultline/wire/unique_fd.hpp"

namespace faultline::bench {

// A faultlined of the benchmark's own, ready, on a socket of its own.
class Daemon {
 public:
  explicit Daemon(const std::string& binary, const std::vector<std::string>& arguments = {});
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;
  ~Daemon();

  [[nodiscard]] const std::string& socket() const { return socket_; }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  [[nodiscard]] std::string log() const;
  void stop();

  std::filesystem::path directory_;
  std::string socket_;
  pid_t pid_ = -1;
};

// One byte at a time.
class Pipe {
 public:
  Pipe();
  void put() const;
  // False when nobody can put anything any more.
  [[nodiscard]] bool get() const;
  void close_read() { read_.reset(); }
  void close_write() { write_.reset(); }

 private:
  UniqueFd read_;
  UniqueFd write_;
};

// Forked; runs body and exits. Killed when it outlives this object.
class Child {
 public:
  explicit Child(const std::function<void()>& body);
  Child(Child&& other) noexcept;
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child();

  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

// A process that sends every byte back: what two context switches and two pipes cost.
class Echo {
 public:
  Echo();
  void round_trip() const;
  [[nodiscard]] pid_t pid() const { return child_.pid(); }

 private:
  Pipe there_;
  Pipe back_;
  Child child_;
};

}  // namespace faultline::bench
