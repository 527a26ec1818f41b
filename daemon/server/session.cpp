#include "daemon/server/session.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <boost/asio/post.hpp>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "daemon/admin/report.hpp"
#include "daemon/admin/wake.hpp"
#include "daemon/kernel/file_system.hpp"
#include "daemon/kernel/log_budget.hpp"
#include "daemon/server/event_packets.hpp"
#include "daemon/server/json_memfd.hpp"
#include "daemon/server/request.hpp"

namespace faultline::server {

namespace {

namespace asio = boost::asio;
using memory::Access;
using memory::FileSource;
using memory::MemoryObject;
using memory::ObjectSpec;

// Packets of events that a session sends before the others have their turn.
constexpr unsigned kPacketsATurn = 16;
// bytes: 0 for the default. Nothing where objects have no such pages.
std::optional<PageSize> page_size_from(std::uint32_t bytes) {
  if (bytes == 0) return kBasePage;
  for (const PageSize page_size : {kBasePage, kHugePage}) {
    if (page_size.bytes().value() == bytes) return page_size;
  }
  return std::nullopt;
}

// Checks the client's file and takes the part of it that was asked for. May block on its file
// system.
Result<ObjectSpec> with_file(ObjectSpec spec, kernel::ForeignFd file, std::uint64_t offset) {
  const int flags = ::fcntl(file.get(), F_GETFL);
  if (flags < 0 || (flags & O_PATH) != 0 || (flags & O_ACCMODE) == O_WRONLY) {
    return fail(EBADF, "creating an object from a file that is not open for reading");
  }
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return fail_errno("looking at an object's file");
  if (!S_ISREG(info.st_mode))
    return fail(ENODEV, "creating an object from what is not a regular file");
  const auto file_size = static_cast<std::uint64_t>(info.st_size);
  if (!spec.page_size.aligned(offset)) {
    return fail(EINVAL,
                "creating an object from a file at an offset that is not a multiple of the page "
                "size, " +
                    std::to_string(offset));
  }
  if (offset >= file_size) {
    return fail(EINVAL, "creating an object from a file of " + std::to_string(file_size) +
                            " bytes at offset " + std::to_string(offset));
  }
  if (spec.content_size == ByteCount{0}) spec.content_size = ByteCount{file_size - offset};
  if (spec.content_size.value() > file_size - offset) {
    return fail(EINVAL, "creating an object of " + std::to_string(spec.content_size.value()) +
                            " bytes from a file that has " + std::to_string(file_size - offset) +
                            " at that offset");
  }
  // A description of our own: the client cannot turn on O_DIRECT or the like behind our back. Where
  // the daemon may not open the file itself, what the client gave must do: also where a lease is on
  // it, whose end open(2) would wait for, fcntl(2). That is all that O_NONBLOCK is for. It must not
  // stay: io_uring takes it for a promise that no read waits, and begins them on the thread
  // that has the ring, io_uring/rw.c: io_file_get_flags.
  const std::string path = "/proc/self/fd/" + std::to_string(file.get());
  kernel::ForeignFd own{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)};
  if (own && ::fcntl(own.get(), F_SETFL, 0) == 0) file = std::move(own);
  const bool by_others = kernel::answers_by_others(file.get());
  spec.file = FileSource{std::move(file), ByteCount{offset}, spec.content_size, by_others};
  return spec;
}

Status check_map(const wire::MapRequest& request, const space::OpenObject& open) {
  const PageSize page_size = open.object->page_size();
  const std::uint32_t kind = request.flags & (wire::kMapShared | wire::kMapPrivate);
  constexpr std::uint32_t kKnown =
      wire::kMapShared | wire::kMapPrivate | wire::kMapWrite | wire::kMapWaitByPage;
  if ((request.flags & ~kKnown) != 0) {
    return fail(EINVAL, "mapping with unknown flags " + std::to_string(request.flags));
  }
  if (kind != wire::kMapShared && kind != wire::kMapPrivate) {
    return fail(EINVAL, "mapping neither shared nor private, or both");
  }
  if ((request.flags & wire::kMapWaitByPage) != 0 && kind != wire::kMapPrivate) {
    return fail(EINVAL, "mapping shared what is to be waited for by page");
  }
  if (request.length == 0 || !page_size.aligned(request.length) ||
      !page_size.aligned(request.address) || !page_size.aligned(request.object_offset)) {
    return fail(EINVAL,
                "mapping with an address, length or offset that is zero or not a multiple of " +
                    std::to_string(page_size.bytes().value()));
  }
  const std::uint64_t size = open.object->size().value();
  if (request.object_offset > size || request.length > size - request.object_offset) {
    return fail(EINVAL, "mapping " + std::to_string(request.length) + " bytes at offset " +
                            std::to_string(request.object_offset) + " of an object of " +
                            std::to_string(size));
  }
  if (request.address == 0 || request.address > kHighestAddress - request.length) {
    return fail(EINVAL, "mapping at an address that no process can have");
  }
  const bool shared_write = kind == wire::kMapShared && (request.flags & wire::kMapWrite) != 0;
  if (shared_write && open.access != Access::read_write) {
    return fail(EACCES, "mapping a read-only object shared and writable");
  }
  return {};
}

}  // namespace

