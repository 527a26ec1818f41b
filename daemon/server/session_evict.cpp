// The requests of a session that take pages of objects out of memory. Must never block, and never
// let somebody evict by name what he neither owns nor maps.
#include <algorithm>
#include <boost/asio/post.hpp>
#include <string>
#include <utility>

#include "daemon/admin/report.hpp"
#include "daemon/server/eviction_job.hpp"
#include "daemon/server/request.hpp"
#include "daemon/server/session.hpp"

namespace faultline::server {

namespace {

namespace asio = boost::asio;
using memory::MemoryObject;

Result<PagesOfObject> pages_of(const wire::EvictRequest& request,
                               std::shared_ptr<MemoryObject> object) {
  const PageSize page_size = object->page_size();
  const std::uint64_t size = object->size().value();
  const bool inside = request.offset < size && request.length <= size - request.offset;
  if (!inside || !page_size.aligned(request.offset) || !page_size.aligned(request.length)) {
    const std::string from = std::to_string(request.offset);
    const std::string range = request.length == 0
                                  ? "all from byte " + from + " on"
                                  : std::to_string(request.length) + " bytes at " + from;
    return fail(EINVAL, "evicting " + range + ", not whole pages of " +
                            std::to_string(page_size.bytes().value()) +
                            " bytes within an object of " + std::to_string(size));
  }
  const std::uint64_t length = request.length == 0 ? size - request.offset : request.length;
  return PagesOfObject{std::move(object), page_size.index_of(ByteCount{request.offset}),
                       page_size.pages(ByteCount{length})};
}

}  // namespace

void Session::on_evict(const Packet& packet) {
  const auto body = body_of<wire::EvictRequest>(packet);
  const auto name = body ? text_of(body->object_name) : std::nullopt;
  if (!name || body->reserved != 0) return send(bad(malformed("evict")));
  if ((body->flags & ~wire::kEvictCold) != 0)
    return send(bad({EINVAL, "evicting with unknown flags"}));
  auto object = admin::find_shown(peer_.uid, host_.objects(), *name, ObjectId{body->object_id});
  const std::string what =
      "evicting object " + (name->empty() ? std::to_string(body->object_id) : *name);
  if (!object) return send(bad({ENOENT, what + ", which is none that you may see"}));
  if (!admin::sees_all(peer_.uid) && peer_.uid != object->uid()) {
    return send(bad({EACCES, what + ", which is another user's"}));
  }
  auto pages = pages_of(*body, object);
  if (!pages) return send(bad(pages.error()));
  const auto which =
      (body->flags & wire::kEvictCold) != 0 ? memory::WhichPages::cold : memory::WhichPages::all;
  evict(helpers_, host_.evictor(), {std::move(*pages)}, which,
        [object = std::move(object), respond = responder()](const memory::EvictionCounts& counts) {
          wire::EvictReply reply;
          reply.object_id = object->id().value();
          reply.page_size = object->page_size().bytes().value();
          reply.evicted = counts.evicted;
          reply.swapped = counts.swapped;
          reply.referenced = counts.referenced;
          reply.pinned = counts.pinned;
          reply.dirty = counts.dirty;
          reply.busy = counts.busy;
          reply.swap_full = counts.swap_full;
          reply.failed = counts.failed;
          respond(good(reply));
        });
}

void Session::advise_objects(const space::VaRange& range, bool page_out) {
  const auto space = space_->space.lock();
  if (!space || !space->covers(range)) {
    return send(bad({ENOENT, "advising about " + std::to_string(range.length.value()) +
                                 " bytes of which not all are mapped"}));
  }
  std::vector<PagesOfObject> pages;
  for (const space::Vma& vma : space->mapped_in(range)) {
    pages.push_back({vma.object, vma.first, vma.pages()});
  }
  if (page_out) {
    return evict(helpers_, host_.evictor(), std::move(pages), memory::WhichPages::all,
                 [respond = responder()](const memory::EvictionCounts&) { respond(Reply{}); });
  }
  asio::post(helpers_, [pages = std::move(pages), respond = responder()] {
    for (const PagesOfObject& each : pages) each.object->cool(each.first, each.count);
    respond(Reply{});
  });
}

void Session::on_discard(const Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::DiscardRequest>(packet);
  if (!body) return send(bad(malformed("discard")));
  if (!whole_pages(body->address, body->length)) {
    return send(bad({EINVAL, "discarding what is not whole pages of a process"}));
  }
  host_.spaces().drop_swapped(*space_, {Vaddr{body->address}, ByteCount{body->length}},
                              [respond = responder()](Result<bool> again) {
                                if (!again) return respond(bad(again.error()));
                                respond(good(wire::DiscardReply{*again ? 1U : 0U}));
                              });
}

}  // namespace faultline::server
