// What the shells complete: exactly the commands and options that --help has, and what a daemon
// knows. Each shell completes by its own machinery.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

using Words = std::set<std::string>;

Words words_in(const std::string& text) {
  std::istringstream in(text);
  Words words;
  for (std::string word; in >> word;) words.insert(word);
  return words;
}

// What a help text lists: words at the beginning of indented lines.
Words listed(const std::string& help, const std::string& heading) {
  Words words;
  std::istringstream in(help);
  bool within = false;
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line.front() != ' ') {
      within = line.rfind(heading, 0) == 0;
      continue;
    }
    // Two blanks, and no more: what is indented deeper goes on from the line before.
    if (!within || line.size() < 3 || line[2] == ' ') continue;
    std::istringstream beginning(line.substr(2, line.find("  ", 2) - 2));
    for (std::string word; std::getline(beginning, word, ',');) {
      words.insert(word.substr(0, word.find(' ')));
    }
  }
  return words;
}

Words commands_of_help() {
  return listed(run(FAULTCTL_BINARY " --help").output, "Subcommands:");
}

Words options_of_help(const std::string& command) {
  Words options = listed(run(FAULTCTL_BINARY " " + command + " --help").output, "Options:");
  options.erase("-h");  // --help is the same
  return options;
}

// A shell that completes a command line: each of its answers is a word.
class Shell {
 public:
  explicit Shell(std::filesystem::path directory) : directory_(std::move(directory)) {}
  Shell(const Shell&) = delete;
  Shell& operator=(const Shell&) = delete;
  virtual ~Shell() = default;
  [[nodiscard]] virtual std::string name() const = 0;
  // The last of the words is the one that is completed, and may be empty.
  [[nodiscard]] virtual std::string complete(const std::vector<std::string>& words) const = 0;

 protected:
  // Runs a script of this shell's with faultctl on the PATH.
  [[nodiscard]] std::string run_script(const std::string& interpreter,
                                       const std::string& script) const {
    const std::string file = (directory_ / ("script." + name())).string();
    std::ofstream(file) << script;
    return run("cd / && PATH=" + std::filesystem::path(FAULTCTL_BINARY).parent_path().string() +
               ":$PATH HOME=" + directory_.string() + " " + interpreter + " " + file)
        .output;
  }
  static std::string quoted(const std::string& word) { return "'" + word + "'"; }

 private:
  std::filesystem::path directory_;
};

constexpr const char* kFiles = SOURCE_DIRECTORY "/tools/faultctl/completion";

class Bash final : public Shell {
 public:
  explicit Bash(const std::filesystem::path& directory, bool loader)
      : Shell(directory), loader_(loader) {}
  [[nodiscard]] std::string name() const override { return "bash"; }
  [[nodiscard]] std::string complete(const std::vector<std::string>& words) const override {
    std::string line;
    std::string list;
    for (const std::string& word : words) {
      line += (line.empty() ? "" : " ") + word;
      list += " " + quoted(word);
    }
    const std::string last = std::to_string(words.size() - 1);
    return run_script(
        "bash --norc",
        std::string(loader_ ? "source /usr/share/bash-completion/bash_completion\n" : "") +
            "source " + kFiles + "/faultctl.bash\n" + "COMP_WORDS=(" + list +
            ")\nCOMP_CWORD=" + last + "\nCOMP_LINE=" + quoted(line) +
            "\nCOMP_POINT=${#COMP_LINE}\nCOMP_TYPE=9 COMP_KEY=9\n"
            // As complete says: this is what readline calls.
            "f=$(complete -p faultctl | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
            "\"$f\" faultctl \"${COMP_WORDS[COMP_CWORD]}\" "
            "\"${COMP_WORDS[COMP_CWORD-1]}\"\n"
            "printf '%s\\n' \"${COMPREPLY[@]}\"\n");
  }

 private:
  bool loader_;  // with bash-completion's own functions
};

