// Processes of several threads that pin pages of two objects in every way, while pages are evicted,
// mappings part, move and go, and processes fork and die: what is pinned is in memory, is what it
// was, and is nobody's for longer than its owner lives.
//
// Content: every thread has two words of its own in each page of the objects, and knows what they
// hold. One is written through the library's mapping, the other, of a page that is pinned for
// writing, through a plain mapping of the memfd, as a device would: it raises no fault that
// somebody could answer, so a store to a page that is on its way out would be lost.
//
// Looked at all the time:
//   - a pinned page of an object is no hole in its memfd;
//   - a page that is pinned for writing in a private mapping keeps its number, and every byte that
//     this process did not write;
//   - what is granted to a process is within its limit.
// And at the end: nothing is pinned, all that may be pinned can be, and the dead hold nothing.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "faultline/pin.h"
#include "libclient/connection.hpp"
#include "libclient/control.hpp"
#include "libclient/failure.hpp"
#include "libclient/place.hpp"
#include "tests/system/harness.hpp"
#include "tests/system/racing.hpp"
#include "tests/unit/seed.hpp"
#include "tests/unit/slower.hpp"

namespace faultline::testing {
namespace {

constexpr std::size_t kObjects = 2;  // of zeroes, and of a file
constexpr std::array kNames{"zeroes", "file"};
constexpr std::size_t kPages = 24;
constexpr std::size_t kBytes = kPages * kPage;
constexpr std::size_t kProcesses = 3;
constexpr std::size_t kVictim = kProcesses;   // the place of who is killed
constexpr std::size_t kActors = 3;            // of a process
constexpr std::size_t kMostHeld = 6;          // pins of an actor
constexpr std::size_t kMostPinnedPages = 40;  // of a process: less than its actors would like
constexpr std::size_t kMoving = 3;

enum class Phase : std::uint32_t { run, stop };

// In memory that all processes share.
struct Board {
  std::atomic<Phase> phase{Phase::run};
  // What there must not be.
  std::atomic<std::uint64_t> absent{0};   // a pinned page was in no memory
  std::atomic<std::uint64_t> wrong{0};    // content was not what its only writer stored
  std::atomic<std::uint64_t> changed{0};  // a private page was another, or showed others' stores
  std::atomic<std::uint64_t> strange{0};
  std::array<std::atomic<char>, 400> words{};  // of the first that was strange
  // What came to be.
  std::atomic<std::uint64_t> pins{0};
  std::atomic<std::uint64_t> private_pins{0};
  std::atomic<std::uint64_t> refused{0};  // at the limit
  std::atomic<std::uint64_t> not_there{0};
  std::atomic<std::uint64_t> by_job{0};
  std::atomic<std::uint64_t> given_up{0};
  std::atomic<std::uint64_t> ended{0};  // pins whose memory was changed
  std::atomic<std::uint64_t> looks{0};
  std::atomic<std::uint64_t> forks{0};
  std::atomic<std::uint64_t> evicted{0};
  std::atomic<std::uint64_t> kept{0};  // in memory because they were pinned

