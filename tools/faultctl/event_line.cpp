#include "tools/faultctl/event_line.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>

#include "tools/faultctl/table.hpp"

namespace faultline::ctl {

namespace {

using nlohmann::json;
using wire::Event;
using wire::EventKind;
using wire::FaultKind;

constexpr int kSchema = 1;
constexpr std::uint64_t kNsPerSecond = 1'000'000'000;
constexpr std::uint64_t kNsPerUs = 1'000;
constexpr const char* kColumns = "{:<15}  {:<5}  {:>7}  {:>12}  {:>10}  {:>6}  {:>8}  {:<12}  {}\n";

bool has(const Event& event, std::uint8_t flag) {
  return (event.flags & flag) != 0;
}

std::string kind_of(const Event& event) {
  const auto kind = static_cast<std::size_t>(event.kind);
  return kind < event_names().size() ? event_names()[kind] : std::to_string(kind);
}

std::string fault_of(const Event& event) {
  switch (event.fault) {
    case FaultKind::missing:
      return "missing";
    case FaultKind::minor:
      return "minor";
    case FaultKind::write_protect:
      return "write_protect";
    case FaultKind::none:
      break;
  }
  return "none";
}

std::string perms_of(const Event& event) {
  return std::string(has(event, wire::kEventWritable) ? "rw-" : "r--") +
         (has(event, wire::kEventShared) ? "s" : "p");
}

std::string name_in(const Event& event) {
  // Whatever came, the name ends in its field.
  return {event.object_name.begin(),
          std::find(event.object_name.begin(), event.object_name.end(), '\0')};
}

std::string time_of_day(std::uint64_t time_ns) {
  const auto seconds = static_cast<std::time_t>(time_ns / kNsPerSecond);
  return fmt::format("{:%H:%M:%S}.{:06}", fmt::localtime(seconds),
                     time_ns % kNsPerSecond / kNsPerUs);
}

// What only this kind of event has to tell.
std::string detail_of(const Event& event) {
  switch (event.kind) {
    case EventKind::map:
    case EventKind::unmap:
    case EventKind::cow_break:
      return perms_of(event);
    case EventKind::fault:
      return (event.fault == FaultKind::write_protect ? "wp" : fault_of(event)) +
             (has(event, wire::kEventWrite) ? " write" : " read");
    case EventKind::fork:
      return fmt::format("space {}", event.child_space_id);
    case EventKind::exit:
      break;
  }
  return "-";
}

std::string line_of(const json& event) {
  return event.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace

const std::vector<std::string>& event_names() {
  static const std::vector<std::string> names{"map", "unmap", "fault", "break", "fork", "exit"};
  return names;
}

std::string event_heading() {
  return fmt::format(kColumns, "TIME", "EVENT", "PID", "ADDRESS", "SIZE", "OBJECT", "PAGE",
                     "DETAIL", "NAME");
}

std::string event_heading_json() {
  return line_of({{"event", "watching"}, {"schema", kSchema}});
}

std::string event_line(const Event& event) {
  const bool in_object = event.object_id != 0;
  const std::string name = printable(name_in(event));
  return fmt::format(kColumns, time_of_day(event.time_ns), kind_of(event),
                     event.pid == 0 ? "?" : std::to_string(event.pid),
                     in_object ? fmt::format("{:012x}", event.start) : "-",
                     event.length == 0 ? "-" : readable_bytes(event.length),
                     in_object ? std::to_string(event.object_id) : "-",
                     in_object ? std::to_string(event.page) : "-", detail_of(event),
                     name.empty() ? "-" : name);
}

std::string event_line_json(const Event& event) {
  json out = {
      {"event", kind_of(event)}, {"time_ns", event.time_ns}, {"pid", event.pid},
      {"space", event.space_id}, {"uid", event.uid},
  };
  if (event.object_id != 0) {
    out["object"] = event.object_id;
    out["object_name"] = name_in(event);
    out["page"] = event.page;
    out["perms"] = perms_of(event);
    out["sharing"] = has(event, wire::kEventShared) ? "shared" : "private";
    out["writable"] = has(event, wire::kEventWritable);
  }
  switch (event.kind) {
    case EventKind::map:
    case EventKind::unmap:
    case EventKind::cow_break:
      out["start"] = event.start;
      out["end"] = event.start + event.length;
      out["offset"] = event.object_offset;
      break;
    case EventKind::fault:
      out["address"] = event.start;
      out["fault"] = fault_of(event);
      out["write"] = has(event, wire::kEventWrite);
      out["thread"] = event.thread;
      break;
    case EventKind::fork:
      out["child_space"] = event.child_space_id;
      break;
    case EventKind::exit:
      break;
  }
  return line_of(out);
}

std::string lost_line_json(std::uint64_t lost) {
  return line_of({{"event", "lost"}, {"events", lost}});
}

}  // namespace faultline::ctl