Session::Reply Session::bad(Error error) {
  Reply reply;
  reply.status = tl::unexpected<Error>(std::move(error));
  return reply;
}

void hang_up(kernel::ForeignFd socket) {
  (void)::shutdown(socket.get(), SHUT_RDWR);
}

Session::Session(kernel::ForeignFd socket, kernel::PeerCredentials peer, std::string refused,
                 SessionHost& host)
    : socket_(host.control(), socket.release()),
      deadline_(host.control()),
      peer_(peer),
      refused_(std::move(refused)),
      host_(host),
      helpers_(host.helpers_of(peer.uid)) {}

void Session::start() {
  deadline_.expires_after(refused() ? kRefusalWithin : kHandshakeWithin);
  deadline_.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    if (error) return;
    if (const auto self = weak.lock(); self && !self->greeted_) self->close();
  });
  listen();
}

void Session::close() {
  if (std::exchange(closed_, true)) return;
  hang_up(kernel::ForeignFd{socket_.release()});
  deadline_.cancel();
  jobs_.cancel_all();
  if (channel_) host_.waits().close(channel_);
  if (ledger_open_) host_.pins().close(space_->id);
  watching_.reset();
  if (space_) host_.spaces().session_closed(*space_);
  host_.closed(*this);
}

// --- packets

void Session::listen() {
  if (closed_) return;
  socket_.async_wait(asio::posix::stream_descriptor::wait_read,
                     [self = shared_from_this()](const boost::system::error_code& error) {
                       if (!error) self->on_readable();
                     });
}

void Session::on_readable() {
  if (closed_) return;
  Packet packet;
  const int error = wire::receive_packet(socket_.native_handle(), packet);
  if (error == EAGAIN || error == EWOULDBLOCK) return listen();
  if (error == EPIPE || error == ECONNRESET) return close();
  if (error != 0) {
    kernel::log_budget_of(peer_.uid).log(
        log::Level::warn, about(error),
        "client pid {} uid {}: a packet that no client sends ({}): closed", peer_.pid, peer_.uid,
        std::strerror(error));
    return close();
  }
  handle(std::move(packet));
}

