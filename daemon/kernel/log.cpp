#include "daemon/kernel/log.hpp"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
// Or every line would carry the place in this file that sends it.
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <sys/stat.h>
#include <sys/uio.h>
#include <syslog.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace faultline::log {

namespace {

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): the process has one log
std::atomic<bool> in_journal{false};

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

int priority_of(Level level) {
  switch (level) {
    case Level::debug:
      return LOG_DEBUG;
    case Level::info:
      return LOG_INFO;
    case Level::warn:
      return LOG_WARNING;
    case Level::error:
      return LOG_ERR;
    case Level::critical:
      break;
  }
  return LOG_CRIT;
}

// False where the journal did not take it.
bool send(Level level, const About& about, const std::string& message) {
  std::vector<std::string> fields{"MESSAGE=" + message, "SYSLOG_IDENTIFIER=faultlined",
                                  "PRIORITY=" + std::to_string(priority_of(level))};
  const auto add = [&fields](const char* name, const auto& value) {
    if (value) fields.push_back(name + std::to_string(*value));
  };
  add("FAULTLINE_UID=", about.uid);
  add("FAULTLINE_PID=", about.pid);
  add("FAULTLINE_SPACE=", about.space);
  add("FAULTLINE_OBJECT=", about.object);
  add("FAULTLINE_PAGE=", about.page);
  add("ERRNO=", about.error);
  std::vector<iovec> parts;
  parts.reserve(fields.size());
  for (std::string& field : fields) parts.push_back({field.data(), field.size()});
  return ::sd_journal_sendv(parts.data(), static_cast<int>(parts.size())) >= 0;
}

}  // namespace

void to_standard_error() {
  // Standard output is for what was asked for.
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("", std::move(sink)));
  in_journal = false;
}

void to_journal() {
  in_journal = true;
}

bool standard_error_is_journal() {
  const char* const stream = std::getenv("JOURNAL_STREAM");
  struct stat info {};
  if (stream == nullptr || ::fstat(STDERR_FILENO, &info) != 0) return false;
  return stream == fmt::format("{}:{}", info.st_dev, info.st_ino);
}

bool is_level(std::string_view name) {
  const std::string text(name);
  return spdlog::level::from_str(text) != spdlog::level::off || text == "off";
}

bool set_level(std::string_view name) {
  if (!is_level(name)) return false;
  spdlog::set_level(spdlog::level::from_str(std::string(name)));
  return true;
}

void flush() {
  spdlog::default_logger()->flush();
}

void write(Level level, const About& about, fmt::string_view format, fmt::format_args arguments) {
  if (!spdlog::should_log(level_of(level))) return;
  const std::string message = fmt::vformat(format, arguments);
  if (in_journal.load(std::memory_order_relaxed) && send(level, about, message)) return;
  spdlog::log(level_of(level), message);
}

}  // namespace faultline::log
