#include "daemon/command_line.hpp"

#include <CLI/CLI.hpp>
#include <cstdlib>

#include "daemon/exit_status.hpp"

namespace faultline {

namespace {

constexpr const char* kDescription =
    "faultlined - user-space virtual-memory manager\n\n"
    "Owns memory objects and resolves the page faults of the processes that map them through\n"
    "libfaultline. Runs in the foreground, and logs to standard error, or to the journal where "
    "that\n"
    "is what standard error is connected to.\n\n"
    "SIGTERM, SIGINT and SIGQUIT stop it in order: what its clients have in memory stays, and "
    "what\n"
    "was only in a file gives SIGBUS, never zeroes. SIGHUP has it read the settings file again:\n"
    "limits and the log level hold from then on, the rest from the next start.\n";
constexpr const char* kFooter =
    "FILES\n"
    "  /run/faultline/faultlined.sock             where root's daemon listens, and a user's that\n"
    "                                             has no XDG_RUNTIME_DIR\n"
    "  $XDG_RUNTIME_DIR/faultline/faultlined.sock where a user's own daemon listens\n"
    "  A socket that systemd hands over (faultlined.socket) is listened on instead.\n\n"
    "SETTINGS FILE (TOML)\n"
    "  Keys, each like the option of its name: socket_path (--socket), socket_mode, socket_group,\n"
    "  workers, max_object_bytes, max_objects, max_sessions, max_sessions_per_user,\n"
    "  max_spaces_per_user, max_pinned_per_process, max_pinned_per_user, max_pinned,\n"
    "  swap_file, swap_bytes, metrics_listen, log_level.\n"
    "  The command line wins over the file.\n\n"
    "EXIT STATUS\n"
    "  0 stopped by a signal, or --check found nothing missing (degraded is not missing);\n"
    "  1 could not start or go on, or --check found something missing or could not say so;\n"
    "  2 wrong usage or settings.\n\n"
    "SEE ALSO\n"
    "  faultctl --help";

template <typename T>
void override(T& setting, const std::optional<T>& given) {
  if (given) setting = *given;
}
template <typename T>
void override(std::optional<T>& setting, const std::optional<T>& given) {
  if (given) setting = given;
}

}  // namespace

Parsed parse(int argc, const char* const* argv) {
  Parsed parsed;
  CommandLine& line = parsed.line;
  CLI::App app{kDescription, "faultlined"};
  app.footer(kFooter);
  app.set_version_flag("--version", FAULTLINE_VERSION);
  app.get_formatter()->column_width(36);
  app.add_flag("--check", line.only_check,
               "say, feature by feature, whether this machine can run it");
  app.add_option("--config", line.config, "read settings from this TOML file")->type_name("FILE");
  app.add_option("--default-config", line.default_config,
                 "the same of one that may be absent; not together with --config")
      ->type_name("FILE");
  app.add_option("--socket", line.socket_path, "listen here")->type_name("PATH");
  app.add_option("--socket-mode", line.socket_mode,
                 "permissions of the socket, octal; 0666 by default")
      ->type_name("MODE");
  app.add_option("--socket-group", line.socket_group,
                 "group of the socket; the daemon's own by default")
      ->type_name("NAME");
  app.add_option("--workers", line.workers,
                 "fault worker threads for each user; 0, the default: one a processor, at most 4");
  app.add_option("--max-object-bytes", line.max_object_bytes,
                 "largest object; 4 TiB by default, 4398046511104");
  app.add_option("--max-objects", line.max_objects, "objects at once; 16384 by default");
  app.add_option("--max-sessions", line.max_sessions, "connections at once; 4096 by default");
  app.add_option("--max-sessions-per-user", line.max_sessions_per_user,
                 "the same, of one uid; 1024 by default");
  app.add_option("--max-spaces-per-user", line.max_spaces_per_user,
                 "client processes at once, of one uid, fork children included; 4096 by default");
  app.add_option("--max-pinned-per-process", line.max_pinned_per_process,
                 "bytes that one process may pin; by default what it may lock (RLIMIT_MEMLOCK)");
  app.add_option("--max-pinned-per-user", line.max_pinned_per_user,
                 "the same, of all processes of one uid; by default as --max-pinned");
  app.add_option("--max-pinned", line.max_pinned,
                 "the same, of all; by default half of the machine's memory");
  app.add_option("--swap-file", line.swap_file,
                 "where content goes whose page leaves memory: a file, or a directory for one "
                 "without a name; none by default")
      ->type_name("PATH");
  app.add_option("--swap-bytes", line.swap_bytes, "how large the swap file may grow");
  app.add_option(
         "--metrics-listen", line.metrics_listen,
         "serve metrics by HTTP there: 127.0.0.1:9719, [::1]:9719 or unix:/PATH; nowhere by "
         "default")
      ->type_name("ADDRESS");
  app.add_option("--log-level", line.log_level,
                 "trace, debug, info, warning, error, critical or off; info by default")
      ->type_name("LEVEL");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    parsed.exit = app.exit(error) == 0 ? EXIT_SUCCESS : kExitUsage;
  }
  return parsed;
}

std::optional<std::filesystem::path> settings_file(const CommandLine& line) {
  if (line.config) return line.config;
  std::error_code error;
  // What cannot be looked at is for reading it to complain of.
  const bool absent =
      !line.default_config || std::filesystem::status(*line.default_config, error).type() ==
                                  std::filesystem::file_type::not_found;
  return absent ? std::nullopt : line.default_config;
}

Result<server::Settings> settings_of(const CommandLine& line) {
  server::Settings settings;
  if (line.config && line.default_config) {
    return fail(EINVAL, "--config and --default-config are not for use together");
  }
  if (const auto file = settings_file(line)) {
    auto read = server::read_settings_file(*file, settings);
    if (!read) return propagate(read);
  }
  if (line.socket_path) {
    if (line.socket_path->empty()) return fail(EINVAL, "--socket takes a path");
    settings.socket_path = *line.socket_path;
  }
  if (line.socket_mode) {
    const auto mode = server::parse_mode(*line.socket_mode);
    if (!mode) return fail(EINVAL, "--socket-mode takes 0660 or the like");
    settings.socket_mode = *mode;
  }
  override(settings.socket_group, line.socket_group);
  override(settings.workers, line.workers);
  override(settings.max_object_bytes, line.max_object_bytes);
  override(settings.max_objects, line.max_objects);
  override(settings.max_sessions, line.max_sessions);
  override(settings.max_sessions_per_user, line.max_sessions_per_user);
  override(settings.max_spaces_per_user, line.max_spaces_per_user);
  override(settings.max_pinned_per_process, line.max_pinned_per_process);
  override(settings.max_pinned_per_user, line.max_pinned_per_user);
  override(settings.max_pinned, line.max_pinned);
  if (line.swap_file) settings.swap_file = *line.swap_file;
  override(settings.swap_bytes, line.swap_bytes);
  override(settings.metrics_listen, line.metrics_listen);
  override(settings.log_level, line.log_level);
  if (auto completed = server::complete(settings); !completed) return propagate(completed);
  return settings;
}

}  // namespace faultline
