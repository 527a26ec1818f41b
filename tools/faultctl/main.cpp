// faultctl: shows what a running faultlined holds and does. This file turns a command line into one
// question and prints the answer.
#include <sys/un.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "faultline/wire/socket_path.hpp"
#include "tools/faultctl/query.hpp"
#include "tools/faultctl/table.hpp"

namespace {

using faultline::wire::AdminQuery;

constexpr int kExitRefused = 1;
constexpr int kExitUsage = 2;
constexpr int kExitUnreachable = 3;

constexpr const char* kDescription =
    "NAME\n  faultctl - show the memory objects, address spaces and mappings of a faultlined\n\n"
    "DESCRIPTION\n"
    "  Asks the daemon one question and prints a table, or the JSON text with --json. Root, and "
    "the\n"
    "  daemon's own user, see everything; everybody else sees the processes and objects of their "
    "own.";
constexpr const char* kFooter =
    "COLUMNS\n"
    "  RESIDENT  bytes in memory: in objects, of the object, once for all; elsewhere, in this\n"
    "            process: SHARED pages of the object + PRIVATE copies\n"
    "  MODE      who may open the object by its name, as chmod(1) writes it\n"
    "  OPEN      handles of the object, in all processes\n"
    "  MAPPED    in objects, mappings of the object, in all processes; in spaces, bytes mapped\n"
    "  FROM      what fills the object's pages: a file, or zero\n"
    "  PERMS     as /proc/PID/maps writes them: r, w; s or p, shared or private (copy-on-write)\n"
    "  OFFSET    where in the object the mapping begins, in bytes, hexadecimal\n"
    "  OBJECT    the object's ID, see objects; NAME, its name, and - where it has none\n"
    "  KIND      shared, or private (copy-on-write)\n"
    "  MISSING   faults on pages that were in no memory\n"
    "  MINOR     faults on pages that were in memory, and not in this mapping\n"
    "  WP        first writes to pages that were mapped read-only\n"
    "  COPIED    private copies that the daemon installed\n"
    "  BREAKS    pages that are, or may by now be, the process's own\n"
    "  AHEAD     copies made before they were asked for; UNUSED: at most so many never were\n"
    "  POISONED  pages that could not be supplied: SIGBUS\n"
    "  FAILED    reads of an object's file that failed\n"
    "  A PID of ? is a fork child that has neither faulted nor connected yet.\n\n"
    "ENVIRONMENT\n"
    "  FAULTLINE_SOCKET  the daemon's socket, where --socket is not given\n"
    "  XDG_RUNTIME_DIR   where neither is, the user's own daemon is asked, at\n"
    "                    $XDG_RUNTIME_DIR/faultline/faultlined.sock, and where none listens "
    "there,\n"
    "                    the system's, at /run/faultline/faultlined.sock\n\n"
    "EXIT STATUS\n"
    "  0 answered; 1 the daemon refused, or knows no such process; 2 wrong usage; 3 no daemon to "
    "ask,\n  or none that answers within 5 s.\n\n"
    "SEE ALSO\n  faultlined --help";

struct Command {
  AdminQuery query;
  std::string (*show)(const nlohmann::json&);
};

struct WrongUsage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Question {
  Command command{};
  std::uint32_t pid = 0;
  std::optional<std::string> socket_path;
  bool as_json = false;

  // Before a command and after it, so that each command's own help is whole.
  void add_options(CLI::App& to) {
    to.add_option("--socket", socket_path, "the daemon's socket")->type_name("PATH");
    to.add_flag("--json", as_json, "print the answer as JSON, see docs/faultctl.md");
  }
};

std::uint32_t pid_from(const std::string& text) {
  std::uint32_t pid = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, code] = std::from_chars(text.data(), end, pid);
  if (code != std::errc{} || stopped != end || pid == 0) {
    throw WrongUsage("PID must be a positive whole number, not " + text);
  }
  return pid;
}

void check_socket_path(const std::string& path) {
  constexpr std::size_t kLongest = sizeof(sockaddr_un::sun_path) - 1;
  if (path.empty() || path.size() > kLongest) {
    throw WrongUsage("--socket must be a path of 1 to " + std::to_string(kLongest) + " bytes");
  }
}

// Throws CLI::ParseError, for --help too, and WrongUsage.
Question parse(CLI::App& app, int argc, const char* const* argv) {
  Question question;
  app.footer(kFooter);
  app.set_version_flag("--version", FAULTLINE_VERSION);
  app.require_subcommand(0, 1);
  app.allow_extras();  // told below in words that fit; -3 is no option here
  question.add_options(app);
  std::optional<Command> chosen;
  const auto add = [&](const char* name, const char* help, Command command) {
    CLI::App* subcommand = app.add_subcommand(name, help);
    subcommand->footer("What the columns mean: faultctl --help");
    question.add_options(*subcommand);
    subcommand->callback([&chosen, command] { chosen = command; });
    return subcommand;
  };
  add("status", "the daemon: version, load, faults",
      {AdminQuery::status, faultline::ctl::show_status});
  add("objects", "memory objects: size, owner, use",
      {AdminQuery::objects, faultline::ctl::show_objects});
  add("spaces", "client processes: mappings, memory, faults by kind",
      {AdminQuery::spaces, faultline::ctl::show_spaces});
  std::string pid;
  CLI::Option* const pid_option =
      add("vmas", "the mappings of one process", {AdminQuery::vmas, faultline::ctl::show_vmas})
          ->add_option("PID", pid, "the process")
          ->type_name("");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    pid_option->required();  // for the help alone: its absence is told below
    throw;
  }

  std::vector<std::string> extras = app.remaining(true);
  const bool wants_pid = chosen && chosen->query == AdminQuery::vmas;
  if (wants_pid && pid.empty() && !extras.empty()) {
    pid = extras.front();
    extras.erase(extras.begin());
  }
  if (!extras.empty()) {
    const std::string& extra = extras.front();
    if (extra.rfind('-', 0) == 0) throw WrongUsage("no such option: " + extra);
    throw WrongUsage((chosen ? "one argument too many: " : "no such command: ") + extra);
  }
  if (!chosen) throw WrongUsage("which command?");
  if (wants_pid && pid.empty()) throw WrongUsage("vmas of which PID?");
  if (wants_pid) question.pid = pid_from(pid);
  if (question.socket_path) check_socket_path(*question.socket_path);
  question.command = *chosen;
  return question;
}

void answer(const Question& question) {
  const auto paths = question.socket_path ? std::vector<std::string>{*question.socket_path}
                                          : faultline::wire::client_socket_paths();
  const nlohmann::json answer = faultline::ctl::ask(paths, {question.command.query, question.pid});
  std::cout << (question.as_json ? answer.dump(2) + "\n" : question.command.show(answer));
  if (!std::cout.flush()) throw faultline::ctl::Refused("writing the answer failed");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{kDescription, "faultctl"};
  const auto fails = [](const std::exception& error, int code) {
    std::cerr << "faultctl: " << error.what() << '\n';
    return code;
  };
  try {
    answer(parse(app, argc, argv));
    return EXIT_SUCCESS;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? EXIT_SUCCESS : kExitUsage;
  } catch (const WrongUsage& error) {
    const int code = fails(error, kExitUsage);
    std::cerr << "Run faultctl --help for more.\n";
    return code;
  } catch (const faultline::ctl::Refused& error) {
    return fails(error, kExitRefused);
  } catch (const std::exception& error) {
    return fails(error, kExitUnreachable);
  }
}
