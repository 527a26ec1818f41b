#include "daemon/server/server.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/post.hpp>
#include <csignal>
#include <cstring>
#include <utility>

#include "daemon/admin/object_map.hpp"
#include "daemon/admin/report.hpp"
#include "daemon/kernel/log.hpp"
#include "daemon/kernel/signals.hpp"
#include "daemon/server/reload.hpp"
#include "daemon/server/service_manager.hpp"

namespace faultline::server {

namespace {

namespace asio = boost::asio;

// Connections past the limit still get their answer in words; past this many more, of all or of one
// user, they are just closed.
constexpr std::size_t kRefusalsAtOnce = 64;
constexpr std::size_t kRefusalsOfUser = 4;
constexpr std::chrono::milliseconds kAcceptPause{100};
// Longer than the workers allow clients for a fork or an unmap.
constexpr std::chrono::seconds kStopWithin{8};
// Of that, for evictions under way and for pages that are read back from the swap file.
constexpr std::chrono::milliseconds kEvictionsWithin{1500};
constexpr std::chrono::milliseconds kBringBackWithin{2000};

memory::ObjectLimits object_limits(const Settings& settings) {
  return {ByteCount{settings.max_object_bytes}, settings.max_objects};
}

pin::PinLimits pin_limits(const Settings& settings) {
  pin::PinLimits limits;
  if (settings.max_pinned_per_process) {
    limits.per_process = ByteCount{*settings.max_pinned_per_process};
  }
  limits.per_user = ByteCount{settings.max_pinned_per_user.value()};
  limits.total = ByteCount{settings.max_pinned.value()};
  return limits;
}

std::string counted(std::size_t count, const std::string& what) {
  const char* const plural = what.ends_with('s') ? "es" : "s";
  return std::to_string(count) + " " + what + (count == 1 ? "" : plural);
}

}  // namespace

Server::Server(Settings settings, const kernel::KernelSupport& support, Reread reread)
    : settings_(std::move(settings)),
      reread_(std::move(reread)),
      support_(support),
      objects_(object_limits(settings_)) {}

Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::create(const Settings& settings,
                                               const kernel::KernelSupport& support,
                                               std::optional<UniqueFd> inherited, Reread reread) {
  // The thread that calls run() gets the signals, and none of those that are made here.
  const kernel::SignalsBlocked none_for_others;
  std::unique_ptr<Server> server{new Server(settings, support, std::move(reread))};
  server->userfaultfd_device_ = UniqueFd{::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)};
  auto event_signal = kernel::EventSignal::create();
  if (!event_signal) return propagate(event_signal);
  server->event_signal_ = std::move(*event_signal);
  server->waits_ = std::make_unique<wait::WaitService>(server->event_signal_);
  server->pins_ = std::make_unique<pin::PinService>(server->objects_, pin_limits(settings));
  auto spaces = space::SpaceService::create(
      {.workers_per_user = settings.workers, .spaces_per_user = settings.max_spaces_per_user},
      [waits = server->waits_.get(),
       pins = server->pins_.get()](uid_t uid) -> Result<space::SpaceObserver*> {
        auto observer = waits->observer_of(uid);
        if (!observer) return propagate(observer);
        return &pins->observe(uid, **observer);
      });
  if (!spaces) return propagate(spaces);
  server->spaces_ = std::move(*spaces);
  server->evictor_ = std::make_unique<space::Evictor>(*server->spaces_, server->pins_.get());
  if (auto opened = server->open_swap(); !opened) return propagate(opened);
  // Before there is a socket to leave behind, and before anybody is told that we are ready; run()
  // finds what came meanwhile.
  for (const int signal : {SIGTERM, SIGINT, SIGQUIT, SIGHUP}) server->signals_.add(signal);
  if (auto started = server->objects_.start(); !started) return propagate(started);
  Status listening = inherited ? server->listen_on(std::move(*inherited)) : server->listen();
  if (!listening) return propagate(listening);
  if (auto opened = server->open_metrics(); !opened) return propagate(opened);
  return server;
}

Status Server::open_swap() {
  if (settings_.swap_file.empty()) return {};
  auto swap = memory::SwapFile::open(settings_.swap_file, ByteCount{settings_.swap_bytes});
  if (!swap) return propagate(swap);
  objects_.set_swap(std::move(*swap));
  return {};
}

Status Server::open_metrics() {
  if (settings_.metrics_listen.empty()) return {};
  auto address = parse_metrics_address(settings_.metrics_listen);
  if (!address) return propagate(address);
  auto endpoint = MetricsEndpoint::create(
      *address, settings_.socket_gid,
      [sources = admin::MetricSources{objects_, *spaces_, *evictor_, *waits_, *pins_, connections_,
                                      std::chrono::system_clock::now()}] {
        return admin::gather(sources);
      });
  if (!endpoint) return propagate(endpoint);
  metrics_ = std::move(*endpoint);
  log::info("metrics are at {}", metrics_->where());
  return {};
}

