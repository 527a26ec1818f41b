#include "tools/faultctl/table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

namespace faultline::ctl {

namespace {

using nlohmann::json;

// Columns as wide as their widest cell; the first is flush left, numbers are flush right.
class Table {
 public:
  explicit Table(std::vector<std::string> head) : rows_{std::move(head)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  [[nodiscard]] std::string text() const {
    std::vector<std::size_t> widths(rows_.front().size());
    for (const auto& row : rows_) {
      for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
    }
    std::string out;
    for (const auto& row : rows_) {
      std::string line;
      for (std::size_t i = 0; i < row.size(); ++i) {
        const bool last = i + 1 == row.size();
        line += i == 0 || last ? fmt::format("{:<{}}", row[i], last ? 0 : widths[i])
                               : fmt::format("{:>{}}", row[i], widths[i]);
        if (!last) line += "  ";
      }
      out += line + "\n";
    }
    return out;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

std::string bytes(const json& value) {
  return readable_bytes(value.get<std::uint64_t>());
}

std::string number(const json& value) {
  return std::to_string(value.get<std::uint64_t>());
}

std::string name_of(const json& value) {
  const auto name = printable(value.get<std::string>());
  return name.empty() ? "-" : name;
}

// 12.3 s, 2:03:04 or 3 d 02:03.
std::string readable_time(std::uint64_t milliseconds) {
  constexpr std::uint64_t kMinute = 60;
  constexpr std::uint64_t kHour = 60 * kMinute;
  constexpr std::uint64_t kDay = 24 * kHour;
  const std::uint64_t seconds = milliseconds / 1000;
  if (seconds < kMinute) return fmt::format("{}.{} s", seconds, milliseconds % 1000 / 100);
  const std::uint64_t hours = seconds % kDay / kHour;
  const std::uint64_t minutes = seconds % kHour / kMinute;
  if (seconds >= kDay) return fmt::format("{} d {:02}:{:02}", seconds / kDay, hours, minutes);
  return fmt::format("{}:{:02}:{:02}", hours, minutes, seconds % kMinute);
}

std::string pid_of(const json& space) {
  const auto pid = space["pid"].get<std::int64_t>();
  return pid == 0 ? "?" : std::to_string(pid);
}

}  // namespace

std::string readable_bytes(std::uint64_t bytes) {
  constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  auto amount = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (amount >= 1024 && unit + 1 < kUnits.size()) {
    amount /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", amount, unit == 0 ? 0 : 1, kUnits.at(unit));
}

// A name may hold nothing that a terminal would obey, but a process can call itself anything.
std::string printable(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < ' ' || c == '\x7f'; }, '?');
  return text;
}

std::string show_status(const json& answer) {
  const json& status = answer["status"];
  const json& faults = status["faults"];
  const auto line = [](const char* name, const std::string& value) {
    return fmt::format("{:<18}{}\n", name, value);
  };
  std::string text;
  text += line("version", status["version"].get<std::string>());
  text += line("pid", number(status["pid"]));
  text += line("socket", status["socket"].get<std::string>());
  text += line("up", number(status["uptime_seconds"]) + " s");
  text += line("fault workers", number(status["workers"]));
  text += line("sessions", number(status["sessions"]));
  text += line("watchers", number(status["watchers"]));
  text += line("address spaces", number(status["spaces"]));
  text += line("with a channel", number(status["channels"]));
  text += line("waits kept", number(status["kept_waits"]));
  text += line("objects", number(status["objects"]));
  text += line("object memory", bytes(status["object_bytes"]));
  if (status["swap_bytes"] != 0) {
    text += line("swap file", fmt::format("{} of {} in use", bytes(status["swapped_bytes"]),
                                          bytes(status["swap_bytes"])));
  }
  text += line("faults", fmt::format("{} missing, {} minor, {} write-protect; {} by a write",
                                     number(faults["missing"]), number(faults["minor"]),
                                     number(faults["write_protect"]), number(faults["writes"])));
  text += line("poisoned pages", number(status["poisoned_pages"]));
  const json& reclamation = status["reclamation"];
  text += line("to be freed", number(reclamation["pending"]) + " retired");
  if (reclamation["oldest_reader_ms"] != 0) {
    text += line("stuck reader", fmt::format("thread {}, for {} ms: nothing is freed meanwhile",
                                             number(reclamation["oldest_reader_thread"]),
                                             number(reclamation["oldest_reader_ms"])));
  }
  text += line("fork children", status["fork_events"].get<bool>() ? "served" : "not served");
  if (status["user_mode_only"].get<bool>()) {
    text += line("system calls", "fail with EFAULT on absent pages (user mode only)");
  }
  return text;
}

std::string show_objects(const json& answer) {
  Table table({"ID", "SIZE", "RESIDENT", "SWAPPED", "UID", "MODE", "OPEN", "MAPPED", "FROM",
               "FAILED", "NAME"});
  for (const json& object : answer["objects"]) {
    const bool linked = object["linked"].get<bool>();
    table.add({number(object["id"]), bytes(object["size"]), bytes(object["resident_bytes"]),
               bytes(object["swapped_bytes"]), number(object["uid"]),
               fmt::format("{:04o}", object["mode"].get<unsigned>()),
               number(object["open_handles"]), number(object["mappings"]),
               object["from_file"].get<bool>() ? "file" : "zero", number(object["failed_fills"]),
               name_of(object["name"]) +
                   (!linked && !object["name"].get<std::string>().empty() ? " (unlinked)" : "")});
  }
  return table.text();
}

std::string show_spaces(const json& answer) {
  Table table({"PID", "UID", "MAPS", "MAPPED", "RESIDENT", "SHARED", "PRIVATE", "MISSING", "MINOR",
               "WP", "COPIED", "BREAKS", "POISONED", "COMMAND"});
  for (const json& space : answer["spaces"]) {
    const json& faults = space["faults"];
    table.add({pid_of(space), number(space["uid"]), number(space["mappings"]),
               bytes(space["mapped_bytes"]), bytes(space["resident_bytes"]),
               bytes(space["shared_bytes"]), bytes(space["private_bytes"]),
               number(faults["missing"]), number(faults["minor"]), number(faults["write_protect"]),
               number(space["pages_copied"]), number(space["breaks"]),
               number(space["poisoned_pages"]), name_of(space["command"])});
  }
  return table.text();
}

std::string show_vmas(const json& answer) {
  Table table({"START-END", "PERMS", "OFFSET", "OBJECT", "KIND", "ADVICE", "RESIDENT", "SHARED",
               "PRIVATE", "MISSING", "MINOR", "WP", "COPIED", "AHEAD", "UNUSED", "NAME"});
  for (const json& vma : answer["vmas"]) {
    const json& faults = vma["faults"];
    table.add(
        {fmt::format("{:012x}-{:012x}", vma["start"].get<std::uint64_t>(),
                     vma["end"].get<std::uint64_t>()),
         vma["perms"].get<std::string>(), fmt::format("{:08x}", vma["offset"].get<std::uint64_t>()),
         number(vma["object"]), vma["sharing"].get<std::string>(), vma["advice"].get<std::string>(),
         bytes(vma["resident_bytes"]), bytes(vma["shared_bytes"]), bytes(vma["private_bytes"]),
         number(faults["missing"]), number(faults["minor"]), number(faults["write_protect"]),
         number(vma["pages_copied"]), number(vma["ahead_copies"]), number(vma["ahead_unused"]),
         name_of(vma["object_name"])});
  }
  return table.text();
}

std::string show_waiters(const json& answer) {
  Table table({"KEY", "PID", "THREAD", "ADDRESS", "WAITED", "TOLD BY", "OBJECT", "NAME"});
  for (const json& wait : answer["waiters"]) {
    table.add({wait["key"].get<std::string>(), pid_of(wait),
               wait["thread"] == 0 ? "-" : number(wait["thread"]),
               fmt::format("{:012x}", wait["address"].get<std::uint64_t>()),
               readable_time(wait["waited_ms"].get<std::uint64_t>()),
               wait["told_by"].get<std::string>(), number(wait["object"]),
               name_of(wait["object_name"])});
  }
  const auto left_out = answer["left_out"].get<std::uint64_t>();
  return table.text() + (left_out == 0 ? "" : fmt::format("and {} more\n", left_out));
}

std::string show_pins(const json& answer) {
  Table processes({"PID", "UID", "PINNED", "GRANTED", "FAST", "SLOW", "ABSENT", "NOT OWN",
                   "NOT KNOWN", "BUDGET", "COMMAND"});
  Table pins({"PID", "OBJECT", "OFFSET", "SIZE", "ADDRESS", "ACCESS", "HELD", "NAME"});
  std::uint64_t left_out = 0;
  for (const json& process : answer["pins"]) {
    const json& why = process["fallbacks"];
    processes.add({pid_of(process), number(process["uid"]), bytes(process["pinned_bytes"]),
                   bytes(process["granted_bytes"]), number(process["fast"]),
                   number(process["slow"]), number(why["absent"]), number(why["not_own"]),
                   number(why["not_known"]), number(why["budget"]), name_of(process["command"])});
    left_out += process["left_out"].get<std::uint64_t>();
    for (const json& pin : process["pins"]) {
      const auto ended = pin["ended"].get<std::string>();
      pins.add({pid_of(process), number(pin["object"]),
                fmt::format("{:08x}", pin["offset"].get<std::uint64_t>()), bytes(pin["length"]),
                fmt::format("{:012x}", pin["address"].get<std::uint64_t>()),
                pin["access"].get<std::string>() + (pin["own"].get<bool>() ? ", own" : ""),
                ended.empty() ? readable_time(pin["held_ms"].get<std::uint64_t>()) : "ended",
                name_of(pin["object_name"])});
    }
  }
  return processes.text() + "\n" + pins.text() +
         (left_out == 0 ? "" : fmt::format("and {} more\n", left_out));
}

}  // namespace faultline::ctl