void Session::handle(Packet packet) {
  const bool headed = packet.bytes.size() >= sizeof(request_);
  if (headed) std::memcpy(&request_, packet.bytes.data(), sizeof(request_));
  if (!headed || request_.magic != wire::kMagic ||
      request_.body_size != packet.bytes.size() - sizeof(request_)) {
    kernel::log_budget_of(peer_.uid).log(
        log::Level::warn, about(EPROTO),
        "client pid {} uid {}: {} bytes that are no request: closed", peer_.pid, peer_.uid,
        packet.bytes.size());
    return close();
  }
  if (watching_) {
    kernel::log_budget_of(peer_.uid).log(log::Level::warn, about(EPROTO),
                                         "client pid {} uid {}: a request while it watches: closed",
                                         peer_.pid, peer_.uid);
    return close();
  }
  if (request_.version != wire::kVersion) {
    send(bad({EPROTO, "speaking protocol version " + std::to_string(request_.version) +
                          " to a daemon of version " + std::to_string(wire::kVersion)}));
    return;
  }
  if (!greeted_ && request_.op != wire::Op::hello) {
    send(bad({EPROTO, "asking for something before saying hello"}));
    return;
  }
  switch (request_.op) {
    case wire::Op::hello:
      return on_hello();
    case wire::Op::attach_new:
      return on_attach_new(packet);
    case wire::Op::attach_forked:
      return on_attach_forked(packet);
    case wire::Op::object_create:
      return on_object_create(packet);
    case wire::Op::object_open:
      return on_object_open(packet);
    case wire::Op::object_stat:
      return on_object_stat(packet);
    case wire::Op::object_unlink:
      return on_object_unlink(packet);
    case wire::Op::object_close:
      return on_object_close(packet);
    case wire::Op::map:
      return on_map(packet);
    case wire::Op::mapping_stats:
      return on_mapping_stats(packet);
    case wire::Op::process_stats:
      return on_process_stats();
    case wire::Op::admin:
      return on_admin(packet);
    case wire::Op::protect:
      return on_protect(packet);
    case wire::Op::advise:
      return on_advise(packet);
    case wire::Op::rediscover:
      return on_rediscover(packet);
    case wire::Op::populate:
      return on_populate(packet);
    case wire::Op::job_progress:
      return on_job_progress(packet);
    case wire::Op::job_free:
      return on_job_free(packet);
    case wire::Op::open_channel:
      return on_open_channel(packet);
    case wire::Op::add_target:
      return on_add_target(packet);
    case wire::Op::remove_target:
      return on_remove_target(packet);
    case wire::Op::guard_pages:
      return on_guard_pages();
    case wire::Op::open_ledger:
      return on_open_ledger(packet);
    case wire::Op::grant_pins:
      return on_grant_pins(packet);
    case wire::Op::open_frames:
      return on_open_frames(packet);
    case wire::Op::watch:
      return on_watch(packet);
    case wire::Op::reload:
      return on_reload(packet);
    case wire::Op::wake:
      return on_wake(packet);
    case wire::Op::evict:
      return on_evict(packet);
    case wire::Op::discard:
      return on_discard(packet);
  }
  send(bad({EOPNOTSUPP,
            "asking for unknown operation " + std::to_string(static_cast<unsigned>(request_.op))}));
}

