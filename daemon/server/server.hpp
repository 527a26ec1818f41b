// The control plane: the listening socket, the sessions, and the rooms that they ask. Must never
// stand between a fault and its answer, which the workers give by themselves.
#pragma once

#include <sys/types.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "daemon/admin/metrics.hpp"
#include "daemon/kernel/feature_check.hpp"
#include "daemon/kernel/log_budget.hpp"
#include "daemon/server/helpers.hpp"
#include "daemon/server/metrics_endpoint.hpp"
#include "daemon/server/session.hpp"
#include "daemon/server/settings.hpp"
#include "daemon/server/socket_file.hpp"
#include "daemon/server/supervision.hpp"

namespace faultline::server {

class Server final : private SessionHost {
 public:
  // Reads the settings again. Called on a thread that may block. Errors: EINVAL in words, and what
  // reading the file says.
  struct Read {
    std::filesystem::path file;
    Settings settings;
  };
  using Reread = std::function<Result<Read>()>;

  // Listens when it returns, on the socket that was inherited where there is one. Errors:
  // EADDRINUSE another daemon listens there, or what is there is not a socket, each in words that
  // need no errno; EACCES, ENOENT of the socket's place; and what io_uring_setup(2) says. An error
  // leaves no socket behind.
  static Result<std::unique_ptr<Server>> create(const Settings& settings,
                                                const kernel::KernelSupport& support,
                                                std::optional<UniqueFd> inherited, Reread reread);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  ~Server() override;

  // Serves until SIGTERM, SIGINT or SIGQUIT, and reads its settings again with SIGHUP; then takes
  // no more work, leaves no client blocked, and returns. False where a thread did not end, held up
  // in the kernel by a client or a file: then end the process without destroying this.
  [[nodiscard]] bool run();
  [[nodiscard]] std::string socket_path() const { return settings_.socket_path.string(); }

 private:
  struct Sessions {
    std::set<std::shared_ptr<Session>> open;
    std::map<uid_t, std::size_t> of_user;

    [[nodiscard]] std::size_t of(uid_t uid) const;
    void add(const std::shared_ptr<Session>& session);
    void remove(const std::shared_ptr<Session>& session);
  };

  Server(Settings settings, const kernel::KernelSupport& support, Reread reread);
  Status listen();
  Status listen_on(UniqueFd inherited);
  void await_signal();
  void run_pin_clock();
  void accept_when_ready();
  void accept_all();
  // Why this user gets no session now; empty where it does.
  [[nodiscard]] std::string why_not(uid_t uid) const;
  void admit(kernel::ForeignFd socket);
  void stop();
  Status open_swap();
  Status open_metrics();

  boost::asio::io_context& control() override { return control_; }
  boost::asio::thread_pool& helpers_of(uid_t uid) override { return helpers_.of(uid); }
  memory::ObjectDirectory& objects() override { return objects_; }
  space::SpaceService& spaces() override { return *spaces_; }
  space::Evictor& evictor() override { return *evictor_; }
  wait::WaitService& waits() override { return *waits_; }
  pin::PinService& pins() override { return *pins_; }
  void start_pin_clock() override;
  int userfaultfd_device() const override { return userfaultfd_device_.get(); }
  std::uint32_t server_flags() const override;
  std::shared_ptr<kernel::EventSignal> event_signal() override { return event_signal_; }
  void report(const wire::AdminRequest& query, uid_t viewer,
              std::function<void(Result<std::string>)> done) override;
  void reload(std::function<void(Result<std::string>)> done) override;
  void take_over(const Settings& wanted);
  [[nodiscard]] std::string status_line() const;
  [[nodiscard]] std::vector<kernel::WatchedThread> workers() const;
  void closed(Session& session) override;

  Settings settings_;
  const Reread reread_;
  kernel::KernelSupport support_;
  bool all_ended_ = true;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  UniqueFd userfaultfd_device_;
  std::shared_ptr<kernel::EventSignal> event_signal_;
  boost::asio::io_context control_{1};
  Helpers helpers_;
  boost::asio::signal_set signals_{control_};
  boost::asio::posix::stream_descriptor listener_{control_};
  bool inherited_ = false;  // the socket is the service manager's
  SocketFile socket_file_;  // goes before the listener
  boost::asio::steady_timer accept_pause_{control_};
  kernel::LogBudget accept_log_{1};
  memory::ObjectDirectory objects_;
  std::unique_ptr<wait::WaitService> waits_;  // observes the spaces
  std::unique_ptr<pin::PinService> pins_;     // the same
  boost::asio::steady_timer pin_clock_{control_};
  bool pin_clock_runs_ = false;
  std::unique_ptr<space::SpaceService> spaces_;
  std::unique_ptr<space::Evictor> evictor_;
  Supervision supervision_{control_,
                           {[this] { return workers(); }, [this] { return status_line(); }}};
  // Those that are refused take no place of the others.
  Sessions served_;
  Sessions refused_;
  admin::ConnectionTally connections_;
  std::unique_ptr<MetricsEndpoint> metrics_;  // goes before what it looks at
};

}  // namespace faultline::server
