#include "daemon/server/metrics_endpoint.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

#include <array>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <cerrno>
#include <cstring>
#include <list>
#include <map>
#include <thread>
#include <utility>

#include "daemon/kernel/log.hpp"
#include "daemon/kernel/log_budget.hpp"
#include "daemon/kernel/signals.hpp"
#include "daemon/server/socket_file.hpp"

namespace faultline::server {

namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;

using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using Socket =
    asio::basic_stream_socket<asio::generic::stream_protocol, asio::io_context::executor_type>;

constexpr std::string_view kPath = "/metrics";
constexpr mode_t kSocketMode = 0660;
constexpr std::chrono::milliseconds kAcceptPause{100};
// For a reader that sends more than is answered: how long, and how much, is thrown away, so that it
// reads its answer before it learns that nobody listens.
constexpr std::chrono::seconds kDrainFor{1};
constexpr std::size_t kMostDrained = std::size_t{1} << 20;

// Of one moment, for all who ask within kFreshFor of it.
class Texts {
 public:
  explicit Texts(MetricsEndpoint::Gather gather) : gather_(std::move(gather)) {}

  const std::string& in(admin::MetricFormat format) {
    const auto now = Clock::now();
    if (families_.empty() || now - gathered_at_ > MetricsEndpoint::kFreshFor) {
      families_ = gather_();
      gathered_at_ = now;
      texts_.clear();
    }
    const auto [text, missing] = texts_.try_emplace(format);
    if (missing) text->second = admin::to_text(families_, format);
    return text->second;
  }

 private:
  const MetricsEndpoint::Gather gather_;
  Clock::time_point gathered_at_;
  std::vector<admin::MetricFamily> families_;
  std::map<admin::MetricFormat, std::string> texts_;
};

class Connection;

// Who keeps connections.
class Keeper {
 public:
  Keeper() = default;
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;
  virtual ~Keeper() = default;