  void say(const std::string& text) {
    if (strange++ != 0) return;
    for (std::size_t i = 0; i + 1 < words.size() && i < text.size(); ++i) words.at(i) = text[i];
  }
  [[nodiscard]] std::string said() const {
    std::string text;
    for (const auto& letter : words) {
      if (letter == '\0') break;
      text += letter;
    }
    return text;
  }
};

unsigned long times_of(const char* variable, unsigned long otherwise) {
  const char* const given = std::getenv(variable);
  return given == nullptr ? otherwise : std::stoul(given);
}

// A connection's own request, as faultctl makes it.
wire::EvictReply evict(const void* mapped, std::uint64_t object) {
  wire::EvictRequest request;
  request.object_id = object;
  const auto connection = client::connection_of(reinterpret_cast<std::uintptr_t>(mapped));
  return client::body_of<wire::EvictReply>(connection->call(wire::Op::evict, request));
}

// What all threads of a process have in common.
class Process {
 public:
  Process(Board& of_all, const std::string& socket, bool pins)
      : board(of_all), client(connect(socket)), really_pins(pins) {
    for (std::size_t i = 0; i < kObjects; ++i) {
      fl_object* opened = nullptr;
      EXPECT_EQ(fl_object_open(client, kNames.at(i), FL_READ_WRITE, &opened), 0) << fl_last_error();
      objects.at(i) = Object{opened};
      fl_object_info info{};
      EXPECT_EQ(fl_object_stat(opened, &info), 0) << fl_last_error();
      ids.at(i) = info.id;
      stable.at(i) = map(opened, kBytes, FL_MAP_SHARED | FL_MAP_WRITE).data();
      void* const plain =
          ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fl_object_fd(opened), 0);
      EXPECT_NE(plain, MAP_FAILED) << std::strerror(errno);
      device.at(i) = static_cast<std::byte*>(plain);
      // A description of its own: to look for holes moves its offset.
      holes.at(i) = UniqueFd{
          ::open(("/proc/self/fd/" + std::to_string(fl_object_fd(opened))).c_str(), O_RDONLY)};
    }
    void* const both =
        ::mmap(nullptr, kObjects * kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (std::size_t i = 0; i < kObjects; ++i) {
      void* at = static_cast<std::byte*>(both) + i * kBytes;
      EXPECT_EQ(fl_map(objects.at(i), 0, kBytes, FL_MAP_SHARED | FL_MAP_FIXED, &at), 0)
          << fl_last_error();
    }
    side_by_side = static_cast<std::byte*>(both);
    for (std::size_t i = 0; i < kMoving; ++i) moving.at(i) = map_moving(i);
  }

  // A shared mapping of each object, and a private one: for others to change at any time.
  [[nodiscard]] std::byte* map_moving(std::size_t which) const {
    return map(objects.at(which % kObjects), kBytes,
               (which < kObjects ? FL_MAP_SHARED : FL_MAP_PRIVATE) | FL_MAP_WRITE)
        .data();
  }
  // Whether the page is in memory, by what the kernel has of the memfd.
  [[nodiscard]] bool there(std::size_t object, std::size_t page) const {
    const auto at = static_cast<off_t>(page * kPage);
    return ::lseek(holes.at(object).get(), at, SEEK_DATA) == at;
  }

  Board& board;
  Client client;
  const bool really_pins;
  std::array<Object, kObjects> objects;
  std::array<std::uint64_t, kObjects> ids{};
  std::array<std::byte*, kObjects> stable{};
  std::array<std::byte*, kObjects> device{};
  std::array<UniqueFd, kObjects> holes;
  std::byte* side_by_side = nullptr;  // both objects, read-only
  std::array<std::atomic<std::byte*>, kMoving> moving{};
};

enum class Over : std::uint8_t { stable, side_by_side, moving, own };

struct Held {
  fl_pinned pin{};
  Over over = Over::stable;
  bool write = false;
  struct Page {
    std::size_t object;
    std::size_t page;
  };
  std::vector<Page> pages;  // of objects
  // Of a private mapping, for writing: what the pages are and hold.
  std::vector<std::uint64_t> frames;
  std::vector<std::byte> content;
  std::size_t first = 0;      // page of the own mapping
  bool of_who_knows = false;  // in a private mapping that another thread changes
};

// One thread, and what it has.
class Actor {
 public:
  Actor(Process& process, std::size_t place, std::size_t index, std::uint64_t seed,
        Watchdog::Thread& watched)
      : process_(process),
        board_(process.board),
        lane_(2 * (place * kActors + index)),
        dice_(seed),
        watched_(watched) {
    for (std::size_t object = 0; object < kObjects; ++object) {
      for (std::size_t page = 0; page < kPages; ++page) {
        for (std::size_t word = 0; word < 2; ++word) {
          model_[object][page][word] =
              word_at(process_.stable.at(object), page, word).load(std::memory_order_relaxed);
        }
      }
    }
    map_own();
  }

  void live() {
    while (board_.phase == Phase::run && board_.strange == 0) step();
    watched_.does("ending");
    while (!held_.empty()) unpin(held_.size() - 1);
    check_content();
    if (fl_unmap(process_.client, own_, kBytes) != 0) say("unmapping at the end");
    watched_.rests();
  }

