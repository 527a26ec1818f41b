#include "daemon/kernel/log.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

namespace faultline::log {

namespace {

spdlog::level::level_enum level_of(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warn:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
    case Level::critical:
      break;
  }
  return spdlog::level::critical;
}

}  // namespace

void write(Level level, fmt::string_view format, fmt::format_args arguments) {
  if (!spdlog::should_log(level_of(level))) return;
  spdlog::log(level_of(level), fmt::vformat(format, arguments));
}

}  // namespace faultline::log