Status Server::listen() {
  const std::filesystem::path& path = settings_.socket_path;
  auto fd =
      listen_at(path, SOCK_SEQPACKET, settings_.socket_gid, settings_.socket_mode, socket_file_);
  if (!fd) return propagate(fd);
  listener_.assign(fd->release());
  return {};
}

Status Server::listen_on(UniqueFd inherited) {
  sockaddr_un address{};
  socklen_t size = sizeof(address);
  if (::getsockname(inherited.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return fail_errno("looking at the socket that was handed over");
  }
  settings_.socket_path = std::string(
      address.sun_path, ::strnlen(address.sun_path, size - offsetof(sockaddr_un, sun_path)));
  listener_.assign(inherited.release());
  inherited_ = true;
  return {};
}

void Server::await_signal() {
  signals_.async_wait([this](const boost::system::error_code& error, int signal) {
    if (error) return;
    if (signal == SIGHUP) {
      service_manager::reloading();
      reload([](const Result<std::string>&) { service_manager::ready(); });
      return await_signal();
    }
    log::info("{}: taking no more work", ::strsignal(signal));
    stop();
  });
}

void Server::reload(std::function<void(Result<std::string>)> done) {
  // One after the other, by one thread: none brings back what another has replaced.
  asio::post(helpers_.settings(), [this, done = std::move(done)] {
    auto read = reread_();
    asio::post(control_, [this, read = std::move(read), done]() mutable {
      if (!read) {
        log::error("the settings stay as they are: {}", in_words(read.error()));
        return done(propagate(read));
      }
      if (inherited_) read->settings.socket_path = settings_.socket_path;
      Reloaded reloaded{read->file, changes(settings_, read->settings)};
      take_over(read->settings);
      reloaded.log();
      done(reloaded.json());
    });
  });
}

void Server::take_over(const Settings& wanted) {
  settings_ = taken_over(settings_, wanted);
  objects_.set_limits(object_limits(settings_));
  spaces_->set_spaces_per_user(settings_.max_spaces_per_user);
  pins_->set_limits(pin_limits(settings_));
  log::set_level(settings_.log_level);
}

std::vector<kernel::WatchedThread> Server::workers() const {
  std::vector<kernel::WatchedThread> all = spaces_->threads();
  for (auto& thread : waits_->threads()) all.push_back(std::move(thread));
  return all;
}

std::string Server::status_line() const {
  const auto objects = objects_.all();
  std::uint64_t resident = 0;
  for (const auto& object : objects) resident += object->resident().value();
  return counted(spaces_->space_count(), "client process") + ", " +
         counted(served_.open.size(), "connection") + ", " + counted(objects.size(), "object") +
         " with " + std::to_string(resident >> 20U) + " MiB in memory";
}

bool Server::run() {
  await_signal();
  accept_when_ready();
  supervision_.start();
  control_.run();
  return all_ended_;
}

void Server::stop() {
  // A second signal must not end the process on its way out, when the handlers are gone. All other
  // threads block signals from their first instruction.
  sigset_t all{};
  ::sigfillset(&all);
  (void)::pthread_sigmask(SIG_BLOCK, &all, nullptr);
  service_manager::stopping();
  supervision_.stop();
  metrics_.reset();  // it looks at what ends now
  socket_file_.remove();
  kernel::ForeignFd listener{listener_.release()};
  // The manager's stays open, and who connects from here on waits there for the next daemon: a
  // shutdown(2) would be of its socket too.
  if (!inherited_) hang_up(std::move(listener));
  accept_pause_.cancel();
  pin_clock_.cancel();
  for (const Sessions& sessions : {served_, refused_}) {  // copies: closing takes them out
    for (const auto& session : sessions.open) session->close();
  }
  const std::size_t spaces = spaces_->space_count();
  const auto deadline = std::chrono::steady_clock::now() + kStopWithin;
  // What is in the swap file is lost with us: as much as can be had in time is brought back.
  const bool evictions_ended = evictor_->stop(std::chrono::steady_clock::now() + kEvictionsWithin);
  objects_.bring_all_back(std::chrono::steady_clock::now() + kBringBackWithin);
  // Requests that are under way use the spaces, which must not go before them.
  const bool waits_settled = waits_->settle(deadline);
  const bool workers_ended = spaces_->stop(deadline);
  const bool pagers_ended = objects_.stop(deadline);
  const bool helpers_ended = helpers_.stop(deadline);
  all_ended_ = waits_settled && evictions_ended && workers_ended && pagers_ended && helpers_ended;
  control_.stop();
  if (spaces == 0) {
    log::info("stopped");
  } else {
    log::info("stopped; with {} still mapped", counted(spaces, "client"));
  }
}

void Server::accept_when_ready() {
  listener_.async_wait(asio::posix::stream_descriptor::wait_read,
                       [this](const boost::system::error_code& error) {
                         if (!error) accept_all();
                       });
}

void Server::accept_all() {
  for (;;) {
    kernel::ForeignFd socket{
        ::accept4(listener_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)};
    if (socket) {
      admit(std::move(socket));
      continue;
    }
    if (errno == EINTR || errno == ECONNABORTED) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) break;
    // Out of descriptors or memory: the connection stays in the queue, so asking at once would
    // spin.
    accept_log_.log(log::Level::error, {.error = errno}, "accepting a client: {}",
                    std::strerror(errno));
    accept_pause_.expires_after(kAcceptPause);
    accept_pause_.async_wait([this](const boost::system::error_code& error) {
      if (!error) accept_when_ready();
    });
    return;
  }
  accept_when_ready();
}