  virtual void ended(Connection& connection) = 0;
};

class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Socket socket, Texts& texts, Keeper& keeper)
      : socket_(std::move(socket)),
        deadline_(socket_.get_executor()),
        texts_(texts),
        keeper_(keeper) {}

  [[nodiscard]] Clock::time_point since() const { return since_; }
  // Whether it still has its socket.
  [[nodiscard]] bool open() const { return socket_.is_open(); }

  void read() {
    parser_.emplace();
    parser_->header_limit(MetricsEndpoint::kMostHeader);
    end_within(MetricsEndpoint::kRequestWithin);
    http::async_read_header(socket_, buffer_, *parser_,
                            [self = shared_from_this()](const error_code& error, std::size_t) {
                              if (self->open()) self->on_read(error);
                            });
  }

  void end() {
    if (!open()) return;
    deadline_.cancel();
    error_code ignored;
    socket_.close(ignored);
    keeper_.ended(*this);
  }

 private:
  using Answer = http::response<http::string_body>;

  void end_within(Clock::duration time) {
    deadline_.expires_after(time);
    deadline_.async_wait([self = shared_from_this()](const error_code& error) {
      if (!error) self->end();
    });
  }

  void on_read(const error_code& error) {
    if (!error) return answer();
    if (error == http::error::header_limit || error == http::error::buffer_overflow) {
      return refuse(
          http::status::request_header_fields_too_large,
          "the request is longer than " + std::to_string(MetricsEndpoint::kMostHeader) + " bytes");
    }
    // Of what the reader sent, and not of the connection, or of its end.
    const bool malformed = error.category() == make_error_code(http::error::bad_method).category();
    if (malformed && error != http::error::end_of_stream && error != http::error::partial_message) {
      return refuse(http::status::bad_request, "this is no HTTP request");
    }
    end();
  }

  void refuse(http::status status, const std::string& why) {
    Answer refusal{status, 11};
    refusal.set(http::field::content_type, "text/plain; charset=utf-8");
    refusal.keep_alive(false);
    refusal.body() = why + "\n";
    refusal.prepare_payload();
    write(std::move(refusal));
  }

  void answer() {
    const auto& request = parser_->get();
    const bool get = request.method() == http::verb::get;
    const bool head = request.method() == http::verb::head;
    const auto target = request.target();
    const bool ours =
        target.substr(0, target.find('?')) == boost::beast::string_view(kPath.data(), kPath.size());
    Answer answer{http::status::ok, request.version()};
    answer.set(http::field::server, "faultlined");
    // What comes behind a header that announces a body is not read as a request.
    const bool body = parser_->chunked() || parser_->content_length().value_or(0) != 0;
    answer.keep_alive(request.keep_alive() && !body);
    answer.set(http::field::content_type, "text/plain; charset=utf-8");
    if (!ours) {
      answer.result(http::status::not_found);
      answer.body() = "there is /metrics here, and nothing else\n";
    } else if (!get && !head) {
      answer.result(http::status::method_not_allowed);
      answer.set(http::field::allow, "GET, HEAD");
      answer.body() = "metrics can be read (GET, HEAD), and nothing else\n";
    } else {
      const auto accept = request[http::field::accept];
      const auto format = admin::format_for({accept.data(), accept.size()});
      answer.set(http::field::content_type, admin::content_type(format));
      answer.set(http::field::vary, "Accept");
      answer.body() = texts_.in(format);
    }
    answer.prepare_payload();
    if (head) {
      // As long as it would be, and not sent.
      answer.body().clear();
    }
    write(std::move(answer));
  }

  void write(Answer answer) {
    answer_ = std::move(answer);
    end_within(MetricsEndpoint::kAnswerWithin);
    http::async_write(socket_, answer_,
                      [self = shared_from_this()](const error_code& error, std::size_t) {
                        if (self->open()) self->on_written(error);
                      });
  }

  void on_written(const error_code& error) {
    if (error) return end();
    if (answer_.keep_alive()) return read();
    error_code ignored;
    socket_.shutdown(Socket::shutdown_send, ignored);
    end_within(kDrainFor);
    drain(0);
  }

  void drain(std::size_t drained) {
    if (drained > kMostDrained) return end();
    socket_.async_read_some(
        asio::buffer(thrown_away_),
        [self = shared_from_this(), drained](const error_code& error, std::size_t got) {
          if (!self->open()) return;
          if (error) return self->end();
          self->drain(drained + got);
        });
  }

  Socket socket_;
  asio::basic_waitable_timer<Clock, asio::wait_traits<Clock>, asio::io_context::executor_type>
      deadline_;
  Texts& texts_;
  Keeper& keeper_;
  const Clock::time_point since_ = Clock::now();
  boost::beast::flat_buffer buffer_{2 * MetricsEndpoint::kMostHeader};
  std::optional<http::request_parser<http::empty_body>> parser_;
  Answer answer_;
  std::array<char, 4096> thrown_away_{};
};

Result<UniqueFd> listen_at_loopback(const LoopbackAddress& address) {
  const std::string doing =
      "serving metrics on " + address.host + " port " + std::to_string(address.port);
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found) !=
      0) {
    return fail(EINVAL, doing + ": it is no numeric address");
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> free_it{found, ::freeaddrinfo};
  UniqueFd fd{::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (!fd) return fail_errno(doing);
  // What is left of connections to a daemon that has ended must not keep the next from its port.
  const int yes = 1;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) != 0 ||
      ::bind(fd.get(), found->ai_addr, found->ai_addrlen) != 0 ||
      ::listen(fd.get(), SOMAXCONN) != 0) {
    if (errno == EADDRINUSE) {
      return fail(errno, doing + ", which is in use: choose another port (metrics_listen)");
    }
    return fail_errno(doing);
  }
  return fd;
}

std::string url_of(int listening, const LoopbackAddress& address) {
  sockaddr_storage bound{};
  socklen_t length = sizeof(bound);
  std::uint16_t port = address.port;
  if (::getsockname(listening, reinterpret_cast<sockaddr*>(&bound), &length) == 0) {
    // At the same place for both families.
    port = ntohs(reinterpret_cast<const sockaddr_in&>(bound).sin_port);
  }
  const bool six = address.host.find(':') != std::string::npos;
  return "http://" + (six ? "[" + address.host + "]" : address.host) + ":" + std::to_string(port) +
         std::string(kPath);
}

}  // namespace

