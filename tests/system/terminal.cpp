#include "tests/system/terminal.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"

namespace faultline::testing {

namespace {
constexpr std::chrono::seconds kWithin{15};
}

bool Terminal::available() {
  return run("tmux -V").code == 0;
}

Terminal::Terminal(const std::string& directory, int columns, int rows)
    : server_("env -u TMUX TMUX_TMPDIR=" + directory +
              " LC_ALL=C.UTF-8 tmux -L test -f /dev/null ") {
  // A shell that says nothing of its own, and whose prompt is known.
  const Ran made = run(server_ + "new-session -d -x " + std::to_string(columns) + " -y " +
                       std::to_string(rows) + " 'env -u NO_COLOR PS1=ready: sh -i'");
  EXPECT_EQ(made.code, 0) << made.output;
  EXPECT_TRUE(until_shown("ready:"));
}

Terminal::~Terminal() {
  (void)tmux("kill-server");
}

std::string Terminal::tmux(const std::string& arguments) const {
  return run(server_ + arguments).output;
}

void Terminal::type(const std::string& line) const {
  (void)tmux("send-keys -l '" + line + "'");
  press("Enter");
}

void Terminal::press(const std::string& keys) const {
  const std::string said = tmux("send-keys " + keys);
  EXPECT_EQ(said, "");
}

void Terminal::resize(int columns, int rows) const {
  const std::string said =
      tmux("resize-window -x " + std::to_string(columns) + " -y " + std::to_string(rows));
  EXPECT_EQ(said, "");
}

std::string Terminal::screen() const {
  return tmux("capture-pane -p");
}

std::vector<std::string> Terminal::lines() const {
  std::istringstream text(screen());
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  return lines;
}

bool Terminal::until(const std::function<bool(const std::string&)>& holds) const {
  const bool held = eventually([&] { return holds(screen()); }, kWithin);
  if (!held) ADD_FAILURE() << "the screen is\n" << screen();
  return held;
}

bool Terminal::until_shown(const std::string& words) const {
  return until([&](const std::string& now) { return now.find(words) != std::string::npos; });
}

bool Terminal::until_gone(const std::string& words) const {
  return until([&](const std::string& now) { return now.find(words) == std::string::npos; });
}

bool Terminal::alternate() const {
  return tmux("display-message -p '#{alternate_on}'") == "1\n";
}

pid_t Terminal::program() const {
  std::istringstream shell(tmux("display-message -p '#{pane_pid}'"));
  pid_t pid = 0;
  shell >> pid;
  const std::string task = std::to_string(pid);
  std::ifstream children("/proc/" + task + "/task/" + task + "/children");
  pid_t child = 0;
  children >> child;
  return child;
}

}  // namespace faultline::testing