 private:
  std::size_t below(std::size_t end) { return dice_() % end; }
  void say(const std::string& what) { board_.say(what + ": " + fl_last_error()); }
  [[nodiscard]] std::atomic_ref<std::uint64_t> word_at(std::byte* base, std::size_t page,
                                                       std::size_t word) const {
    return std::atomic_ref(reinterpret_cast<std::uint64_t*>(base + page * kPage)[lane_ + word]);
  }
  void step();
  void map_own();
  void change_own();
  void pin();
  bool make(std::byte* from, std::size_t bytes, std::uint32_t flags, fl_pinned& pinned, Over over);
  void learn(Held& held);
  void look(const Held& held);
  void store(Held& held);
  void unpin(std::size_t which);
  void drop_own(int error);
  void fork_once();
  void check_content();
  void use_object();

  Process& process_;
  Board& board_;
  std::size_t lane_;
  std::mt19937_64 dice_;
  Watchdog::Thread& watched_;
  std::array<std::array<std::array<std::uint64_t, 2>, kPages>, kObjects> model_{};
  std::vector<Held> held_;
  std::byte* own_ = nullptr;  // a private mapping of this thread's
  std::size_t own_object_ = 0;
  bool own_writable_ = true;
};

void Actor::step() {
  const std::size_t what = below(100);
  if (what < 35) {
    if (held_.size() < kMostHeld) pin();
  } else if (what < 60) {
    watched_.does("looking");
    for (const Held& held : held_) look(held);
  } else if (what < 70) {
    if (!held_.empty()) store(held_[below(held_.size())]);
  } else if (what < 88) {
    if (!held_.empty()) unpin(below(held_.size()));
  } else if (what < 93) {
    use_object();
  } else if (what < 97) {
    change_own();
  } else if (what < 99) {
    watched_.does("evicting");
    const std::size_t first = below(kPages);
    if (fl_advise(process_.client, process_.stable.at(below(kObjects)) + first * kPage,
                  (1 + below(kPages - first)) * kPage, FL_ADVICE_PAGEOUT) != 0) {
      say("advising");
    }
  } else if (below(4) == 0) {
    fork_once();
  }
}

void Actor::map_own() {
  own_object_ = below(kObjects);
  own_writable_ = true;
  const std::uint32_t by_page = below(2) == 0 ? FL_MAP_WAIT_BY_PAGE : 0;
  own_ =
      map(process_.objects.at(own_object_), kBytes, FL_MAP_PRIVATE | FL_MAP_WRITE | by_page).data();
}

// A page of an object, through the library's mapping: brings it back where it is away.
void Actor::use_object() {
  watched_.does("using an object");
  const std::size_t object = below(kObjects);
  const std::size_t page = below(kPages);
  const auto word = word_at(process_.stable.at(object), page, 0);
  if (word.load(std::memory_order_relaxed) != model_[object][page][0]) ++board_.wrong;
  word.store(model_[object][page][0] = dice_(), std::memory_order_relaxed);
}

// Pins in the own mapping end with this, as soon as the daemon has taken note.
void Actor::drop_own(int error) {
  std::vector<Held> rest;
  for (Held& held : held_) {
    if (held.over != Over::own) {
      rest.push_back(std::move(held));
      continue;
    }
    const bool must = error != -EIDRM || held.write;
    const auto over = [&] { return fl_pin_state(&held.pin) == error; };
    if (must && !eventually(over, std::chrono::seconds(5))) say("a pin does not end");
    const int result = fl_unpin(&held.pin);
    if (result != error && (must || result != 0)) say("ending a pin that was over");
    ++board_.ended;
  }
  held_ = std::move(rest);
}

void Actor::change_own() {
  switch (below(4)) {
    case 0:
      watched_.does("unmapping");
      if (fl_unmap(process_.client, own_, kBytes) != 0) say("unmapping");
      if (process_.really_pins) drop_own(-ENOENT);
      return map_own();
    case 1: {
      watched_.does("moving");
      void* there = nullptr;
      // To where something is mapped, or it would stay.
      void* const place = ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      there = place;
      if (fl_remap(process_.client, own_, kBytes, kBytes, FL_REMAP_MAYMOVE | FL_REMAP_FIXED,
                   &there) != 0) {
        say("moving");
      }
      own_ = static_cast<std::byte*>(there);
      return;
    }
    case 2:
      watched_.does("protecting");
      own_writable_ = !own_writable_;
      if (fl_protect(process_.client, own_, kBytes, own_writable_ ? FL_PROTECT_WRITE : 0) != 0) {
        say("protecting");
      }
      return;
    default:
      watched_.does("discarding");
      if (fl_discard(process_.client, own_, kBytes, FL_DISCARD_COPIES) != 0) say("discarding");
      if (process_.really_pins) drop_own(-EIDRM);
  }
}

// True where it is pinned.
bool Actor::make(std::byte* from, std::size_t bytes, std::uint32_t flags, fl_pinned& pinned,
                 Over over) {
  if (!process_.really_pins) {
    pinned = {};
    pinned.address = from;
    pinned.length = bytes;
    return true;
  }
  int result = 0;
  const std::size_t how = below(16);
  if (how == 0) {
    fl_job* job = nullptr;
    result = fl_pin_start(from, bytes, flags, &job);
    if (result == 0 && below(3) == 0) {
      if (fl_job_free(job) != 0) say("giving a pin up");
      ++board_.given_up;
      return false;
    }
    if (result == 0) result = fl_pin_take(job, &pinned);
    if (result == 0) ++board_.by_job;
  } else {
    const bool now = how < 4;
    result = fl_pin(from, bytes, flags | (now ? FL_PIN_NOWAIT : 0), &pinned);
    if (now && result == -EAGAIN) {
      ++board_.not_there;
      return false;
    }
  }
  if (result == 0) return true;
  const bool changing = over == Over::moving;
  if (result == -ENOMEM) {
    ++board_.refused;
  } else if (!changing || (result != -EFAULT && result != -EACCES && result != -EBUSY)) {
    say("pinning, " + std::to_string(result) + ", over " + std::to_string(static_cast<int>(over)) +
        " with flags " + std::to_string(flags));
  }
  return false;
}

void Actor::pin() {
  watched_.does("pinning");
  Held held;
  held.over = static_cast<Over>(below(4));
  held.write = below(2) == 0 && held.over != Over::side_by_side;
  held.first = below(kPages);
  const std::size_t pages =
      below(2) == 0 ? 1 : 1 + below(std::min<std::size_t>(6, kPages - held.first));
  std::byte* base = nullptr;
  switch (held.over) {
    case Over::stable:
      base = process_.stable.at(below(kObjects));
      break;
    case Over::side_by_side:
      base = process_.side_by_side + (below(2) == 0 ? kBytes / 2 : 0);
      break;
    case Over::moving:
      held.of_who_knows = below(kMoving) >= kObjects;
      base = process_.moving.at(held.of_who_knows ? kObjects : below(kObjects));
      break;
    case Over::own:
      base = own_;
      held.write = held.write && own_writable_;
      break;
  }
  if (base == nullptr) return;
  const std::size_t inside = below(kPage);
  if (!make(base + held.first * kPage + inside, pages * kPage - inside,
            held.write ? FL_PIN_WRITE : 0, held.pin, held.over)) {
    return;
  }
  ++board_.pins;
  if (held.over == Over::own && held.write) ++board_.private_pins;
  learn(held);
  look(held);
  held_.push_back(std::move(held));
}

// What is pinned.
void Actor::learn(Held& held) {
  if (held.of_who_knows) return;
  if (!process_.really_pins) {
    // The control: of the stable mappings alone it is known without asking.
    for (std::size_t object = 0; object < kObjects; ++object) {
      const auto* const from = static_cast<std::byte*>(held.pin.address);
      if (held.over != Over::stable || from < process_.stable.at(object) ||
          from >= process_.stable.at(object) + kBytes) {
        continue;
      }
      for (std::size_t page = 0; page < held.pin.length / kPage; ++page) {
        held.pages.push_back({object, held.first + page});
      }
    }
    return;
  }
  std::array<fl_pin_run, 2 * kPages> runs{};
  const int count = fl_pin_runs(&held.pin, runs.data(), runs.size());
  if (count < 0) {
    if (held.over != Over::moving) say("asking for runs");
    return;
  }
  for (const fl_pin_run& run : std::span(runs).first(static_cast<std::size_t>(count))) {
    for (std::size_t page = 0; page < run.length / kPage; ++page) {
      const std::size_t object = run.object_id == process_.ids[0] ? 0 : 1;
      if (run.frame == 0) {
        held.pages.push_back({object, run.offset / kPage + page});
      } else if (held.write) {
        held.frames.push_back(run.frame + page);
      }
    }
  }
  if (held.over != Over::own || !held.write) return;
  if (held.frames.size() != held.pin.length / kPage) {
    say("a private page has no number, of " + std::to_string(held.frames.size()));
  }
  const std::byte* const from = own_ + held.first * kPage;
  held.content.assign(from, from + held.pin.length);
}

void Actor::look(const Held& held) {
  ++board_.looks;
  std::size_t absent = 0;
  for (const Held::Page& page : held.pages) {
    if (!process_.there(page.object, page.page)) ++absent;
  }
  const std::byte* const from = own_ + held.first * kPage;
  const bool kept =
      held.content.empty() || std::memcmp(held.content.data(), from, held.content.size()) == 0;
  if (!process_.really_pins) {
    board_.absent += absent;
    return;
  }
  // What was not over afterwards held all the while.
  const int state = fl_pin_state(&held.pin);
  if (state != 0) {
    if (held.over != Over::moving || (state != -ENOENT && state != -EIDRM)) say("a pin is over");
    return;
  }
  board_.absent += absent;
  if (!kept) ++board_.changed;
  for (const Held::Page& page : held.pages) {
    // The thread's own words, where it is safe to look: without a fault.
    for (std::size_t word = 0; word < 2; ++word) {
      const std::uint64_t now =
          word_at(process_.device.at(page.object), page.page, word).load(std::memory_order_relaxed);
      if (now != model_[page.object][page.page][word]) ++board_.wrong;
    }
  }
  if (held.frames.empty() || held.over != Over::own) return;
  std::array<fl_pin_run, 2 * kPages> runs{};
  const int count = fl_pin_runs(&held.pin, runs.data(), runs.size());
  std::vector<std::uint64_t> frames;
  for (int i = 0; i < count; ++i) {
    const fl_pin_run& run = runs.at(static_cast<std::size_t>(i));
    for (std::size_t page = 0; page < run.length / kPage; ++page) {
      frames.push_back(run.frame == 0 ? 0 : run.frame + page);
    }
  }
  if (frames != held.frames) {
    ++board_.changed;
    say("a private page is another, " + std::to_string(frames.empty() ? 0 : frames.front()) +
        " and not " + std::to_string(held.frames.front()));
  }
}

void Actor::store(Held& held) {
  watched_.does("storing");
  if (!held.write || !process_.really_pins) return;
  if (held.over == Over::stable && !held.pages.empty()) {
    const auto [object, page] = held.pages[below(held.pages.size())];
    word_at(process_.stable.at(object), page, 0)
        .store(model_[object][page][0] = dice_(), std::memory_order_relaxed);
    word_at(process_.device.at(object), page, 1)
        .store(model_[object][page][1] = dice_(), std::memory_order_relaxed);
  } else if (held.over == Over::own && own_writable_ && !held.content.empty()) {
    const std::size_t at = below(held.content.size());
    const auto value = static_cast<std::byte>(dice_());
    // Pins may lie over each other.
    for (Held& other : held_) {
      if (other.content.empty() || held.first * kPage + at < other.first * kPage) continue;
      const std::size_t there = held.first * kPage + at - other.first * kPage;
      if (there < other.content.size()) other.content[there] = value;
    }
    own_[held.first * kPage + at] = value;
  }
}

void Actor::unpin(std::size_t which) {
  watched_.does("unpinning");
  Held held = std::move(held_[which]);
  held_.erase(held_.begin() + static_cast<std::ptrdiff_t>(which));
  look(held);
  if (!process_.really_pins) return;
  const int result = fl_unpin(&held.pin);
  if (result == 0) return;
  if (held.over != Over::moving || (result != -ENOENT && result != -EIDRM)) say("unpinning");
  ++board_.ended;
}

// A child has none of the pins, and pages of its own where its parent's were pinned.
void Actor::fork_once() {
  watched_.does("forking");
  ++board_.forks;
  Child child([&] {
    for (const Held& held : held_) {
      const std::byte* const from = own_ + held.first * kPage;
      if (!std::equal(held.content.begin(), held.content.end(), from)) return 1;
    }
    for (Held& held : held_) {
      if (process_.really_pins && fl_unpin(&held.pin) != -ESTALE) return 2;
      if (!held.content.empty() && own_writable_) own_[held.first * kPage] ^= std::byte{0xff};
    }
    if (!process_.really_pins) return 0;
    fl_pinned mine{};
    const bool write = own_writable_;
    const int result = fl_pin(own_, 2 * kPage, write ? FL_PIN_WRITE : 0, &mine);
    if (result != 0) return 3;
    return process_.moving[0] == nullptr || fl_pin_state(&mine) == 0 ? 0 : 4;
  });
  for (const Held& held : held_) look(held);
  const Outcome outcome = child.wait();
  if (!outcome.exited(0)) {
    board_.say("a fork child ended with status " + std::to_string(outcome.status));
  }
  for (const Held& held : held_) look(held);
}

void Actor::check_content() {
  for (std::size_t object = 0; object < kObjects; ++object) {
    for (std::size_t page = 0; page < kPages; ++page) {
      for (std::size_t word = 0; word < 2; ++word) {
        const std::uint64_t now =
            word_at(process_.stable.at(object), page, word).load(std::memory_order_relaxed);
        if (now != model_[object][page][word]) ++board_.wrong;
      }
    }
  }
}

class PinModel : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(daemon_.ready()) << daemon_.log();
    client_ = connect(daemon_.socket());
    objects_[0] = create(client_, kBytes, kNames[0]);
    objects_[1] = create_from(client_, file_.fd(), 0, kNames[1]);
    for (std::size_t i = 0; i < kObjects; ++i) {
      mapped_.at(i) = map(objects_.at(i), kBytes, FL_MAP_SHARED).data();
      fl_object_info info{};
      ASSERT_EQ(fl_object_stat(objects_.at(i), &info), 0) << fl_last_error();
      ids_.at(i) = info.id;
    }
    void* const memory =
        ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    board_ = new (memory) Board;
  }
  void TearDown() override {
    if (board_ != nullptr) ::munmap(board_, sizeof(Board));
  }

