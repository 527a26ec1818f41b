// A machine for a test: systemd as process 1 in namespaces of its own, on this kernel, with this
// machine's files, or another root's, below what it changes itself. Must never change anything
// outside, and must be gone when it is destroyed, with all its processes.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"

namespace faultline::testing {

class Machine {
 public:
  // Why there can be none here, in words; empty where there can.
  static std::string missing();

  // Has booted when it returns. root: the directory it starts from. seen: directories of this
  // machine that it has too, at the same place; what is written there stays in it.
  explicit Machine(const std::filesystem::path& root = "/",
                   const std::vector<std::filesystem::path>& seen = {});
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  ~Machine();

  // systemd runs, and its first target is reached.
  [[nodiscard]] bool booted() const { return booted_; }
  // What it said where it did not boot.
  [[nodiscard]] std::string console() const;
  // As root, in the machine, by its /bin/sh, with this process's environment cleared.
  [[nodiscard]] Ran run(const std::string& command) const;
  // The same, which must succeed; returns what it printed.
  std::string must(const std::string& command) const;
  // Writes a file there, and the directories above it.
  void write(const std::filesystem::path& path, const std::string& text,
             unsigned mode = 0644) const;
  // How a process of this machine is started that lives in it: the words before its command.
  [[nodiscard]] std::vector<std::string> enter() const;
  // Process 1, as this machine numbers it.
  [[nodiscard]] pid_t init() const { return init_; }

 private:
  std::filesystem::path directory_;
  pid_t boot_ = -1;
  pid_t init_ = -1;
  bool booted_ = false;
};

}  // namespace faultline::testing
