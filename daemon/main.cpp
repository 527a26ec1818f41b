// faultlined: the daemon that owns memory objects and answers the page faults of the processes that
// map them. This file turns a command line into settings and runs the server; it must hold no logic
// of its own.

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <sstream>

#include "daemon/kernel/feature_check.hpp"
#include "daemon/kernel/log.hpp"
#include "daemon/server/server.hpp"
#include "daemon/server/settings.hpp"

namespace {

using faultline::server::Settings;

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

constexpr const char* kDescription =
    "faultlined - user-space virtual-memory manager\n\n"
    "Owns memory objects and resolves the page faults of the processes that map them through\n"
    "libfaultline. Runs in the foreground, and logs to standard error.\n\n"
    "SIGTERM, SIGINT, SIGQUIT and SIGHUP stop it in order: what its clients have in memory stays,\n"
    "and what was only in a file gives SIGBUS, never zeroes. A SIGHUP that is ignored at the "
    "start,\n"
    "as under nohup, stays ignored.\n";
constexpr const char* kFooter =
    "FILES\n"
    "  /run/faultline/faultlined.sock             where root's daemon listens, and a user's that\n"
    "                                             has no XDG_RUNTIME_DIR\n"
    "  $XDG_RUNTIME_DIR/faultline/faultlined.sock where a user's own daemon listens\n\n"
    "SETTINGS FILE (TOML)\n"
    "  Keys, each like the option of its name: socket_path (--socket), socket_mode, socket_group,\n"
    "  workers, max_object_bytes, max_objects, max_sessions, max_sessions_per_user,\n"
    "  max_spaces_per_user, max_pinned_per_process, max_pinned_per_user, max_pinned,\n"
    "  swap_file, swap_bytes, log_level.\n"
    "  The command line wins over the file.\n\n"
    "EXIT STATUS\n"
    "  0 stopped by a signal, or --check found nothing missing (degraded is not missing);\n"
    "  1 could not start or go on, or --check found something missing or could not say so;\n"
    "  2 wrong usage or settings.\n\n"
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
  std::cout << faultline::kernel::render(findings) << std::flush;
  if (!std::cout) {
    std::cerr << "faultlined: writing the report: " << std::strerror(errno) << '\n';
    return kExitFailure;
  }
  return faultline::kernel::runnable(findings) ? EXIT_SUCCESS : kExitFailure;
}

// Some errors are told in words that an errno would add nothing to.
void complain(const std::string& words) {
  std::cerr << "faultlined: " << words << '\n';
}
int refuse(const faultline::Error& error) {
  complain(error.code() == EINVAL ? error.attempted() : error.message());
  return kExitUsage;
}
int give_up(const faultline::Error& error, const Settings& settings) {
  std::string words = error.code() == EADDRINUSE ? error.attempted() : error.message();
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  const bool nowhere = ::geteuid() != 0 && (runtime == nullptr || *runtime == '\0');
  if (nowhere && settings.socket_path == faultline::server::default_socket_path()) {
    words += "; set XDG_RUNTIME_DIR or give --socket";
  }
  complain(words);
  return kExitFailure;
}

// Standard output is for what was asked for.
void log_to_standard_error() {
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("", std::move(sink)));
}