std::string Server::why_not(uid_t uid) const {
  if (served_.open.size() >= settings_.max_sessions) {
    return "the daemon allows " + counted(settings_.max_sessions, "connection") + " (max_sessions)";
  }
  if (served_.of(uid) >= settings_.max_sessions_per_user) {
    return "the daemon allows " + counted(settings_.max_sessions_per_user, "connection") +
           " of one user (max_sessions_per_user)";
  }
  return {};
}

void Server::admit(kernel::ForeignFd socket) {
  const auto peer = kernel::peer_credentials(socket.get());
  if (!peer) return;
  std::string refused = why_not(peer->uid);
  if (!refused.empty()) {
    (served_.open.size() >= settings_.max_sessions ? connections_.refused_of_all
                                                   : connections_.refused_of_user)
        .add();
  }
  Sessions& sessions = refused.empty() ? served_ : refused_;
  if (!refused.empty() &&
      (refused_.open.size() >= kRefusalsAtOnce || refused_.of(peer->uid) >= kRefusalsOfUser)) {
    return hang_up(std::move(socket));
  }
  SessionHost& host = *this;  // here, where the private base can be seen
  auto session = std::make_shared<Session>(std::move(socket), *peer, std::move(refused), host);
  sessions.add(session);
  connections_.sessions.store(served_.open.size(), std::memory_order_relaxed);
  session->start();
}

void Server::closed(Session& session) {
  (session.refused() ? refused_ : served_).remove(session.shared_from_this());
  connections_.sessions.store(served_.open.size(), std::memory_order_relaxed);
}

std::size_t Server::Sessions::of(uid_t uid) const {
  const auto found = of_user.find(uid);
  return found == of_user.end() ? 0 : found->second;
}

void Server::Sessions::add(const std::shared_ptr<Session>& session) {
  open.insert(session);
  ++of_user[session->uid()];
}

void Server::Sessions::remove(const std::shared_ptr<Session>& session) {
  const auto user = of_user.find(session->uid());
  if (--user->second == 0) of_user.erase(user);
  open.erase(session);
}

void Server::start_pin_clock() {
  if (std::exchange(pin_clock_runs_, true)) return;
  run_pin_clock();
}

void Server::run_pin_clock() {
  pin_clock_.expires_after(std::chrono::milliseconds(wire::kPinClockMs));
  pin_clock_.async_wait([this](const boost::system::error_code& error) {
    pin_clock_runs_ = !error && pins_->tick();
    if (pin_clock_runs_) run_pin_clock();
  });
}

std::uint32_t Server::server_flags() const {
  std::uint32_t flags = 0;
  if (objects_.swap() != nullptr) flags |= wire::kServerSwaps;
  if (!userfaultfd_device_) flags |= wire::kServerUserModeOnly;
  if (!support_.fork_events) flags |= wire::kServerNoForkEvents;
  return flags;
}

void Server::report(const wire::AdminRequest& query, uid_t viewer,
                    std::function<void(Result<std::string>)> done) {
  if (query.query == wire::AdminQuery::map) {
    asio::post(helpers_.of(viewer), [this, query, viewer, done = std::move(done)] {
      done(admin::object_map(query, viewer, objects_, *spaces_, *pins_));
    });
    return;
  }
  admin::DaemonStatus status;
  status.version = FAULTLINE_VERSION;
  status.socket_path = settings_.socket_path.string();
  status.workers = spaces_->worker_count();
  status.sessions = served_.open.size();
  status.sessions_of_viewer = served_.of(viewer);
  status.limits = {settings_.max_objects, settings_.max_sessions, settings_.max_sessions_per_user,
                   settings_.max_spaces_per_user};
  status.watchers = spaces_->feed().watcher_count();
  status.uptime =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - started_);
  status.user_mode_only = !userfaultfd_device_;
  status.fork_events = support_.fork_events;
  asio::post(helpers_.reports(), [this, query, viewer, status = std::move(status),
                                  done = std::move(done)] {
    done(admin::answer(query, viewer, status, objects_, spaces_->overview(), *waits_, *pins_));
  });
}

}  // namespace faultline::server
