// faultlined: the daemon that owns memory objects and answers the page faults of the processes that
// map them. This file turns a command line into settings and runs the server; it must hold no logic
// of its own.

#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>

#include "daemon/command_line.hpp"
#include "daemon/exit_status.hpp"
#include "daemon/kernel/feature_check.hpp"
#include "daemon/kernel/log.hpp"
#include "daemon/server/server.hpp"
#include "daemon/server/service_manager.hpp"

namespace {

using faultline::kExitFailure;
using faultline::kExitUsage;
using faultline::server::Settings;
namespace service_manager = faultline::server::service_manager;

// Every session and every address space takes a descriptor.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE,
                    &limit);  // without it, fewer clients: accept says so when it matters
}

int check() {
  const auto findings = faultline::kernel::check_features();
  std::cout << faultline::kernel::render(findings) << std::flush;
  if (!std::cout) {
    std::cerr << "faultlined: writing the report: " << std::strerror(errno) << '\n';
    return kExitFailure;
  }
  return faultline::kernel::runnable(findings) ? EXIT_SUCCESS : kExitFailure;
}

// Some errors are told in words that an errno would add nothing to.
void complain(const std::string& words) {
  std::cerr << "faultlined: " << words << '\n';
}
int refuse(const faultline::Error& error) {
  complain(faultline::server::in_words(error));
  return kExitUsage;
}
int give_up(const faultline::Error& error, const Settings& settings) {
  std::string words = error.code() == EADDRINUSE ? error.attempted() : error.message();
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  const bool nowhere = ::geteuid() != 0 && (runtime == nullptr || *runtime == '\0');
  if (nowhere && settings.socket_path == faultline::server::default_socket_path()) {
    words += "; set XDG_RUNTIME_DIR or give --socket";
  }
  complain(words);
  return kExitFailure;
}

void log_settings(const Settings& settings) {
  for (const auto& [name, value, live] : faultline::server::shown(settings)) {
    faultline::log::info("setting {} = {}", name, value);
  }
}

// What a reload reads.
faultline::server::Server::Reread reread(const faultline::CommandLine& line) {
  return [line]() -> faultline::Result<faultline::server::Server::Read> {
    if (!line.config && !line.default_config) {
      return faultline::fail(
          EINVAL, "reading the settings again: faultlined was started without --config FILE");
    }
    const auto file = line.config ? line.config : line.default_config;
    auto settings = faultline::settings_of(line);
    if (!settings) return faultline::propagate(settings);
    return faultline::server::Server::Read{*file, std::move(*settings)};
  };
}

}  // namespace

int main(int argc, char** argv) {
  const auto [line, exit] = faultline::parse(argc, argv);
  if (exit) return *exit;
  if (line.only_check) return check();
  const auto settings = faultline::settings_of(line);
  if (!settings) return refuse(settings.error());
  auto inherited = service_manager::take_socket();
  if (!inherited) return refuse(inherited.error());

  if (faultline::log::standard_error_is_journal()) {
    faultline::log::to_journal();
  } else {
    faultline::log::to_standard_error();
  }
  faultline::log::set_level(settings->log_level);
  const auto findings = faultline::kernel::check_features();
  if (!faultline::kernel::runnable(findings)) {
    std::cerr << "faultlined: this machine cannot run it:\n" << faultline::kernel::render(findings);
    return kExitFailure;
  }
  log_settings(*settings);

  raise_descriptor_limit();
  (void)std::signal(SIGPIPE, SIG_IGN);
  // A limit of file sizes (RLIMIT_FSIZE), which is one of the swap file and of objects too: EFBIG.
  (void)std::signal(SIGXFSZ, SIG_IGN);
  auto server = faultline::server::Server::create(*settings, faultline::kernel::probe_support(),
                                                  std::move(*inherited), reread(line));
  if (!server) return give_up(server.error(), *settings);
  faultline::log::info("faultlined {} listens on {}", FAULTLINE_VERSION, (*server)->socket_path());
  service_manager::ready();
  if (!(*server)->run()) {
    // A thread is held up in the kernel, by a client or a file; nothing that it uses may go. The
    // end of the process frees it, and whoever waits for us.
    faultline::log::flush();
    ::_exit(EXIT_SUCCESS);
  }
  return EXIT_SUCCESS;
}
