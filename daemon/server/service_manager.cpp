#include "daemon/server/service_manager.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include <cstdlib>

namespace faultline::server::service_manager {

Result<std::optional<UniqueFd>> take_socket() {
  const int count = ::sd_listen_fds(1);
  if (count < 0) return fail(-count, "taking the service manager's socket");
  if (count == 0) return std::nullopt;
  UniqueFd socket{SD_LISTEN_FDS_START};
  if (count > 1) {
    return fail(EINVAL, "the service manager hands over " + std::to_string(count) +
                            " sockets, where faultlined listens on one");
  }
  if (::sd_is_socket_unix(socket.get(), SOCK_SEQPACKET, 1, nullptr, 0) <= 0) {
    return fail(EINVAL,
                "what the service manager hands over is no listening unix socket of sequential "
                "packets (ListenSequentialPacket=)");
  }
  // An inherited socket has the manager's flags, and its own accept(2) may be let to block.
  const int flags = ::fcntl(socket.get(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return fail_errno("making the service manager's socket non-blocking");
  }
  return std::optional(std::move(socket));
}

bool listens() {
  const char* const path = std::getenv("NOTIFY_SOCKET");
  return path != nullptr && *path != '\0';
}

std::optional<std::chrono::microseconds> watchdog() {
  std::uint64_t within = 0;
  if (::sd_watchdog_enabled(0, &within) <= 0) return std::nullopt;
  return std::chrono::microseconds(within);
}

void ready() {
  (void)::sd_notify(0, "READY=1");
}

void reloading() {
  timespec now{};
  (void)::clock_gettime(CLOCK_MONOTONIC, &now);
  const std::int64_t us = std::int64_t{now.tv_sec} * 1'000'000 + now.tv_nsec / 1'000;
  (void)::sd_notify(0, ("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(us)).c_str());
}

void stopping() {
  (void)::sd_notify(0, "STOPPING=1");
}

void alive() {
  (void)::sd_notify(0, "WATCHDOG=1");
}

void status(const std::string& text) {
  (void)::sd_notify(0, ("STATUS=" + text).c_str());
}

}  // namespace faultline::server::service_manager
