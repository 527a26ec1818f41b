#include "tools/faultctl/watch.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <iostream>
#include <optional>
#include <span>
#include <string_view>

#include "tools/faultctl/connection.hpp"
#include "tools/faultctl/event_line.hpp"
#include "tools/faultctl/pace.hpp"
#include "tools/faultctl/waiting.hpp"

namespace faultline::ctl {

namespace {

// Prints to standard output. False: nobody reads it, or it is time to end.
bool write_out(const Waiting& waiting, std::string_view text) {
  while (!text.empty()) {
    std::array<pollfd, 1> output{{{STDOUT_FILENO, POLLOUT, 0}}};
    if (!waiting.for_any(output)) return false;
    // So much goes into a pipe that is ready without a wait.
    const ssize_t written =
        ::write(STDOUT_FILENO, text.data(), std::min(text.size(), std::size_t{PIPE_BUF}));
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno == EPIPE) {
      return false;
    } else if (errno != EAGAIN && errno != EINTR) {
      throw Refused(errno, "writing an event");
    }
  }
  return true;
}

// Until then, or until the daemon goes: what it has said is read at once. False: nobody reads what
// is printed, or it is time to end.
bool wait_until(const Waiting& waiting, const Connection& daemon, Waiting::Clock::time_point then) {
  std::array<pollfd, 2> files{{{daemon.fd(), 0, 0}, {STDOUT_FILENO, 0, 0}}};
  for (;;) {
    switch (waiting.until(files, then)) {
      case Waiting::Outcome::timed_out:
        return true;
      case Waiting::Outcome::ready:
        return files[1].revents == 0;
      case Waiting::Outcome::ended:
        return false;
      case Waiting::Outcome::noted:
        break;
    }
  }
}

// Until the daemon has something to say. False: nobody reads what it says, or it is time to end.
bool wait_for_packet(const Waiting& waiting, const Connection& daemon) {
  std::array<pollfd, 2> files{{{daemon.fd(), POLLIN, 0}, {STDOUT_FILENO, 0, 0}}};
  if (!waiting.for_any(files)) return false;
  return (files[1].revents & (POLLERR | POLLHUP)) == 0;
}

struct Batch {
  std::uint64_t lost = 0;
  std::vector<wire::Event> events;
};

Batch batch_in(const wire::Packet& packet) {
  wire::EventsHeader header;
  const std::size_t before = sizeof(wire::ReplyHeader) + sizeof(header);
  if (packet.bytes.size() < before)
    throw Unreachable::in_words(EPROTO, "the daemon's answer is too short");
  std::memcpy(&header, packet.bytes.data() + sizeof(wire::ReplyHeader), sizeof(header));
  if (header.count > wire::kMaxEvents ||
      packet.bytes.size() != before + header.count * sizeof(wire::Event)) {
    throw Unreachable::in_words(EPROTO, "the daemon's answer is malformed");
  }
  Batch batch{header.lost, std::vector<wire::Event>(header.count)};
  if (header.count > 0) {
    std::memcpy(batch.events.data(), packet.bytes.data() + before,
                header.count * sizeof(wire::Event));
  }
  return batch;
}

}  // namespace

void watch(const std::vector<std::string>& socket_paths, const Watch& what) {
  Connection daemon(socket_paths);
  wire::Packet packet = daemon.ask(wire::Op::watch, what.request);
  const Waiting waiting;
  std::string text = what.as_json ? event_heading_json() : event_heading();
  std::uint64_t printed = 0;
  std::optional<Pace> pace;
  if (what.per_second) pace.emplace(*what.per_second);
  for (;;) {
    const Batch batch = batch_in(packet);
    if (pace) pace->read(batch.events.size(), Pace::Clock::now());
    if (batch.lost > 0) {
      std::cerr << fmt::format(
          "faultctl: {} events lost here: they came faster than they were read\n", batch.lost);
      if (what.as_json) text += lost_line_json(batch.lost);
    }
    for (const wire::Event& event : batch.events) {
      text += what.as_json ? event_line_json(event) : event_line(event);
      if (++printed == what.count) break;
    }
    if (!write_out(waiting, text)) return;
    if (what.count != 0 && printed == what.count) return;
    text.clear();
    if (pace && !wait_until(waiting, daemon, pace->next())) return;
    if (!wait_for_packet(waiting, daemon)) return;
    packet = daemon.receive();
  }
}

}  // namespace faultline::ctl
