#include "tools/faultctl/watch.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <iostream>
#include <span>
#include <string_view>

#include "tools/faultctl/connection.hpp"
#include "tools/faultctl/event_line.hpp"

namespace faultline::ctl {

namespace {

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): all a handler can reach
volatile std::sig_atomic_t asked_to_end = 0;

void ask_to_end(int) {
  asked_to_end = 1;
}

// Signals that ask for an end are let in while this waits, and at no other time: none comes between
// a look at the flag and the wait. What was ignored stays so, as nohup(1) wants it.
class Waiting {
 public:
  Waiting() {
    sigset_t ends{};
    ::sigemptyset(&ends);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
      struct sigaction action {};
      if (::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) continue;
      action = {};
      action.sa_handler = ask_to_end;
      (void)::sigaction(signal, &action, nullptr);
      ::sigaddset(&ends, signal);
    }
    (void)::signal(SIGPIPE, SIG_IGN);
    (void)::pthread_sigmask(SIG_BLOCK, &ends, &before_);
  }

  // Until one of them is ready, or in a state that no wait changes. False: it is time to end.
  [[nodiscard]] bool for_any(std::span<pollfd> files) const {
    for (;;) {
      const int ready = ::ppoll(files.data(), files.size(), nullptr, &before_);
      if (asked_to_end != 0) return false;
      if (ready > 0) return true;
      if (ready < 0 && errno != EINTR) {
        throw Refused(fmt::format("waiting for events: {}", std::strerror(errno)));
      }
    }
  }

 private:
  sigset_t before_{};
};

// Prints to standard output. False: nobody reads it, or it is time to end.
bool print(const Waiting& waiting, std::string_view text) {
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
      throw Refused(fmt::format("writing an event: {}", std::strerror(errno)));
    }
  }
  return true;
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
  if (packet.bytes.size() < before) throw Unreachable("the daemon's answer is too short");
  std::memcpy(&header, packet.bytes.data() + sizeof(wire::ReplyHeader), sizeof(header));
  if (header.count > wire::kMaxEvents ||
      packet.bytes.size() != before + header.count * sizeof(wire::Event)) {
    throw Unreachable("the daemon's answer is malformed");
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
  for (;;) {
    const Batch batch = batch_in(packet);
    if (batch.lost > 0) {
      std::cerr << fmt::format(
          "faultctl: {} events lost here: they came faster than they were read\n", batch.lost);
      if (what.as_json) text += lost_line_json(batch.lost);
    }
    for (const wire::Event& event : batch.events) {
      text += what.as_json ? event_line_json(event) : event_line(event);
      if (++printed == what.count) break;
    }
    if (!print(waiting, text)) return;
    if (what.count != 0 && printed == what.count) return;
    text.clear();
    if (!wait_for_packet(waiting, daemon)) return;
    packet = daemon.receive();
  }
}

}  // namespace faultline::ctl