  int live(std::uint64_t seed, std::size_t place, bool really_pins);
  static void disturb(Process& process, std::uint64_t seed, Watchdog::Thread& watched);
  void evict_all(std::uint64_t seed);
  void round(std::uint64_t seed, bool really_pins, bool kills, std::chrono::milliseconds lasting);
  void expect_within_limits();
  [[nodiscard]] nlohmann::json pins() const {
    return daemon_.ask(wire::AdminQuery::pins).at("pins");
  }
  // Null where it has no ledger.
  [[nodiscard]] nlohmann::json pins_of(pid_t pid) const {
    for (const auto& process : pins()) {
      if (process.at("pid") == pid) return process;
    }
    return nullptr;
  }

  const PatternFile file_{kBytes};
  Daemon daemon_{{"--swap-file", std::filesystem::temp_directory_path().string(), "--swap-bytes",
                  "16777216", "--max-pinned-per-process", std::to_string(kMostPinnedPages* kPage)}};
  Client client_;
  std::array<Object, kObjects> objects_;
  std::array<std::byte*, kObjects> mapped_{};
  std::array<std::uint64_t, kObjects> ids_{};
  Board* board_ = nullptr;
};

// Has mappings that others pin in come and go.
void PinModel::disturb(Process& process, std::uint64_t seed, Watchdog::Thread& watched) {
  std::mt19937_64 dice(seed);
  Board& board = process.board;
  while (board.phase == Phase::run && board.strange == 0) {
    watched.does("disturbing");
    const std::size_t which = dice() % kMoving;
    std::byte* const base = process.moving.at(which);
    switch (dice() % 5) {
      case 0: {
        void* there = ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (fl_remap(process.client, base, kBytes, kBytes, FL_REMAP_MAYMOVE | FL_REMAP_FIXED,
                     &there) != 0) {
          board.say(std::string("moving what others pin: ") + fl_last_error());
        }
        process.moving.at(which) = static_cast<std::byte*>(there);
        break;
      }
      case 1:
        process.moving.at(which) = process.map_moving(which);
        if (fl_unmap(process.client, base, kBytes) != 0) {
          board.say(std::string("unmapping what others pin: ") + fl_last_error());
        }
        break;
      case 2:
        if (fl_protect(process.client, base + dice() % kPages * kPage, kPage, 0) != 0 ||
            fl_protect(process.client, base, kBytes, FL_PROTECT_WRITE) != 0) {
          board.say(std::string("protecting what others pin: ") + fl_last_error());
        }
        break;
      default:
        if (fl_discard(process.client, base, kBytes, FL_DISCARD_COPIES) != 0) {
          board.say(std::string("discarding what others pin: ") + fl_last_error());
        }
        break;
    }
    ::usleep(static_cast<useconds_t>(dice() % 2000));
  }
  watched.rests();
}

