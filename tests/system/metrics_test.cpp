// Counters that a collector reads change by what was done, and by nothing else.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <numeric>
#include <sstream>
#include <thread>

#include "faultline/pin.h"
#include "faultline/wait.h"
#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/scraping.hpp"

namespace faultline::testing {
namespace {

constexpr std::uint32_t kShared = FL_MAP_SHARED | FL_MAP_WRITE;
constexpr std::uint32_t kPrivate = FL_MAP_PRIVATE | FL_MAP_WRITE;
constexpr std::byte kOne{1};

// A sample, or a counter with some of its labels, and by how much it is to change.
struct Change {
  std::string name;
  std::vector<std::string> labels;
  double by = 0;
};

class Metrics : public ::testing::Test {
 protected:
  explicit Metrics(std::vector<std::string> options = {}) : daemon_(with(std::move(options))) {}
  void SetUp() override {
    ASSERT_TRUE(daemon_.ready());
    where_ = metrics_of(daemon_);
    client_ = connect(daemon_.socket());
    ASSERT_TRUE(client_);
  }
  static std::vector<std::string> with(std::vector<std::string> options) {
    options.insert(options.end(), {"--metrics-listen", "127.0.0.1:0"});
    return options;
  }

  // A client goes on before what was done for it is counted, so the counters are waited for; and
  // then they stay.
  void expect_changes(const std::function<void()>& work, const std::vector<Change>& changes) {
    const Scrape before(where_);
    work();
    const auto all = [&](const Scrape& now) {
      return std::ranges::all_of(changes, [&](const Change& change) {
        return now.sum(change.name, change.labels) - before.sum(change.name, change.labels) ==
               change.by;
      });
    };
    (void)eventually([&] { return all(Scrape(where_)); });
    const Scrape after(where_);
    for (const Change& change : changes) {
      std::string labels;
      for (const std::string& label : change.labels) labels += label + " ";
      EXPECT_EQ(after.sum(change.name, change.labels) - before.sum(change.name, change.labels),
                change.by)
          << change.name << " " << labels;
    }
  }
  [[nodiscard]] std::span<std::byte> at_random(fl_object* object, std::size_t pages,
                                               std::uint32_t flags) {
    const auto memory = map(object, pages * kPage, flags);
    EXPECT_EQ(fl_advise(client_, memory.data(), memory.size(), FL_ADVICE_RANDOM), 0);
    return memory;
  }