void log_settings(const Settings& settings) {
  std::istringstream lines(faultline::server::describe(settings));
  for (std::string line; std::getline(lines, line);) faultline::log::info("setting {}", line);
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
  std::string swap_file;
  app.add_flag("--check", only_check, "say, feature by feature, whether this machine can run it");
  app.add_option("--config", config, "read settings from this TOML file")->type_name("FILE");
  app.add_option("--socket", socket_path, "listen here")->type_name("PATH");
  app.add_option("--socket-mode", mode_text, "permissions of the socket, octal; 0666 by default")
      ->type_name("MODE");
  app.add_option("--socket-group", given.socket_group,
                 "group of the socket; the daemon's own by default")
      ->type_name("NAME");
  app.add_option("--workers", given.workers,
                 "fault worker threads for each user; 0, the default: one a processor, at most 4");
  app.add_option("--max-object-bytes", given.max_object_bytes,
                 "largest object; 4 TiB by default, 4398046511104");
  app.add_option("--max-objects", given.max_objects, "objects at once; 16384 by default");
  app.add_option("--max-sessions", given.max_sessions, "connections at once; 4096 by default");
  app.add_option("--max-sessions-per-user", given.max_sessions_per_user,
                 "the same, of one uid; 1024 by default");
  app.add_option("--max-spaces-per-user", given.max_spaces_per_user,
                 "client processes at once, of one uid, fork children included; 4096 by default");
  app.add_option("--max-pinned-per-process", given.max_pinned_per_process,
                 "bytes that one process may pin; by default what it may lock (RLIMIT_MEMLOCK)");
  app.add_option("--max-pinned-per-user", given.max_pinned_per_user,
                 "the same, of all processes of one uid; by default as --max-pinned");
  app.add_option("--max-pinned", given.max_pinned,
                 "the same, of all; by default half of the machine's memory");
  app.add_option("--swap-file", swap_file,
                 "where content goes whose page leaves memory: a file, or a directory for one "
                 "without a name; none by default")
      ->type_name("PATH");
  app.add_option("--swap-bytes", given.swap_bytes, "how large the swap file may grow");
  app.add_option("--log-level", given.log_level,
                 "trace, debug, info, warning, error, critical or off; info by default")
      ->type_name("LEVEL");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? EXIT_SUCCESS : kExitUsage;
  }
  if (only_check) return check();

  Settings settings;
  const auto was_given = [&app](const char* option) { return app.count(option) > 0; };
  if (was_given("--config")) {
    auto read = faultline::server::read_settings_file(config, settings);
    if (!read) return refuse(read.error());
  }
  if (was_given("--socket")) {
    if (socket_path.empty()) return refuse({EINVAL, "--socket takes a path"});
    settings.socket_path = socket_path;
  }
  if (was_given("--socket-mode")) {
    const auto mode = faultline::server::parse_mode(mode_text);
    if (!mode) return refuse({EINVAL, "--socket-mode takes 0660 or the like"});
    settings.socket_mode = *mode;
  }
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
  if (was_given("--max-pinned-per-process")) {
    settings.max_pinned_per_process = given.max_pinned_per_process;
  }
  if (was_given("--max-pinned-per-user")) {
    settings.max_pinned_per_user = given.max_pinned_per_user;
  }
  if (was_given("--max-pinned")) settings.max_pinned = given.max_pinned;
  if (was_given("--swap-file")) settings.swap_file = swap_file;
  if (was_given("--swap-bytes")) settings.swap_bytes = given.swap_bytes;
  if (was_given("--log-level")) settings.log_level = given.log_level;
  if (auto completed = faultline::server::complete(settings); !completed) {
    return refuse(completed.error());
  }

  log_to_standard_error();
  spdlog::set_level(spdlog::level::from_str(settings.log_level));
  const auto findings = faultline::kernel::check_features();
  if (!faultline::kernel::runnable(findings)) {
    std::cerr << "faultlined: this machine cannot run it:\n" << faultline::kernel::render(findings);
    return kExitFailure;
  }
  log_settings(settings);

  raise_descriptor_limit();
  (void)std::signal(SIGPIPE, SIG_IGN);
  // A limit of file sizes (RLIMIT_FSIZE), which is one of the swap file and of objects too: EFBIG.
  (void)std::signal(SIGXFSZ, SIG_IGN);
  auto server = faultline::server::Server::create(settings, faultline::kernel::probe_support());
  if (!server) return give_up(server.error(), settings);
  faultline::log::info("faultlined {} listens on {}", FAULTLINE_VERSION,
                       settings.socket_path.string());
  (void)::sd_notify(0, "READY=1");
  if (!(*server)->run()) {
    // A thread is held up in the kernel, by a client or a file; nothing that it uses may go. The
    // end of the process frees it, and whoever waits for us.
    spdlog::shutdown();
    ::_exit(EXIT_SUCCESS);
  }
  return EXIT_SUCCESS;
}
