// faultctl waiters and faultctl wake: what they show of who waits for what, whom they show it to,
// and whom they wake.
#include <grp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <list>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "faultline/wire/channel.hpp"
#include "faultline/wire/word_key.hpp"
#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"
#include "tests/system/waiters.hpp"

namespace faultline::testing {
namespace {

constexpr uid_t kNobody = 65534;

using Words = std::atomic<std::uint32_t>;
using nlohmann::json;

Words& word_in(std::span<std::byte> memory, std::size_t offset = 0) {
  return *reinterpret_cast<Words*>(memory.data() + offset);
}

std::uint64_t address_of(const void* memory) {
  return reinterpret_cast<std::uintptr_t>(memory);
}

std::uint64_t id_of(fl_object* object) {
  fl_object_info info{};
  EXPECT_EQ(fl_object_stat(object, &info), 0) << fl_last_error();
  return info.id;
}

std::string object_key(fl_object* object, std::uint64_t offset) {
  return to_text(wire::WordKey{wire::KeyKind::object, 0, id_of(object), offset});
}

// As a user who owns nothing of what root has.
Ran ctl_of_nobody(const Daemon& daemon, const std::string& arguments) {
  return run("setpriv --reuid 65534 --regid 65534 --clear-groups " FAULTCTL_BINARY " --socket " +
             daemon.socket() + " " + arguments);
}

class Waiters : public SystemTest {
 protected:
  // With a channel, by which the daemon has the thread records: a process has one from the first
  // time on that the daemon is needed for a wait or a wake.
  void SetUp() override {
    SystemTest::SetUp();
    const auto memory = map(create(client_, kPage), kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
    EXPECT_EQ(fl_wake(memory.data(), 1), 0) << fl_last_error();
    EXPECT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0) << fl_last_error();
  }
  [[nodiscard]] Ran ctl(const std::string& arguments) const {
    return run(FAULTCTL_BINARY " --socket " + daemon_.socket() + " " + arguments);
  }
  [[nodiscard]] Ran ctl_of_nobody(const std::string& arguments) const {
    return testing::ctl_of_nobody(daemon_, arguments);
  }
  [[nodiscard]] json waiters(const std::string& filter = "") const {
    const Ran ran = ctl("waiters --json " + filter);
    EXPECT_EQ(ran.code, 0) << ran.output;
    return json::parse(ran.output)["waiters"];
  }
  // Those there are, once there are so many.
  [[nodiscard]] json these_many(std::size_t count) const {
    json found;
    EXPECT_TRUE(eventually([&] { return (found = waiters()).size() == count; })) << found.dump(1);
    return found;
  }
  // Has a private page be this process's own, as far as the daemon knows too.
  void make_private(std::span<std::byte> memory, std::size_t offset) const {
    word_in(memory, offset) = 1;
    EXPECT_TRUE(eventually([&] { return stats_of(client_, memory.data()).breaks == 1; }));
  }
  void expect_woken(const std::string& arguments, int count) const {
    const Ran ran = ctl("wake " + arguments);
    EXPECT_EQ(ran.code, 0) << ran.output;
    EXPECT_EQ(ran.output, std::to_string(count) + " woken\n") << arguments;
  }
};

// A thread that waits for an object's word by itself is shown with what it wrote down, and woken by
// the word's key.
TEST_F(Waiters, ShowsAndWakesWhoWaitsForASharedWord) {
  const Object object = create(client_, 2 * kPage, "queue");
  const auto memory = map(object, 2 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  word_in(memory, kPage) = 5;
  Waiter waiter(&memory[kPage], 5);
  const json wait = these_many(1).at(0);
  EXPECT_EQ(wait["key"], object_key(object, kPage));
  EXPECT_EQ(wait["pid"], ::getpid());
  EXPECT_EQ(wait["thread"], waiter.tid());
  EXPECT_EQ(wait["address"], address_of(&memory[kPage]));
  EXPECT_EQ(wait["object"], id_of(object));
  EXPECT_EQ(wait["object_name"], "queue");
  EXPECT_EQ(wait["kept"], false);
  EXPECT_EQ(wait["told_by"], "kernel");
  const std::string table = ctl("waiters").output;
  EXPECT_NE(table.find(object_key(object, kPage)), std::string::npos) << table;
  EXPECT_NE(table.find("kernel"), std::string::npos) << table;
  expect_woken(object_key(object, kPage + 4), 0);
  expect_woken(object_key(object, kPage), 1);
  EXPECT_EQ(waiter.result(), 0);
  EXPECT_TRUE(waiters().empty());
}

// A word of private memory is the process's own.
TEST_F(Waiters, ShowsAndWakesWhoWaitsForAPrivateWord) {
  const Object object = create(client_, kPage);
  const auto memory = map(object, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  make_private(memory, 8);
  Waiter waiter(&memory[8], 1);
  const json wait = these_many(1).at(0);
  EXPECT_EQ(wait["kept"], false);
  const wire::WordKey key{wire::KeyKind::space, 0, wait["space"], address_of(&memory[8])};
  EXPECT_EQ(wait["key"], to_text(key));
  expect_woken(object_key(object, 8), 0);
  expect_woken(to_text(key), 1);
  EXPECT_EQ(waiter.result(), 0);
}

// A wait for a word of a page that is in no memory is the daemon's: it knows it without being told,
// counts it, and wakes it without bringing the page into memory.
TEST_F(Waiters, ShowsAndWakesWhatTheDaemonKeeps) {
  const Object object = create(client_, kPage);
  const auto memory = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  Waiter waiter(memory.data());
  const json wait = these_many(1).at(0);
  EXPECT_EQ(wait["key"], object_key(object, 0));
  EXPECT_EQ(wait["kept"], true);
  EXPECT_EQ(wait["told_by"], "thread");
  EXPECT_EQ(wait["thread"], waiter.tid());
  const json status = daemon_.ask(wire::AdminQuery::status)["status"];
  EXPECT_EQ(status["kept_waits"], 1);
  EXPECT_EQ(status["channels"], 1);
  expect_woken(object_key(object, 0), 1);
  EXPECT_EQ(waiter.result(), 0);
  EXPECT_EQ(daemon_.ask(wire::AdminQuery::status)["status"]["kept_waits"], 0);
  EXPECT_EQ(daemon_.ask(wire::AdminQuery::objects)["objects"][0]["resident_bytes"], 0);
}

// By page: the object's word first, and when the page parts the frame's, of parent and child.
TEST_F(Waiters, FollowsAWordThroughTheBreakAndTheFork) {
  const Object object = create(client_, kPage);
  const auto shared = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto mine = map(object, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE);
  word_in(shared, 16) = 3;
  Waiter waiter(&mine[16], 3);
  EXPECT_EQ(these_many(1).at(0)["key"], object_key(object, 16));
  word_in(mine, 64) = 1;  // the break
  const json parted = these_many(1).at(0);
  const auto key = wire::word_key_from(parted["key"].get<std::string>());
  ASSERT_TRUE(key.has_value());
  EXPECT_EQ(key->kind, wire::KeyKind::frame);
  EXPECT_EQ(key->offset, 16U);
  EXPECT_EQ(parted["kept"], true);
  {
    Child child([&] { return fl_wait(&mine[16], 3, nullptr, 0); });
    const json both = these_many(2);
    EXPECT_EQ(both.at(0)["key"], both.at(1)["key"]);
    EXPECT_NE(both.at(0)["pid"], both.at(1)["pid"]);
    expect_woken(object_key(object, 16), 0);
    expect_woken(to_text(*key), 2);
    EXPECT_TRUE(child.wait().exited(0));
  }
  EXPECT_EQ(waiter.result(), 0);
}

// --count is the most that are woken; what is left waits on.
TEST_F(Waiters, WakesNoMoreThanItIsTold) {
  const Object object = create(client_, kPage);
  const auto memory = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  word_in(memory) = 1;
  std::list<Waiter> all;
  for (int i = 0; i < 3; ++i) all.emplace_back(memory.data(), 1);
  (void)these_many(3);
  expect_woken(object_key(object, 0) + " --count 2", 2);
  (void)these_many(1);
  const Ran ran = ctl("wake --json " + object_key(object, 0));
  EXPECT_EQ(json::parse(ran.output),
            json({{"schema", 1}, {"key", object_key(object, 0)}, {"woken", 1}}));
}

// Every field that docs/faultctl.md tells of, and no other; the longest wait first.
TEST_F(Waiters, AnswersInTheFormThatIsDocumented) {
  const Object object = create(client_, kPage);
  const auto memory = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  word_in(memory) = 1;
  Waiter first(memory.data(), 1);
  (void)these_many(1);
  ::usleep(20'000);  // more than the clock that threads write down is inexact by
  Waiter second(&memory[64]);
  (void)these_many(2);
  const json answer = json::parse(ctl("waiters --json").output);
  EXPECT_EQ(answer["schema"], 1);
  EXPECT_EQ(answer["left_out"], 0);
  EXPECT_TRUE(answer["time_ns"].is_number_unsigned());
  EXPECT_EQ(answer.size(), 4U);
  const std::set<std::string> expected{"key",    "pid",     "space",    "uid",
                                       "thread", "address", "object",   "object_name",
                                       "kept",   "told_by", "since_ns", "waited_ms"};
  for (const json& wait : answer["waiters"]) {
    std::set<std::string> fields;
    for (const auto& [field, value] : wait.items()) fields.insert(field);
    EXPECT_EQ(fields, expected);
    EXPECT_EQ(wait["uid"], ::getuid());
  }
  EXPECT_EQ(answer["waiters"].at(0)["thread"], first.tid());
  EXPECT_LT(answer["waiters"].at(0)["since_ns"], answer["waiters"].at(1)["since_ns"]);
  EXPECT_GE(answer["waiters"].at(0)["waited_ms"], 10);
  EXPECT_EQ(fl_wake(memory.data(), 1) + fl_wake(&memory[64], 1), 2);
}

TEST_F(Waiters, FiltersByProcessAndByObject) {
  const Object here = create(client_, kPage, "here");
  const Object there = create(client_, kPage, "there");
  const auto memory = map(here, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto other = map(there, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  Waiter one(memory.data());
  Waiter two(other.data());
  (void)these_many(2);
  EXPECT_EQ(waiters("--pid " + std::to_string(::getpid())).size(), 2U);
  const json by_name = waiters("--object there");
  ASSERT_EQ(by_name.size(), 1U);
  EXPECT_EQ(by_name.at(0)["thread"], two.tid());
  EXPECT_EQ(waiters("--object " + std::to_string(id_of(here))).at(0)["thread"], one.tid());
  EXPECT_TRUE(waiters("--object nowhere").empty());
  const Ran nobody = ctl("waiters --pid 1");
  EXPECT_EQ(nobody.code, 1);
  EXPECT_NE(nobody.output.find("no client that you may see"), std::string::npos) << nobody.output;
  EXPECT_EQ(fl_wake(memory.data(), 1) + fl_wake(other.data(), 1), 2);
}

// What is beyond the most that is shown of one user is counted.
TEST_F(Waiters, CountsWhatItLeavesOut) {
  constexpr std::size_t kThreads = 129;
  constexpr std::size_t kMostShown = 16'384;
  const Object object = create(client_, kPage);
  const auto memory = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  std::vector<fl_waiter> words;
  for (std::size_t i = 0; i < FL_WAITV_MAX; ++i) words.push_back({&memory[4 * i], 0, 0, 0});
  std::vector<std::thread> threads;
  std::atomic<int> woken{0};
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      int result = -EBUSY;  // the ring has room for eight at a time
      while (result == -EBUSY) result = fl_waitv(words.data(), FL_WAITV_MAX, nullptr, 0);
      woken += result == 0 ? 1 : 0;
    });
  }
  EXPECT_TRUE(eventually([&] {
    return daemon_.ask(wire::AdminQuery::status)["status"]["kept_waits"] == kThreads * FL_WAITV_MAX;
  }));
  const json answer = daemon_.ask(wire::AdminQuery::waiters);
  EXPECT_EQ(answer["waiters"].size(), kMostShown);
  EXPECT_EQ(answer["left_out"], kThreads * FL_WAITV_MAX - kMostShown);
  expect_woken(object_key(object, 0), kThreads);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(woken, kThreads);
}

// What a client writes into its records is shown at most: it names no word that is not mapped, and
// no time that is to come.
TEST_F(Waiters, BelievesNothingThatAClientWroteDown) {
  const Object object = create(client_, kPage);
  const auto memory = map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const timespec soon{0, 1'000'000};
  EXPECT_EQ(fl_wait(memory.data(), 0, &soon, 0), -ETIMEDOUT);  // there are records now
  UniqueFd records;
  for (const auto& fd : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    const std::string target = std::filesystem::read_symlink(fd, ignored).string();
    if (target.find("faultline:threads") == std::string::npos) continue;
    records = UniqueFd{::dup(std::stoi(fd.path().filename().string()))};
  }
  ASSERT_TRUE(records);
  void* const mapped =
      ::mmap(nullptr, wire::kRecordsBytes, PROT_READ | PROT_WRITE, MAP_SHARED, records.get(), 0);
  ASSERT_NE(mapped, MAP_FAILED);
  const auto record = [&](std::size_t index) -> wire::ThreadRecord& {
    return *reinterpret_cast<wire::ThreadRecord*>(static_cast<std::byte*>(mapped) +
                                                  index * wire::kRecordBytes);
  };
  const std::uint32_t used = record(0).tid;
  record(0).tid = 0xffff'ffff;
  record(7).tid = 0xffff'ffff;
  record(7).since = ~std::uint64_t{0} / 2;
  for (auto& word : record(7).words) word = ~std::uint64_t{0};
  record(7).words[1] = address_of(memory.data());
  record(7).words[2] = 0;
  record(7).waiting = wire::kWaitingCount;
  const json lies = waiters();
  ASSERT_EQ(lies.size(), 1U);
  EXPECT_EQ(lies.at(0)["thread"], 0xffff'ffffU);
  EXPECT_EQ(lies.at(0)["key"], object_key(object, 0));
  EXPECT_EQ(lies.at(0)["waited_ms"], 0);
  record(7).waiting = 0;
  record(7).tid = 0;
  record(0).tid = used;
  EXPECT_EQ(::munmap(mapped, wire::kRecordsBytes), 0);
}

// A user sees his own processes alone, and wakes only where he could by a program of his own.
TEST_F(Waiters, OtherUsersSeeNothingAndWakeWhatTheyMayWriteTo) {
  if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED: becoming another user takes root";
  const Object secret = create(client_, kPage, "secret", 0600);
  const Object readable = create(client_, kPage, "readable", 0644);
  const Object open = create(client_, kPage, "open", 0666);
  std::vector<std::span<std::byte>> memory;
  for (fl_object* object :
       {secret.operator fl_object*(), readable.operator fl_object*(), open.operator fl_object*()}) {
    memory.push_back(map(object, kPage, FL_MAP_SHARED | FL_MAP_WRITE));
  }
  memory.push_back(map(secret, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE));
  make_private(memory.back(), 0);
  memory.push_back(map(secret, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE | FL_MAP_WAIT_BY_PAGE));
  std::list<Waiter> all;
  for (const auto& mapping : memory) {
    word_in(mapping) = 1;
    all.emplace_back(mapping.data(), 1);
  }
  std::set<std::string> keys;
  for (const json& wait : these_many(memory.size())) keys.insert(wait["key"].get<std::string>());

  const Ran seen = ctl_of_nobody("waiters --json");
  EXPECT_EQ(seen.code, 0) << seen.output;
  EXPECT_TRUE(json::parse(seen.output)["waiters"].empty()) << seen.output;
  EXPECT_EQ(ctl_of_nobody("waiters --pid " + std::to_string(::getpid())).code, 1);
  const auto refused = [&](const std::string& key, const std::string& words) {
    const Ran ran = ctl_of_nobody("wake " + key);
    EXPECT_EQ(ran.code, 1) << key << ran.output;
    EXPECT_NE(ran.output.find(words), std::string::npos) << key << ran.output;
  };
  for (const std::string& key : keys) {
    if (key == object_key(secret, 0)) {
      refused(key, "which is none that you may see");
    } else if (key == object_key(readable, 0)) {
      refused(key, "which you may not write to");
    } else if (key == object_key(open, 0)) {
      EXPECT_EQ(ctl_of_nobody("wake " + key).output, "1 woken\n");
    } else if (key.rfind("space:", 0) == 0) {
      refused(key, "which is none that you may see");
    } else {
      // Frames that nobody waits for are not told from those of others.
      EXPECT_EQ(key.rfind("frame:", 0), 0U) << key;
      EXPECT_EQ(ctl_of_nobody("wake " + key).output, "0 woken\n");
    }
  }
  (void)these_many(memory.size() - 1);
  for (const std::string& key : keys) {
    if (key != object_key(open, 0)) expect_woken(key, 1);
  }
}

// A user's own are shown to him, and he wakes them.
TEST(WaitersOfAUser, AreShownToHimAndWoken) {
  if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED: becoming another user takes root";
  const Daemon daemon;
  // Before there is a client here, which a child would inherit.
  Child child([&] {
    if (::setgroups(0, nullptr) != 0 || ::setresgid(kNobody, kNobody, kNobody) != 0 ||
        ::setresuid(kNobody, kNobody, kNobody) != 0 || ::prctl(PR_SET_DUMPABLE, 1) != 0) {
      return 2;
    }
    const Client client = connect(daemon.socket());
    const auto memory = map(create(client, kPage), kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
    return fl_wait(memory.data(), 0, nullptr, 0) == 0 ? 0 : 1;
  });
  json wait;
  EXPECT_TRUE(eventually([&] {
    const Ran ran = ctl_of_nobody(daemon, "waiters --json");
    EXPECT_EQ(ran.code, 0) << ran.output;
    wait = json::parse(ran.output)["waiters"];
    return wait.size() == 1;
  }));
  ASSERT_EQ(wait.size(), 1U);
  EXPECT_EQ(wait.at(0)["uid"], kNobody);
  EXPECT_EQ(wait.at(0)["pid"], child.pid());
  EXPECT_EQ(ctl_of_nobody(daemon, "wake " + wait.at(0)["key"].get<std::string>()).output,
            "1 woken\n");
  EXPECT_TRUE(child.wait().exited(0));
}

TEST_F(Waiters, ExitCodesTellRefusalUsageAndAbsence) {
  const Object object = create(client_, kPage);
  const std::string id = std::to_string(id_of(object));
  const std::vector<std::pair<std::string, std::string>> refused = {
      {"object:999999+0", "waking at object 999999, which is none that you may see"},
      {"object:" + id + "+4096", "waking at byte 4096 of object " + id + ", which has 4096"},
      {"space:999999@0x1000", "which is none that you may see, or has no channel"}};
  for (const auto& [key, words] : refused) {
    const Ran ran = ctl("wake " + key);
    EXPECT_EQ(ran.code, 1) << key;
    EXPECT_NE(ran.output.find(words), std::string::npos) << ran.output;
  }
  expect_woken("object:" + id + "+0", 0);
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {"wake", "wake those who wait for which KEY?"},
      {"wake object:1",
       "KEY must be object:ID+OFFSET, space:ID@ADDRESS or frame:ID+OFFSET, not "
       "object:1"},
      {"wake object:1+0 frame:1+0", "one argument too many: frame:1+0"},
      {"wake object:1+0 --count 0", "--count must be a positive whole number, not 0"},
      {"waiters 12", "one argument too many: 12"},
      {"waiters --pid x", "--pid must be a positive whole number, not x"},
      {"waiters --object ''", "--object must be a name of 1 to 128 bytes, or an id"}};
  for (const auto& [arguments, words] : wrong) {
    const Ran ran = ctl(arguments);
    EXPECT_EQ(ran.code, 2) << arguments;
    EXPECT_NE(ran.output.find("faultctl: " + words), std::string::npos) << ran.output;
  }
  EXPECT_EQ(run(FAULTCTL_BINARY " --socket /nonexistent/socket waiters").code, 3);
  EXPECT_EQ(run(FAULTCTL_BINARY " --socket /nonexistent/socket wake object:1+0").code, 3);
}

}  // namespace
}  // namespace faultline::testing
