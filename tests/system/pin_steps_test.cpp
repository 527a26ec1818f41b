// Pins of a client whose memory changes between two of their steps: each change at each step, of
// memory of each kind. What comes of it is one of few things, and each is checked: the pages are
// pinned, and an eviction leaves them; or the pin is refused for what the change has done, and
// holds nothing.
#include "libclient/pin_steps.hpp"

#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include "faultline/pin.h"
#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

using client::PinStep;

constexpr std::size_t kPages = 3;
constexpr std::size_t kBytes = kPages * kPage;

enum class Kind : std::uint8_t {
  resident,  // shared, in memory
  absent,    // shared, in no memory
  clean,     // private, mapped, the object's
  own,       // private, this process's own, and known to be
  written,   // private, this process's own, and never pinned before
};
enum class Change : std::uint8_t { evict, unmap, move, protect, forked, discard, store };

constexpr std::array kKinds{Kind::resident, Kind::absent, Kind::clean, Kind::own, Kind::written};
constexpr std::array kChanges{Change::evict,  Change::unmap,   Change::move, Change::protect,
                              Change::forked, Change::discard, Change::store};
constexpr std::array kSteps{PinStep::found, PinStep::published, PinStep::checked, PinStep::asking,
                            PinStep::brought};

std::string describe(Kind kind, Change change, PinStep step, bool write) {
  constexpr std::array kKindNames{"resident shared", "absent shared", "clean private",
                                  "own private", "written private"};
  constexpr std::array kChangeNames{"eviction", "unmapping",  "moving", "protecting",
                                    "a fork",   "discarding", "a store"};
  constexpr std::array kStepNames{"found", "published", "checked", "asking", "brought"};
  return std::string(kKindNames.at(static_cast<std::size_t>(kind))) + " pages, " +
         kChangeNames.at(static_cast<std::size_t>(change)) + " at step " +
         kStepNames.at(static_cast<std::size_t>(step)) +
         (write ? ", for writing" : ", for reading");
}

// Does something once, in another thread, when the pinning one first comes to a step.
class AtPinStep {
 public:
  AtPinStep(PinStep step, std::function<void()> action) : action_(std::move(action)), step_(step) {
    armed = this;
    client::pin_step_hook = [](PinStep reached) {
      AtPinStep* mine = armed;
      const bool first =
          mine != nullptr && reached == mine->step_ && armed.compare_exchange_strong(mine, nullptr);
      if (first) std::thread(mine->action_).join();
    };
  }
  AtPinStep(const AtPinStep&) = delete;
  AtPinStep& operator=(const AtPinStep&) = delete;
  ~AtPinStep() {
    client::pin_step_hook = nullptr;
    armed = nullptr;
  }
  [[nodiscard]] bool came() const { return armed == nullptr; }

 private:
  // NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): the hook has no argument
  static inline std::atomic<AtPinStep*> armed{nullptr};
  std::function<void()> action_;
  PinStep step_;
};

class PinSteps : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(daemon_.ready()) << daemon_.log();
    client_ = connect(daemon_.socket());
    object_ = create(client_, kPage);
    warm_ = map(object_, kPage, FL_MAP_SHARED);
  }
  [[nodiscard]] bool private_memory() const {
    return GetParam() != Kind::resident && GetParam() != Kind::absent;
  }
  void evict(std::span<std::byte> memory) {
    EXPECT_EQ(fl_advise(client_, memory.data(), memory.size(), FL_ADVICE_PAGEOUT), 0)
        << fl_last_error();
  }
  static std::uint64_t resident(fl_object* object) {
    fl_object_info info{};
    EXPECT_EQ(fl_object_stat(object, &info), 0) << fl_last_error();
    return info.resident_bytes;
  }
  std::uint64_t pinned_bytes() {
    const nlohmann::json pins = daemon_.ask(wire::AdminQuery::pins, ::getpid()).at("pins");
    return pins.empty() ? 0 : pins.front()["pinned_bytes"].get<std::uint64_t>();
  }
  void carry_out(Change change, std::span<std::byte> memory);
  void try_one(Change change, PinStep step, bool write);
  void try_another_sharing(PinStep step, bool write, bool known);
  // How often a change came in between, of all that were tried.
  int met_ = 0;

  Daemon daemon_{
      {"--swap-file", std::filesystem::temp_directory_path().string(), "--swap-bytes", "16777216"}};
  Client client_;
  Object object_;
  std::span<std::byte> warm_;
};