int PinModel::live(std::uint64_t seed, std::size_t place, bool really_pins) {
  std::mt19937_64 dice(seed);
  Process process(*board_, daemon_.socket(), really_pins);
  if (::testing::Test::HasFailure()) return 1;
  Watchdog watchdog;
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kActors; ++i) {
    Watchdog::Thread& watched = watchdog.watch("actor " + std::to_string(i));
    threads.emplace_back([&, i, mine = dice()] { Actor(process, place, i, mine, watched).live(); });
  }
  Watchdog::Thread& watched = watchdog.watch("the disturber");
  threads.emplace_back([&, mine = dice()] { disturb(process, mine, watched); });
  for (std::thread& thread : threads) thread.join();
  if (!really_pins || board_->strange != 0) return ::testing::Test::HasFailure() ? 1 : 0;
  // All is accounted for: nothing is pinned, and all that may be pinned can be, at once.
  // Null where the round was over before it came to pin anything.
  if (const auto mine = pins_of(::getpid()); !mine.is_null()) {
    EXPECT_EQ(mine.at("pinned_bytes"), 0U);
  }
  fl_pinned all{};
  const std::size_t once = kMostPinnedPages / 2 * kPage;
  fl_pinned rest{};
  EXPECT_EQ(fl_pin(process.stable[0], once, 0, &all), 0) << fl_last_error();
  EXPECT_EQ(fl_pin(process.stable[1], once, 0, &rest), 0) << fl_last_error();
  fl_pinned more{};
  EXPECT_EQ(fl_pin(process.stable[1], kPage, 0, &more), -ENOMEM);
  EXPECT_EQ(pins_of(::getpid()).at("granted_bytes"), 2 * once);
  EXPECT_EQ(fl_unpin(&all), 0);
  EXPECT_EQ(fl_unpin(&rest), 0);
  return ::testing::Test::HasFailure() ? 1 : 0;
}

