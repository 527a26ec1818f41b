#include "libclient/mappings.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "faultline/wire/unique_fd.hpp"
#include "libclient/failure.hpp"

namespace faultline::client {

namespace {

// linux/mman.h: not in every libc's headers.
constexpr int kRemapDontUnmap = 4;

void* pointer(std::uintptr_t address) {
  return reinterpret_cast<void*>(address);
}

bool usable(const Piece& piece) {
  return piece.content != Content::none;
}

}  // namespace

void Mappings::add(MapRange range, Piece piece, std::shared_ptr<const void> holder) {
  const MappingsChange change;
  MappingBook::Pieces fresh{{range.start, piece}};
  const std::lock_guard lock(mutex_);
  // What plain system calls unmapped behind our back, and the kernel gave away again.
  book_.cut_at(range);
  book_.forget(range);
  book_.put(std::move(fresh));
  holder_ = std::move(holder);
}

void Mappings::add_at(std::uintptr_t address, MapRange fresh, Piece piece,
                      std::shared_ptr<const void> holder) {
  const MappingsChange change;
  const MapRange target{address, fresh.length};
  MappingBook::Pieces entry{{address, piece}};
  const std::lock_guard lock(mutex_);
  book_.cut_at(target);
  if (::mremap(pointer(fresh.start), fresh.length, fresh.length, MREMAP_MAYMOVE | MREMAP_FIXED,
               pointer(address)) == MAP_FAILED) {
    const int code = errno;
    book_.join(target);
    throw Failure(code, "mapping " + words_of(target));
  }
  book_.forget(target);
  book_.put(std::move(entry));
  holder_ = std::move(holder);
}

void Mappings::forget(MapRange range) {
  std::shared_ptr<const void> last;  // let go after the lock
  const MappingsChange change;
  const std::lock_guard lock(mutex_);
  if (book_.empty()) return;
  book_.cut_at(range);
  book_.forget(range);
  if (book_.empty()) last = std::move(holder_);
}

void Mappings::unmap(MapRange range) {
  const MappingsChange change;
  std::shared_ptr<const void> last;  // let go after the lock
  const std::lock_guard lock(mutex_);
  if (!book_.all(range, [](const Piece&) { return true; })) {
    throw Failure(EINVAL, "unmapping a range that is not all mapped by fl_map");
  }
  require_whole_pages_locked(range);
  book_.cut_at(range);
  // ENOMEM: no more mappings for the rest on either side. Nothing was unmapped.
  if (::munmap(pointer(range.start), range.length) != 0) {
    const int code = errno;
    book_.join(range);
    throw Failure(code, "munmap of " + words_of(range));
  }
  book_.forget(range);
  if (book_.empty()) last = std::move(holder_);
}

void Mappings::protect(MapRange range, bool writable) {
  const MappingsChange change;
  const std::lock_guard lock(mutex_);
  require_mapped_locked(range);
  if (writable && !book_.all(range, [](const Piece& piece) { return piece.may_write; })) {
    throw Failure(EACCES, "making a shared mapping of a read-only object writable");
  }
  book_.cut_at(range);
  int code = 0;
  const auto end = book_.pieces().lower_bound(range.end());
  for (auto it = book_.pieces().lower_bound(range.start); it != end && code == 0; ++it) {
    const int access = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    if (::mprotect(pointer(it->first), it->second.length, access) == 0) {
      it->second.writable = writable;
    } else {
      code = errno;
    }
  }
  book_.join(range);
  if (code != 0) throw Failure(code, "mprotect of " + words_of(range));
}

template <typename Condition>
void Mappings::madvise_locked(MapRange range, int advice, const char* attempted,
                              Condition condition) {
  const auto& pieces = book_.pieces();
  auto it = pieces.upper_bound(range.start);
  if (it != pieces.begin()) --it;
  for (; it != pieces.end() && it->first < range.end(); ++it) {
    if (!condition(it->second)) continue;
    const std::uintptr_t start = std::max(it->first, range.start);
    const std::uintptr_t end = std::min(it->first + it->second.length, range.end());
    if (::madvise(pointer(start), end - start, advice) == 0) continue;
    // Of all that the kernel calls invalid, only this is left.
    throw Failure(errno == EINVAL ? EBUSY : errno, attempted + (" " + words_of(range)));
  }
}

void Mappings::discard_copies(MapRange range) {
  const MappingsChange change;
  const std::lock_guard lock(mutex_);
  require_mapped_locked(range);
  madvise_locked(range, MADV_DONTNEED, "discarding the private pages of",
                 [](const Piece& piece) { return !piece.shared; });
}

void Mappings::discard_content(MapRange range) {
  const std::lock_guard lock(mutex_);
  require_mapped_locked(range);
  if (!book_.all(range, [](const Piece& piece) { return piece.shared; })) {
    throw Failure(EINVAL, "discarding an object's pages through a private mapping");
  }
  if (!book_.all(range, [](const Piece& piece) { return piece.writable; })) {
    throw Failure(EACCES, "discarding an object's pages through a read-only mapping");
  }
  madvise_locked(range, MADV_REMOVE, "discarding the object's pages of",
                 [](const Piece&) { return true; });
}

void Mappings::make_cold(MapRange range) {
  const std::lock_guard lock(mutex_);
  require_mapped_locked(range);
  // The kernel knows no cold huge pages: they are never swapped out.
  madvise_locked(range, MADV_COLD, "madvise(MADV_COLD) of",
                 [](const Piece& piece) { return piece.page == 4096; });
}

std::uintptr_t Mappings::remap(const RemapRequest& request,
                               const std::function<void(std::uintptr_t)>& moved) {
  const MappingsChange change;
  const MapRange old = request.old;
  const MapRange target{request.to, request.length};
  MappingBook::Pieces entry{{old.start, Piece{}}};

  const std::lock_guard lock(mutex_);
  Piece piece = book_.part(old);
  if (piece.length == 0 || !usable(piece)) {
    throw Failure(EINVAL, "moving " + words_of(old) +
                              ", which are not part of one mapping made by fl_map, of one access");
  }
  if (request.length > piece.to_object_end) {
    throw Failure(EINVAL, "growing a mapping past the end of its object");
  }
  require_whole_pages_locked(old);
  if (request.length % piece.page != 0 || request.to % piece.page != 0) {
    throw Failure(EINVAL,
                  "moving to a length or an address that is not a multiple of the object's "
                  "page size, 2097152");
  }
  book_.cut_at(old);
  if (request.to != 0) book_.cut_at(target);
  const int flags = (request.may_move ? MREMAP_MAYMOVE : 0) | (request.to != 0 ? MREMAP_FIXED : 0) |
                    (request.keep_old ? kRemapDontUnmap : 0);
  void* const result =
      ::mremap(pointer(old.start), old.length, request.length, flags, pointer(request.to));
  if (result == MAP_FAILED) {
    const int code = errno;
    book_.join(old);
    if (request.to != 0) book_.join(target);
    throw Failure(code, "mremap of " + words_of(old));
  }

  const MapRange now{reinterpret_cast<std::uintptr_t>(result), request.length};
  if (!request.keep_old) {
    book_.forget(old);
  } else {
    // Its pages went, and with them the mapping that they are known by.
    const std::uint64_t framed = new_mapping();
    for (auto it = book_.pieces().lower_bound(old.start);
         it != book_.pieces().end() && it->first < old.end(); ++it) {
      it->second.framed = framed;
      it->second.frames.reset();
    }
  }
  // What plain system calls unmapped behind our back, and the kernel gave away again.
  book_.cut_at(now);
  book_.forget(now);
  piece.length = now.length;
  auto node = entry.extract(entry.begin());
  node.key() = now.start;
  node.mapped() = piece;
  entry.insert(std::move(node));
  book_.put(std::move(entry));
  book_.join(old);
  book_.join(now);
  if (now.start != old.start) moved(now.start);
  return now.start;
}

void Mappings::require_whole_pages_locked(MapRange range) const {
  if (!book_.whole_pages(range)) {
    throw Failure(EINVAL, "changing " + words_of(range) +
                              ", which begin or end within a page of the object (2097152 bytes)");
  }
}

void Mappings::require_mapped_locked(MapRange range) const {
  if (!book_.all(range, usable)) {
    throw Failure(EINVAL, "changing " + words_of(range) + ", which are not all mapped by fl_map");
  }
  require_whole_pages_locked(range);
}

void Mappings::require_mapped(MapRange range) {
  const std::lock_guard lock(mutex_);
  require_mapped_locked(range);
}

void Mappings::require_writable(MapRange range) {
  const std::lock_guard lock(mutex_);
  require_mapped_locked(range);
  if (!book_.all(range, [](const Piece& piece) { return piece.writable; })) {
    throw Failure(EACCES, "populating a read-only mapping for writing");
  }
}

Place Mappings::place(std::uintptr_t address) {
  const std::lock_guard lock(mutex_);
  const auto found = book_.find(address);
  if (found == book_.pieces().end() || !usable(found->second)) return {};
  const Piece& piece = found->second;
  const WordKind kind = piece.shared          ? WordKind::shared
                        : piece.waits_by_page ? WordKind::by_page
                                              : WordKind::own;
  const std::uintptr_t page = address & ~std::uintptr_t{0xfff};
  return {kind, piece.object.get(),
          piece.object->size() - piece.to_object_end + (page - found->first)};
}

std::uint64_t Mappings::new_mapping() {
  static std::atomic<std::uint64_t> made{0};
  return made.fetch_add(1) + 1;
}

std::uint64_t Mappings::framed_without(std::uintptr_t address) {
  const std::lock_guard lock(mutex_);
  const auto found = book_.find(address);
  const bool without = found != book_.pieces().end() && usable(found->second) &&
                       !found->second.shared && found->second.frames == nullptr;
  return without ? found->second.framed : 0;
}

void Mappings::set_frames(std::uint64_t framed, const std::shared_ptr<const FrameView>& frames) {
  const MappingsChange change;
  const std::lock_guard lock(mutex_);
  for (auto& [start, piece] : book_.pieces()) {
    if (piece.framed == framed) piece.frames = frames;
  }
}

void Mappings::forget_frames() {
  FrameView::forget_all();
  for (auto& [start, piece] : book_.pieces()) piece.frames.reset();
}

bool Mappings::maps_files() const {
  const auto& pieces = book_.pieces();
  return std::any_of(pieces.begin(), pieces.end(),
                     [](const auto& entry) { return entry.second.content == Content::of_file; });
}

bool Mappings::waits_by_page() const {
  return std::ranges::any_of(book_.pieces(),
                             [](const auto& entry) { return entry.second.waits_by_page; });
}

void Mappings::poison_mappings_of_files() const {
  // Pages past the end of a file raise SIGBUS, mmap(2). In a fork child: no exceptions, nothing to
  // report to.
  const UniqueFd empty{::memfd_create("faultline:gone", MFD_CLOEXEC)};
  for (const auto& [start, piece] : book_.pieces()) {
    if (piece.content != Content::of_file) continue;
    void* const replaced = ::mmap(pointer(start), piece.length, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, empty.get(), 0);
    // Short of descriptors or memory: no access at all is the other safe answer.
    if (replaced == MAP_FAILED) (void)::mprotect(pointer(start), piece.length, PROT_NONE);
  }
}

void Mappings::reserve_mappings_of_files() {
  // The child's own memory would come to lie in the hole, and go with an fl_unmap of what it thinks
  // it inherited.
  auto& pieces = book_.pieces();
  for (auto it = pieces.begin(); it != pieces.end();) {
    auto& [start, piece] = *it;
    void* reserved = nullptr;
    if (piece.content == Content::of_file) {
      reserved = ::mmap(pointer(start), piece.length, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
      piece.content = Content::none;
    }
    // Another fork hook's memory may have come there first: then it is no longer ours.
    it = reserved == MAP_FAILED ? pieces.erase(it) : std::next(it);
  }
  // The fork hooks hold the connection.
  if (book_.empty()) holder_.reset();
  places_changed();
}

}  // namespace faultline::client