void PinSteps::carry_out(Change change, std::span<std::byte> memory) {
  switch (change) {
    case Change::evict:
      return evict(memory);
    case Change::unmap:
      EXPECT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0) << fl_last_error();
      return;
    case Change::move: {
      void* to = ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      EXPECT_EQ(
          fl_remap(client_, memory.data(), kBytes, kBytes, FL_REMAP_MAYMOVE | FL_REMAP_FIXED, &to),
          0)
          << fl_last_error();
      return;
    }
    case Change::protect:
      EXPECT_EQ(fl_protect(client_, memory.data(), memory.size(), 0), 0) << fl_last_error();
      return;
    case Change::forked:
      // A child that looks at all of it, and leaves.
      {
        const Outcome outcome = in_child([&] {
          int sum = 0;
          for (std::size_t page = 0; page < kPages; ++page) sum += touch(memory[page * kPage]);
          return sum;
        });
        EXPECT_TRUE(outcome.exited(0)) << outcome;
      }
      return;
    case Change::discard:
      EXPECT_EQ(fl_discard(client_, memory.data(), memory.size(), FL_DISCARD_COPIES), 0);
      return;
    case Change::store:
      for (std::size_t page = 0; page < kPages; ++page) memory[page * kPage + 9] = std::byte{7};
      return;
  }
}

void PinSteps::try_one(Change change, PinStep step, bool write) {
  SCOPED_TRACE(describe(GetParam(), change, step, write));
  const Object object = create(client_, kBytes);
  const auto shared = map(object, kBytes, FL_MAP_SHARED | FL_MAP_WRITE);
  if (GetParam() != Kind::absent) {
    for (std::size_t page = 0; page < kPages; ++page) shared[page * kPage] = std::byte(page + 1);
  }
  std::span<std::byte> memory = shared;
  if (private_memory()) memory = map(object, kBytes, FL_MAP_PRIVATE | FL_MAP_WRITE);
  for (std::size_t page = 0; private_memory() && page < kPages; ++page) {
    (void)touch(memory[page * kPage]);
    if (GetParam() != Kind::clean) memory[page * kPage] = std::byte(page + 1);
  }
  fl_pinned pin{};
  if (GetParam() == Kind::own) {
    ASSERT_EQ(fl_pin(memory.data(), kBytes, FL_PIN_WRITE, &pin), 0) << fl_last_error();
    ASSERT_EQ(fl_unpin(&pin), 0);
  }
  if (change == Change::evict && private_memory()) evict(shared);
  // This thread's first pin, and the first after a change of the mappings, looks them up anew.
  ASSERT_EQ(fl_pin(warm_.data(), kPage, 0, &pin), 0) << fl_last_error();
  ASSERT_EQ(fl_unpin(&pin), 0);

  int result = 0;
  {
    const AtPinStep at(step, [&] { carry_out(change, memory); });
    result = fl_pin(memory.data(), kBytes, write ? FL_PIN_WRITE : 0, &pin);
    if (!at.came()) {
      // It was had without that step: nothing has changed, which other steps show.
      ASSERT_EQ(result, 0) << fl_last_error();
      ASSERT_EQ(fl_unpin(&pin), 0);
      return;
    }
  }
  ++met_;
  if (change == Change::unmap || change == Change::move || (change == Change::protect && write)) {
    EXPECT_EQ(result, change == Change::protect ? -EACCES : -EFAULT) << fl_last_error();
    EXPECT_EQ(pinned_bytes(), 0U);
    return;
  }
  ASSERT_EQ(result, 0) << fl_last_error();
  EXPECT_EQ(fl_pin_state(&pin), 0);
  EXPECT_EQ(pinned_bytes(), kBytes);
  std::array<fl_pin_run, 2 * kPages> runs{};
  const int count = fl_pin_runs(&pin, runs.data(), runs.size());
  ASSERT_GE(count, 1);
  const bool own = runs[0].frame != 0;
  if (private_memory() && write) {
    EXPECT_TRUE(own);
    // They are this process's: nobody else's stores are seen.
    for (std::size_t page = 0; page < kPages; ++page) shared[page * kPage + 5] = std::byte{99};
    for (std::size_t page = 0; page < kPages; ++page)
      EXPECT_EQ(memory[page * kPage + 5], std::byte{0});
  }
  // What is the object's stays in memory, whoever would have it out.
  evict(shared);
  if (!own) {
    EXPECT_EQ(resident(object), kBytes);
  }
  EXPECT_EQ(fl_pin_state(&pin), 0);
  EXPECT_EQ(fl_unpin(&pin), 0) << fl_last_error();
  EXPECT_EQ(pinned_bytes(), 0U);
  evict(shared);
  EXPECT_EQ(resident(object), 0U) << "nothing holds them any more";
  if (GetParam() != Kind::absent && change != Change::store) {
    for (std::size_t page = 0; page < kPages; ++page) {
      EXPECT_EQ(shared[page * kPage], std::byte(page + 1)) << page;
      EXPECT_EQ(memory[page * kPage], std::byte(page + 1)) << page;
    }
  }
}

