// The C interface to mappings: checks arguments, then has the kernel and the daemon do it. Must
// never tell the daemon of what the kernel refused.
#include <sys/mman.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "libclient/fork.hpp"
#include "libclient/handles.hpp"

using faultline::client::Connection;
using faultline::client::Content;
using faultline::client::Failure;
using faultline::client::guarded;
using faultline::client::Mappings;
using faultline::client::MappingsChange;
using faultline::client::MapRange;
using faultline::client::Piece;
using faultline::client::PinLedger;
using faultline::client::range_of;
using faultline::client::RemapRequest;
using faultline::client::require;
using faultline::client::throw_errno;
namespace wire = faultline::wire;

namespace {

static_assert(FL_MAP_SHARED == wire::kMapShared && FL_MAP_PRIVATE == wire::kMapPrivate &&
              FL_MAP_WRITE == wire::kMapWrite && FL_MAP_WAIT_BY_PAGE == wire::kMapWaitByPage);
static_assert(FL_PROTECT_WRITE == wire::kProtectWrite);
static_assert(FL_ADVICE_NORMAL == static_cast<unsigned>(wire::Advice::normal) &&
              FL_ADVICE_SEQUENTIAL == static_cast<unsigned>(wire::Advice::sequential) &&
              FL_ADVICE_RANDOM == static_cast<unsigned>(wire::Advice::random) &&
              FL_ADVICE_COLD == static_cast<unsigned>(wire::Advice::cold) &&
              FL_ADVICE_PAGEOUT == static_cast<unsigned>(wire::Advice::page_out));

constexpr std::uint32_t kWireMapFlags =
    FL_MAP_SHARED | FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE;
constexpr std::uint32_t kFixedFlags = FL_MAP_FIXED | FL_MAP_FIXED_NOREPLACE;

// Memory of this process, unmapped unless it is kept.
class Held {
 public:
  explicit Held(MapRange range) : range_(range) {}
  Held(Held&& other) noexcept : range_(std::exchange(other.range_, {})) {}
  Held& operator=(Held&&) = delete;
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    if (range_.length != 0) ::munmap(reinterpret_cast<void*>(range_.start), range_.length);
  }

  [[nodiscard]] MapRange range() const { return range_; }
  void keep() { range_ = {}; }

 private:
  MapRange range_;
};

int access_of(std::uint32_t flags) {
  return (flags & FL_MAP_WRITE) != 0 ? PROT_READ | PROT_WRITE : PROT_READ;
}