void PinModel::evict_all(std::uint64_t seed) {
  std::mt19937_64 dice(seed);
  while (board_->phase == Phase::run && board_->strange == 0) {
    const std::size_t which = dice() % kObjects;
    try {
      const wire::EvictReply done = evict(mapped_.at(which), ids_.at(which));
      board_->evicted += done.evicted;
      board_->kept += done.pinned;
    } catch (const client::Failure& failure) {
      board_->say(std::string("evicting: ") + failure.what());
    }
    if (dice() % 4 == 0) ::usleep(static_cast<useconds_t>(dice() % 1000));
  }
}

void PinModel::expect_within_limits() {
  for (const auto& process : pins()) {
    EXPECT_LE(process.at("granted_bytes"), kMostPinnedPages * kPage) << process;
  }
}

void PinModel::round(std::uint64_t seed, bool really_pins, bool kills,
                     std::chrono::milliseconds lasting) {
  std::mt19937_64 dice(seed);
  board_ = new (board_) Board;
  std::uint64_t killed = 0;
  {
    std::vector<Child> children;
    for (std::size_t i = 0; i < kProcesses; ++i) {
      children.emplace_back([&, i, mine = dice()] { return live(mine, i, really_pins); });
    }
    std::optional<Child> victim;
    const auto until = std::chrono::steady_clock::now() + lasting;
    std::thread evicting;
    while (std::chrono::steady_clock::now() < until && board_->strange == 0) {
      if (kills) victim.emplace([&, mine = dice()] { return live(mine, kVictim, really_pins); });
      if (!kills && !evicting.joinable())
        evicting = std::thread([&, mine = dice()] { evict_all(mine); });
      ::usleep(static_cast<useconds_t>((20'000 + dice() % 60'000) * kSlower));
      expect_within_limits();
      if (!victim) continue;
      const pid_t pid = victim->pid();
      victim->kill(SIGKILL);
      EXPECT_TRUE(victim->wait().killed_by(SIGKILL));
      victim.reset();
      ++killed;
      EXPECT_TRUE(eventually([&] { return pins_of(pid).is_null(); },
                             std::chrono::milliseconds(1000 * kSlower)))
          << "the dead still pins";
    }
    board_->phase = Phase::stop;
    if (evicting.joinable()) evicting.join();
    for (Child& child : children) {
      const Outcome outcome = child.wait();
      EXPECT_TRUE(outcome.exited(0)) << outcome;
    }
  }
  EXPECT_TRUE(eventually([&] { return pins().empty(); }, std::chrono::milliseconds(1000)))
      << pins();
  EXPECT_EQ(board_->strange, 0U) << board_->said();
  EXPECT_EQ(board_->wrong, 0U);
  EXPECT_EQ(board_->changed, 0U);
  std::cout << "pins " << board_->pins << " (private for writing " << board_->private_pins
            << ", by job " << board_->by_job << ", given up " << board_->given_up << "), refused "
            << board_->refused << ", not there " << board_->not_there << ", ended " << board_->ended
            << ", looks " << board_->looks << ", forks " << board_->forks << ", evicted "
            << board_->evicted << ", kept " << board_->kept << ", killed " << killed << ", absent "
            << board_->absent << std::endl;
}

