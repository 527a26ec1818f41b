#include "daemon/server/settings.hpp"

#include <fmt/format.h>
#include <grp.h>
#include <unistd.h>

#include <toml++/toml.h>
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <limits>
#include <thread>
#include <utility>

#include "daemon/kernel/log.hpp"
#include "daemon/server/metrics_address.hpp"

namespace faultline::server {

namespace {

template <typename Number>
bool take_number(const toml::node& node, Number& into) {
  const auto value = node.value_exact<std::int64_t>();
  if (!value || *value < 0) return false;
  if (static_cast<std::uint64_t>(*value) > std::numeric_limits<Number>::max()) return false;
  into = static_cast<Number>(*value);
  return true;
}

bool take_text(const toml::node& node, std::string& into) {
  const auto value = node.value_exact<std::string>();
  if (value) into = *value;
  return value.has_value();
}

constexpr std::uint64_t kMostSwap = std::uint64_t{1} << 50;
constexpr const char* kModeTaken = "socket_mode takes 0o660 or the like";

bool take_mode(const toml::node& node, unsigned& into) {
  std::optional<unsigned> mode;
  if (const auto* const number = node.as_integer()) {
    // 660 is none: who writes it does not mean what it says.
    const bool octal = (number->flags() & toml::value_flags::format_as_octal) ==
                       toml::value_flags::format_as_octal;
    if (octal && number->get() <= 0777) mode = static_cast<unsigned>(number->get());
  } else if (const auto text = node.value_exact<std::string>()) {
    mode = parse_mode(*text);
  }
  if (mode) into = *mode;
  return mode.has_value();
}

struct Key {
  std::string_view name;
  std::function<bool(const toml::node&)> take;
  std::string_view wrong = "wrong type or range";
};

Result<toml::table> parse(const std::filesystem::path& file) {
  const std::string doing = "reading settings from " + file.string();
  std::error_code error;
  const auto status = std::filesystem::status(file, error);
  if (error) return fail(error.value(), doing);
  if (!std::filesystem::is_regular_file(status)) {
    return fail(EINVAL, doing + ": it is not a regular file");
  }
  std::ifstream in(file);
  if (!in) return fail_errno(doing);
  try {
    return toml::parse(in, file.string());
  } catch (const toml::parse_error& wrong) {
    return fail(EINVAL, doing + " line " + std::to_string(wrong.source().begin.line) + ": " +
                            std::string(wrong.description()));
  }
}

}  // namespace

std::filesystem::path default_socket_path() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (::geteuid() != 0 && runtime != nullptr && *runtime != '\0') {
    return std::filesystem::path(runtime) / "faultline" / "faultlined.sock";
  }
  return "/run/faultline/faultlined.sock";
}

std::optional<unsigned> parse_mode(std::string_view text) {
  if (text.starts_with("0o")) text.remove_prefix(2);
  unsigned mode = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, mode, 8);
  if (error != std::errc{} || stopped != end || mode > 0777) return std::nullopt;
  return mode;
}

Status read_settings_file(const std::filesystem::path& file, Settings& settings) {
  const auto table = parse(file);
  if (!table) return fail(table.error().code(), table.error().attempted());
  std::string path = settings.socket_path.string();
  std::string swap_path = settings.swap_file.string();
  const std::array keys{
      Key{"socket_path", [&](const toml::node& n) { return take_text(n, path) && !path.empty(); },
          "socket_path takes a path"},
      Key{"socket_mode", [&](const toml::node& n) { return take_mode(n, settings.socket_mode); },
          kModeTaken},
      Key{"socket_group", [&](const toml::node& n) { return take_text(n, settings.socket_group); }},
      Key{"workers", [&](const toml::node& n) { return take_number(n, settings.workers); }},
      Key{"max_object_bytes",
          [&](const toml::node& n) { return take_number(n, settings.max_object_bytes); }},
      Key{"max_objects", [&](const toml::node& n) { return take_number(n, settings.max_objects); }},
      Key{"max_sessions",
          [&](const toml::node& n) { return take_number(n, settings.max_sessions); }},
      Key{"max_sessions_per_user",
          [&](const toml::node& n) { return take_number(n, settings.max_sessions_per_user); }},
      Key{"max_spaces_per_user",
          [&](const toml::node& n) { return take_number(n, settings.max_spaces_per_user); }},
      Key{"max_pinned_per_process",
          [&](const toml::node& n) {
            return take_number(n, settings.max_pinned_per_process.emplace());
          }},
      Key{"max_pinned_per_user",
          [&](const toml::node& n) {
            return take_number(n, settings.max_pinned_per_user.emplace());
          }},
      Key{"max_pinned",
          [&](const toml::node& n) { return take_number(n, settings.max_pinned.emplace()); }},
      Key{"swap_file", [&](const toml::node& n) { return take_text(n, swap_path); }},
      Key{"swap_bytes", [&](const toml::node& n) { return take_number(n, settings.swap_bytes); }},
      Key{"metrics_listen",
          [&](const toml::node& n) { return take_text(n, settings.metrics_listen); }},
      Key{"log_level", [&](const toml::node& n) { return take_text(n, settings.log_level); }},
  };
  for (const auto& [key_of_node, node] : *table) {
    const std::string name(key_of_node.str());
    const auto* const key =
        std::find_if(keys.begin(), keys.end(), [&](const Key& k) { return k.name == name; });
    const std::string where =
        file.string() + " line " + std::to_string(node.source().begin.line) + ", " + name;
    if (key == keys.end()) return fail(EINVAL, "reading settings: unknown key in " + where);
    if (!key->take(node)) {
      return fail(EINVAL, "reading settings: " + std::string(key->wrong) + ", in " + where);
    }
  }
  settings.socket_path = path;
  settings.swap_file = swap_path;
  return {};
}