class MetricsEndpoint::Listener final : private Keeper {
 public:
  explicit Listener(Gather gather) : texts_(std::move(gather)) {}
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener() override {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  Status start(const MetricsAddress& address, std::optional<gid_t> group) {
    const auto* const path = std::get_if<std::filesystem::path>(&address);
    auto fd = path != nullptr ? listen_at(*path, SOCK_STREAM, group, kSocketMode, file_)
                              : listen_at_loopback(std::get<LoopbackAddress>(address));
    if (!fd) return propagate(fd);
    where_ = path != nullptr ? "unix:" + path->string()
                             : url_of(fd->get(), std::get<LoopbackAddress>(address));
    listening_.assign(fd->release());
    accept_when_ready();
    try {
      const kernel::SignalsBlocked none_for_it;
      thread_ = std::thread([this] { run(); });
    } catch (const std::system_error& error) {
      return fail(error.code().value(), "making a thread for metrics");
    }
    return {};
  }

  [[nodiscard]] const std::string& where() const { return where_; }

 private:
  void run() {
    ::pthread_setname_np(::pthread_self(), "metrics");
    for (;;) {
      try {
        io_.run();
        return;
      } catch (const std::exception& error) {
        // Mostly memory: whoever asked loses its connection in time, and the next may fare better.
        log_.log(log::Level::error, {}, "answering a question for metrics: {}", error.what());
      }
    }
  }

  void accept_when_ready() {
    listening_.async_wait(
        asio::posix::stream_descriptor::wait_read, [this](const error_code& error) {
          if (error) return;
          try {
            accept_one();
          } catch (const std::exception& failure) {
            // Whoever came loses its connection; the next must not find nobody who accepts it.
            log_.log(log::Level::error, {}, "accepting a reader of metrics: {}", failure.what());
            pause(kAcceptPause);
          }
        });
  }

  void pause(Clock::duration time) {
    pause_.expires_after(time);
    pause_.async_wait([this](const error_code& error) {
      if (!error) accept_when_ready();
    });
  }

  // One at a time, so that those that are here are read in between.
  void accept_one() {
    if (connections_.size() >= kMostConnections) {
      const auto here_for = Clock::now() - connections_.front()->since();
      if (here_for < kPlaceFor) return pause(kPlaceFor - here_for);
      const auto longest = connections_.front();
      longest->end();
    }
    const int fd =
        ::accept4(listening_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
      begin(UniqueFd{fd});
    } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR && errno != ECONNABORTED) {
      log_.log(log::Level::error, {.error = errno}, "accepting a reader of metrics: {}",
               std::strerror(errno));
      return pause(kAcceptPause);
    }
    accept_when_ready();
  }

  void begin(UniqueFd fd) {
    sockaddr_storage address{};
    socklen_t length = sizeof(address);
    if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) return;
    Socket socket{io_.get_executor()};
    error_code error;
    socket.assign(asio::generic::stream_protocol{address.ss_family, 0}, fd.get(), error);
    if (error) return;
    (void)fd.release();
    Keeper& keeper = *this;  // here, where the private base can be seen
    connections_.push_back(std::make_shared<Connection>(std::move(socket), texts_, keeper));
    connections_.back()->read();
  }

  void ended(Connection& connection) override {
    connections_.remove_if([&](const auto& each) { return each.get() == &connection; });
  }

  kernel::LogBudget log_{1};
  Texts texts_;
  std::string where_;
  asio::io_context io_{1};
  std::list<std::shared_ptr<Connection>> connections_;  // the oldest first
  asio::posix::stream_descriptor listening_{io_};
  SocketFile file_;  // goes before the listening socket
  asio::steady_timer pause_{io_};
  std::thread thread_;
};

MetricsEndpoint::MetricsEndpoint(std::unique_ptr<Listener> listener)
    : listener_(std::move(listener)) {}

MetricsEndpoint::~MetricsEndpoint() = default;

Result<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::create(const MetricsAddress& address,
                                                                 std::optional<gid_t> group,
                                                                 Gather gather) {
  auto listener = std::make_unique<Listener>(std::move(gather));
  if (auto started = listener->start(address, group); !started) return propagate(started);
  return std::unique_ptr<MetricsEndpoint>{new MetricsEndpoint(std::move(listener))};
}

std::string MetricsEndpoint::where() const {
  return listener_->where();
}

}  // namespace faultline::server
