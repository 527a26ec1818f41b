// Lines for the log. Must never format a line that the log's level leaves out.
//
// spdlog writes them. Who logs does not include it: its formatting is made anew in every file that
// does, which took most of the time to compile them.
//
// Thread-safe. Blocks for as long as standard error takes the line.
#pragma once

#include <fmt/core.h>

#include <cstdint>

namespace faultline::log {

enum class Level : std::uint8_t { debug, info, warn, error, critical };

void write(Level level, fmt::string_view format, fmt::format_args arguments);

template <typename... Arguments>
void debug(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  write(Level::debug, format, fmt::make_format_args(arguments...));
}
template <typename... Arguments>
void info(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  write(Level::info, format, fmt::make_format_args(arguments...));
}
template <typename... Arguments>
void warn(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  write(Level::warn, format, fmt::make_format_args(arguments...));
}
template <typename... Arguments>
void error(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  write(Level::error, format, fmt::make_format_args(arguments...));
}
template <typename... Arguments>
void critical(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  write(Level::critical, format, fmt::make_format_args(arguments...));
}

}  // namespace faultline::log