std::string in_words(const Error& error) {
  return error.code() == EINVAL ? error.attempted() : error.message();
}

namespace {

Status check_metrics_listen(const Settings& settings) {
  if (settings.metrics_listen.empty()) return {};
  auto address = parse_metrics_address(settings.metrics_listen);
  if (!address) return propagate(address);
  return {};
}

}  // namespace

Status complete(Settings& settings) {
  if (settings.socket_path.empty()) settings.socket_path = default_socket_path();
  if (settings.workers == 0) {
    settings.workers = std::clamp(std::thread::hardware_concurrency(), 1U, 4U);
  }
  if (settings.workers > 256) return fail(EINVAL, "setting workers to more than 256");
  if (settings.socket_mode > 0777) return fail(EINVAL, kModeTaken);
  if (!settings.socket_group.empty()) {
    const group* found = ::getgrnam(settings.socket_group.c_str());
    if (found == nullptr) {
      return fail(EINVAL, "no group is called " + settings.socket_group + " (socket_group)");
    }
    settings.socket_gid = found->gr_gid;
  }
  if (settings.max_object_bytes < 4096)
    return fail(EINVAL, "setting max_object_bytes below a page");
  if (settings.max_sessions == 0 || settings.max_sessions_per_user == 0 ||
      settings.max_spaces_per_user == 0 || settings.max_objects == 0) {
    return fail(EINVAL, "setting a limit of sessions, address spaces or objects to 0");
  }
  for (const auto& limit :
       {settings.max_pinned_per_process, settings.max_pinned_per_user, settings.max_pinned}) {
    if (limit == 0) return fail(EINVAL, "setting a limit of what may be pinned to 0");
  }
  if (!settings.max_pinned) {
    settings.max_pinned = static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) / 2 *
                          static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  }
  if (!settings.max_pinned_per_user) settings.max_pinned_per_user = settings.max_pinned;
  if (!settings.swap_file.empty() && settings.swap_bytes == 0) {
    return fail(EINVAL, "setting swap_file without swap_bytes, how large it may grow");
  }
  if (settings.swap_file.empty() && settings.swap_bytes != 0) {
    return fail(EINVAL, "setting swap_bytes without swap_file");
  }
  if (!settings.swap_file.empty() &&
      (settings.swap_bytes < 4096 || settings.swap_bytes > kMostSwap)) {
    return fail(EINVAL, "setting swap_bytes below a page, or beyond 1 PiB");
  }
  if (auto checked = check_metrics_listen(settings); !checked) return checked;
  if (!log::is_level(settings.log_level)) {
    return fail(EINVAL, "setting log_level to " + settings.log_level +
                            " (trace, debug, info, warning, error, critical or off)");
  }
  return {};
}

std::vector<ShownSetting> shown(const Settings& settings) {
  constexpr bool kLive = true;
  constexpr bool kAtStart = false;
  const auto bytes = [](const std::optional<std::uint64_t>& limit) {
    return limit ? std::to_string(*limit) : "RLIMIT_MEMLOCK";
  };
  return {
      {"socket_path", settings.socket_path.string(), kAtStart},
      {"socket_mode", fmt::format("{:#o}", settings.socket_mode), kAtStart},
      {"socket_group", settings.socket_group, kAtStart},
      {"workers", std::to_string(settings.workers), kAtStart},
      {"max_object_bytes", std::to_string(settings.max_object_bytes), kLive},
      {"max_objects", std::to_string(settings.max_objects), kLive},
      {"max_sessions", std::to_string(settings.max_sessions), kLive},
      {"max_sessions_per_user", std::to_string(settings.max_sessions_per_user), kLive},
      {"max_spaces_per_user", std::to_string(settings.max_spaces_per_user), kLive},
      {"max_pinned_per_process", bytes(settings.max_pinned_per_process), kLive},
      {"max_pinned_per_user", bytes(settings.max_pinned_per_user), kLive},
      {"max_pinned", bytes(settings.max_pinned), kLive},
      {"swap_file", settings.swap_file.string(), kAtStart},
      {"swap_bytes", std::to_string(settings.swap_bytes), kAtStart},
      {"metrics_listen", settings.metrics_listen, kAtStart},
      {"log_level", settings.log_level, kLive},
  };
}

std::vector<ChangedSetting> changes(const Settings& from, const Settings& to) {
  const std::vector<ShownSetting> before = shown(from);
  const std::vector<ShownSetting> after = shown(to);
  std::vector<ChangedSetting> changed;
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (before[i].value == after[i].value) continue;
    changed.push_back({before[i].name, before[i].value, after[i].value, before[i].live});
  }
  return changed;
}

Settings taken_over(Settings now, const Settings& wanted) {
  now.max_object_bytes = wanted.max_object_bytes;
  now.max_objects = wanted.max_objects;
  now.max_sessions = wanted.max_sessions;
  now.max_sessions_per_user = wanted.max_sessions_per_user;
  now.max_spaces_per_user = wanted.max_spaces_per_user;
  now.max_pinned_per_process = wanted.max_pinned_per_process;
  now.max_pinned_per_user = wanted.max_pinned_per_user;
  now.max_pinned = wanted.max_pinned;
  now.log_level = wanted.log_level;
  return now;
}

}  // namespace faultline::server
