#include "daemon/server/settings.hpp"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <toml++/toml.h>
#include <algorithm>
#include <array>
#include <cstdlib>
#include <functional>
#include <limits>
#include <sstream>
#include <thread>
#include <utility>

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

struct Key {
  std::string_view name;
  std::function<bool(const toml::node&)> take;
};

}  // namespace

std::filesystem::path default_socket_path() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (::geteuid() != 0 && runtime != nullptr && *runtime != '\0') {
    return std::filesystem::path(runtime) / "faultline" / "faultlined.sock";
  }
  return "/run/faultline/faultlined.sock";
}

Status read_settings_file(const std::filesystem::path& file, Settings& settings) {
  toml::table table;
  try {
    table = toml::parse_file(file.string());
  } catch (const toml::parse_error& error) {
    std::ostringstream text;
    text << "reading settings from " << file.string() << ": " << error;
    const bool missing = !std::filesystem::exists(file);
    return fail(missing ? ENOENT : EINVAL, text.str());
  }
  std::string path = settings.socket_path.string();
  const std::array keys{
      Key{"socket_path", [&](const toml::node& n) { return take_text(n, path); }},
      Key{"socket_mode", [&](const toml::node& n) { return take_number(n, settings.socket_mode); }},
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
      Key{"log_level", [&](const toml::node& n) { return take_text(n, settings.log_level); }},
  };
  for (const auto& [key_of_node, node] : table) {
    const std::string name(key_of_node.str());
    const auto* const key =
        std::find_if(keys.begin(), keys.end(), [&](const Key& k) { return k.name == name; });
    const std::string where =
        file.string() + " line " + std::to_string(node.source().begin.line) + ", " + name;
    if (key == keys.end()) return fail(EINVAL, "reading settings: unknown key in " + where);
    if (!key->take(node)) return fail(EINVAL, "reading settings: wrong type or range in " + where);
  }
  settings.socket_path = path;
  return {};
}

Status complete(Settings& settings) {
  if (settings.socket_path.empty()) settings.socket_path = default_socket_path();
  if (settings.workers == 0) {
    settings.workers = std::clamp(std::thread::hardware_concurrency(), 1U, 4U);
  }
  if (settings.workers > 256) return fail(EINVAL, "setting workers to more than 256");
  if (settings.socket_mode > 0777) return fail(EINVAL, "setting socket_mode beyond 0777");
  if (settings.max_object_bytes < 4096)
    return fail(EINVAL, "setting max_object_bytes below a page");
  if (settings.max_sessions == 0 || settings.max_sessions_per_user == 0 ||
      settings.max_spaces_per_user == 0 || settings.max_objects == 0) {
    return fail(EINVAL, "setting a limit of sessions, address spaces or objects to 0");
  }
  const auto level = spdlog::level::from_str(settings.log_level);
  if (level == spdlog::level::off && settings.log_level != "off") {
    return fail(EINVAL, "setting log_level to " + settings.log_level +
                            " (trace, debug, info, warning, error, critical or off)");
  }
  return {};
}

std::string describe(const Settings& settings) {
  return fmt::format(
      "socket_path = {}\nsocket_mode = {:#o}\nsocket_group = {}\nworkers = {}\nmax_object_bytes = "
      "{}\n"
      "max_objects = {}\nmax_sessions = {}\nmax_sessions_per_user = {}\nmax_spaces_per_user = {}\n"
      "log_level = {}",
      settings.socket_path.string(), settings.socket_mode, settings.socket_group, settings.workers,
      settings.max_object_bytes, settings.max_objects, settings.max_sessions,
      settings.max_sessions_per_user, settings.max_spaces_per_user, settings.log_level);
}

}  // namespace faultline::server
