// faultctl: shows what a running faultlined holds and does. This file turns a command line into one
// question and prints the answer.
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iostream>

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
    "  RESIDENT  bytes in memory, in this process: SHARED pages of the object + PRIVATE copies\n"
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
    "  FAULTLINE_SOCKET  the daemon's socket, where --socket is not given\n\n"
    "EXIT STATUS\n"
    "  0 answered; 1 the daemon refused, or knows no such process; 2 wrong usage; 3 no daemon to "
    "ask.\n\n"
    "SEE ALSO\n  faultlined --help";

struct Command {
  AdminQuery query;
  std::string (*show)(const nlohmann::json&);
};

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{kDescription, "faultctl"};
  app.footer(kFooter);
  app.set_version_flag("--version", FAULTLINE_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  std::string socket_path = faultline::wire::client_socket_path();
  bool as_json = false;
  std::uint32_t pid = 0;
  app.add_option("--socket", socket_path, "the daemon's socket")->type_name("PATH");
  app.add_flag("--json", as_json, "print the answer as JSON, see docs/faultctl.md");
  Command chosen{};
  const auto add = [&](const char* name, const char* help, Command command) {
    CLI::App* subcommand = app.add_subcommand(name, help);
    subcommand->callback([&chosen, command] { chosen = command; });
    return subcommand;
  };
  add("status", "the daemon: version, load, faults",
      {AdminQuery::status, faultline::ctl::show_status});
  add("objects", "memory objects: size, owner, use",
      {AdminQuery::objects, faultline::ctl::show_objects});
  add("spaces", "client processes: mappings, memory, faults by kind",
      {AdminQuery::spaces, faultline::ctl::show_spaces});
  add("vmas", "the mappings of one process", {AdminQuery::vmas, faultline::ctl::show_vmas})
      ->add_option("pid", pid, "the process")
      ->required()
      ->check(CLI::PositiveNumber)
      ->type_name("PID");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? EXIT_SUCCESS : kExitUsage;
  }
  try {
    const nlohmann::json answer = faultline::ctl::ask(socket_path, {chosen.query, pid});
    std::cout << (as_json ? answer.dump(2) + "\n" : chosen.show(answer));
    return std::cout.flush() ? EXIT_SUCCESS : kExitRefused;
  } catch (const faultline::ctl::Refused& error) {
    std::cerr << "faultctl: " << error.what() << '\n';
    return kExitRefused;
  } catch (const std::exception& error) {
    std::cerr << "faultctl: " << error.what() << '\n';
    return kExitUnreachable;
  }
}
