// What the commands print and how they exit: faultctl, and faultlined's own options.
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <tuple>
#include <utility>
#include <vector>

#include "faultline/pin.h"
#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

constexpr std::byte kOne{1};

class Faultctl : public SystemTest {
 protected:
  [[nodiscard]] Ran ctl(const std::string& arguments) const {
    return run(FAULTCTL_BINARY " --socket " + daemon_.socket() + " " + arguments);
  }
  [[nodiscard]] nlohmann::json json(const std::string& arguments) const {
    const Ran ran = ctl(arguments + " --json");
    EXPECT_EQ(ran.code, 0) << ran.output;
    return nlohmann::json::parse(ran.output);
  }
};

TEST_F(Faultctl, StatusNamesTheDaemonAndCountsItsFaults) {
  const auto memory = map(create(client_, kPage), kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  memory[0] = kOne;
  const auto status = json("status")["status"];
  EXPECT_EQ(status["pid"], daemon_.pid());
  EXPECT_EQ(status["version"], fl_version());
  EXPECT_EQ(status["socket"], daemon_.socket());
  EXPECT_EQ(status["objects"], 1);
  EXPECT_EQ(status["spaces"], 1);
  EXPECT_EQ(status["watchers"], 0);
  EXPECT_EQ(status["faults"]["missing"], 1);
  EXPECT_EQ(status["faults"]["writes"], 1);
  EXPECT_NE(ctl("status").output.find("1 missing"), std::string::npos);
}

TEST_F(Faultctl, StatusRemembersTheFaultsOfProcessesThatAreGone) {
  EXPECT_TRUE(in_child([&] {
                const auto memory = map(create(client_, kPage), kPage, FL_MAP_SHARED);
                return touch(memory[0]);
              }).exited(0));
  EXPECT_TRUE(eventually([&] { return json("status")["status"]["spaces"] == 1; }));
  EXPECT_EQ(json("status")["status"]["faults"]["missing"], 1);
}

TEST_F(Faultctl, ObjectsShowsNameSizeAndUse) {
  const Object object = create(client_, 10 * kPage, "table-of-things", 0640);
  const auto memory = map(object, 10 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  memory[0] = kOne;
  const auto shown = json("objects")["objects"].at(0);
  EXPECT_EQ(shown["name"], "table-of-things");
  EXPECT_EQ(shown["size"], 10 * kPage);
  EXPECT_EQ(shown["resident_bytes"], kPage);
  EXPECT_EQ(shown["mode"], 0640);
  EXPECT_EQ(shown["mappings"], 1);
  EXPECT_EQ(shown["open_handles"], 1);
  EXPECT_EQ(shown["linked"], true);
  EXPECT_NE(ctl("objects").output.find("table-of-things"), std::string::npos);
}

TEST_F(Faultctl, SpacesAndVmasTellSharedFromPrivate) {
  const PatternFile file(8 * kPage);
  const auto view = map(create_from(client_, file.fd()), 8 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  touch(view[0]);
  view[2 * kPage] = kOne;
  const auto space = json("spaces")["spaces"].at(0);
  EXPECT_EQ(space["pid"], ::getpid());
  EXPECT_EQ(space["mappings"], 1);
  EXPECT_EQ(space["shared_bytes"], kPage);
  EXPECT_EQ(space["private_bytes"], kPage);
  EXPECT_EQ(space["breaks"], 1);
  const auto vma = json("vmas " + std::to_string(::getpid()))["vmas"].at(0);
  EXPECT_EQ(vma["start"], reinterpret_cast<std::uintptr_t>(view.data()));
  EXPECT_EQ(vma["sharing"], "private");
  EXPECT_EQ(vma["writable"], true);
  EXPECT_EQ(vma["broken_pages"], 1);
  EXPECT_NE(ctl("spaces").output.find(std::to_string(::getpid())), std::string::npos);
}

// The line of a mapping begins as it does in /proc/PID/maps, and the object comes after.
TEST_F(Faultctl, VmasLooksLikeProcMaps) {
  const Object object = create(client_, 4 * kPage, "book");
  const auto shared = map(object, 2 * kPage, FL_MAP_SHARED | FL_MAP_WRITE, kPage);
  const auto view = map(object, 4 * kPage, FL_MAP_PRIVATE);
  const auto pid = std::to_string(::getpid());
  const auto answer = json("vmas " + pid)["vmas"];
  const std::string table = ctl("vmas " + pid).output;
  for (const auto& [memory, perms, offset] :
       {std::tuple{shared, "rw-s", kPage}, std::tuple{view, "r--p", std::size_t{0}}}) {
    const auto start = reinterpret_cast<std::uintptr_t>(memory.data());
    std::ostringstream range;
    range << std::hex << start << '-' << start + memory.size();
    const auto line_at = table.find(range.str());
    ASSERT_NE(line_at, std::string::npos) << range.str() << "\n" << table;
    std::istringstream line(table.substr(line_at, table.find('\n', line_at) - line_at));
    std::string word;
    std::vector<std::string> words;
    while (line >> word) words.push_back(word);
    EXPECT_EQ(words.at(1), perms) << table;
    EXPECT_EQ(std::stoull(words.at(2), nullptr, 16), offset) << table;
    EXPECT_EQ(words.at(4), *(words.at(1).rbegin()) == 's' ? "shared" : "private") << table;
    EXPECT_EQ(words.back(), "book") << table;
    const auto vma = std::find_if(answer.begin(), answer.end(),
                                  [&](const auto& one) { return one["start"] == start; });
    ASSERT_NE(vma, answer.end());
    EXPECT_EQ((*vma)["perms"], perms);
    EXPECT_EQ((*vma)["object"].template get<std::uint64_t>(), std::stoull(words.at(3)));
  }
}

// What the library changes in a part of a mapping shows as a piece of its own, until it is as the
// rest again.
TEST_F(Faultctl, VmasShowsWhatWasProtectedAndAdvised) {
  const auto memory = map(create(client_, 6 * kPage), 6 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto pieces = [&] {
    std::vector<std::pair<std::string, std::string>> shown;
    const auto answer = json("vmas " + std::to_string(::getpid()));
    for (const auto& vma : answer["vmas"]) {
      shown.emplace_back(vma["perms"], vma["advice"]);
    }
    return shown;
  };
  using Pieces = std::vector<std::pair<std::string, std::string>>;
  ASSERT_EQ(fl_protect(client_, &memory[kPage], kPage, 0), 0) << fl_last_error();
  ASSERT_EQ(fl_advise(client_, &memory[3 * kPage], 3 * kPage, FL_ADVICE_RANDOM), 0);
  EXPECT_EQ(
      pieces(),
      (Pieces{{"rw-s", "normal"}, {"r--s", "normal"}, {"rw-s", "normal"}, {"rw-s", "random"}}));
  ASSERT_EQ(fl_protect(client_, &memory[kPage], kPage, FL_PROTECT_WRITE), 0) << fl_last_error();
  ASSERT_EQ(fl_advise(client_, memory.data(), memory.size(), FL_ADVICE_NORMAL), 0);
  EXPECT_EQ(pieces(), (Pieces{{"rw-s", "normal"}}));
}

// Every change of a mapping retires what it replaced, and nothing stays retired.
TEST_F(Faultctl, StatusShowsThatWhatWasRetiredIsFreed) {
  const auto freed = [&] {
    return json("status")["status"]["reclamation"]["freed"].template get<std::uint64_t>();
  };
  const std::uint64_t before = freed();
  const auto memory = map(create(client_, kPage), kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  ASSERT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0) << fl_last_error();
  EXPECT_TRUE(eventually([&] { return freed() > before; }));
  EXPECT_TRUE(eventually([&] { return json("status")["status"]["reclamation"]["pending"] == 0; }));
  EXPECT_EQ(json("status")["status"]["reclamation"]["oldest_reader_ms"], 0);
}

TEST_F(Faultctl, ExitCodesTellRefusalUsageAndAbsence) {
  EXPECT_EQ(ctl("vmas 1").code, 1);
  EXPECT_EQ(ctl("").code, 2);
  EXPECT_EQ(ctl("vmas").code, 2);
  EXPECT_EQ(ctl("vmas -3").code, 2);
  EXPECT_EQ(ctl("status --no-such-option").code, 2);
  const Ran nobody = run(FAULTCTL_BINARY " --socket /nonexistent/socket status");
  EXPECT_EQ(nobody.code, 3);
  EXPECT_NE(nobody.output.find("is faultlined running?"), std::string::npos) << nobody.output;
}

TEST_F(Faultctl, WrongUsageIsToldInWords) {
  const std::vector<std::pair<std::string, std::string>> wrongs = {
      {"vmas abc", "PID must be a positive whole number, not abc"},
      {"vmas 0", "PID must be a positive whole number, not 0"},
      {"vmas -3", "PID must be a positive whole number, not -3"},
      {"vmas 12x", "PID must be a positive whole number, not 12x"},
      {"vmas 4294967297", "PID must be a positive whole number, not 4294967297"},
      {"vmas 1 2", "one argument too many: 2"},
      {"watch --pid -3", "--pid must be a positive whole number, not -3"},
      {"watch --count 0", "--count must be a positive whole number, not 0"},
      {"watch --count 1x", "--count must be a positive whole number, not 1x"},
      {"watch --rate 0", "--rate must be a positive whole number, not 0"},
      {"watch --event map,boo", "no such event: boo; there are map,unmap,fault,break,fork,exit"},
      {"watch --event ''", "--event of which kinds?"},
      {"watch --object ''", "--object must be a name of 1 to 128 bytes, or an id"},
      {"watch 12", "one argument too many: 12"},
      {"map object --svg", "--svg: 1 required FILE missing"},
      {"status --pid 12", "no such option: --pid"},
      {"bogus", "no such command: bogus"},
      {"--bogus status", "no such option: --bogus"},
      {"status --socket " + std::string(200, 'x'), "--socket must be a path of 1 to 107 bytes"},
  };
  for (const auto& [arguments, words] : wrongs) {
    const Ran ran = run(FAULTCTL_BINARY " " + arguments);
    EXPECT_EQ(ran.code, 2) << arguments;
    EXPECT_NE(ran.output.find("faultctl: " + words), std::string::npos) << ran.output;
  }
}

TEST_F(Faultctl, ADaemonThatDoesNotAnswerIsGivenUp) {
  daemon_.pause();
  const Ran ran = ctl("status");
  daemon_.resume();
  EXPECT_EQ(ran.code, 3);
  EXPECT_NE(ran.output.find("no answer within 5 s"), std::string::npos) << ran.output;
}

TEST_F(Faultctl, AStaleSocketOfTheUsersOwnDoesNotHideTheSystemsDaemon) {
  const std::string runtime = (daemon_.directory() / "runtime").string();
  std::filesystem::create_directories(runtime + "/faultline");
  const UniqueFd socket{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (runtime + "/faultline/faultlined.sock").copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  const Ran ran =
      run("env -u FAULTLINE_SOCKET XDG_RUNTIME_DIR=" + runtime + " " FAULTCTL_BINARY " status");
  EXPECT_EQ(ran.output.find(runtime), std::string::npos) << ran.output;
  if (ran.code != 0) {
    EXPECT_NE(ran.output.find("/run/faultline/faultlined.sock"), std::string::npos) << ran.output;
  }
}

// Nothing is there where a page is poisoned.
TEST_F(Faultctl, APoisonedPageIsNoMemory) {
  const PatternFile file(8 * kPage);
  const Object object = create_from(client_, file.fd());
  for (const std::uint32_t flags : {FL_MAP_SHARED, FL_MAP_PRIVATE | FL_MAP_WRITE}) {
    const auto view = map(object, 8 * kPage, flags);
    touch(view[0]);
    file.truncate(kPage);
    EXPECT_TRUE(in_child([&] { return touch(view[7 * kPage]); }).killed_by(SIGBUS));
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe(ends.data()), 0);
    EXPECT_EQ(::write(ends[1], &view[6 * kPage], 1), -1) << "poisoned here";
    EXPECT_EQ(::close(ends[0]) + ::close(ends[1]), 0);
    const fl_stats stats = stats_of(client_, view.data());
    EXPECT_EQ(stats.poisoned_pages, 1U);
    EXPECT_EQ(stats.shared_bytes, kPage);
    EXPECT_EQ(stats.private_bytes, 0U);
    EXPECT_EQ(stats.resident_bytes, kPage);
    EXPECT_EQ(fl_unmap(client_, view.data(), view.size()), 0) << fl_last_error();
  }
}

// Who pins what since when, and how the pins were had, in a table and as JSON.
TEST_F(Faultctl, PinsTellWhoPinsWhat) {
  const Object object = create(client_, 8 * kPage, "pinned.here");
  const auto bytes = map(object, 8 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  fl_pinned pin{};
  ASSERT_EQ(fl_pin(&bytes[2 * kPage], 3 * kPage, FL_PIN_WRITE, &pin), 0) << fl_last_error();
  const std::string ask = std::string(FAULTCTL_BINARY " --socket ") + daemon_.socket() + " pins";
  const Ran table = run(ask);
  EXPECT_EQ(table.code, 0) << table.output;
  for (const char* word : {"PINNED", "12.0 KiB", "00002000", "write", "pinned.here", "GRANTED"}) {
    EXPECT_NE(table.output.find(word), std::string::npos) << word << "\n" << table.output;
  }
  const Ran json = run(ask + " --json --pid " + std::to_string(::getpid()));
  ASSERT_EQ(json.code, 0) << json.output;
  const auto process = nlohmann::json::parse(json.output)["pins"].at(0);
  EXPECT_EQ(process["pinned_bytes"], 3 * kPage);
  EXPECT_EQ(process["slow"], 1);
  EXPECT_EQ(process["fallbacks"]["absent"], 1);
  EXPECT_EQ(process["pins"].at(0)["object_name"], "pinned.here");
  EXPECT_LT(process["pins"].at(0)["held_ms"], 60'000);
  EXPECT_EQ(fl_unpin(&pin), 0);
  EXPECT_EQ(run(ask + " --pid 1").code, 1) << "no client";
  EXPECT_EQ(run(ask + " --pid x").code, 2);
}

TEST_F(Faultctl, ACommandsHelpIsItsOwnAndShort) {
  const Ran help = run(FAULTCTL_BINARY " vmas --help");
  EXPECT_EQ(help.code, 0);
  for (const char* word : {"vmas", "PID", "--json", "--socket"}) {
    EXPECT_NE(help.output.find(word), std::string::npos) << word << "\n" << help.output;
  }
  EXPECT_EQ(help.output.find("COLUMNS"), std::string::npos) << help.output;
}

TEST_F(Faultctl, HelpTellsEveryCommand) {
  const Ran help = run(FAULTCTL_BINARY " --help");
  EXPECT_EQ(help.code, 0);
  for (const char* word :
       {"pins",   "GRANTED", "status", "objects", "spaces",         "vmas",   "waiters",
        "watch",  "wake",    "KEYS",   "--json",  "EXIT STATUS",    "MODE",   "OPEN",
        "MAPPED", "FROM",    "PERMS",  "KIND",    "OFFSET",         "EVENTS", "unmap",
        "fault",  "break",   "fork",   "exit",    "XDG_RUNTIME_DIR"}) {
    EXPECT_NE(help.output.find(word), std::string::npos) << word;
  }
}

TEST(Faultlined, CheckNamesEveryFeatureAndPassesHere) {
  const Ran check = run(FAULTLINED_BINARY " --check");
  EXPECT_EQ(check.code, 0) << check.output;
  for (const char* feature : {"kernel version", "userfaultfd", "io_uring", "sealed memfd",
                              "answering faults", "fork events"}) {
    EXPECT_NE(check.output.find(feature), std::string::npos) << feature << "\n" << check.output;
  }
}

// io_uring forbidden by sysctl: named, with what to do, and the daemon refuses to start.
TEST(Faultlined, CheckNamesTheSysctlThatForbidsIoUring) {
  if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED: setting a sysctl takes root";
  const char* path = "/proc/sys/kernel/io_uring_disabled";
  std::string before;
  std::ifstream(path) >> before;
  if (before.empty()) GTEST_SKIP() << "SKIPPED: this kernel has no sysctl kernel.io_uring_disabled";
  std::ofstream(path) << 2 << std::flush;
  const Ran check = run(FAULTLINED_BINARY " --check");
  const Ran start = run(FAULTLINED_BINARY " --socket /nonexistent/never");
  std::ofstream(path) << before << std::flush;
  EXPECT_EQ(check.code, 1) << check.output;
  EXPECT_NE(check.output.find("kernel.io_uring_disabled"), std::string::npos) << check.output;
  EXPECT_EQ(start.code, 1) << start.output;
  EXPECT_NE(start.output.find("kernel.io_uring_disabled"), std::string::npos) << start.output;
}

TEST(Faultlined, WrongOptionsAndSettingsAreRefusedInWords) {
  EXPECT_EQ(run(FAULTLINED_BINARY " --no-such-option").code, 2);
  EXPECT_EQ(run(FAULTLINED_BINARY " --socket-mode 99").code, 2);
  EXPECT_EQ(run(FAULTLINED_BINARY " --log-level loud").code, 2);
  EXPECT_EQ(run(FAULTLINED_BINARY " --config /nonexistent.toml").code, 2);
  EXPECT_EQ(run(FAULTLINED_BINARY " --config /nonexistent.toml").output,
            "faultlined: reading settings from /nonexistent.toml: No such file or directory\n");
  const Ran directory = run("timeout 5 " FAULTLINED_BINARY " --config /tmp");
  EXPECT_EQ(directory.code, 2);
  EXPECT_NE(directory.output.find("not a regular file"), std::string::npos) << directory.output;
  for (const char* empty : {"--socket ''", "--socket-mode ''", "--config ''"}) {
    EXPECT_EQ(run(std::string("timeout 5 " FAULTLINED_BINARY " ") + empty).code, 2) << empty;
  }
  const Ran mode = run(FAULTLINED_BINARY " --socket-mode 1000");
  EXPECT_EQ(mode.code, 2);
  EXPECT_NE(mode.output.find("--socket-mode takes 0660 or the like"), std::string::npos)
      << mode.output;
  const auto never =
      std::filesystem::temp_directory_path() / ("faultline-never-" + std::to_string(::getpid()));
  const Ran group =
      run(FAULTLINED_BINARY " --socket " + (never / "s").string() + " --socket-group nosuch");
  EXPECT_EQ(group.code, 2);
  EXPECT_NE(group.output.find("no group is called nosuch (socket_group)"), std::string::npos)
      << group.output;
  EXPECT_FALSE(std::filesystem::exists(never));
}

TEST(Faultlined, AFailedStartSaysWhyOnStandardErrorAlone) {
  const Ran quiet = run(FAULTLINED_BINARY " --log-level off --socket /dev/null/socket");
  EXPECT_EQ(quiet.code, 1);
  EXPECT_NE(quiet.output.find("/dev/null/socket"), std::string::npos) << quiet.output;
  // The log goes there too: what is left is standard output.
  EXPECT_EQ(run("(" FAULTLINED_BINARY " --socket /dev/null/socket 2>/dev/null)").output, "");
}

TEST(Faultlined, WithoutARuntimeDirectoryAUserIsToldWhatToGive) {
  if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED: becoming another user takes root";
  const Ran ran =
      run("timeout 5 env -u XDG_RUNTIME_DIR setpriv --reuid 65534 --regid 65534 "
          "--clear-groups " FAULTLINED_BINARY);
  EXPECT_EQ(ran.code, 1) << ran.output;
  EXPECT_NE(ran.output.find("set XDG_RUNTIME_DIR or give --socket"), std::string::npos)
      << ran.output;
}

TEST(Faultlined, ACheckThatCannotBeWrittenFails) {
  EXPECT_EQ(run("(" FAULTLINED_BINARY " --check >/dev/full)").code, 1);
}

// The daemon's capability is of no use to its clients, who only get what the device gives.
TEST(Faultlined, CheckTellsWhatClientsGetWithoutTheDevice) {
  if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED: giving a user a capability takes root";
  int unprivileged = 0;
  std::ifstream("/proc/sys/vm/unprivileged_userfaultfd") >> unprivileged;
  if (unprivileged != 0 || run("setpriv --reuid 65534 test -r /dev/userfaultfd").code == 0) {
    GTEST_SKIP() << "SKIPPED: everybody may have any userfaultfd here";
  }
  const Ran check = run(
      "setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps +sys_ptrace --ambient-caps "
      "+sys_ptrace " FAULTLINED_BINARY " --check");
  EXPECT_EQ(check.code, 0) << check.output;
  EXPECT_NE(check.output.find("ok        fork events"), std::string::npos) << check.output;
  EXPECT_NE(check.output.find("degraded  userfaultfd "), std::string::npos) << check.output;
  EXPECT_NE(check.output.find("setfacl -m u:USER:rw /dev/userfaultfd"), std::string::npos)
      << check.output;
}

}  // namespace
}  // namespace faultline::testing
