// The requests of a session that concern waiting: its channel, and where its completions go. Must
// never block, and never trust a field of a packet.
#include <boost/asio/post.hpp>
#include <string>
#include <utility>

#include "daemon/kernel/event_signal.hpp"
#include "daemon/kernel/process.hpp"
#include "daemon/server/request.hpp"
#include "daemon/server/session.hpp"

namespace faultline::server {

namespace asio = boost::asio;

void Session::on_open_channel(Packet& packet) {
  if (!require_attached()) return;
  if (packet.bytes.size() != sizeof(wire::RequestHeader) || packet.fds.size() != 1) {
    return send(bad(malformed("open channel")));
  }
  if (channel_) return send(bad({EISCONN, "opening a second channel"}));
  auto opened = host_.waits().open(space_->uid, *space_, std::move(packet.fds.front()));
  if (!opened) return send(bad(opened.error()));
  channel_ = std::move(opened->client);
  Reply reply;
  reply.own_fds.push_back(std::move(opened->rings));
  reply.own_fds.push_back(std::move(opened->doorbell));
  reply.own_fds.push_back(std::move(opened->lot));
  send(std::move(reply));
}

void Session::on_add_target(Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::AddTargetRequest>(packet);
  const bool eventfd = body && body->kind == wire::TargetKind::eventfd;
  if (!body || packet.fds.size() != (eventfd ? 1U : 0U)) {
    return send(bad(malformed("add target")));
  }
  if (!channel_) return send(bad({ENOTCONN, "adding a target without a channel"}));
  if (eventfd) {
    kernel::ForeignFd fd = std::move(packet.fds.front());
    if (!kernel::EventSignal::is_eventfd(fd.get())) {
      return send(bad({EBADF, "having completions sent to what is not an eventfd"}));
    }
    return add_target({wait::Target::Kind::eventfd, std::move(fd)});
  }
  if (body->kind != wire::TargetKind::ring) {
    return send(bad({EINVAL, "having completions sent to an unknown kind of target"}));
  }
  // The look into the client's process waits for an exec(2) of it to come to its end.
  asio::post(helpers_, [self = shared_from_this(), ring_fd = body->ring_fd,
                        socket = socket_.native_handle()] {
    auto ring = std::make_shared<Result<UniqueFd>>(kernel::ring_of_peer(socket, ring_fd));
    asio::post(self->host_.control(), [self, ring] {
      if (self->closed_) return;
      if (!*ring) return self->send(bad(ring->error()));
      self->add_target({wait::Target::Kind::ring, kernel::ForeignFd{std::move(**ring)}});
    });
  });
}

void Session::add_target(wait::Target target) {
  host_.waits().add_target(
      channel_, std::move(target), [respond = responder()](Result<std::uint32_t> number) {
        respond(number ? good(wire::TargetReply{*number}) : bad(number.error()));
      });
}

void Session::on_remove_target(const Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::RemoveTargetRequest>(packet);
  if (!body || body->reserved != 0) return send(bad(malformed("remove target")));
  if (!channel_) return send(bad({ENOTCONN, "removing a target without a channel"}));
  host_.waits().remove_target(channel_, body->target, status_responder());
}

void Session::on_guard_pages() {
  if (!require_attached()) return;
  host_.spaces().guard_pages(*space_, status_responder());
}

}  // namespace faultline::server