void Session::send(Reply reply) {
  if (closed_) return;
  wire::ReplyHeader header;
  header.op = request_.op;
  header.cookie = request_.cookie;
  if (!reply.status) {
    header.status = -reply.status.error().code();
    const std::string text = reply.status.error().message();
    text.copy(header.detail.data(), header.detail.size() - 1);
    reply.body.clear();
    reply.fds.clear();
    reply.own_fds.clear();
  }
  header.body_size = static_cast<std::uint32_t>(reply.body.size());
  std::vector<std::byte> bytes(sizeof(header) + reply.body.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  if (!reply.body.empty()) {
    std::memcpy(bytes.data() + sizeof(header), reply.body.data(), reply.body.size());
  }
  for (const UniqueFd& fd : reply.own_fds) reply.fds.push_back(fd.get());
  send_bytes(std::move(bytes), std::make_shared<Reply>(std::move(reply)));
}

void Session::send_bytes(std::vector<std::byte> bytes, std::shared_ptr<Reply> keep) {
  if (closed_) return;
  const int error = wire::send_packet(socket_.native_handle(), bytes, keep->fds);
  if (error == 0) return listen();
  // EAGAIN: the buffer is full, since the client does not read. ETOOMANYREFS: it has too many
  // descriptors in flight. Both end when it reads, and concern nobody else.
  if (error != EAGAIN && error != EWOULDBLOCK) return close();
  socket_.async_wait(asio::posix::stream_descriptor::wait_write,
                     [self = shared_from_this(), bytes = std::move(bytes),
                      keep = std::move(keep)](const boost::system::error_code& wait_error) mutable {
                       if (!wait_error) self->send_bytes(std::move(bytes), std::move(keep));
                     });
}

std::function<void(Session::Reply)> Session::responder() {
  return [self = shared_from_this()](Reply reply) {
    auto shared = std::make_shared<Reply>(std::move(reply));
    asio::post(self->host_.control(), [self, shared] { self->send(std::move(*shared)); });
  };
}

void Session::release(std::shared_ptr<MemoryObject> object) {
  // Where this is the last reference, its memory is given back, gigabytes of it.
  asio::post(helpers_, [object = std::move(object), respond = responder()]() mutable {
    object.reset();
    respond(Reply{});
  });
}

bool Session::require_attached() {
  if (space_) return true;
  send(bad({ENOTCONN, "asking for memory before attaching an address space"}));
  return false;
}

// --- requests

void Session::on_hello() {
  if (refused()) {
    send(bad({EUSERS, refused_}));
    return;
  }
  greeted_ = true;
  deadline_.cancel();
  wire::HelloReply hello;
  hello.server_flags = host_.server_flags();
  hello.page_size = static_cast<std::uint32_t>(kBasePage.bytes().value());
  hello.max_object_bytes = host_.objects().limits().max_object_bytes.value();
  std::string_view(FAULTLINE_VERSION)
      .copy(hello.server_version.data(), hello.server_version.size() - 1);
  Reply reply = good(hello);
  if (host_.userfaultfd_device() >= 0) reply.fds.push_back(host_.userfaultfd_device());
  send(std::move(reply));
}

void Session::on_attach_new(Packet& packet) {
  const auto body = body_of<wire::AttachNewRequest>(packet);
  if (!body || packet.fds.size() != 1) return send(bad(malformed("attach")));
  if (space_) return send(bad({EISCONN, "attaching a second address space to one session"}));
  if (body->beacon_address == 0 || !kBasePage.aligned(body->beacon_address)) {
    return send(bad({EINVAL, "attaching with a beacon that is not a page"}));
  }
  // Before a worker has it, which would have to see what becomes of any other.
  if (!kernel::Userfaultfd::is_userfaultfd(packet.fds.front().get())) {
    return send(bad({EBADF, "checking that the descriptor is a userfaultfd"}));
  }
  host_.spaces().attach_new(
      std::move(packet.fds.front()), space::Owner{peer_.pid, 0, peer_.uid},
      Vaddr{body->beacon_address},
      [self = shared_from_this(), respond = responder()](Result<space::SpaceRef> ref) {
        if (!ref) return respond(bad(ref.error()));
        asio::post(self->host_.control(), [self, ref = *ref] {
          if (self->closed_) return self->host_.spaces().session_closed(ref);
          self->space_ = ref;
          wire::AttachReply reply;
          reply.space_id = ref.id.value();
          reply.server_flags = self->host_.server_flags();
          if (!ref.features.fork_events) reply.server_flags |= wire::kServerNoForkEvents;
          self->send(good(reply));
        });
      });
}

void Session::on_attach_forked(const Packet& packet) {
  const auto body = body_of<wire::AttachForkedRequest>(packet);
  if (!body) return send(bad(malformed("attach")));
  if (space_) return send(bad({EISCONN, "attaching a second address space to one session"}));
  auto ref = host_.spaces().attach_forked(body->cookie, space::Owner{peer_.pid, 0, peer_.uid});
  if (!ref) return send(bad(ref.error()));
  space_ = *ref;
  wire::AttachReply reply;
  reply.space_id = ref->id.value();
  reply.server_flags = host_.server_flags();
  send(good(reply));
}

Session::Reply Session::opened(std::shared_ptr<MemoryObject> object, Access access) {
  wire::ObjectReply body;
  body.object_id = object->id().value();
  body.size = object->size().value();
  body.content_size = object->content_size().value();
  body.page_size = static_cast<std::uint32_t>(object->page_size().bytes().value());
  body.from_file = object->from_file() ? 1 : 0;
  body.counted_waits = object->counted_waits() ? 1 : 0;
  body.access = access == Access::read_write ? wire::Access::read_write : wire::Access::read_only;
  const int memfd =
      access == Access::read_write ? object->memfd().writable_fd() : object->memfd().read_only_fd();
  // A descriptor of the reply's own: the object may be closed by another thread before it is sent.
  UniqueFd sent{::fcntl(memfd, F_DUPFD_CLOEXEC, 0)};
  UniqueFd board{::fcntl(object->pages().board_fd(), F_DUPFD_CLOEXEC, 0)};
  if (!sent || !board) return bad(Error{errno, "duplicating an object's descriptors"});
  auto handle = space_->handles->add({std::move(object), access});
  if (!handle) return bad(handle.error());
  body.handle = *handle;
  Reply reply = good(body);
  reply.own_fds.push_back(std::move(sent));
  reply.own_fds.push_back(std::move(board));
  return reply;
}

void Session::on_object_create(Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::ObjectCreateRequest>(packet);
  const bool from_file = body && (body->flags & wire::kObjectFromFile) != 0;
  if (!body || packet.fds.size() != (from_file ? 1U : 0U)) {
    return send(bad(malformed("object create")));
  }
  const auto name = text_of(body->name);
  if (!name) return send(bad({EINVAL, "creating an object whose name does not end"}));
  if ((body->flags & ~(wire::kObjectFromFile | wire::kObjectCountedWaits)) != 0) {
    return send(bad({EINVAL, "creating an object with unknown flags"}));
  }
  if (body->mode > 0777) return send(bad({EINVAL, "creating an object with a mode beyond 0777"}));
  const auto page_size = page_size_from(body->page_size);
  if (!page_size) {
    return send(bad({EINVAL, "creating an object with pages of " + std::to_string(body->page_size) +
                                 " bytes, where 4096 and 2097152 are supported"}));
  }
  if (!from_file && body->file_offset != 0) {
    return send(bad({EINVAL, "creating an object with a file offset and no file"}));
  }
  if (body->size > host_.objects().limits().max_object_bytes.value()) {
    host_.objects().refused_too_large();
    return send(
        bad({EFBIG, "creating an object of " + std::to_string(body->size) +
                        " bytes, where max_object_bytes is " +
                        std::to_string(host_.objects().limits().max_object_bytes.value())}));
  }
  auto spec = std::make_shared<ObjectSpec>();
  spec->name = *name;
  spec->uid = peer_.uid;
  spec->gid = peer_.gid;
  spec->mode = body->mode;
  spec->page_size = *page_size;
  spec->content_size = ByteCount{body->size};
  spec->counted_waits = (body->flags & wire::kObjectCountedWaits) != 0;
  if (!from_file) {
    auto object = host_.objects().create(std::move(*spec));
    return send(object ? opened(std::move(*object), Access::read_write) : bad(object.error()));
  }
  auto file = std::make_shared<kernel::ForeignFd>(std::move(packet.fds.front()));
  asio::post(helpers_, [self = shared_from_this(), spec, file, offset = body->file_offset] {
    auto checked =
        std::make_shared<Result<ObjectSpec>>(with_file(std::move(*spec), std::move(*file), offset));
    asio::post(self->host_.control(), [self, checked] {
      if (self->closed_) return;
      if (!*checked) return self->send(bad(checked->error()));
      auto object = self->host_.objects().create(std::move(**checked));
      self->send(object ? self->opened(std::move(*object), Access::read_write)
                        : bad(object.error()));
    });
  });
}

void Session::on_object_open(const Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::ObjectOpenRequest>(packet);
  if (!body) return send(bad(malformed("object open")));
  const auto name = text_of(body->name);
  if (!name) return send(bad({EINVAL, "opening an object whose name does not end"}));
  if (body->access != wire::Access::read_only && body->access != wire::Access::read_write) {
    return send(bad({EINVAL, "opening object " + *name + " neither read-only nor read-write"}));
  }
  const Access access =
      body->access == wire::Access::read_write ? Access::read_write : Access::read_only;
  auto object = host_.objects().open(*name, access, credentials());
  send(object ? opened(std::move(*object), access) : bad(object.error()));
}

void Session::on_object_stat(const Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::HandleRequest>(packet);
  if (!body) return send(bad(malformed("object stat")));
  const auto open = space_->handles->find(body->handle);
  if (!open) return send(bad(open.error()));
  const MemoryObject& object = *open->object;
  wire::ObjectStatReply stat;
  stat.object_id = object.id().value();
  stat.size = object.size().value();
  stat.content_size = object.content_size().value();
  stat.resident_bytes = object.resident().value();
  stat.page_size = static_cast<std::uint32_t>(object.page_size().bytes().value());
  stat.uid = object.uid();
  stat.mode = object.mode();
  stat.open_handles = static_cast<std::uint32_t>(object.handles());
  stat.linked = host_.objects().linked(object) ? 1 : 0;
  stat.from_file = object.from_file() ? 1 : 0;
  object.name().copy(stat.name.data(), stat.name.size() - 1);
  send(good(stat));
}

void Session::on_object_unlink(const Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::UnlinkRequest>(packet);
  const auto name = body ? text_of(body->name) : std::nullopt;
  if (!name) return send(bad(malformed("object unlink")));
  auto unlinked = host_.objects().unlink(*name, credentials());
  if (!unlinked) return send(bad(unlinked.error()));
  release(std::move(*unlinked));
}

void Session::on_object_close(const Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::HandleRequest>(packet);
  if (!body) return send(bad(malformed("object close")));
  // A fork returns when its event has been read. The child is to have what was open then, also
  // where its making has not come so far.
  host_.spaces().after_events(*space_, [self = shared_from_this(), handle = body->handle] {
    asio::post(self->host_.control(), [self, handle] { self->close_handle(handle); });
  });
}

void Session::close_handle(std::uint64_t handle) {
  auto closed = space_->handles->close(handle);
  if (!closed) return send(bad(closed.error()));
  release(std::move(closed->object));
}

void Session::on_map(const Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::MapRequest>(packet);
  if (!body) return send(bad(malformed("map")));
  auto open = space_->handles->find(body->handle);
  if (!open) return send(bad(open.error()));
  if (auto checked = check_map(*body, *open); !checked) return send(bad(checked.error()));
  space::MapRequest request;
  request.address = Vaddr{body->address};
  request.length = ByteCount{body->length};
  request.first = open->object->page_size().index_of(ByteCount{body->object_offset});
  request.object = std::move(open->object);
  request.sharing =
      (body->flags & wire::kMapShared) != 0 ? space::Sharing::shared : space::Sharing::private_copy;
  request.writable = (body->flags & wire::kMapWrite) != 0;
  request.may_write = open->access == Access::read_write;
  request.by_page =
      (body->flags & wire::kMapWaitByPage) != 0 ? space::ByPage::yes : space::ByPage::no;
  host_.spaces().map(*space_, std::move(request), status_responder());
}

void Session::on_mapping_stats(const Packet& packet) {
  if (!require_attached()) return;
  const auto body = body_of<wire::MappingStatsRequest>(packet);
  if (!body) return send(bad(malformed("mapping statistics")));
  host_.spaces().vma_at(
      *space_, Vaddr{body->address},
      [self = shared_from_this(), respond = responder()](Result<space::VmaSnapshot> vma) {
        if (!vma) return respond(bad(vma.error()));
        asio::post(self->helpers_, [self, respond, vma = std::move(*vma)] {
          respond(good(admin::to_stats(vma, self->peer_.pid, self->peer_.uid)));
        });
      });
}

void Session::on_process_stats() {
  if (!require_attached()) return;
  host_.spaces().snapshot(
      *space_, [self = shared_from_this(), respond = responder()](Result<space::SpaceSnapshot> s) {
        if (!s) return respond(bad(s.error()));
        asio::post(self->helpers_, [respond, snapshot = std::move(*s)] {
          respond(good(admin::to_stats(snapshot)));
        });
      });
}

void Session::on_admin(const Packet& packet) {
  const auto body = body_of<wire::AdminRequest>(packet);
  if (!body || !text_of(body->object_name)) return send(bad(malformed("admin")));
  host_.report(*body, peer_.uid, text_responder());
}

void Session::on_reload(const Packet& packet) {
  if (packet.bytes.size() != sizeof(wire::RequestHeader)) return send(bad(malformed("reload")));
  if (!admin::sees_all(peer_.uid)) {
    return send(
        bad({EPERM, "reloading the settings, which is for root and the daemon's own user"}));
  }
  host_.reload(text_responder());
}

std::function<void(Result<std::string>)> Session::text_responder() {
  return [respond = responder()](Result<std::string> text) {
    if (!text) return respond(bad(text.error()));
    auto memfd = json_memfd(*text);
    if (!memfd) return respond(bad(memfd.error()));
    Reply reply = good(wire::AdminReply{text->size()});
    reply.own_fds.push_back(std::move(*memfd));
    respond(std::move(reply));
  };
}

void Session::on_wake(const Packet& packet) {
  const auto body = body_of<wire::WakeRequest>(packet);
  if (!body || body->reserved != 0 || body->key.reserved != 0) return send(bad(malformed("wake")));
  asio::post(helpers_, [self = shared_from_this(), request = *body, respond = responder()] {
    const auto woken =
        admin::wake(request, self->credentials(), self->host_.objects(), self->host_.waits());
    respond(woken ? good(wire::WakeReply{static_cast<std::uint64_t>(*woken)}) : bad(woken.error()));
  });
}

void Session::on_watch(const Packet& packet) {
  const auto body = body_of<wire::WatchRequest>(packet);
  auto name = body ? text_of(body->object_name) : std::nullopt;
  if (!name) return send(bad(malformed("watch")));
  auto filter = filter_of(*body, std::move(*name), peer_.uid);
  if (!filter) return send(bad(filter.error()));
  auto subscription = host_.spaces().feed().subscribe(
      peer_.uid, std::move(*filter), [weak = weak_from_this(), &control = host_.control()] {
        asio::post(control, [weak] {
          if (const auto self = weak.lock()) self->stream();
        });
      });
  if (!subscription) return send(bad(subscription.error()));
  watching_.emplace(std::move(*subscription));
  unsent_ = packet_of({}, request_);  // the answer: from here on nothing is missed
  listen();                           // for its end
  stream();
}

void Session::stream() {
  if (closed_ || blocked_) return;
  for (unsigned i = 0; i < kPacketsATurn; ++i) {
    if (unsent_.empty()) {
      const space::EventBatch batch = watching_->take(wire::kMaxEvents);
      if (batch.empty()) return;
      unsent_ = packet_of(batch, request_);
    }
    const int error = wire::send_packet(socket_.native_handle(), unsent_, {});
    if (error == EAGAIN || error == EWOULDBLOCK) {
      blocked_ = true;
      socket_.async_wait(asio::posix::stream_descriptor::wait_write,
                         [self = shared_from_this()](const boost::system::error_code& wait_error) {
                           self->blocked_ = false;
                           if (!wait_error) self->stream();
                         });
      return;
    }
    if (error != 0) return close();
    unsent_.clear();
  }
  asio::post(host_.control(), [self = shared_from_this()] { self->stream(); });
}

}  // namespace faultline::server
