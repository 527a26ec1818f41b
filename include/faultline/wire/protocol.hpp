// What daemon and library say to each other over the control socket: fixed-size records, one
// request or reply a SOCK_SEQPACKET packet. Must never hold a pointer, and never be trusted by the
// receiver: every field is hostile until it has been checked.
//
// Life of a connection:
//   1. hello: the client says its version; the daemon answers with its limits and, where it may,
//      with an open /dev/userfaultfd, from which the client makes its userfaultfd without any
//      privilege.
//   2. attach_new: the client sends that userfaultfd and the address of its beacon page. The daemon
//      initialises it and owns it from then on.
//      attach_forked: a fork child, whose userfaultfd the kernel already gave to the daemon, sends
//      the cookie it read from its own beacon page. Only that address space can have read it.
//   3. requests, one at a time, each answered by one reply with the same cookie.
//   4. watch: after its reply the connection carries replies with events, with the cookie of that
//      request, until either side closes it. It takes no further request.
//
// Versioning: kVersion changes with any change of layout; the daemon refuses another version in
// words.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "faultline/wire/word_key.hpp"

namespace faultline::wire {

inline constexpr std::uint32_t kMagic = 0x314c4c46;  // "FLL1", little-endian
inline constexpr std::uint16_t kVersion = 5;
inline constexpr std::size_t kMaxPacket = 2048;
inline constexpr std::size_t kMaxFds = 3;
inline constexpr std::size_t kMaxName = 128;
inline constexpr std::size_t kMaxDetail = 240;
inline constexpr std::size_t kCookieBytes = 16;

enum class Op : std::uint16_t {
  hello = 1,
  attach_new = 2,
  attach_forked = 3,
  object_create = 4,
  object_open = 5,
  object_stat = 6,
  object_unlink = 7,
  object_close = 8,
  map = 9,
  mapping_stats = 10,
  process_stats = 11,
  admin = 12,
  protect = 13,
  advise = 14,
  rediscover = 15,
  populate = 16,
  job_progress = 17,
  job_free = 18,
  watch = 19,
  open_channel = 20,
  add_target = 21,
  remove_target = 22,
  guard_pages = 23,
  wake = 24,
  open_ledger = 25,
  grant_pins = 26,
  open_frames = 27,
  evict = 28,
  discard = 29,
  reload = 30,
};

struct RequestHeader {
  std::uint32_t magic = kMagic;
  std::uint16_t version = kVersion;
  Op op{};
  std::uint64_t cookie = 0;
  std::uint32_t body_size = 0;
  std::uint32_t reserved = 0;
};

// status is 0 or a negative errno; detail is what went wrong in words, zero-terminated.
struct ReplyHeader {
  std::uint32_t magic = kMagic;
  std::uint16_t version = kVersion;
  Op op{};
  std::uint64_t cookie = 0;
  std::uint32_t body_size = 0;
  std::int32_t status = 0;
  std::array<char, kMaxDetail> detail{};
};

using Name = std::array<char, kMaxName + 1>;
using Cookie = std::array<std::uint8_t, kCookieBytes>;

// The client must make its userfaultfd with UFFD_USER_MODE_ONLY, for want of the device.
inline constexpr std::uint32_t kServerUserModeOnly = 1U << 0;
// The kernel will not report forks to this daemon: children must not inherit file-backed mappings.
inline constexpr std::uint32_t kServerNoForkEvents = 1U << 1;

// Pages can be in a swap file: who discards an object's content tells the daemon of it.
inline constexpr std::uint32_t kServerSwaps = 1U << 2;

struct HelloRequest {
  std::uint32_t client_flags = 0;
  std::uint32_t reserved = 0;
};
struct HelloReply {  // + the /dev/userfaultfd descriptor unless kServerUserModeOnly
  std::uint32_t server_flags = 0;
  std::uint32_t page_size = 0;
  std::uint64_t max_object_bytes = 0;
  std::array<char, 32> server_version{};
};

struct AttachNewRequest {  // + the userfaultfd
  std::uint64_t beacon_address = 0;
};
struct AttachForkedRequest {
  Cookie cookie{};
};
struct AttachReply {
  std::uint64_t space_id = 0;
  std::uint32_t server_flags = 0;
  std::uint32_t reserved = 0;
};

inline constexpr std::uint32_t kObjectFromFile = 1U << 0;
// Wakes ask a count of who waits before they go to the kernel: faultline/wire/board.hpp.
inline constexpr std::uint32_t kObjectCountedWaits = 1U << 1;

struct ObjectCreateRequest {  // + the file, with kObjectFromFile
  std::uint64_t size = 0;     // bytes; with kObjectFromFile 0 means "to the end of the file"
  std::uint64_t file_offset = 0;
  std::uint32_t flags = 0;
  std::uint32_t mode = 0;       // permission bits, 0..0777
  std::uint32_t page_size = 0;  // bytes; 0 for the default
  std::uint32_t reserved = 0;
  Name name{};  // empty: anonymous
  std::array<std::uint8_t, 7> padding{};
};

enum class Access : std::uint32_t { read_only = 1, read_write = 2 };

struct ObjectOpenRequest {
  Access access{};
  std::uint32_t reserved = 0;
  Name name{};
  std::array<std::uint8_t, 3> padding{};
};
struct ObjectReply {  // + the memfd, read-only where access says so, and the board
  std::uint64_t handle = 0;
  std::uint64_t object_id = 0;
  std::uint64_t size = 0;          // bytes, a multiple of page_size
  std::uint64_t content_size = 0;  // bytes that were asked for
  std::uint32_t page_size = 0;
  Access access{};
  std::uint32_t from_file = 0;
  std::uint32_t counted_waits = 0;
};

struct HandleRequest {
  std::uint64_t handle = 0;
};
struct UnlinkRequest {
  Name name{};
};
struct ObjectStatReply {
  std::uint64_t object_id = 0;
  std::uint64_t size = 0;
  std::uint64_t content_size = 0;
  std::uint64_t resident_bytes = 0;
  std::uint32_t page_size = 0;
  std::uint32_t uid = 0;
  std::uint32_t mode = 0;
  std::uint32_t open_handles = 0;
  std::uint32_t linked = 0;
  std::uint32_t from_file = 0;
  Name name{};
  std::array<std::uint8_t, 7> padding{};
};

inline constexpr std::uint32_t kMapShared = 1U << 0;
inline constexpr std::uint32_t kMapPrivate = 1U << 1;
inline constexpr std::uint32_t kMapWrite = 1U << 2;
// Of a private mapping: its words are waited for by what their page is.
inline constexpr std::uint32_t kMapWaitByPage = 1U << 5;

struct MapRequest {
  std::uint64_t handle = 0;
  std::uint64_t address = 0;
  std::uint64_t length = 0;
  std::uint64_t object_offset = 0;
  std::uint32_t flags = 0;
  std::uint32_t reserved = 0;
};

// The client has done mprotect(2) on [address, address + length) already.
inline constexpr std::uint32_t kProtectWrite = 1U << 0;

struct ProtectRequest {
  std::uint64_t address = 0;
  std::uint64_t length = 0;
  std::uint32_t flags = 0;
  std::uint32_t reserved = 0;  // 0
};

enum class Advice : std::uint32_t {
  normal = 0,
  sequential = 1,
  random = 2,
  // Said once, of the pages of the objects behind the range.
  cold = 4,
  page_out = 5,  // answered when they are out of memory, as far as they can go
};

struct AdviseRequest {
  std::uint64_t address = 0;
  std::uint64_t length = 0;
  Advice advice{};
  std::uint32_t reserved = 0;  // 0
};

// The client has punched holes into the objects behind a range that is mapped shared: what is in
// the swap file goes as well.
struct DiscardRequest {
  std::uint64_t address = 0;
  std::uint64_t length = 0;
};
struct DiscardReply {
  std::uint32_t again = 0;  // 1: some of it was on its way; punch and ask once more
  std::uint32_t reserved = 0;
};

// The client has mapped more of an object there with mremap(2), which the kernel does not tell.
struct RediscoverRequest {
  std::uint64_t address = 0;
  std::uint64_t length = 0;
};

inline constexpr std::uint32_t kPopulateWrite = 1U << 0;

// With an eventfd, a job that stays until it is freed, and becomes readable there when it has
// ended. Without one, a job that nobody asks about: it goes when it has ended, and its number is 0.
struct PopulateRequest {  // + an eventfd, or nothing
  std::uint64_t address = 0;
  std::uint64_t length = 0;
  std::uint32_t flags = 0;
  std::uint32_t reserved = 0;  // 0
};
struct PopulateReply {
  std::uint64_t job = 0;  // this session's own number
};
struct JobRequest {
  std::uint64_t job = 0;
};
struct JobProgressReply {
  std::uint64_t pages_wanted = 0;
  std::uint64_t pages_done = 0;
  std::uint64_t pages_failed = 0;
  std::uint32_t ended = 0;
  std::int32_t error = 0;  // a positive errno, of the first page that failed
};

struct MappingStatsRequest {
  std::uint64_t address = 0;
};
struct Stats {
  std::uint64_t start = 0;   // of the mapping; 0 for a process
  std::uint64_t length = 0;  // of the mapping, or of all mappings together
  std::uint64_t mappings = 0;
  std::uint64_t resident_bytes = 0;
  std::uint64_t shared_bytes = 0;
  std::uint64_t private_bytes = 0;
  std::uint64_t missing_faults = 0;
  std::uint64_t minor_faults = 0;
  std::uint64_t wp_faults = 0;
  std::uint64_t write_faults = 0;
  std::uint64_t pages_mapped = 0;
  std::uint64_t pages_copied = 0;
  std::uint64_t breaks = 0;
  std::uint64_t ahead_copies = 0;
  std::uint64_t ahead_unused = 0;
  std::uint64_t poisoned_pages = 0;
};

// open_channel: without a body; + the thread records' memfd (faultline/wire/channel.hpp). Its reply
// has none either; + the rings' memfd, the doorbell and the lot (faultline/wire/lot.hpp).

enum class TargetKind : std::uint32_t { eventfd = 1, ring = 2 };

struct AddTargetRequest {  // + the eventfd
  TargetKind kind{};
  std::int32_t ring_fd = 0;  // the client's own descriptor of an io_uring
};
struct TargetReply {
  std::uint32_t target = 0;  // this session's own number
  std::uint32_t reserved = 0;
};
struct RemoveTargetRequest {
  std::uint32_t target = 0;
  std::uint32_t reserved = 0;  // 0
};

// open_ledger: without a body. Its reply has none either; + the ledger's memfd and the verdicts'
// (faultline/wire/ledger.hpp).

struct GrantPinsRequest {
  std::uint64_t bytes = 0;  // not 0; at least so much, and gladly a little more
};
struct GrantPinsReply {
  std::uint64_t bytes = 0;  // what was granted, for the process to put into its budgets
};

struct OpenFramesRequest {
  std::uint64_t address = 0;  // in the mapping
};
struct OpenFramesReply {         // + the memfd of the entries (faultline/wire/frames.hpp)
  std::uint64_t first_page = 0;  // of the object, that the first entry is of
  std::uint64_t pages = 0;
};

// guard_pages: without a body. Every private page whose words are waited for by page becomes
// write-protected, so that the daemon sees it part after a fork.

enum class AdminQuery : std::uint32_t {
  status = 1,
  objects = 2,
  spaces = 3,
  vmas = 4,
  waiters = 5,
  pins = 6,
  load = 7,  // status and spaces, of one moment
  map = 8,   // what of an object is where
};

// Bytes in memory are not asked of the kernel, and not in the answer: cheap enough to be asked
// every second.
inline constexpr std::uint32_t kAdminNoResidency = 1U << 0;

// Of a map, at most. Without a wish, kMapBuckets.
inline constexpr std::uint32_t kMostMapBuckets = 2048;
inline constexpr std::uint32_t kMapBuckets = 256;

struct AdminRequest {
  AdminQuery query{};
  std::uint32_t pid =
      0;  // for vmas; for waiters and pins, 0: all processes that the client may see
  // For waiters: of this object alone, whichever of the two fits: 0 and empty for all. For map: the
  // object.
  std::uint64_t object_id = 0;
  std::uint32_t flags = 0;    // kAdminNoResidency, for spaces, vmas and load
  std::uint32_t buckets = 0;  // for map: the most that are wanted
  Name object_name{};
  std::array<std::uint8_t, 7> padding{};
};
struct AdminReply {  // + a sealed memfd that holds the JSON text
  std::uint64_t json_bytes = 0;
};

// reload: without a body. The daemon reads its settings file again; answered by AdminReply, with
// what has changed, when that is in force. For root and the daemon's own user.

// Wakes from outside, for rescue: whoever waits for the word by that key, first those whose page is
// in no memory.
struct WakeRequest {
  WordKey key;
  std::uint32_t count = 0;  // the most to wake, not 0
  std::uint32_t reserved = 0;
};
struct WakeReply {
  std::uint64_t woken = 0;
};

inline constexpr std::uint32_t kEvictCold = 1U << 0;

// Takes pages of an object out of memory; answered when that is done.
struct EvictRequest {
  // The object, whichever of the two fits.
  std::uint64_t object_id = 0;
  std::uint64_t offset = 0;  // whole pages
  std::uint64_t length = 0;  // bytes; 0: to the end
  std::uint32_t flags = 0;
  std::uint32_t reserved = 0;
  Name object_name{};
  std::array<std::uint8_t, 7> padding{};
};
// In pages.
struct EvictReply {
  std::uint64_t object_id = 0;
  std::uint64_t page_size = 0;
  std::uint64_t evicted = 0;
  std::uint64_t swapped = 0;  // of them
  // Those that were in memory, and still are.
  std::uint64_t referenced = 0;
  std::uint64_t pinned = 0;
  std::uint64_t dirty = 0;
  std::uint64_t busy = 0;
  std::uint64_t swap_full = 0;
  std::uint64_t failed = 0;
};

enum class EventKind : std::uint8_t {
  map = 0,
  unmap = 1,
  fault = 2,
  cow_break = 3,
  fork = 4,
  exit = 5,
};
constexpr std::uint32_t bit_of(EventKind kind) {
  return std::uint32_t{1} << static_cast<unsigned>(kind);
}
inline constexpr std::uint32_t kAllEvents = (bit_of(EventKind::exit) << 1) - 1;

enum class FaultKind : std::uint8_t { none = 0, missing = 1, minor = 2, write_protect = 3 };

struct WatchRequest {
  std::uint32_t kinds = 0;  // bit_of() each
  std::uint32_t pid = 0;    // 0: all processes that the client may see
  // Of this object alone, whichever of the two fits: 0 and empty for all.
  std::uint64_t object_id = 0;
  Name object_name{};
  std::array<std::uint8_t, 7> padding{};
};

inline constexpr std::uint8_t kEventShared = 1U << 0;    // of the mapping
inline constexpr std::uint8_t kEventWritable = 1U << 1;  // of the mapping
inline constexpr std::uint8_t kEventWrite = 1U << 2;     // a write raised the fault

struct Event {
  std::uint64_t time_ns = 0;  // CLOCK_REALTIME
  std::uint64_t space_id = 0;
  std::uint64_t child_space_id = 0;  // of a fork
  std::uint64_t start = 0;           // of the mapping; of a fault, its address
  std::uint64_t length = 0;          // bytes
  std::uint64_t object_id = 0;       // 0: none
  std::uint64_t object_offset = 0;   // bytes, at start
  std::uint64_t page = 0;            // of the object, at start
  std::uint32_t pid = 0;             // 0: a fork child's that is not known yet
  std::uint32_t uid = 0;
  std::uint32_t thread = 0;  // of a fault
  EventKind kind{};
  FaultKind fault{};
  std::uint8_t flags = 0;  // kEvent...
  Name object_name{};
};
// Before so many events. Both may be 0 in a reply that has none.
struct EventsHeader {
  std::uint64_t lost = 0;  // between those of the last packet and these
  std::uint64_t count = 0;
};
inline constexpr std::size_t kMaxEvents =
    (kMaxPacket - sizeof(ReplyHeader) - sizeof(EventsHeader)) / sizeof(Event);

// Nothing but what was put there is sent: no record has bytes that no field names.
template <typename... Records>
inline constexpr bool kAllNamed = (std::has_unique_object_representations_v<Records> && ...);
static_assert(kAllNamed<RequestHeader, ReplyHeader, HelloRequest, HelloReply, AttachNewRequest,
                        AttachForkedRequest, AttachReply, ObjectCreateRequest, ObjectOpenRequest,
                        ObjectReply, HandleRequest, UnlinkRequest, ObjectStatReply, MapRequest,
                        ProtectRequest, AdviseRequest, RediscoverRequest, PopulateRequest,
                        PopulateReply, JobRequest, JobProgressReply, AddTargetRequest, TargetReply,
                        RemoveTargetRequest, GrantPinsRequest, GrantPinsReply, OpenFramesRequest,
                        OpenFramesReply, MappingStatsRequest, Stats, AdminRequest, AdminReply,
                        WakeRequest, WakeReply, EvictRequest, EvictReply, DiscardRequest,
                        DiscardReply, WatchRequest, Event, EventsHeader>);
// What both sides were built for is the same.
static_assert(sizeof(Event) == 208);
static_assert(sizeof(RequestHeader) == 24);
static_assert(sizeof(ReplyHeader) == 264);
static_assert(sizeof(ObjectCreateRequest) == 168 && sizeof(ObjectOpenRequest) == 140);
static_assert(sizeof(ObjectStatReply) == 192 && sizeof(WatchRequest) == 152);
static_assert(sizeof(AdminRequest) == 160 && sizeof(WakeRequest) == 32);
static_assert(sizeof(EvictRequest) == 168 && sizeof(EvictReply) == 80);
static_assert(sizeof(DiscardRequest) == 16 && sizeof(DiscardReply) == 8);
static_assert(sizeof(ProtectRequest) == 24);
static_assert(sizeof(AdviseRequest) == 24);
static_assert(sizeof(PopulateRequest) == 24);
static_assert(sizeof(JobProgressReply) == 32);
static_assert(sizeof(Stats) == 128);
static_assert(sizeof(ReplyHeader) + sizeof(ObjectStatReply) <= kMaxPacket);

}  // namespace faultline::wire
