// One client's connection: takes its requests one at a time, checks everything in them, has them
// carried out and answers. Must never block, and never trust a field of a packet.
//
// Life of a session:
//   fresh -> greeted     a hello of this protocol's version
//   greeted -> attached  attach_new or attach_forked: it speaks for an address space
//   greeted -> watching  watch: it is sent events, and takes no further request
//   any -> closed        the client closed, broke the protocol, was silent for kHandshakeWithin
//                        before it was greeted, or the daemon stops; and kRefusalWithin after the
//                        beginning where it is refused
// While a request is carried out nothing is read, so a client has one request outstanding and its
// socket's buffer pushes back.
//
// A session that watches has at most one packet unsent: while its client does not read, nothing is
// taken from the feed, whose buffer is bounded, and which counts what it drops.
//
// Runs on the control thread alone; answers of workers are posted to it.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "daemon/kernel/closer.hpp"
#include "daemon/kernel/event_signal.hpp"
#include "daemon/kernel/process.hpp"
#include "daemon/memory/object_directory.hpp"
#include "daemon/pin/pin_service.hpp"
#include "daemon/server/job_table.hpp"
#include "daemon/server/request.hpp"
#include "daemon/space/evictor.hpp"
#include "daemon/space/space_service.hpp"
#include "daemon/wait/wait_service.hpp"

namespace faultline::server {

// What all sessions share. Outlives them.
class SessionHost {
 public:
  SessionHost() = default;
  SessionHost(const SessionHost&) = delete;
  SessionHost& operator=(const SessionHost&) = delete;
  virtual ~SessionHost() = default;

  virtual boost::asio::io_context& control() = 0;
  // For what may block: page table walks, questions to a client's file system.
  virtual boost::asio::thread_pool& helpers_of(uid_t uid) = 0;
  virtual memory::ObjectDirectory& objects() = 0;
  virtual space::SpaceService& spaces() = 0;
  virtual space::Evictor& evictor() = 0;
  virtual wait::WaitService& waits() = 0;
  virtual pin::PinService& pins() = 0;
  // There is a ledger that is to be told the time.
  virtual void start_pin_clock() = 0;
  // The open /dev/userfaultfd, or -1.
  virtual int userfaultfd_device() const = 0;
  virtual std::uint32_t server_flags() const = 0;
  // Jobs may hold it longer than the host lives.
  virtual std::shared_ptr<kernel::EventSignal> event_signal() = 0;
  // Builds the answer to an admin query and calls done on any thread.
  virtual void report(const wire::AdminRequest& query, uid_t viewer,
                      std::function<void(Result<std::string>)> done) = 0;
  // Reads the settings again, and calls done with what has changed, as JSON, on any thread.
  virtual void reload(std::function<void(Result<std::string>)> done) = 0;
  virtual void closed(class Session& session) = 0;
};

// Ends a connection for its peer at once. The socket is closed elsewhere: packets that nobody read
// may hold descriptors, and go with it.
void hang_up(kernel::ForeignFd socket);

class Session : public std::enable_shared_from_this<Session> {
 public:
  static constexpr std::chrono::seconds kHandshakeWithin{10};
  static constexpr std::chrono::seconds kRefusalWithin{1};

  // refused: why this client gets no further than its hello; empty where it may.
  Session(kernel::ForeignFd socket, kernel::PeerCredentials peer, std::string refused,
          SessionHost& host);
  void start();
  void close();
  [[nodiscard]] uid_t uid() const { return peer_.uid; }
  [[nodiscard]] bool refused() const { return !refused_.empty(); }

 private:
  struct Reply {
    Status status;
    std::vector<std::byte> body;
    std::vector<int> fds;           // owned by somebody who outlives the reply
    std::vector<UniqueFd> own_fds;  // sent after fds, then closed
  };
  template <typename Body>
  static Reply good(const Body& body) {
    Reply reply;
    const auto bytes = std::as_bytes(std::span(&body, 1));
    reply.body.assign(bytes.begin(), bytes.end());
    return reply;
  }
  static Reply bad(Error error);

  void listen();
  void on_readable();
  void handle(Packet packet);
  void send(Reply reply);
  void send_bytes(std::vector<std::byte> bytes, std::shared_ptr<Reply> keep);
  // Sends the reply from any thread.
  std::function<void(Reply)> responder();
  std::function<void(Status)> status_responder();

  void on_hello();
  void on_attach_new(Packet& packet);
  void on_attach_forked(const Packet& packet);
  void on_object_create(Packet& packet);
  void on_object_open(const Packet& packet);
  void on_object_stat(const Packet& packet);
  void on_object_unlink(const Packet& packet);
  void on_object_close(const Packet& packet);
  void close_handle(std::uint64_t handle);
  void on_map(const Packet& packet);
  void on_mapping_stats(const Packet& packet);
  void on_process_stats();
  void on_admin(const Packet& packet);
  void on_reload(const Packet& packet);
  // Answers with a text, from any thread.
  std::function<void(Result<std::string>)> text_responder();
  void on_wake(const Packet& packet);
  void on_watch(const Packet& packet);
  // Sends events until there are none, or the client does not read, or it is others' turn. One of
  // these is always on its way to call it again: the feed, the socket, or the control thread.
  void stream();

  // session_memory.cpp
  void on_protect(const Packet& packet);
  void on_advise(const Packet& packet);
  void on_rediscover(const Packet& packet);
  void on_populate(Packet& packet);
  void on_job_progress(const Packet& packet);
  void on_job_free(const Packet& packet);

  // session_pin.cpp
  void on_open_ledger(const Packet& packet);
  void on_grant_pins(const Packet& packet);
  void on_open_frames(const Packet& packet);

  // session_evict.cpp
  void on_evict(const Packet& packet);
  void on_discard(const Packet& packet);
  void advise_objects(const space::VaRange& range, bool page_out);

  // session_wait.cpp
  void on_open_channel(Packet& packet);
  void on_add_target(Packet& packet);
  void on_remove_target(const Packet& packet);
  void on_guard_pages();
  void add_target(wait::Target target);

  void started(std::uint64_t number, bool asked_about,
               Result<std::shared_ptr<space::PopulateJob>> job);
  // What a job does when it has ended: tells the client, or goes.
  std::function<void()> signaller(kernel::ForeignFd eventfd);
  std::function<void()> forgetter(std::uint64_t number);

  [[nodiscard]] Reply opened(std::shared_ptr<memory::MemoryObject> object, memory::Access access);
  [[nodiscard]] memory::Credentials credentials() const { return {peer_.uid, peer_.gid}; }
  [[nodiscard]] log::About about(int error) const {
    return {.uid = peer_.uid, .pid = peer_.pid, .error = error};
  }
  // Lets go of the object where that may take its time, and answers then.
  void release(std::shared_ptr<memory::MemoryObject> object);
  [[nodiscard]] bool require_attached();

  boost::asio::posix::stream_descriptor socket_;
  boost::asio::steady_timer deadline_;
  kernel::PeerCredentials peer_;
  std::string refused_;
  SessionHost& host_;
  boost::asio::thread_pool& helpers_;
  wire::RequestHeader request_;  // the one being carried out
  std::optional<space::SpaceRef> space_;
  JobTable jobs_;
  std::shared_ptr<wait::Client> channel_;
  bool ledger_open_ = false;
  std::optional<space::EventFeed::Subscription> watching_;
  std::vector<std::byte> unsent_;  // where it watches: the packet whose turn it is
  bool blocked_ = false;           // until the socket takes more of them
  bool greeted_ = false;
  bool closed_ = false;
};

}  // namespace faultline::server
