// faultlined: the daemon that owns memory objects and answers the page faults of the processes that
// map them. This file turns a command line into settings and runs the server; it must hold no logic
// of its own.

#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <sstream>

#include "daemon/kernel/feature_check.hpp"
#include "daemon/server/server.hpp"
#include "daemon/server/settings.hpp"

namespace {

using faultline::server::Settings;

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

constexpr const char* kDescription =
    "faultlined - user-space virtual-memory manager\n\n"
    "Owns memory objects and resolves the page faults of the processes that map them through "
    "libfaultline. "
    "Runs in the foreground until SIGTERM or SIGINT.";
constexpr const char* kFooter =
    "FILES\n"
    "  /run/faultline/faultlined.sock             where root's daemon listens\n"
    "  $XDG_RUNTIME_DIR/faultline/faultlined.sock where a user's own daemon listens\n\n"
    "SETTINGS FILE (TOML)\n"
    "  Keys, each like the option of its name: socket_path (--socket), socket_mode, socket_group,\n"
    "  workers, max_object_bytes, max_objects, max_sessions, max_sessions_per_user,\n"
    "  max_spaces_per_user, log_level.\n"
    "  The command line wins over the file.\n\n"
    "EXIT STATUS\n"
    "  0 stopped by a signal, or --check found nothing missing; 1 could not start or go on, or "
    "--check\n"
    "  found something missing; 2 wrong usage or settings.\n\n"
    "SEE ALSO\n"
    "  faultctl --help";

// Every session and every address space takes a descriptor.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE,
                    &limit);  // without it, fewer clients: accept says so when it matters
}

int check() {
  const auto findings = faultline::kernel::check_features();
  std::cout << faultline::kernel::render(findings);
  return faultline::kernel::runnable(findings) ? EXIT_SUCCESS : kExitFailure;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{kDescription, "faultlined"};
  app.footer(kFooter);
  app.set_version_flag("--version", FAULTLINE_VERSION);
  app.get_formatter()->column_width(36);

  Settings given;
  std::string config;
  std::string mode_text;
  bool only_check = false;
  std::string socket_path;
  app.add_flag("--check", only_check, "say, feature by feature, whether this machine can run it");
  app.add_option("--config", config, "read settings from this TOML file")->type_name("FILE");
  app.add_option("--socket", socket_path, "listen here")->type_name("PATH");
  app.add_option("--socket-mode", mode_text, "permissions of the socket, octal; 0666 by default")
      ->type_name("MODE");
  app.add_option("--socket-group", given.socket_group, "group of the socket")->type_name("NAME");
  app.add_option("--workers", given.workers,
                 "fault worker threads for each user; 0: one a processor, at most 4");
  app.add_option("--max-object-bytes", given.max_object_bytes, "largest object; 4 TiB by default");
  app.add_option("--max-objects", given.max_objects, "objects at once");
  app.add_option("--max-sessions", given.max_sessions, "connections at once");
  app.add_option("--max-sessions-per-user", given.max_sessions_per_user, "the same, of one uid");
  app.add_option("--max-spaces-per-user", given.max_spaces_per_user,
                 "client processes at once, of one uid, fork children included");
  app.add_option("--log-level", given.log_level,
                 "trace, debug, info, warning, error, critical or off")
      ->type_name("LEVEL");
  try {
    app.parse(argc, argv);
    if (!mode_text.empty()) {
      std::size_t used = 0;
      given.socket_mode = static_cast<unsigned>(std::stoul(mode_text, &used, 8));
      if (used != mode_text.size())
        throw CLI::ValidationError("--socket-mode", "not octal: " + mode_text);
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? EXIT_SUCCESS : kExitUsage;
  } catch (const std::exception&) {
    std::cerr << "faultlined: --socket-mode takes an octal number, not " << mode_text << '\n';
    return kExitUsage;
  }
  if (only_check) return check();

  Settings settings;
  if (!config.empty()) {
    if (auto read = faultline::server::read_settings_file(config, settings); !read) {
      std::cerr << "faultlined: " << read.error().message() << '\n';
      return kExitUsage;
    }
  }
  const auto was_given = [&app](const char* option) { return app.count(option) > 0; };
  if (was_given("--socket")) settings.socket_path = socket_path;
  if (was_given("--socket-mode")) settings.socket_mode = given.socket_mode;
  if (was_given("--socket-group")) settings.socket_group = given.socket_group;
  if (was_given("--workers")) settings.workers = given.workers;
  if (was_given("--max-object-bytes")) settings.max_object_bytes = given.max_object_bytes;
  if (was_given("--max-objects")) settings.max_objects = given.max_objects;
  if (was_given("--max-sessions")) settings.max_sessions = given.max_sessions;
  if (was_given("--max-sessions-per-user")) {
    settings.max_sessions_per_user = given.max_sessions_per_user;
  }
  if (was_given("--max-spaces-per-user")) {
    settings.max_spaces_per_user = given.max_spaces_per_user;
  }
  if (was_given("--log-level")) settings.log_level = given.log_level;
  if (auto completed = faultline::server::complete(settings); !completed) {
    std::cerr << "faultlined: " << completed.error().message() << '\n';
    return kExitUsage;
  }

  spdlog::set_level(spdlog::level::from_str(settings.log_level));
  const auto findings = faultline::kernel::check_features();
  if (!faultline::kernel::runnable(findings)) {
    std::cerr << "faultlined: this machine cannot run it:\n" << faultline::kernel::render(findings);
    return kExitFailure;
  }
  std::istringstream lines(faultline::server::describe(settings));
  for (std::string line; std::getline(lines, line);) spdlog::info("setting {}", line);

  raise_descriptor_limit();
  (void)std::signal(SIGPIPE, SIG_IGN);
  auto server = faultline::server::Server::create(settings, faultline::kernel::probe_support());
  if (!server) {
    spdlog::critical("{}", server.error().message());
    return kExitFailure;
  }
  spdlog::info("faultlined {} listens on {}", FAULTLINE_VERSION, settings.socket_path.string());
  (void)::sd_notify(0, "READY=1");
  if (!(*server)->run()) {
    // A thread is held up in the kernel, by a client or a file; nothing that it uses may go. The
    // end of the process frees it, and whoever waits for us.
    spdlog::shutdown();
    ::_exit(EXIT_SUCCESS);
  }
  return EXIT_SUCCESS;
}
