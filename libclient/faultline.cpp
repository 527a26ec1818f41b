// The C interface to connections and objects, and the counters: checks arguments, and turns each
// call into a request. Must never let an exception out.
#include "faultline/faultline.h"

#include <fcntl.h>

#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <string_view>

#include "faultline/wire/socket_path.hpp"
#include "libclient/fork.hpp"
#include "libclient/handles.hpp"

using faultline::client::body_of;
using faultline::client::Connection;
using faultline::client::Failure;
using faultline::client::guarded;
using faultline::client::ObjectView;
using faultline::client::require;
namespace wire = faultline::wire;

namespace {

static_assert(FL_NAME_MAX == wire::kMaxName);
static_assert(FL_FROM_FILE == wire::kObjectFromFile &&
              FL_COUNTED_WAITS == wire::kObjectCountedWaits);
static_assert(sizeof(fl_stats) == sizeof(wire::Stats));
static_assert(FL_READ_ONLY == static_cast<unsigned>(wire::Access::read_only) &&
              FL_READ_WRITE == static_cast<unsigned>(wire::Access::read_write));

wire::Name wire_name(const char* name) {
  wire::Name out{};
  const std::string_view text(name);
  if (text.size() > wire::kMaxName) {
    throw Failure(EINVAL,
                  "naming an object with more than " + std::to_string(wire::kMaxName) + " bytes");
  }
  text.copy(out.data(), out.size() - 1);
  return out;
}

std::unique_ptr<fl_object> opened(const std::shared_ptr<Connection>& connection,
                                  wire::Packet reply) {
  auto object = std::make_unique<fl_object>();
  object->connection = connection;
  object->generation = connection->generation();
  object->opened = body_of<wire::ObjectReply>(reply);
  if (reply.fds.size() != 2) throw Failure(EPROTO, "receiving an object's descriptors");
  object->memfd = std::move(reply.fds.front());
  object->view = ObjectView::open(object->opened, reply.fds.back());
  return object;
}

std::shared_ptr<Connection> default_connection() {
  auto paths = wire::client_socket_paths();
  const std::string last = std::move(paths.back());
  paths.pop_back();
  for (const std::string& path : paths) {
    try {
      return faultline::client::connection_to(path);
    } catch (const Failure& failure) {
      if (!wire::nobody_listens(failure.code())) throw;
    }
  }
  return faultline::client::connection_to(last);
}

}  // namespace

extern "C" {

const char* fl_version(void) {
  return FAULTLINE_VERSION;
}

const char* fl_last_error(void) {
  auto& last = faultline::client::last_error();
  if (last.attempted != nullptr) {
    try {
      faultline::client::note_failure(Failure(last.code, last.attempted).what());
    } catch (const std::bad_alloc&) {
      return last.attempted;
    }
  }
  return last.text.c_str();
}

int fl_connect(const char* socket_path, fl_client** client) {
  return guarded([&] {
    require(client != nullptr, "fl_connect without a place for the client");
    *client = nullptr;
    auto connection = socket_path != nullptr ? faultline::client::connection_to(socket_path)
                                             : default_connection();
    *client = std::make_unique<fl_client>(fl_client{std::move(connection)}).release();
  });
}

int fl_disconnect(fl_client* client) {
  return guarded([&] { const std::unique_ptr<fl_client> gone(client); });
}

int fl_object_create(fl_client* client, const fl_object_spec* spec, fl_object** object) {
  return guarded([&] {
    require(client != nullptr && spec != nullptr && object != nullptr,
            "fl_object_create with a null argument");
    *object = nullptr;
    require(spec->struct_size == sizeof(fl_object_spec),
            "fl_object_create with a struct_size that is not sizeof(fl_object_spec)");
    require((spec->flags & ~(FL_FROM_FILE | FL_COUNTED_WAITS)) == 0,
            "creating an object with an unknown flag");
    wire::ObjectCreateRequest request;
    request.size = spec->size;
    request.file_offset = spec->file_offset;
    request.flags = spec->flags;
    request.mode = spec->mode;
    request.page_size = spec->page_size;
    if (spec->name != nullptr) {
      require(*spec->name != '\0', "creating an object with an empty name");
      request.name = wire_name(spec->name);
    }
    const std::array fds{spec->file_fd};
    const bool from_file = (spec->flags & FL_FROM_FILE) != 0;
    if (from_file && ::fcntl(spec->file_fd, F_GETFD) < 0) {
      throw Failure(EBADF, "creating an object from descriptor " + std::to_string(spec->file_fd));
    }
    *object = opened(client->connection,
                     client->connection->call(wire::Op::object_create, request,
                                              std::span<const int>(fds).first(from_file ? 1 : 0)))
                  .release();
  });
}

int fl_object_open(fl_client* client, const char* name, uint32_t access, fl_object** object) {
  return guarded([&] {
    require(client != nullptr && name != nullptr && object != nullptr,
            "fl_object_open with a null argument");
    *object = nullptr;
    require(access == FL_READ_ONLY || access == FL_READ_WRITE,
            "opening an object with unknown access");
    wire::ObjectOpenRequest request;
    request.access = static_cast<wire::Access>(access);
    request.name = wire_name(name);
    *object = opened(client->connection, client->connection->call(wire::Op::object_open, request))
                  .release();
  });
}

int fl_object_stat(fl_object* object, fl_object_info* info) {
  return guarded([&] {
    require(object != nullptr && info != nullptr, "fl_object_stat with a null argument");
    const auto stat = body_of<wire::ObjectStatReply>(object->connection->call_in(
        object->generation, wire::Op::object_stat, wire::HandleRequest{object->opened.handle}));
    *info = fl_object_info{};
    info->id = stat.object_id;
    info->size = stat.size;
    info->content_size = stat.content_size;
    info->resident_bytes = stat.resident_bytes;
    info->page_size = stat.page_size;
    info->uid = stat.uid;
    info->mode = stat.mode;
    info->open_handles = stat.open_handles;
    info->linked = stat.linked;
    info->from_file = stat.from_file;
    std::memcpy(info->name, stat.name.data(), sizeof(info->name) - 1);
  });
}

int fl_object_unlink(fl_client* client, const char* name) {
  return guarded([&] {
    require(client != nullptr && name != nullptr, "fl_object_unlink with a null argument");
    (void)client->connection->call(wire::Op::object_unlink, wire::UnlinkRequest{wire_name(name)});
  });
}

int fl_object_close(fl_object* object) {
  return guarded([&] {
    const std::unique_ptr<fl_object> gone(object);
    if (!gone) return;
    (void)gone->connection->call_in(gone->generation, wire::Op::object_close,
                                    wire::HandleRequest{gone->opened.handle});
  });
}

int fl_object_fd(const fl_object* object) {
  return object == nullptr ? -EINVAL : object->memfd.get();
}

int fl_mapping_stats(fl_client* client, const void* address, fl_stats* stats) {
  return guarded([&] {
    require(client != nullptr && stats != nullptr, "fl_mapping_stats with a null argument");
    const wire::MappingStatsRequest request{reinterpret_cast<std::uintptr_t>(address)};
    *stats = std::bit_cast<fl_stats>(
        body_of<wire::Stats>(client->connection->call(wire::Op::mapping_stats, request)));
  });
}

int fl_process_stats(fl_client* client, fl_stats* stats) {
  return guarded([&] {
    require(client != nullptr && stats != nullptr, "fl_process_stats with a null argument");
    *stats = std::bit_cast<fl_stats>(
        body_of<wire::Stats>(client->connection->call(wire::Op::process_stats)));
  });
}

}  // extern "C"
