// faultctl top, on a terminal and without one.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "faultline/pin.h"
#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"
#include "tests/system/terminal.hpp"

namespace faultline::testing {
namespace {

constexpr std::size_t kPages = 64;

// A process that keeps faulting: it maps, touches pages and gives them back, so many at a time,
// until it is killed.
class Faulting {
 public:
  Faulting(const std::string& socket, std::size_t pages)
      : child_([&socket, pages] {
          const Client client = connect(socket);
          const Object object = create(client, kPages * kPage);
          const auto memory = map(object, kPages * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
          for (;;) {
            for (std::size_t page = 0; page < pages; ++page) memory[page * kPage] = std::byte{1};
            // Slow enough to leave a processor to the test.
            ::usleep(20'000);
            if (::madvise(memory.data(), memory.size(), MADV_DONTNEED) != 0) return 1;
          }
        }) {}
  [[nodiscard]] std::string pid() const { return std::to_string(child_.pid()); }
  void kill() const { child_.kill(SIGKILL); }

 private:
  Child child_;
};

class Top : public SystemTest {
 protected:
  [[nodiscard]] std::string command(const std::string& options = "") const {
    return FAULTCTL_BINARY " --socket " + daemon_.socket() + " top " + options;
  }
};

class TopOnTerminal : public Top {
 protected:
  void SetUp() override {
    if (!Terminal::available()) GTEST_SKIP() << "SKIPPED: no tmux here, see scripts/bootstrap";
    Top::SetUp();
    terminal_.emplace(daemon_.directory().string(), 150, 24);
  }
  void TearDown() override {
    terminal_.reset();
    Top::TearDown();
  }
  void start(const std::string& options = "--interval 0.25") {
    terminal_->type(command(options));
    ASSERT_TRUE(terminal_->until_shown("faultctl top: faultlined"));
  }
  // The program has ended, and the terminal is as it was: its own screen, and it echoes.
  void expect_restored() {
    EXPECT_TRUE(terminal_->until_gone("faultctl top: faultlined"));
    EXPECT_FALSE(terminal_->alternate());
    terminal_->type("stty -a | grep -ow -e -echo -e -icanon -e -icrnl; echo checked$((1+1))");
    EXPECT_TRUE(terminal_->until_shown("checked2"));
    const std::string screen = terminal_->screen();
    // The line that was typed shows each once.
    for (const char* mode : {"\n-echo", "\n-icanon", "\n-icrnl"}) {
      EXPECT_EQ(screen.find(mode), std::string::npos) << screen;
    }
  }
  // Where on the screen the row of this process is; 0 where it is not.
  static std::size_t row_of(const std::string& screen, const std::string& pid) {
    std::istringstream lines(screen);
    std::size_t at = 1;
    for (std::string line; std::getline(lines, line); ++at) {
      std::istringstream words(line);
      std::string first;
      if (words >> first && first == pid) return at;
    }
    return 0;
  }

  std::optional<Terminal> terminal_;
};

TEST_F(TopOnTerminal, RowsAreSortedByFaultsAndTheOtherWayRound) {
  const Faulting few(daemon_.socket(), 1);
  const Faulting many(daemon_.socket(), 60);
  const std::string idle = std::to_string(::getpid());
  start();
  EXPECT_TRUE(terminal_->until([&](const std::string& now) {
    const auto first = row_of(now, many.pid());
    const auto second = row_of(now, few.pid());
    const auto third = row_of(now, idle);
    return first != 0 && first < second && second < third;
  }));
  terminal_->press("r");
  EXPECT_TRUE(terminal_->until([&](const std::string& now) {
    return now.find("sorted by FAULTS/S, reversed") != std::string::npos &&
           row_of(now, many.pid()) > row_of(now, few.pid());
  }));
  terminal_->press("P");
  EXPECT_TRUE(terminal_->until_shown("sorted by PID"));
  terminal_->press("q");
  expect_restored();
}

TEST_F(TopOnTerminal, EnterShowsTheMappingsAndBackspaceTheProcesses) {
  const Object object = create(client_, 4 * kPage, "looked.into");
  const auto memory = map(object, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  memory[0] = std::byte{1};
  std::ostringstream start_address;
  start_address << std::hex << reinterpret_cast<std::uintptr_t>(memory.data());
  start();
  ASSERT_TRUE(terminal_->until_shown(std::to_string(::getpid())));
  terminal_->press("Enter");
  EXPECT_TRUE(terminal_->until_shown("mappings of " + std::to_string(::getpid())));
  EXPECT_TRUE(terminal_->until_shown(start_address.str()));
  EXPECT_TRUE(terminal_->until([&](const std::string& now) {
    return now.find("looked.into") != std::string::npos &&
           now.find("4.0 KiB") != std::string::npos;  // in memory, which comes a little later
  }));
  terminal_->press("BSpace");
  EXPECT_TRUE(terminal_->until_shown("COMMAND"));
  terminal_->press("Enter");
  EXPECT_TRUE(terminal_->until_shown("START-END"));
  terminal_->press("Escape");
  EXPECT_TRUE(terminal_->until_shown("COMMAND"));
  terminal_->press("q");
  expect_restored();
}

// A process that ends while its mappings are shown leaves all processes on the screen.
TEST_F(TopOnTerminal, AProcessThatEndsIsLeft) {
  const Faulting other(daemon_.socket(), 60);
  start();
  ASSERT_TRUE(terminal_->until([&](const std::string& now) {
    const auto first = row_of(now, other.pid());
    return first != 0 && first < row_of(now, std::to_string(::getpid()));
  }));
  terminal_->press("Home");
  terminal_->press("Enter");
  ASSERT_TRUE(terminal_->until_shown("mappings of " + other.pid()));
  other.kill();
  EXPECT_TRUE(terminal_->until_shown("COMMAND"));
  terminal_->press("q");
  expect_restored();
}

TEST_F(TopOnTerminal, FollowsTheSizeOfTheTerminal) {
  start();
  ASSERT_TRUE(terminal_->until_shown("WAITS"));
  terminal_->resize(40, 10);
  EXPECT_TRUE(terminal_->until_gone("WAITS"));
  EXPECT_TRUE(terminal_->until_shown("PID"));
  for (const std::string& line : terminal_->lines()) EXPECT_LE(line.size(), 40U) << line;
  terminal_->resize(5, 2);
  EXPECT_TRUE(terminal_->until_gone("PID"));
  terminal_->resize(150, 24);
  EXPECT_TRUE(terminal_->until_shown("WAITS"));
  terminal_->press("q");
  expect_restored();
}

TEST_F(TopOnTerminal, HelpPauseAndInterval) {
  start("--interval 1");
  terminal_->press("h");
  EXPECT_TRUE(terminal_->until_shown("faultctl top: keys"));
  terminal_->press("h");
  EXPECT_TRUE(terminal_->until_shown("every 1 s"));
  terminal_->press("+");
  EXPECT_TRUE(terminal_->until_shown("every 2 s"));
  terminal_->press("p");
  EXPECT_TRUE(terminal_->until_shown("PAUSED"));
  terminal_->press("p");
  EXPECT_TRUE(terminal_->until_gone("PAUSED"));
  terminal_->press("q");
  expect_restored();
}

TEST_F(TopOnTerminal, ASignalThatEndsItRestoresTheTerminal) {
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT}) {
    start();
    EXPECT_TRUE(terminal_->alternate());
    const pid_t program = terminal_->program();
    ASSERT_GT(program, 0);
    ASSERT_EQ(::kill(program, signal), 0);
    expect_restored();
    terminal_->type("clear");
  }
}

TEST_F(TopOnTerminal, StopsAndGoesOnAsAShellAsks) {
  start();
  terminal_->press("C-z");
  EXPECT_TRUE(terminal_->until_shown("Stopped"));
  EXPECT_FALSE(terminal_->alternate());
  terminal_->type("echo still$((1+1))");
  EXPECT_TRUE(terminal_->until_shown("still2"));
  terminal_->type("fg");
  EXPECT_TRUE(terminal_->until_shown("faultctl top: faultlined"));
  EXPECT_TRUE(terminal_->alternate());
  terminal_->press("h");
  EXPECT_TRUE(terminal_->until_shown("faultctl top: keys"));
  terminal_->press("q");
  expect_restored();
}

// A daemon that goes is said to be gone, and the next one at its place is taken up.
TEST_F(TopOnTerminal, FindsADaemonAgain) {
  auto first = std::make_unique<Daemon>();
  const std::filesystem::path link = daemon_.directory() / "current.sock";
  std::filesystem::create_symlink(first->socket(), link);
  terminal_->type(FAULTCTL_BINARY " --socket " + link.string() + " top --interval 0.25");
  ASSERT_TRUE(terminal_->until_shown("pid " + std::to_string(first->pid()) + ","));
  first->stop();
  EXPECT_TRUE(terminal_->until_shown("NO DAEMON"));
  const Daemon second;
  std::filesystem::remove(link);
  std::filesystem::create_symlink(second.socket(), link);
  EXPECT_TRUE(terminal_->until_shown("pid " + std::to_string(second.pid()) + ","));
  EXPECT_TRUE(terminal_->until_gone("NO DAEMON"));
  terminal_->press("q");
  expect_restored();
}

// Colours where the terminal has them, and none where the user wants none.
TEST_F(TopOnTerminal, ColoursAreOnlyWhereTheyAreWanted) {
  const auto coloured = [&] {
    return run("env -u TMUX TMUX_TMPDIR=" + daemon_.directory().string() +
               " tmux -L test capture-pane -p -e")
               .output.find("\x1b[36m") != std::string::npos;
  };
  start();
  EXPECT_TRUE(eventually(coloured));
  terminal_->press("q");
  expect_restored();
  terminal_->type("clear; NO_COLOR=1 " + command());
  ASSERT_TRUE(terminal_->until_shown("faultctl top: faultlined"));
  EXPECT_FALSE(coloured());
  terminal_->press("q");
  expect_restored();
}

// A terminal of lines gets lines.
TEST_F(TopOnTerminal, ATerminalWithoutACursorGetsLines) {
  terminal_->type("TERM=dumb " + command("--interval 0.2"));
  EXPECT_TRUE(terminal_->until_shown("faults/s"));
  EXPECT_FALSE(terminal_->alternate());
  terminal_->press("C-c");
  EXPECT_TRUE(terminal_->until(
      [](const std::string& now) { return now.rfind("ready:") > now.rfind("faults/s"); }));
}

TEST_F(Top, PrintsLinesWithoutATerminal) {
  const Faulting busy(daemon_.socket(), 50);
  const Ran ran = run(command("--count 2 --interval 0.3 --sort faults"));
  EXPECT_EQ(ran.code, 0) << ran.output;
  std::size_t refreshes = 0;
  for (auto at = ran.output.find("faults/s"); at != std::string::npos;
       at = ran.output.find("faults/s", at + 1)) {
    ++refreshes;
  }
  EXPECT_EQ(refreshes, 2U) << ran.output;
  EXPECT_LT(ran.output.find(busy.pid()), ran.output.find("\n\n")) << ran.output;
}

// What is printed is what happened: as many faults a second as there were between two refreshes.
TEST_F(Top, JsonHasRatesAndWhatASpaceHolds) {
  const Object object = create(client_, kPages * kPage, "held");
  const auto memory = map(object, kPages * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto view = map(object, kPages * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  view[0] = std::byte{1};
  fl_pinned pin{};
  ASSERT_EQ(fl_pin(memory.data(), kPage, FL_PIN_WRITE, &pin), 0) << fl_last_error();
  const Faulting busy(daemon_.socket(), 50);
  const Ran ran = run(command("--count 1 --interval 1 --json"));
  ASSERT_EQ(ran.code, 0) << ran.output;
  const auto top = nlohmann::json::parse(ran.output)["top"];
  EXPECT_GT(top["seconds"], 0.5);
  std::map<std::string, nlohmann::json> spaces;
  for (const auto& space : top["spaces"]) spaces[space["pid"].dump()] = space;
  const auto& ours = spaces[std::to_string(::getpid())];
  EXPECT_EQ(ours["faults_per_second"], 0.0);
  EXPECT_EQ(ours["copied_bytes"], kPage);
  EXPECT_EQ(ours["resident_bytes"], 2 * kPage);
  EXPECT_EQ(ours["pins"], 1);
  EXPECT_GT(spaces[busy.pid()]["faults_per_second"], 0.0);
  EXPECT_GT(spaces[busy.pid()]["breaks_per_second"], 0.0);
  EXPECT_EQ(top["spaces"].at(0)["pid"].dump(), busy.pid());
  EXPECT_EQ(fl_unpin(&pin), 0);
}

TEST_F(Top, WrongOptionsAreRefusedInWords) {
  const std::vector<std::pair<std::string, std::string>> wrongs = {
      {"--interval 0", "--interval must be 0.1 to 3600 seconds, not 0"},
      {"--interval x", "--interval must be 0.1 to 3600 seconds, not x"},
      {"--interval nan", "--interval must be 0.1 to 3600 seconds, not nan"},
      {"--sort size", "no such column to sort by: size; there are pid,uid,faults"},
      {"--count 0", "--count must be a positive whole number, not 0"},
  };
  for (const auto& [options, words] : wrongs) {
    const Ran ran = run(command(options));
    EXPECT_EQ(ran.code, 2) << options;
    EXPECT_NE(ran.output.find(words), std::string::npos) << ran.output;
  }
}

// Who stops reading ends it, and so does SIGTERM, both without a complaint.
TEST_F(Top, EndsWithItsReader) {
  const Ran ran =
      run("bash -o pipefail -c '" + command("--plain --interval 0.1") + " | head -n 1'");
  EXPECT_EQ(ran.code, 0) << ran.output;
  EXPECT_EQ(ran.output.find("faultctl:"), std::string::npos) << ran.output;
}

}  // namespace
}  // namespace faultline::testing
