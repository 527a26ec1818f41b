// The requests of a session that concern pins: its ledger, and what it may pin. Must never block,
// and never trust a field of a packet.
#include <boost/asio/post.hpp>
#include <string>
#include <utility>

#include "daemon/server/request.hpp"
#include "daemon/server/session.hpp"

namespace faultline::server {

namespace asio = boost::asio;

void Session::on_open_ledger(const Packet& packet) {
  if (!require_attached()) return;
  if (packet.bytes.size() != sizeof(wire::RequestHeader) || !packet.fds.empty()) {
    return send(bad(malformed("open ledger")));
  }
  auto opened = host_.pins().open(*space_);
  if (!opened) return send(bad(opened.error()));
  ledger_open_ = true;
  host_.start_pin_clock();
  Reply reply;
  reply.own_fds.push_back(std::move(opened->ledger));
  reply.own_fds.push_back(std::move(opened->verdicts));
  send(std::move(reply));
}

void Session::on_grant_pins(const Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::GrantPinsRequest>(packet);
  if (!body) return send(bad(malformed("grant pins")));
  if (body->bytes == 0) return send(bad({EINVAL, "asking to pin nothing"}));
  // On a thread of the user's: where it is short, all its processes' budgets are looked at.
  asio::post(helpers_, [&pins = host_.pins(), space = space_->id, pid = peer_.pid,
                        wanted = ByteCount{body->bytes}, respond = responder()] {
    const auto granted = pins.grant(space, pid, wanted);
    respond(granted ? good(wire::GrantPinsReply{granted->value()}) : bad(granted.error()));
  });
}

void Session::on_open_frames(const Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::OpenFramesRequest>(packet);
  if (!body) return send(bad(malformed("open frames")));
  host_.spaces().publish_frames(
      *space_, Vaddr{body->address},
      [respond = responder()](Result<space::AddressSpace::Frames> frames) {
        if (!frames) return respond(bad(frames.error()));
        Reply reply = good(wire::OpenFramesReply{frames->first.value(), frames->count.value()});
        reply.own_fds.push_back(std::move(frames->fd));
        respond(std::move(reply));
      });
}

}  // namespace faultline::server
