// A program in a real terminal: a window of a tmux server of the test's own. Must never wait for a
// time: it waits for what the screen shows.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

namespace faultline::testing {

class Terminal {
 public:
  // Whether there is a tmux at all.
  static bool available();

  // A shell in a window of this size. directory: for the server's socket.
  Terminal(const std::string& directory, int columns, int rows);
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal();

  // Types a line, and Enter.
  void type(const std::string& line) const;
  // Keys as tmux(1) names them.
  void press(const std::string& keys) const;
  void resize(int columns, int rows) const;
  [[nodiscard]] std::string screen() const;
  [[nodiscard]] std::vector<std::string> lines() const;
  // Until the screen is so; false after the time given.
  [[nodiscard]] bool until(const std::function<bool(const std::string&)>& holds) const;
  [[nodiscard]] bool until_shown(const std::string& words) const;
  [[nodiscard]] bool until_gone(const std::string& words) const;
  // What the shell runs; 0 where that is nothing.
  [[nodiscard]] pid_t program() const;
  // Whether the program has the screen to itself, which it gave back otherwise.
  [[nodiscard]] bool alternate() const;

 private:
  [[nodiscard]] std::string tmux(const std::string& arguments) const;
  std::string server_;
};

}  // namespace faultline::testing