// Not to be accessed yet. Until the daemon has registered it the kernel would make up zeroes, and
// another thread may still use what was at these addresses before.
Held map_somewhere(const fl_object& object, std::uint64_t offset, std::size_t length,
                   std::uint32_t flags) {
  // The kernel lets nobody register a shared mapping that could never be written. Read-only, a
  // private one shows the same pages.
  const bool shared =
      (flags & FL_MAP_SHARED) != 0 && object.opened.access == wire::Access::read_write;
  void* const start =
      ::mmap(nullptr, length, PROT_NONE, (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_NORESERVE,
             object.memfd.get(), static_cast<off_t>(offset));
  if (start == MAP_FAILED) {
    throw_errno("mmap of " + std::to_string(length) + " bytes of an object");
  }
  return Held({reinterpret_cast<std::uintptr_t>(start), length});
}

// Where the target is free, the kernel may choose it, or part of it; mremap(2) moves nothing onto
// itself. At most two ranges beside each other overlap a third of their length.
Held map_beside(MapRange target, const fl_object& object, std::uint64_t offset,
                std::uint32_t flags) {
  std::vector<Held> in_the_way;
  for (;;) {
    Held mapped = map_somewhere(object, offset, target.length, flags);
    if (!mapped.range().overlaps(target)) return mapped;
    in_the_way.push_back(std::move(mapped));
  }
}

// Nobody else can map anything there from then on.
Held reserve(MapRange target) {
  void* const wanted = reinterpret_cast<void*>(target.start);
  void* const got =
      ::mmap(wanted, target.length, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (got == MAP_FAILED) throw_errno("mapping at an address where something may be");
  return Held(target);
}

// wanted: of a fixed mapping.
void check_map(const fl_object& object, std::uint64_t offset, std::size_t length,
               std::uint32_t flags, const void* wanted) {
  const std::uint64_t page = object.opened.page_size;
  require((flags & ~(kWireMapFlags | kFixedFlags)) == 0, "mapping with an unknown flag");
  require(((flags & FL_MAP_SHARED) != 0) != ((flags & FL_MAP_PRIVATE) != 0),
          "mapping not exactly one of FL_MAP_SHARED and FL_MAP_PRIVATE");
  require((flags & kFixedFlags) != kFixedFlags,
          "mapping both FL_MAP_FIXED and FL_MAP_FIXED_NOREPLACE");
  require((flags & FL_MAP_WAIT_BY_PAGE) == 0 || (flags & FL_MAP_PRIVATE) != 0,
          "mapping FL_MAP_WAIT_BY_PAGE without FL_MAP_PRIVATE");
  require(length != 0, "mapping no bytes");
  require(length % page == 0 && offset % page == 0,
          "mapping with a length or an offset that is not a multiple of the page size");
  require(offset <= object.opened.size && length <= object.opened.size - offset,
          "mapping past the end of the object");
  if ((flags & FL_MAP_SHARED) != 0 && (flags & FL_MAP_WRITE) != 0 &&
      object.opened.access != wire::Access::read_write) {
    throw Failure(EACCES, "mapping a read-only object shared and writable");
  }
  require((flags & kFixedFlags) == 0 || wanted != nullptr, "mapping at no address");
  require(reinterpret_cast<std::uintptr_t>(wanted) % page == 0,
          "mapping at an address that is not a multiple of the page size of the object");
}

Piece piece_of(const fl_object& object, std::uint64_t offset, std::size_t length,
               std::uint32_t flags) {
  Piece piece;
  piece.length = length;
  piece.page = object.opened.page_size;
  piece.to_object_end = object.opened.size - offset;
  piece.mapping = Mappings::new_mapping();
  piece.framed = piece.mapping;
  piece.content = object.opened.from_file != 0 ? Content::of_file : Content::zero;
  piece.shared = (flags & FL_MAP_SHARED) != 0;
  piece.may_write = !piece.shared || object.opened.access == wire::Access::read_write;
  piece.writable = (flags & FL_MAP_WRITE) != 0;
  piece.waits_by_page = (flags & FL_MAP_WAIT_BY_PAGE) != 0;
  piece.object = object.view;
  return piece;
}

void rediscover(Connection& connection, MapRange range) {
  (void)connection.call(wire::Op::rediscover, wire::RediscoverRequest{range.start, range.length});
}

// Its pages that are in memory, and those in the daemon's swap file.
void discard_content(Connection& connection, MapRange range) {
  connection.mappings().discard_content(range);
  if (!connection.daemon_swaps()) return;
  for (;;) {
    const wire::Packet answer =
        connection.call(wire::Op::discard, wire::DiscardRequest{range.start, range.length});
    if (faultline::client::body_of<wire::DiscardReply>(answer).again == 0) return;
    // What was on its way from there is in memory by now.
    connection.mappings().discard_content(range);
  }
}

// Where pages are pinned: returns when the daemon has carried the change of the range out. What is
// pinned after that must not be ended by it.
void await_daemon(Connection& connection, MapRange range) {
  if (connection.ledger() == nullptr) return;
  try {
    rediscover(connection, range);
  } catch (const Failure&) {
    // It is gone, or another thread has unmapped the range: nobody ends a pin there any more.
  }
}

RemapRequest checked_remap(MapRange old, std::size_t new_length, std::uint32_t flags,
                           const void* to) {
  const bool fixed = (flags & FL_REMAP_FIXED) != 0;
  RemapRequest request;
  request.old = old;
  request.length = new_length;
  request.may_move = (flags & FL_REMAP_MAYMOVE) != 0;
  request.keep_old = (flags & FL_REMAP_DONTUNMAP) != 0;
  require((flags & ~(FL_REMAP_MAYMOVE | FL_REMAP_FIXED | FL_REMAP_DONTUNMAP)) == 0,
          "moving a mapping with an unknown flag");
  require(request.may_move || (!fixed && !request.keep_old),
          "moving a mapping without FL_REMAP_MAYMOVE");
  require(!request.keep_old || new_length == old.length,
          "moving a mapping with FL_REMAP_DONTUNMAP to another length");
  // Unaligned lengths and addresses are refused as every range's are.
  const MapRange target =
      range_of("moving to", fixed ? to : reinterpret_cast<void*>(old.start), new_length);
  if (!fixed) return request;
  require(target.start != 0 && !target.overlaps(old),
          "moving a mapping onto itself or to no address");
  request.to = target.start;
  return request;
}

// See object_view.hpp.
void map_pages_for_waits(const fl_object& object) {
  if (object.view->has_pages()) return;
  Held mapping = map_somewhere(object, 0, object.opened.size, FL_MAP_PRIVATE);
  wire::MapRequest request;
  request.handle = object.opened.handle;
  request.address = mapping.range().start;
  request.length = mapping.range().length;
  request.flags = wire::kMapPrivate;
  (void)object.connection->call_in(object.generation, wire::Op::map, request);
  void* const start = reinterpret_cast<void*>(mapping.range().start);
  if (::mprotect(start, mapping.range().length, PROT_READ) != 0) {
    throw_errno("mprotect of a new mapping");
  }
  if (object.view->take_pages(static_cast<const std::byte*>(start))) mapping.keep();
}

}  // namespace

extern "C" {

int fl_map(fl_object* object, uint64_t offset, size_t length, uint32_t flags, void** address) {
  return guarded([&] {
    require(object != nullptr && address != nullptr, "fl_map with a null argument");
    const bool fixed = (flags & kFixedFlags) != 0;
    void* const wanted = fixed ? *address : nullptr;
    if (!fixed) *address = nullptr;
    check_map(*object, offset, length, flags, wanted);
    Connection& connection = *object->connection;
    if ((flags & FL_MAP_WAIT_BY_PAGE) != 0) map_pages_for_waits(*object);

    std::optional<Held> reserved;
    if ((flags & FL_MAP_FIXED_NOREPLACE) != 0)
      reserved.emplace(reserve(range_of("mapping at", wanted, length)));
    Held mapping = fixed
                       ? map_beside(range_of("mapping at", wanted, length), *object, offset, flags)
                       : map_somewhere(*object, offset, length, flags);
    wire::MapRequest request;
    request.handle = object->opened.handle;
    request.address = mapping.range().start;
    request.length = length;
    request.object_offset = offset;
    request.flags = flags & kWireMapFlags;
    (void)connection.call_in(object->generation, wire::Op::map, request);
    if (::mprotect(reinterpret_cast<void*>(mapping.range().start), length, access_of(flags)) != 0) {
      throw_errno("mprotect of a new mapping");
    }
    const Piece piece = piece_of(*object, offset, length, flags);
    // The kernel alone could make up zeroes for a child where the file has content.
    if (piece.content == Content::of_file && !connection.forks_are_served() &&
        ::madvise(reinterpret_cast<void*>(mapping.range().start), length, MADV_DONTFORK) != 0) {
      throw_errno("madvise(MADV_DONTFORK)");
    }
    if (fixed) {
      const auto target = reinterpret_cast<std::uintptr_t>(wanted);
      const MappingsChange change;
      connection.mappings().add_at(target, mapping.range(), piece, object->connection);
      await_daemon(connection, {target, length});
    } else {
      connection.mappings().add(mapping.range(), piece, object->connection);
      *address = reinterpret_cast<void*>(mapping.range().start);
    }
    // Another daemon's mapping that plain system calls took away.
    const auto at = reinterpret_cast<std::uintptr_t>(fixed ? wanted : *address);
    for (const auto& other : faultline::client::all_connections()) {
      if (other != object->connection) other->mappings().forget({at, length});
    }
    mapping.keep();
    if (reserved) reserved->keep();
  });
}

int fl_unmap(fl_client* client, void* address, size_t length) {
  return guarded([&] {
    require(client != nullptr, "fl_unmap with a null client");
    client->connection->mappings().unmap(range_of("unmapping", address, length));
  });
}

int fl_protect(fl_client* client, void* address, size_t length, uint32_t flags) {
  return guarded([&] {
    require(client != nullptr, "fl_protect with a null client");
    require((flags & ~FL_PROTECT_WRITE) == 0, "fl_protect with an unknown flag");
    const MapRange range = range_of("protecting", address, length);
    client->connection->mappings().protect(range, (flags & FL_PROTECT_WRITE) != 0);
    (void)client->connection->call(wire::Op::protect,
                                   wire::ProtectRequest{range.start, range.length, flags});
  });
}

int fl_discard(fl_client* client, void* address, size_t length, uint32_t what) {
  return guarded([&] {
    require(client != nullptr, "fl_discard with a null client");
    require(what == FL_DISCARD_COPIES || what == FL_DISCARD_CONTENT,
            "fl_discard of neither copies nor content");
    const MapRange range = range_of("discarding", address, length);
    if (what == FL_DISCARD_COPIES) {
      const MappingsChange change;
      client->connection->mappings().discard_copies(range);
      await_daemon(*client->connection, range);
    } else {
      discard_content(*client->connection, range);
    }
  });
}

int fl_remap(fl_client* client, void* old_address, size_t old_length, size_t new_length,
             uint32_t flags, void** new_address) {
  return guarded([&] {
    require(client != nullptr && new_address != nullptr, "fl_remap with a null argument");
    Connection& connection = *client->connection;
    const MapRange old = range_of("moving", old_address, old_length);
    const RemapRequest request = checked_remap(old, new_length, flags, *new_address);
    const MappingsChange change;
    const auto move_pins = [&](std::uintptr_t to) {
      if (PinLedger* const ledger = connection.ledger(); ledger != nullptr) {
        ledger->moved(request.old.start, request.old.end(), to);
      }
    };
    const MapRange now{connection.mappings().remap(request, move_pins), new_length};
    *new_address = reinterpret_cast<void*>(now.start);
    await_daemon(connection, {now.start, std::min(old_length, new_length)});
    if (request.keep_old) rediscover(connection, old);
    if (new_length <= old_length) return;
    const MapRange tail{now.start + old_length, new_length - old_length};
    try {
      rediscover(connection, tail);
    } catch (const Failure&) {
      if (now.start == old.start) connection.mappings().unmap(tail);
      throw;
    }
  });
}

int fl_advise(fl_client* client, void* address, size_t length, uint32_t advice) {
  return guarded([&] {
    require(client != nullptr, "fl_advise with a null client");
    const MapRange range = range_of("advising about", address, length);
    Connection& connection = *client->connection;
    switch (advice) {
      case FL_ADVICE_NORMAL:
      case FL_ADVICE_SEQUENTIAL:
      case FL_ADVICE_RANDOM:
      case FL_ADVICE_PAGEOUT:
        connection.mappings().require_mapped(range);
        (void)connection.call(
            wire::Op::advise,
            wire::AdviseRequest{range.start, range.length, static_cast<wire::Advice>(advice)});
        return;
      case FL_ADVICE_WILL_NEED:
        connection.mappings().require_mapped(range);
        (void)connection.call(wire::Op::populate, wire::PopulateRequest{range.start, range.length});
        return;
      case FL_ADVICE_COLD:
        connection.mappings().make_cold(range);
        (void)connection.call(wire::Op::advise,
                              wire::AdviseRequest{range.start, range.length, wire::Advice::cold});
        return;
      default:
        throw Failure(EINVAL, "fl_advise with unknown advice");
    }
  });
}

}  // extern "C"