void PinSteps::try_another_sharing(PinStep step, bool write, bool known) {
  SCOPED_TRACE(describe(GetParam(), Change::unmap, step, write) + ", by another sharing");
  const Object object = create(client_, kBytes);
  const std::uint32_t before = private_memory() ? FL_MAP_PRIVATE : FL_MAP_SHARED;
  const std::uint32_t after = private_memory() ? FL_MAP_SHARED : FL_MAP_PRIVATE;
  const auto memory = map(object, kBytes, before | FL_MAP_WRITE);
  if (GetParam() == Kind::resident || GetParam() == Kind::written) memory[0] = std::byte{1};
  fl_pinned pin{};
  if (GetParam() == Kind::own) {
    ASSERT_EQ(fl_pin(memory.data(), kBytes, FL_PIN_WRITE, &pin), 0) << fl_last_error();
    ASSERT_EQ(fl_unpin(&pin), 0);
  }
  const std::span<std::byte> last = known ? warm_ : map(object, kPage, FL_MAP_SHARED);
  if (known) {
    ASSERT_EQ(fl_pin(last.data(), kPage, 0, &pin), 0) << fl_last_error();
    ASSERT_EQ(fl_unpin(&pin), 0);
  }
  bool came = false;
  {
    const AtPinStep at(step, [&] {
      void* there = memory.data();
      EXPECT_EQ(fl_map(object, 0, kBytes, after | FL_MAP_WRITE | FL_MAP_FIXED, &there), 0)
          << fl_last_error();
    });
    ASSERT_EQ(fl_pin(memory.data(), kBytes, write ? FL_PIN_WRITE : 0, &pin), 0) << fl_last_error();
    came = at.came();
  }
  EXPECT_EQ(fl_pin_state(&pin), 0);
  std::array<fl_pin_run, 2 * kPages> runs{};
  ASSERT_GE(fl_pin_runs(&pin, runs.data(), runs.size()), 1) << fl_last_error();
  const bool now_private = came != private_memory();
  if (write) {
    EXPECT_EQ(runs[0].frame != 0, now_private);
  } else if (came) {
    EXPECT_EQ(runs[0].frame, 0U) << "nobody has written to the new one";
  }
  EXPECT_EQ(fl_unpin(&pin), 0) << fl_last_error();
}

TEST_P(PinSteps, MeetEveryChangeAtEveryStep) {
  for (const Change change : kChanges) {
    for (const PinStep step : kSteps) {
      for (const bool write : {false, true}) {
        try_one(change, step, write);
        if (HasFatalFailure()) return;
      }
    }
  }
  // The steps before the daemon is asked are every pin's; of the others, those that need it.
  EXPECT_GE(met_, 2 * static_cast<int>(kChanges.size()));
}

// Where another mapping of the same pages takes the place of the one that is being pinned in, what
// is pinned is of the new one: a private mapping's pages are not the object's, nor the other way.
TEST_P(PinSteps, MeetAnotherSharingAtEveryStep) {
  for (const bool write : {false, true}) {
    for (const PinStep step : kSteps) {
      // Looked up already, or anew.
      for (const bool known : {false, true}) try_another_sharing(step, write, known);
    }
  }
}

std::string name_of(const ::testing::TestParamInfo<Kind>& kind) {
  constexpr std::array kNames{"Resident", "Absent", "Clean", "Own", "Written"};
  return kNames.at(static_cast<std::size_t>(kind.param));
}
INSTANTIATE_TEST_SUITE_P(Kinds, PinSteps, ::testing::ValuesIn(kKinds), name_of);

}  // namespace
}  // namespace faultline::testing
