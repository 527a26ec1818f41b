// What the daemon can be told: by command line, else by the TOML file, else the defaults here. Must
// never be changed under a server that runs: it is given others, and says what it takes of them.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/kernel/error.hpp"

namespace faultline::server {

struct Settings {
  std::filesystem::path socket_path;  // empty: the default of this user
  unsigned socket_mode = 0666;  // rights are checked by the peer's credentials, not by reachability
  std::string socket_group;     // empty: the daemon's own
  std::optional<gid_t> socket_gid;  // of socket_group, as complete() found it
  unsigned workers = 0;             // for each user; 0: one a processor, at most 4
  std::uint64_t max_object_bytes = std::uint64_t{4} << 40;
  std::size_t max_objects = 16'384;
  std::size_t max_sessions = 4'096;
  std::size_t max_sessions_per_user = 1'024;
  std::size_t max_spaces_per_user = 4'096;
  // Bytes. Nothing: what each process may lock, RLIMIT_MEMLOCK.
  std::optional<std::uint64_t> max_pinned_per_process;
  std::optional<std::uint64_t> max_pinned_per_user;  // nothing: as max_pinned
  std::optional<std::uint64_t> max_pinned;           // nothing: half of the machine's memory
  std::filesystem::path swap_file;                   // or a directory; empty: none
  std::uint64_t swap_bytes = 0;                      // how large it may grow; with swap_file only
  std::string metrics_listen;                        // see metrics_address.hpp; empty: nowhere
  std::string log_level = "info";
};

// $XDG_RUNTIME_DIR/faultline/faultlined.sock for a user, /run/faultline/faultlined.sock for root.
std::filesystem::path default_socket_path();

// A file's permissions in octal digits, "0660" or "0o660"; nothing beyond 0777.
std::optional<unsigned> parse_mode(std::string_view text);

// Reads the TOML file over the given settings. Errors: ENOENT, EACCES and the like of the file;
// EINVAL with line and key, in words that need no errno; unknown keys are errors, so that a typing
// mistake does not pass for a default.
Status read_settings_file(const std::filesystem::path& file, Settings& settings);

// What is wrong with settings, in words: some errors need no errno.
std::string in_words(const Error& error);

// Fills in what is left to the daemon, and refuses what cannot work. Errors: EINVAL, with the
// setting, in words that need no errno.
Status complete(Settings& settings);

// A setting as it is shown.
struct ShownSetting {
  std::string_view name;
  std::string value;
  bool live;  // a server that runs can take another value
};
std::vector<ShownSetting> shown(const Settings& settings);

struct ChangedSetting {
  std::string_view name;
  std::string from;
  std::string to;
  bool live;
};
// Of settings that complete() has seen.
std::vector<ChangedSetting> changes(const Settings& from, const Settings& to);
// What a server that runs with `now` has of `wanted`: all that is live.
Settings taken_over(Settings now, const Settings& wanted);

}  // namespace faultline::server
