#include "daemon/server/event_packets.hpp"

#include <chrono>
#include <cstring>
#include <limits>
#include <utility>

#include "daemon/admin/report.hpp"

namespace faultline::server {

namespace {

wire::Event on_the_wire(const space::SpaceEvent& event) {
  wire::Event out;
  out.time_ns = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(event.time.time_since_epoch()).count());
  out.space_id = event.space.value();
  out.child_space_id = event.child.value();
  out.start = event.start.value();
  out.length = event.length.value();
  out.object_id = event.object.value();
  out.object_offset = event.page_size.offset_of(event.page).value();
  out.page = event.page.value();
  out.pid = static_cast<std::uint32_t>(event.pid);
  out.uid = event.uid;
  out.thread = static_cast<std::uint32_t>(event.thread);
  out.kind = event.kind;
  out.fault = event.fault;
  if (event.sharing == space::Sharing::shared) out.flags |= wire::kEventShared;
  if (event.writable) out.flags |= wire::kEventWritable;
  if (event.write) out.flags |= wire::kEventWrite;
  out.object_name = event.object_name;
  return out;
}

}  // namespace

Result<space::EventFilter> filter_of(const wire::WatchRequest& request, std::string object_name,
                                     uid_t viewer) {
  if (request.kinds == 0 || (request.kinds & ~wire::kAllEvents) != 0) {
    return fail(EINVAL, "watching no or unknown kinds of events, " + std::to_string(request.kinds));
  }
  if (request.pid > std::uint32_t{std::numeric_limits<pid_t>::max()}) {
    return fail(EINVAL, "watching process " + std::to_string(request.pid));
  }
  space::EventFilter filter;
  if (!admin::sees_all(viewer)) filter.only_of = viewer;
  filter.kinds = request.kinds;
  filter.pid = static_cast<pid_t>(request.pid);
  if (request.object_id != 0) filter.object = ObjectId{request.object_id};
  filter.object_name = std::move(object_name);
  return filter;
}

std::vector<std::byte> packet_of(const space::EventBatch& batch,
                                 const wire::RequestHeader& request) {
  const wire::EventsHeader events{batch.lost, batch.events.size()};
  wire::ReplyHeader reply;
  reply.op = request.op;
  reply.cookie = request.cookie;
  reply.body_size =
      static_cast<std::uint32_t>(sizeof(events) + batch.events.size() * sizeof(wire::Event));
  std::vector<std::byte> bytes(sizeof(reply) + reply.body_size);
  std::byte* at = bytes.data();
  const auto put = [&at](const auto& record) {
    std::memcpy(at, &record, sizeof(record));
    at += sizeof(record);
  };
  put(reply);
  put(events);
  for (const space::SpaceEvent& event : batch.events) put(on_the_wire(event));
  return bytes;
}

}  // namespace faultline::server
