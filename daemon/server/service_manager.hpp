// What the daemon and the service manager that started it say to each other: sd_notify(3),
// sd_listen_fds(3). Without one, nothing is said and nothing was handed over. Must never fail the
// daemon: a manager that does not listen is its own trouble.
//
// Thread-safe, but for take_socket().
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "daemon/kernel/error.hpp"
#include "faultline/wire/unique_fd.hpp"

namespace faultline::server::service_manager {

// The socket to listen on, where the manager made one; nothing otherwise. Once, before there are
// other threads. Errors: EINVAL, in words, where it handed over something else.
Result<std::optional<UniqueFd>> take_socket();

// Somebody wants to be told.
[[nodiscard]] bool listens();
// Within how long it wants to hear alive() again; nothing where it does not watch us.
[[nodiscard]] std::optional<std::chrono::microseconds> watchdog();

void ready();
void reloading();
void stopping();
void alive();
// One line of what we are doing, for people.
void status(const std::string& text);

}  // namespace faultline::server::service_manager