// Whoever changes what meanwhile, what is pinned is there, and is what it was.
TEST_F(PinModel, WhatIsPinnedStays) {
  const std::uint64_t seed = announce_seed();
  const unsigned long rounds = times_of("FAULTLINE_PIN_ROUNDS", 3);
  for (unsigned long i = 0; i < rounds && !HasFailure(); ++i) {
    round(seed + i, true, false, std::chrono::milliseconds(1000));
    EXPECT_EQ(board_->absent, 0U);
    EXPECT_GT(board_->pins, 500U / kSlower);
    EXPECT_GT(board_->private_pins, 20U / kSlower);
    EXPECT_GT(board_->ended, 20U / kSlower);
    EXPECT_GT(board_->evicted, 100U / kSlower);
    EXPECT_GT(board_->kept, 100U / kSlower);
    EXPECT_GT(board_->refused, 10U / kSlower);
  }
}

// With processes that are killed in the middle of anything: their pins go with them.
TEST_F(PinModel, WhatTheKilledHadPinnedIsNobodys) {
  const std::uint64_t seed = announce_seed();
  const unsigned long rounds = times_of("FAULTLINE_PIN_ROUNDS", 3);
  for (unsigned long i = 0; i < rounds && !HasFailure(); ++i) {
    round(seed + i, true, true, std::chrono::milliseconds(1000));
    EXPECT_EQ(board_->absent, 0U);
  }
}

// The control: who looks in the same way at pages that it did not pin finds some that are away.
TEST_F(PinModel, WithoutPinsPagesAreFoundAbsent) {
  round(announce_seed(), false, false, std::chrono::milliseconds(500));
  EXPECT_GT(board_->absent, 0U);
}

}  // namespace
}  // namespace faultline::testing
