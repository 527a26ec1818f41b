// Where a word lies: in which mapping, and what that says about who waits for it. Must cost a few
// nanoseconds where the same page was asked for before, and take no lock then.
//
// Each thread remembers the pages that it asked for last. What it remembers holds for one state of
// all books of mappings: every change of one makes another state, by places_changed(), before the
// call that made the change returns. So a thread that learns of a change from who made it finds it
// here. Who asks about memory that another thread is unmapping at this moment gets the one answer
// or the other.
//
// Mappings that plain system calls made or moved are in no book; the daemon knows those.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "libclient/object_view.hpp"
#include "libclient/reading.hpp"

namespace faultline::client {

class Connection;

enum class WordKind : std::uint8_t {
  unknown,  // in no book
  shared,   // the object's word
  own,      // this process's own word
  by_page,  // what its page is
};

struct Place {
  WordKind kind = WordKind::unknown;
  const ObjectView* object = nullptr;  // of a known kind
  std::uint64_t offset = 0;            // of the page in the object, bytes
};

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): of all books
inline constinit std::atomic<std::uint64_t> places_state{1};

inline void places_changed() noexcept {
  places_state.fetch_add(1, std::memory_order_seq_cst);
}

// How many changes have begun that places_state does not tell of yet. Who finds none, and the state
// that it knew, has done so before any later change began.
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): of all books
inline constinit std::atomic<std::uint32_t> changes_under_way{0};

// A change of a book, from before its system call until all that is remembered of places is stale.
// They nest.
class MappingsChange {
 public:
  MappingsChange() { changes_under_way.fetch_add(1, std::memory_order_seq_cst); }
  MappingsChange(const MappingsChange&) = delete;
  MappingsChange& operator=(const MappingsChange&) = delete;
  ~MappingsChange() {
    places_changed();
    changes_under_way.fetch_sub(1, std::memory_order_seq_cst);
    changes_under_way.notify_all();
  }
};
// Returns when there was a moment without a change under way. Blocks for as long as the system
// calls of others; not within a change, nor a Reading.
inline void wait_for_changes() {
  for (std::uint32_t count = changes_under_way.load(); count != 0;
       count = changes_under_way.load()) {
    changes_under_way.wait(count);
  }
}

// Looks into the books. Throws Failure, bad_alloc.
[[nodiscard]] Place find_place(std::uintptr_t address);
// The connection whose mapping holds the address; null where none's does.
[[nodiscard]] std::shared_ptr<Connection> connection_of(std::uintptr_t address);

struct RememberedPlace {
  std::uintptr_t page = 0;  // its number; of no page: 0
  std::uint64_t state = 0;
  Place place;
};
inline constexpr std::size_t kRememberedPlaces = 16;
// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): a thread's own
inline thread_local constinit std::array<RememberedPlace, kRememberedPlaces> remembered_places
    __attribute__((tls_model("initial-exec")));

// Within a Reading, in which alone what it points at may be used.
[[nodiscard]] inline const Place& place_of(const Reading&, std::uintptr_t address) {
  const std::uintptr_t page = address >> 12;
  RememberedPlace& last = remembered_places[page % kRememberedPlaces];
  const std::uint64_t state = places_state.load(std::memory_order_acquire);
  if (last.page != page || last.state != state) {
    last.place = find_place(address);
    last.page = page;
    last.state = state;
  }
  return last.place;
}

}  // namespace faultline::client
