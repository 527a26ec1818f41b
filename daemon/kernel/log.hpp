// Lines for the log: of standard error, or of the journal, where each thing that a line is about is
// a field of its own. Must never format a line that the log's level leaves out.
//
// spdlog writes standard error, libsystemd the journal. Who logs includes neither: spdlog's
// formatting is made anew in every file that does, which took most of the time to compile them.
//
// Thread-safe, but for the choice of where lines go. Blocks for as long as standard error, or the
// journal, takes the line.
#pragma once

#include <fmt/core.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace faultline::log {

enum class Level : std::uint8_t { debug, info, warn, error, critical };

// What a line is about, as far as it is about one: fields of the journal, see docs/running.md.
struct About {
  std::optional<uid_t> uid = {};             // FAULTLINE_UID, whose doing it is
  std::optional<pid_t> pid = {};             // FAULTLINE_PID, a client's
  std::optional<std::uint64_t> space = {};   // FAULTLINE_SPACE
  std::optional<std::uint64_t> object = {};  // FAULTLINE_OBJECT
  std::optional<std::uint64_t> page = {};    // FAULTLINE_PAGE, of the object
  std::optional<int> error = {};             // ERRNO
};

// Where lines go. Call before there are other threads.
void to_standard_error();
void to_journal();
// Whether standard error is a stream to the journal, which systemd says in $JOURNAL_STREAM.
[[nodiscard]] bool standard_error_is_journal();

// trace, debug, info, warning, error, critical or off. False, and nothing is done, for other words.
[[nodiscard]] bool is_level(std::string_view name);
bool set_level(std::string_view name);

// What was logged is written when it returns.
void flush();

void write(Level level, const About& about, fmt::string_view format, fmt::format_args arguments);

template <typename... Arguments>
void line(Level level, const About& about, fmt::format_string<Arguments...> format,
          Arguments&&... arguments) {
  write(level, about, format, fmt::make_format_args(arguments...));
}
template <typename... Arguments>
void debug(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  write(Level::debug, {}, format, fmt::make_format_args(arguments...));
}
template <typename... Arguments>
void info(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  write(Level::info, {}, format, fmt::make_format_args(arguments...));
}
template <typename... Arguments>
void warn(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  write(Level::warn, {}, format, fmt::make_format_args(arguments...));
}
template <typename... Arguments>
void error(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  write(Level::error, {}, format, fmt::make_format_args(arguments...));
}
template <typename... Arguments>
void critical(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  write(Level::critical, {}, format, fmt::make_format_args(arguments...));
}

}  // namespace faultline::log