  Daemon daemon_;
  std::string where_;
  Client client_;
};

// What every fault that is answered at once changes, besides.
std::vector<Change> answered(const std::string& kind, const std::string& access, double faults) {
  const std::string of_kind = "kind=\"" + kind + "\"";
  const std::string of_access = "access=\"" + access + "\"";
  return {{"faultline_faults_total", {}, faults},
          {"faultline_faults_total", {of_kind, of_access}, faults},
          {"faultline_fault_answers_total", {}, faults},
          {"faultline_fault_answers_total", {of_kind, of_access, "result=\"installed\""}, faults},
          {"faultline_fault_duration_seconds_count", {}, faults},
          {"faultline_fault_duration_seconds_count", {of_kind}, faults}};
}
std::vector<Change> operator+(std::vector<Change> changes, const std::vector<Change>& more) {
  changes.insert(changes.end(), more.begin(), more.end());
  return changes;
}

TEST_F(Metrics, CountMissingFaultsOnce) {
  const Object object = create(client_, 32 * kPage);
  const auto memory = at_random(object, 32, kShared);
  expect_changes(
      [&] {
        for (std::size_t i = 0; i < 20; ++i) touch(memory[i * kPage]);
      },
      answered("missing", "read", 20) +
          std::vector<Change>{{"faultline_pages_installed_total", {}, 20},
                              {"faultline_pages_installed_total", {"source=\"demand\""}, 20},
                              {"faultline_object_resident_bytes", {}, 20.0 * kPage}});
  expect_changes(
      [&] {
        for (std::size_t i = 20; i < 25; ++i) memory[i * kPage] = kOne;
      },
      answered("missing", "write", 5));
  // Pages that are there raise nothing.
  expect_changes(
      [&] {
        for (std::size_t i = 0; i < 25; ++i) memory[i * kPage] = kOne;
      },
      {{"faultline_faults_total", {}, 0}, {"faultline_pages_installed_total", {}, 0}});
}

TEST_F(Metrics, CountMinorFaultsApart) {
  const Object object = create(client_, 16 * kPage);
  const auto first = at_random(object, 16, kShared);
  for (std::size_t i = 0; i < 16; ++i) first[i * kPage] = kOne;
  const auto second = at_random(object, 16, kShared);
  expect_changes(
      [&] {
        for (std::size_t i = 0; i < 7; ++i) touch(second[i * kPage]);
      },
      answered("minor", "read", 7));
}

TEST_F(Metrics, CountBreaksAndWriteProtectFaults) {
  const Object object = create(client_, 16 * kPage);
  const auto shared = at_random(object, 16, kShared);
  for (std::size_t i = 0; i < 16; ++i) shared[i * kPage] = kOne;
  const auto view = at_random(object, 16, kPrivate);
  for (std::size_t i = 0; i < 6; ++i) touch(view[i * kPage]);
  expect_changes(
      [&] {
        for (std::size_t i = 0; i < 6; ++i) view[i * kPage] = kOne;
      },
      answered("write_protect", "write", 6) +
          std::vector<Change>{{"faultline_cow_breaks_total", {}, 6},
                              {"faultline_pages_installed_total", {}, 0}});
  // A first write to a page that is not mapped is a copy: installed on demand, and a break.
  expect_changes(
      [&] {
        for (std::size_t i = 6; i < 9; ++i) view[i * kPage] = kOne;
      },
      {{"faultline_cow_breaks_total", {}, 3},
       {"faultline_pages_installed_total", {"source=\"demand\""}, 3},
       {"faultline_pages_installed_total", {}, 3}});
}

// What came with the pages that faulted is told apart from them.
TEST_F(Metrics, TellPrefetchFromDemand) {
  constexpr std::size_t kPages = 512;
  const Object object = create(client_, kPages * kPage);
  {
    const auto memory = map(object, kPages * kPage, kShared);
    const Scrape before(where_);
    for (std::size_t i = 0; i < kPages; ++i) touch(memory[i * kPage]);
    const fl_stats stats = stats_of(client_, memory.data());
    const double faults = static_cast<double>(stats.missing_faults + stats.minor_faults);
    ASSERT_LT(faults, kPages / 4.0) << "read in order, most come before they are asked for";
    const Scrape after(where_);
    const auto grew = [&](const std::string& source) {
      const std::vector<std::string> label{"source=\"" + source + "\""};
      return after.sum("faultline_pages_installed_total", label) -
             before.sum("faultline_pages_installed_total", label);
    };
    EXPECT_EQ(grew("demand"), faults);
    EXPECT_EQ(grew("fault_around"), kPages - faults);
    EXPECT_EQ(grew("ahead_copy") + grew("populate"), 0);
  }
  const auto view = map(object, kPages * kPage, kPrivate);
  const Scrape before(where_);
  for (std::size_t i = 0; i < kPages; ++i) view[i * kPage] = kOne;
  const fl_stats stats = stats_of(client_, view.data());
  ASSERT_GT(stats.ahead_copies, kPages / 2);
  const Scrape after(where_);
  const std::string ahead = "faultline_pages_installed_total{source=\"ahead_copy\"}";
  const std::string demand = "faultline_pages_installed_total{source=\"demand\"}";
  EXPECT_EQ(after[ahead] - before[ahead], stats.ahead_copies);
  EXPECT_EQ(after[demand] - before[demand], kPages - stats.ahead_copies);
}

TEST_F(Metrics, CountPopulatedPagesWithoutFaults) {
  const Object object = create(client_, 64 * kPage);
  const auto memory = map(object, 64 * kPage, kShared);
  expect_changes(
      [&] {
        ASSERT_EQ(fl_populate(client_, memory.data(), memory.size(), FL_POPULATE_WRITE), 0)
            << fl_last_error();
        for (std::size_t i = 0; i < 64; ++i) memory[i * kPage] = kOne;
      },
      {{"faultline_pages_installed_total", {"source=\"populate\""}, 64},
       {"faultline_pages_installed_total", {}, 64},
       {"faultline_faults_total", {}, 0}});
}

// A page of a file is waited for, and then installed: two looks at one fault.
TEST_F(Metrics, CountFaultsThatWaitForAFile) {
  const PatternFile file(8 * kPage);
  const Object object = create_from(client_, file.fd());
  const auto memory = at_random(object, 8, FL_MAP_SHARED);
  expect_changes([&] { EXPECT_EQ(memory[3 * kPage], file.bytes()[3 * kPage]); },
                 {{"faultline_faults_total", {}, 1},
                  {"faultline_fault_answers_total", {"result=\"waits\""}, 1},
                  {"faultline_fault_answers_total", {"result=\"installed\""}, 1},
                  {"faultline_fault_answers_total", {}, 2},
                  {"faultline_fault_duration_seconds_count", {}, 1}});
  EXPECT_EQ(Scrape(where_)["faultline_faults_waiting"], 0);
}

TEST_F(Metrics, CountPagesThatCannotBeSupplied) {
  const PatternFile file(8 * kPage);
  const Object object = create_from(client_, file.fd());
  const auto memory = at_random(object, 8, FL_MAP_SHARED);
  file.truncate(kPage);
  expect_changes(
      [&] { EXPECT_TRUE(in_child([&] { return touch(memory[4 * kPage]); }).killed_by(SIGBUS)); },
      {{"faultline_poisoned_pages_total", {}, 1},
       {"faultline_fault_answers_total", {"result=\"error\""}, 1}});
}

// How many faults of the daemon's clients the kernel holds that nobody has read.
int unread_faults(const Daemon& daemon) {
  int unread = 0;
  const std::string process = "/proc/" + std::to_string(daemon.pid());
  for (const auto& fd : std::filesystem::directory_iterator(process + "/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(fd, gone) != "anon_inode:[userfaultfd]") continue;
    std::ifstream info(process + "/fdinfo/" + fd.path().filename().string());
    int pending = 0;
    for (std::string word; info >> word;) {
      if (word == "pending:" && info >> pending) unread += pending;
    }
  }
  return unread;
}

// Two threads fault at one page while the daemon stands still: one answer brings it, and the other
// finds it there.
TEST_F(Metrics, CountFaultsThatAnotherAnswered) {
  const Object object = create(client_, 2 * kPage);
  const auto memory = at_random(object, 2, kShared);
  const Scrape before(where_);
  daemon_.pause();
  {
    std::vector<std::jthread> readers;
    for (int i = 0; i < 2; ++i) readers.emplace_back([&] { touch(memory[kPage]); });
    EXPECT_TRUE(eventually([&] { return unread_faults(daemon_) == 2; }));
    daemon_.resume();
  }
  const auto grew = [&](const std::string& name, const std::string& label) {
    return Scrape(where_).sum(name, {label}) - before.sum(name, {label});
  };
  EXPECT_TRUE(eventually(
      [&] { return grew("faultline_fault_answers_total", "result=\"already_present\"") == 1; }));
  EXPECT_EQ(grew("faultline_fault_answers_total", "result=\"installed\""), 1);
  EXPECT_EQ(grew("faultline_pages_installed_total", "source=\"demand\""), 1);
  EXPECT_EQ(grew("faultline_fault_duration_seconds_count", "kind=\"missing\""), 2);
}

// Faults meet unmaps under way, are put off, and end all the same.
TEST_F(Metrics, CountFaultsThatArePutOff) {
  const Object object = create(client_, 64 * kPage);
  const auto memory = at_random(object, 64, kShared);
  std::atomic<bool> enough{false};
  {
    const std::jthread changes([&] {
      while (!enough) {
        const auto other = map(object, kPage, kShared);
        EXPECT_EQ(::munmap(other.data(), other.size()), 0);
      }
    });
    std::vector<std::jthread> faults;
    for (std::size_t thread = 0; thread < 2; ++thread) {
      faults.emplace_back([&, thread] {
        while (!enough) {
          const auto mine = memory.subspan(thread * 32 * kPage, 32 * kPage);
          for (std::size_t i = 0; i < 32; ++i) touch(mine[i * kPage]);
          EXPECT_EQ(::madvise(mine.data(), mine.size(), MADV_DONTNEED), 0);
        }
      });
    }
    EXPECT_TRUE(eventually(
        [&] {
          return Scrape(where_).sum("faultline_fault_answers_total", {"result=\"deferred\""}) > 0;
        },
        std::chrono::seconds(30)));
    enough = true;
  }
  // Every fault has come to an end, by one of the four results, and is timed.
  EXPECT_TRUE(eventually([&] {
    const Scrape now(where_);
    double ends = 0;
    for (const char* result : {"installed", "already_present", "discarded", "error"}) {
      ends += now.sum("faultline_fault_answers_total", {"result=\"" + std::string(result) + "\""});
    }
    return now["faultline_faults_deferred"] == 0 && ends == now.sum("faultline_faults_total") &&
           ends == now.sum("faultline_fault_duration_seconds_count");
  }));
}

TEST_F(Metrics, CountAForkChildsBeaconApart) {
  const Object object = create(client_, kPage);
  const auto memory = map(object, kPage, kShared);
  memory[0] = kOne;
  expect_changes(
      [&] {
        EXPECT_TRUE(in_child([&] {
                      fl_stats stats{};
                      return fl_mapping_stats(client_, memory.data(), &stats) == 0 ? 0 : 1;
                    }).exited(0));
      },
      {{"faultline_faults_total", {"kind=\"beacon\""}, 1},
       {"faultline_fault_answers_total", {"kind=\"beacon\"", "result=\"installed\""}, 1}});
}

// Every wait that was begun is kept, or has ended in one of the ways.
TEST_F(Metrics, CountWaitsAndHowTheyEnd) {
  const Object object = create(client_, kPage);
  const auto memory = map(object, kPage, kPrivate);
  memory[0] = std::byte{0};
  fl_async_wait wait{};
  wait.struct_size = sizeof(wait);
  wait.address = memory.data();
  wait.bitset = FL_WAIT_ANY;
  std::uint64_t id = 0;
  const auto next = [&] {
    fl_completion completion{};
    const timespec soon{5, 0};
    EXPECT_EQ(fl_completions(client_, &completion, 1, &soon), 1) << fl_last_error();
    return completion.result;
  };
  const auto ends = [](const std::string& outcome, double count) {
    return std::vector<Change>{
        {"faultline_waits_total", {}, 1},
        {"faultline_wait_ends_total", {"outcome=\"" + outcome + "\""}, count},
        {"faultline_wait_ends_total", {}, count}};
  };
  expect_changes([&] { ASSERT_EQ(fl_wait_async(&wait, &id), 0) << fl_last_error(); },
                 ends("woken", 0) + std::vector<Change>{{"faultline_waits_kept", {}, 1}});
  expect_changes(
      [&] {
        EXPECT_EQ(fl_wake(memory.data(), 1), 1) << fl_last_error();
        EXPECT_EQ(next(), 0);
      },
      {{"faultline_wait_ends_total", {"outcome=\"woken\""}, 1},
       {"faultline_wait_ends_total", {}, 1},
       {"faultline_waits_kept", {}, -1}});
  const timespec soon{0, 1'000'000};
  wait.timeout = &soon;
  expect_changes(
      [&] {
        ASSERT_EQ(fl_wait_async(&wait, &id), 0) << fl_last_error();
        EXPECT_EQ(next(), -ETIMEDOUT);
      },
      ends("timed_out", 1));
  wait.timeout = nullptr;
  expect_changes(
      [&] {
        ASSERT_EQ(fl_wait_async(&wait, &id), 0) << fl_last_error();
        EXPECT_EQ(fl_wait_cancel(client_, id), 0);
        EXPECT_EQ(next(), -ECANCELED);
      },
      ends("cancelled", 1));
  expect_changes(
      [&] {
        ASSERT_EQ(fl_wait_async(&wait, &id), 0) << fl_last_error();
        ASSERT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0) << fl_last_error();
        EXPECT_LT(next(), 0);
      },
      ends("ended", 1));
}

TEST_F(Metrics, CountPinsFallBacksAndVerdicts) {
  Object object = create(client_, 8 * kPage);
  const auto memory = map(object, 8 * kPage, kShared);
  fl_pinned first{};
  expect_changes(
      [&] {
        ASSERT_EQ(fl_pin(memory.data(), 4 * kPage, FL_PIN_WRITE, &first), 0) << fl_last_error();
      },
      {{"faultline_pins_total", {"path=\"asked\""}, 1},
       {"faultline_pins_total", {}, 1},
       {"faultline_pin_grants_total", {}, 1},
       {"faultline_pin_ledgers", {}, 1},
       {"faultline_pages_installed_total", {"source=\"populate\""}, 4}});
  fl_pinned second{};
  expect_changes(
      [&] {
        ASSERT_EQ(fl_pin(memory.data(), kPage, FL_PIN_WRITE, &second), 0) << fl_last_error();
        ASSERT_EQ(fl_unpin(&second), 0);
      },
      {{"faultline_pins_total", {"path=\"had\""}, 1}, {"faultline_pins_total", {}, 1}});
  fl_pinned absent{};
  expect_changes(
      [&] {
        ASSERT_EQ(fl_pin(&memory[6 * kPage], kPage, FL_PIN_WRITE, &absent), 0) << fl_last_error();
        ASSERT_EQ(fl_unpin(&absent), 0);
      },
      {{"faultline_pins_total", {"path=\"asked\""}, 1},
       {"faultline_pin_fallbacks_total", {"reason=\"absent\""}, 1}});
  expect_changes(
      [&] {
        ASSERT_EQ(fl_unmap(client_, memory.data(), kPage), 0) << fl_last_error();
        EXPECT_TRUE(eventually([&] { return fl_pin_state(&first) == -ENOENT; }));
      },
      {{"faultline_pin_verdicts_total", {"verdict=\"unmapped\""}, 1},
       {"faultline_pin_verdicts_total", {}, 1}});
  EXPECT_EQ(fl_unpin(&first), -ENOENT);
  // What a process counted stays when it has gone.
  const double pins = Scrape(where_).sum("faultline_pins_total");
  ASSERT_EQ(fl_unmap(client_, &memory[kPage], 7 * kPage), 0) << fl_last_error();
  object.reset();
  client_.reset();
  EXPECT_TRUE(eventually([&] { return Scrape(where_)["faultline_pin_ledgers"] == 0; }));
  EXPECT_EQ(Scrape(where_).sum("faultline_pins_total"), pins);
}

class MetricsWithSwap : public Metrics {
 protected:
  MetricsWithSwap()
      : Metrics({"--swap-file", std::filesystem::temp_directory_path().string(), "--swap-bytes",
                 "1048576"}) {}
};

TEST_F(MetricsWithSwap, CountEvictionsAndWhatIsSwapped) {
  SKIP_WITH_HUGE_PAGES("they are never swapped");
  const Object object = create(client_, 16 * kPage);
  const auto memory = map(object, 16 * kPage, kShared);
  for (std::size_t i = 0; i < 16; ++i) memory[i * kPage] = kOne;
  fl_pinned pin{};
  ASSERT_EQ(fl_pin(&memory[2 * kPage], 3 * kPage, 0, &pin), 0) << fl_last_error();
  expect_changes(
      [&] {
        ASSERT_EQ(fl_advise(client_, memory.data(), memory.size(), FL_ADVICE_PAGEOUT), 0)
            << fl_last_error();
      },
      {{"faultline_eviction_pages_total", {"result=\"evicted\""}, 13},
       {"faultline_eviction_pages_total", {"result=\"pinned\""}, 3},
       {"faultline_eviction_pages_total", {}, 16},
       {"faultline_swapped_out_pages_total", {}, 13},
       {"faultline_swapped_bytes", {}, 13.0 * kPage},
       {"faultline_object_resident_bytes", {}, -13.0 * kPage}});
  EXPECT_EQ(Scrape(where_)["faultline_swap_limit_bytes"], 1'048'576);
  EXPECT_EQ(fl_unpin(&pin), 0);
}

TEST_F(Metrics, ShowWhoIsThereNow) {
  const Scrape before(where_);
  EXPECT_EQ(before["faultline_sessions"], 1);
  EXPECT_EQ(before["faultline_spaces"], 1);
  EXPECT_EQ(before["faultline_objects"], 0);
  EXPECT_GE(before["faultline_workers"], 1);
  std::vector<Object> objects;
  for (int i = 0; i < 3; ++i) objects.push_back(create(client_, kPage));
  EXPECT_EQ(Scrape(where_)["faultline_objects"], 3);
  objects.clear();
  client_.reset();
  EXPECT_TRUE(eventually([&] {
    const Scrape now(where_);
    return now["faultline_sessions"] == 0 && now["faultline_spaces"] == 0 &&
           now["faultline_objects"] == 0;
  }));
}

// What is replaced in the tree of mappings is freed after a grace period, which is counted and
// timed.
TEST_F(Metrics, CountGracePeriods) {
  const Object object = create(client_, 8 * kPage);
  const Scrape before(where_);
  for (int i = 0; i < 10; ++i) {
    const auto memory = map(object, 8 * kPage, kShared);
    ASSERT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0) << fl_last_error();
  }
  const std::string count = "faultline_grace_period_duration_seconds_count";
  EXPECT_TRUE(eventually([&] {
    const Scrape now(where_);
    return now[count] > before[count] &&
           now["faultline_reclaimed_total"] > before["faultline_reclaimed_total"] &&
           now["faultline_reclaim_pending"] == 0;
  }));
}

class MetricsOfLimits : public Metrics {
 protected:
  MetricsOfLimits()
      : Metrics({"--max-sessions-per-user", "1", "--max-objects", "1", "--max-object-bytes",
                 "16777216", "--max-pinned-per-process", "4096"}) {}
};

TEST_F(MetricsOfLimits, CountWhoIsRefused) {
  const Object object = create(client_, kPage);
  expect_changes(
      [&] {
        // Of this process one more would be the same connection.
        const Ran ran = run(FAULTCTL_BINARY " --socket " + daemon_.socket() + " status");
        EXPECT_NE(ran.output.find("max_sessions_per_user"), std::string::npos) << ran.output;
      },
      {{"faultline_refusals_total", {"limit=\"max_sessions_per_user\""}, 1},
       {"faultline_refusals_total", {}, 1}});
  fl_object_spec spec{};
  spec.struct_size = sizeof(spec);
  spec.page_size = 4096;
  spec.size = 4096;
  spec.mode = 0600;
  fl_object* created = nullptr;
  expect_changes([&] { EXPECT_EQ(fl_object_create(client_, &spec, &created), -EUSERS); },
                 {{"faultline_refusals_total", {"limit=\"max_objects\""}, 1},
                  {"faultline_refusals_total", {}, 1}});
  spec.size = std::uint64_t{1} << 30;
  expect_changes([&] { EXPECT_EQ(fl_object_create(client_, &spec, &created), -EFBIG); },
                 {{"faultline_refusals_total", {"limit=\"max_object_bytes\""}, 1},
                  {"faultline_refusals_total", {}, 1}});
  const auto memory = map(object, kPage, kShared);
  fl_pinned pin{};
  if (kHugePages) return;
  EXPECT_EQ(fl_pin(memory.data(), kPage, 0, &pin), 0) << fl_last_error();
  fl_pinned more{};
  expect_changes([&] { EXPECT_EQ(fl_pin(memory.data(), kPage, 0, &more), -ENOMEM); },
                 {{"faultline_refusals_total", {"limit=\"max_pinned_per_process\""}, 1},
                  {"faultline_refusals_total", {}, 1}});
  EXPECT_EQ(fl_unpin(&pin), 0);
}

// A scrape asks nobody who could be held up: a client that stands still in the middle of a fault of
// its own does not delay it.
TEST_F(Metrics, AreToldWhileAClientStandsStill) {
  const Object object = create(client_, 4 * kPage);
  const auto memory = map(object, 4 * kPage, kShared);
  const Child child([&] {
    (void)touch(memory[kPage]);
    ::raise(SIGSTOP);
    return 0;
  });
  siginfo_t stopped{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child.pid()), &stopped, WSTOPPED | WNOWAIT), 0);
  EXPECT_EQ(Scrape(where_)["faultline_spaces"], 2);
}

// Nothing of the text tells whose memory it is about.
TEST_F(Metrics, NameNobody) {
  const Object object = create(client_, kPage, "a-secret-name");
  const auto memory = map(object, kPage, kShared);
  memory[0] = kOne;
  const std::string text = get(where_).body;
  EXPECT_EQ(text.find("a-secret-name"), std::string::npos);
  for (const char* label : {"pid=", "uid=", "object=", "space=", "user="}) {
    EXPECT_EQ(text.find(label), std::string::npos) << label;
  }
}

}  // namespace
}  // namespace faultline::testing
