// The C interface: checks arguments, and turns each call into a request, a mapping, or both.
#include "faultline/faultline.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <string_view>

#include "faultline/wire/socket_path.hpp"
#include "libclient/fork.hpp"

using faultline::UniqueFd;
using faultline::client::body_of;
using faultline::client::Connection;
using faultline::client::Content;
using faultline::client::Failure;
using faultline::client::guarded;
using faultline::client::MapRange;
namespace wire = faultline::wire;

struct fl_client {
  std::shared_ptr<Connection> connection;
};

struct fl_object {
  std::shared_ptr<Connection> connection;
  std::uint64_t generation = 0;
  wire::ObjectReply opened;
  UniqueFd memfd;
};

namespace {

static_assert(FL_NAME_MAX == wire::kMaxName);
static_assert(sizeof(fl_stats) == sizeof(wire::Stats));
static_assert(FL_MAP_SHARED == wire::kMapShared && FL_MAP_PRIVATE == wire::kMapPrivate &&
              FL_MAP_WRITE == wire::kMapWrite);
static_assert(FL_READ_ONLY == static_cast<unsigned>(wire::Access::read_only) &&
              FL_READ_WRITE == static_cast<unsigned>(wire::Access::read_write));

void require(bool condition, const char* what) {
  if (!condition) throw Failure(EINVAL, what);
}

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
  if (reply.fds.size() != 1) throw Failure(EPROTO, "receiving an object's memfd");
  object->memfd = std::move(reply.fds.front());
  return object;
}

// A mapping of this process until it is known to the connection.
class FreshMapping {
 public:
  FreshMapping(const fl_object& object, std::uint64_t offset, std::size_t length,
               std::uint32_t flags)
      : length_(length) {
    const bool write = (flags & FL_MAP_WRITE) != 0;
    // The kernel lets nobody register a shared mapping that could never be written. Read-only, a
    // private one shows the same pages.
    const bool shared =
        (flags & FL_MAP_SHARED) != 0 && object.opened.access == wire::Access::read_write;
    start_ = ::mmap(nullptr, length, write ? PROT_READ | PROT_WRITE : PROT_READ,
                    (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_NORESERVE, object.memfd.get(),
                    static_cast<off_t>(offset));
    if (start_ == MAP_FAILED) {
      faultline::client::throw_errno("mmap of " + std::to_string(length) + " bytes of an object");
    }
  }
  FreshMapping(const FreshMapping&) = delete;
  FreshMapping& operator=(const FreshMapping&) = delete;
  ~FreshMapping() {
    if (start_ != MAP_FAILED) ::munmap(start_, length_);
  }

  [[nodiscard]] MapRange range() const {
    return {reinterpret_cast<std::uintptr_t>(start_), length_};
  }
  void not_for_children() const {
    if (::madvise(start_, length_, MADV_DONTFORK) != 0) {
      faultline::client::throw_errno("madvise(MADV_DONTFORK)");
    }
  }
  void* keep() { return std::exchange(start_, MAP_FAILED); }

 private:
  void* start_ = MAP_FAILED;
  std::size_t length_;
};

void check_map(const fl_object& object, std::uint64_t offset, std::size_t length,
               std::uint32_t flags) {
  const std::uint64_t page = object.opened.page_size;
  require((flags & ~(FL_MAP_SHARED | FL_MAP_PRIVATE | FL_MAP_WRITE)) == 0,
          "mapping with an unknown flag");
  require(((flags & FL_MAP_SHARED) != 0) != ((flags & FL_MAP_PRIVATE) != 0),
          "mapping not exactly one of FL_MAP_SHARED and FL_MAP_PRIVATE");
  require(length != 0, "mapping no bytes");
  require(length % page == 0 && offset % page == 0,
          "mapping with a length or an offset that is not a multiple of the page size");
  require(offset <= object.opened.size && length <= object.opened.size - offset,
          "mapping past the end of the object");
  if ((flags & FL_MAP_SHARED) != 0 && (flags & FL_MAP_WRITE) != 0 &&
      object.opened.access != wire::Access::read_write) {
    throw Failure(EACCES, "mapping a read-only object shared and writable");
  }
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
  return faultline::client::last_error().c_str();
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
    require((spec->flags & ~FL_FROM_FILE) == 0, "creating an object with an unknown flag");
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

int fl_map(fl_object* object, uint64_t offset, size_t length, uint32_t flags, void** address) {
  return guarded([&] {
    require(object != nullptr && address != nullptr, "fl_map with a null argument");
    *address = nullptr;
    check_map(*object, offset, length, flags);
    Connection& connection = *object->connection;
    FreshMapping mapping(*object, offset, length, flags);
    wire::MapRequest request;
    request.handle = object->opened.handle;
    request.address = mapping.range().start;
    request.length = length;
    request.object_offset = offset;
    request.flags = flags;
    (void)connection.call_in(object->generation, wire::Op::map, request);
    // The kernel alone could make up zeroes for a child where the file has content.
    const bool of_file = object->opened.from_file != 0;
    if (of_file && !connection.forks_are_served()) mapping.not_for_children();
    connection.add_mapping(mapping.range(), of_file ? Content::of_file : Content::zero);
    *address = mapping.keep();
  });
}

int fl_unmap(fl_client* client, void* address, size_t length) {
  return guarded([&] {
    require(client != nullptr, "fl_unmap with a null client");
    const auto start = reinterpret_cast<std::uintptr_t>(address);
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    require(length != 0 && start % page == 0 && length % page == 0 && start + length > start,
            "unmapping with an address or length that is zero or not a multiple of the page size");
    client->connection->unmap({start, length});
  });
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
