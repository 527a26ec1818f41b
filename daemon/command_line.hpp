// The daemon's command line. Must never guess: what cannot be meant is refused in words.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "daemon/kernel/error.hpp"
#include "daemon/server/settings.hpp"

namespace faultline {

struct CommandLine {
  bool only_check = false;
  std::optional<std::filesystem::path> config;
  std::optional<std::filesystem::path> default_config;  // read where there is one

  // Each over what the settings file says.
  std::optional<std::string> socket_path;
  std::optional<std::string> socket_mode;
  std::optional<std::string> socket_group;
  std::optional<unsigned> workers;
  std::optional<std::uint64_t> max_object_bytes;
  std::optional<std::size_t> max_objects;
  std::optional<std::size_t> max_sessions;
  std::optional<std::size_t> max_sessions_per_user;
  std::optional<std::size_t> max_spaces_per_user;
  std::optional<std::uint64_t> max_pinned_per_process;
  std::optional<std::uint64_t> max_pinned_per_user;
  std::optional<std::uint64_t> max_pinned;
  std::optional<std::string> swap_file;
  std::optional<std::uint64_t> swap_bytes;
  std::optional<std::string> metrics_listen;
  std::optional<std::string> log_level;
};

struct Parsed {
  CommandLine line;
  // The process is to end with it: help was printed, or what is wrong.
  std::optional<int> exit;
};
// Prints what --help and --version ask for, and what is wrong.
Parsed parse(int argc, const char* const* argv);

// The settings file that is to be read now; nothing where there is none.
std::optional<std::filesystem::path> settings_file(const CommandLine& line);

// Reads the settings file, where one is given, and has the command line win over it. Errors: as
// server::read_settings_file and server::complete.
Result<server::Settings> settings_of(const CommandLine& line);

}  // namespace faultline