class Fish final : public Shell {
 public:
  using Shell::Shell;
  [[nodiscard]] std::string name() const override { return "fish"; }
  [[nodiscard]] std::string complete(const std::vector<std::string>& words) const override {
    std::string line;
    for (std::size_t i = 0; i < words.size(); ++i) line += (i == 0 ? "" : " ") + words[i];
    // What follows the tabulator describes.
    return run_script("fish --no-config", "source " + std::string(kFiles) + "/faultctl.fish\n" +
                                              "complete -C " + quoted(line) +
                                              " | string replace -r '\\t.*' ''\n");
  }
};

// An interactive zsh in a terminal of its own (zpty), whose completions are listed by the widget
// that Tab runs.
class Zsh final : public Shell {
 public:
  using Shell::Shell;
  [[nodiscard]] std::string name() const override { return "zsh"; }
  [[nodiscard]] std::string complete(const std::vector<std::string>& words) const override {
    std::string line;
    for (std::size_t i = 0; i < words.size(); ++i) line += (i == 0 ? "" : " ") + words[i];
    return run_script("timeout 30 zsh -f", R"(
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1= PS2= RPS1="
zpty -w shell 'fpath=()" + std::string(kFiles) +
                                               R"( $fpath)'
zpty -w shell 'autoload -Uz compinit && compinit -u -D'
# Every match is written down, instead of being shown.
zpty -w shell 'compadd() {
  local -a hits; local -A parsed; zparseopts -E -D -a ignored -A parsed O: A: D:
  if (( ${+parsed[-O]} + ${+parsed[-A]} + ${+parsed[-D]} )); then
    builtin compadd ${(kv)parsed} $ignored "$@"; return
  fi
  builtin compadd -O hits $ignored "$@"
  (( $#hits )) && print -rl -- "<<"${^hits}">>"
  builtin compadd $ignored "$@"
}'
zpty -w shell 'done-with-it() { print -r -- "++E""ND++"; }; zle -N done-with-it; bindkey "^X" done-with-it'
zpty -w shell 'zstyle ":completion:*" list-prompt ""; unsetopt ALWAYS_LAST_PROMPT AUTO_LIST BEEP; bindkey "^I" complete-word'
# Said when the line editor has the terminal: what is typed before could be lost.
zpty -w shell 'zle-line-init() { print -r -- "++REA""DY++"; }; zle -N zle-line-init'
zpty -r -m shell seen '*++READY++*'
zpty -w -n shell ")" + line + R"("$'\t\x18'
zpty -r -m shell seen '*++END++*'
print -r -- "$seen" | tr -d '\r' | sed -n 's/^.*<<\(.*\)>>.*$/\1/p'
zpty -d shell
)");
  }
};

class Completion : public SystemTest {
 protected:
  static bool there(const std::string& program) { return run("command -v " + program).code == 0; }
  // Every shell that is here; the others are named.
  std::vector<std::unique_ptr<Shell>> shells() const {
    std::vector<std::unique_ptr<Shell>> all;
    const auto& directory = daemon_.directory();
    if (there("bash")) all.push_back(std::make_unique<Bash>(directory, false));
    if (std::filesystem::exists("/usr/share/bash-completion/bash_completion")) {
      all.push_back(std::make_unique<Bash>(directory, true));
    } else {
      std::cout << "SKIPPED: no bash-completion here, see scripts/bootstrap\n";
    }
    if (there("fish")) {
      all.push_back(std::make_unique<Fish>(directory));
    } else {
      std::cout << "SKIPPED: no fish here, see scripts/bootstrap\n";
    }
    if (there("zsh")) {
      all.push_back(std::make_unique<Zsh>(directory));
    } else {
      std::cout << "SKIPPED: no zsh here, see scripts/bootstrap\n";
    }
    return all;
  }
};

TEST_F(Completion, HasTheCommandsThatTheHelpHas) {
  const Words commands = commands_of_help();
  ASSERT_GE(commands.size(), 13U);
  for (const auto& shell : shells()) {
    EXPECT_EQ(words_in(shell->complete({"faultctl", ""})), commands) << shell->name();
  }
}

TEST_F(Completion, HasTheOptionsThatTheHelpOfEachCommandHas) {
  Words commands = commands_of_help();
  commands.insert("");  // none: faultctl's own
  for (const std::string& command : commands) {
    const Words options = options_of_help(command);
    ASSERT_TRUE(options.contains("--json") && options.contains("--help")) << command;
    std::vector<std::string> line = {"faultctl", command, "--"};
    if (command.empty()) line = {"faultctl", "--"};
    for (const auto& shell : shells()) {
      EXPECT_EQ(words_in(shell->complete(line)), options) << shell->name() << ": " << command;
    }
  }
}

TEST_F(Completion, AsksTheDaemonForObjectsAndProcesses) {
  const Object object = create(client_, kPage, "an:object.name");
  const auto memory = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  memory[0] = std::byte{1};
  const std::string pid = std::to_string(::getpid());
  for (const auto& shell : shells()) {
    const auto offers = [&](std::vector<std::string> more) {
      std::vector<std::string> line = {"faultctl", "--socket", daemon_.socket()};
      line.insert(line.end(), more.begin(), more.end());
      return words_in(shell->complete(line));
    };
    EXPECT_TRUE(offers({"map", ""}).contains("an:object.name")) << shell->name();
    EXPECT_TRUE(offers({"evict", "an"}).contains("an:object.name")) << shell->name();
    EXPECT_TRUE(offers({"vmas", ""}).contains(pid)) << shell->name();
    EXPECT_TRUE(offers({"pins", "--pid", ""}).contains(pid)) << shell->name();
    EXPECT_TRUE(offers({"watch", "--object", ""}).contains("an:object.name")) << shell->name();
  }
}

// What a daemon that lies calls an object is a word to no shell, and a command to none.
TEST_F(Completion, CarriesOutNothingThatADaemonSays) {
  const std::filesystem::path liar = daemon_.directory() / "liar" / "faultctl";
  const std::filesystem::path done = daemon_.directory() / "done";
  std::filesystem::create_directory(liar.parent_path());
  std::ofstream(liar) << "#!/bin/sh\ncat <<'END'\n{\n  \"objects\": [\n    {\n      \"id\": 3,\n"
                      << "      \"name\": \"x$(touch${IFS}" << done.string()
                      << ")\"\n    }\n  ]\n}\nEND\n";
  std::filesystem::permissions(liar, std::filesystem::perms::owner_all);
  for (const auto& shell : shells()) {
    const Words offered = words_in(shell->complete({liar.string(), "map", ""}));
    EXPECT_TRUE(shell->name() != "bash" || offered.contains("3")) << "it was asked";
    EXPECT_FALSE(std::filesystem::exists(done)) << shell->name();
  }
}

// Without a daemon there is nothing to offer, and nothing to read on the terminal either.
TEST_F(Completion, SaysNothingWithoutADaemon) {
  for (const auto& shell : shells()) {
    const std::vector<std::string> line = {"faultctl", "--socket", "/nonexistent/socket", "map",
                                           ""};
    EXPECT_EQ(words_in(shell->complete(line)), Words{}) << shell->name();
  }
}

// The columns that top sorts by, and the kinds of events, are the ones that the program takes.
TEST_F(Completion, OffersValuesThatAreTaken) {
  for (const auto& shell : shells()) {
    const Words columns = words_in(shell->complete({"faultctl", "top", "--sort", ""}));
    EXPECT_EQ(columns.size(), 13U) << shell->name();
    for (const std::string& column : columns) {
      const Ran ran = run(FAULTCTL_BINARY " --socket /nonexistent/socket top --sort " + column);
      EXPECT_EQ(ran.code, 3) << shell->name() << ": " << column;
    }
    const Words kinds = words_in(shell->complete({"faultctl", "watch", "--event", ""}));
    EXPECT_EQ(kinds.size(), 6U) << shell->name();
  }
}

}  // namespace
}  // namespace faultline::testing
