// faultctl watch against a real daemon: every kind of event, every filter, and every end.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <memory>
#include <optional>

#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

using nlohmann::json;

constexpr std::byte kOne{1};
constexpr uid_t kNobody = 65534;
constexpr int kSoonMs = 10'000;

// A command that runs beside the test, with its standard output and error here. Not forked: the
// test's own process is a client, and its forks are events.
class Running {
 public:
  explicit Running(std::vector<std::string> words) {
    std::array<int, 2> out{};
    std::array<int, 2> err{};
    EXPECT_EQ(::pipe2(out.data(), O_CLOEXEC) + ::pipe2(err.data(), O_CLOEXEC), 0);
    out_ = UniqueFd{out[0]};
    err_ = UniqueFd{err[0]};
    const UniqueFd out_end{out[1]};
    const UniqueFd err_end{err[1]};
    posix_spawn_file_actions_t actions{};
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, out_end.get(), STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, err_end.get(), STDERR_FILENO);
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    EXPECT_EQ(::posix_spawnp(&pid_, arguments[0], &actions, nullptr, arguments.data(), environ), 0);
    ::posix_spawn_file_actions_destroy(&actions);
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
  ~Running() {
    if (pid_ <= 0) return;
    kill(SIGKILL);
    (void)wait();
  }

  void kill(int signal) const { ::kill(pid_, signal); }
  // Until it has stopped, with SIGSTOP.
  void wait_until_stopped() const {
    int status = 0;
    EXPECT_EQ(::waitpid(pid_, &status, WUNTRACED), pid_);
    EXPECT_TRUE(WIFSTOPPED(status));
  }
  // Nobody reads its standard output any more.
  void leave() { out_.reset(); }

  // The next line it prints; nothing at the end, or where none comes soon.
  std::optional<std::string> line() {
    for (;;) {
      const auto end = text_.find('\n');
      if (end != std::string::npos) {
        std::string found = text_.substr(0, end);
        text_.erase(0, end + 1);
        return found;
      }
      pollfd readable{out_.get(), POLLIN, 0};
      if (::poll(&readable, 1, kSoonMs) != 1) return std::nullopt;
      std::array<char, 4096> buffer{};
      const ssize_t got = ::read(out_.get(), buffer.data(), buffer.size());
      if (got <= 0) return std::nullopt;
      text_.append(buffer.data(), static_cast<std::size_t>(got));
    }
  }

  Outcome wait() {
    Outcome outcome;
    EXPECT_EQ(::waitpid(std::exchange(pid_, -1), &outcome.status, 0) > 0, true);
    return outcome;
  }
  // All that it wrote there, once it has ended.
  [[nodiscard]] std::string errors() const {
    std::string all;
    std::array<char, 4096> buffer{};
    ssize_t got = 0;
    while ((got = ::read(err_.get(), buffer.data(), buffer.size())) > 0) {
      all.append(buffer.data(), static_cast<std::size_t>(got));
    }
    return all;
  }

 private:
  UniqueFd out_;
  UniqueFd err_;
  std::string text_;
  pid_t pid_ = -1;
};

class Watch : public SystemTest {
 protected:
  [[nodiscard]] std::vector<std::string> command(std::vector<std::string> options) const {
    options.insert(options.begin(), {FAULTCTL_BINARY, "--socket", daemon_.socket(), "watch"});
    return options;
  }
  // Runs faultctl watch --json, from when nothing is missed any more.
  [[nodiscard]] std::unique_ptr<Running> watch(std::vector<std::string> options = {},
                                               std::vector<std::string> before = {}) const {
    options.emplace_back("--json");
    const auto words = command(std::move(options));
    before.insert(before.end(), words.begin(), words.end());
    auto running = std::make_unique<Running>(std::move(before));
    EXPECT_EQ(next(*running), json({{"event", "watching"}, {"schema", 1}}));
    return running;
  }
  static json next(Running& running) {
    const auto line = running.line();
    if (!line) ADD_FAILURE() << "no line came";
    return line ? json::parse(*line) : json::object({{"event", "none"}});
  }
  // Faults on kStorm pages, and how many that were.
  static constexpr std::size_t kStorm = 16'384;
  [[nodiscard]] std::uint64_t storm(std::span<std::byte> memory) const {
    // Backwards and by leaps: no fault brings what the next one wants.
    constexpr std::size_t kLeap = 7'919;
    for (std::size_t i = 0; i < kStorm; ++i) {
      memory[(kStorm - i) * kLeap % kStorm * kPage] = std::byte{1};
    }
    const fl_stats stats = stats_of(client_, memory.data());
    const std::uint64_t faults = stats.missing_faults + stats.minor_faults + stats.wp_faults;
    EXPECT_GT(faults, kStorm / 2);
    return faults;
  }
  struct Account {
    std::uint64_t told = 0;
    std::uint64_t lost = 0;
  };
  // Reads until so many faults were told, or told to be lost.
  static Account account(Running& watching, std::uint64_t faults) {
    Account account;
    while (account.told + account.lost < faults) {
      const json line = next(watching);
      if (line["event"] == "fault") {
        ++account.told;
      } else if (line["event"] == "lost") {
        account.lost += line["events"].get<std::uint64_t>();
      } else {
        ADD_FAILURE() << line;
        break;
      }
    }
    return account;
  }
  [[nodiscard]] std::size_t watchers() const {
    return daemon_.ask(wire::AdminQuery::status)["status"]["watchers"];
  }
};

std::uintptr_t number(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address);
}
std::uintptr_t number(std::span<std::byte> memory) {
  return number(memory.data());
}

TEST_F(Watch, TellsOfMappingsThatComeAndGo) {
  const auto watching = watch({"--event", "map,unmap"});
  const Object object = create(client_, 8 * kPage, "book");
  const auto memory = map(object, 4 * kPage, FL_MAP_SHARED | FL_MAP_WRITE, 2 * kPage);
  const json came = next(*watching);
  EXPECT_EQ(came["event"], "map");
  EXPECT_EQ(came["pid"], ::getpid());
  EXPECT_EQ(came["uid"], ::getuid());
  EXPECT_EQ(came["start"], number(memory));
  EXPECT_EQ(came["end"], number(memory) + 4 * kPage);
  EXPECT_EQ(came["offset"], 2 * kPage);
  EXPECT_EQ(came["page"], 2);
  EXPECT_EQ(came["perms"], "rw-s");
  EXPECT_EQ(came["object_name"], "book");
  EXPECT_EQ(fl_unmap(client_, &memory[kPage], kPage), 0) << fl_last_error();
  const json went = next(*watching);
  EXPECT_EQ(went["event"], "unmap");
  EXPECT_EQ(went["start"], number(&memory[kPage]));
  EXPECT_EQ(went["end"], number(&memory[2 * kPage]));
  EXPECT_EQ(went["offset"], 3 * kPage);
  EXPECT_EQ(went["object"], came["object"]);
}

// mremap(2) has no kind of its own: what moved went there and came here.
TEST_F(Watch, TellsOfARemapAsAnUnmapAndAMap) {
  const auto memory = map(create(client_, kPage), kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  void* const place = ::mmap(nullptr, kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(place, MAP_FAILED);
  const auto watching = watch({"--event", "map,unmap"});
  ASSERT_EQ(::mremap(memory.data(), kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED, place), place);
  const json went = next(*watching);
  EXPECT_EQ(went["event"], "unmap");
  EXPECT_EQ(went["start"], number(memory));
  const json came = next(*watching);
  EXPECT_EQ(came["event"], "map");
  EXPECT_EQ(came["start"], number(place));
  EXPECT_EQ(::munmap(place, kPage), 0);
}

TEST_F(Watch, TellsOfFaultsByKindAndAccess) {
  const Object object = create(client_, 64 * kPage);
  const auto memory = map(object, 64 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto view = map(object, 64 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  const auto watching = watch({"--event", "fault"});
  const auto fault = [&](std::byte& place, const char* kind, bool write) {
    const json told = next(*watching);
    EXPECT_EQ(told["event"], "fault");
    EXPECT_EQ(told["fault"], kind) << told;
    EXPECT_EQ(told["write"], write) << told;
    EXPECT_EQ(told["address"], number(&place) / kPage * kPage) << told;
    EXPECT_EQ(told["page"], 5);
    EXPECT_EQ(told["thread"], ::gettid());
  };
  memory[5 * kPage] = kOne;
  fault(memory[5 * kPage], "missing", true);
  touch(view[5 * kPage]);
  fault(view[5 * kPage], "minor", false);
  view[5 * kPage] = kOne;
  fault(view[5 * kPage], "write_protect", true);
}

TEST_F(Watch, TellsOfACopyOnWriteBreakOnce) {
  const auto view = map(create(client_, 64 * kPage), 64 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  const auto watching = watch({"--event", "break"});
  view[7 * kPage] = kOne;
  view[7 * kPage + 1] = kOne;
  touch(view[40 * kPage]);
  view[40 * kPage] = kOne;
  for (const std::size_t page : {7U, 40U}) {
    const json told = next(*watching);
    EXPECT_EQ(told["event"], "break");
    EXPECT_EQ(told["start"], number(&view[page * kPage]));
    EXPECT_EQ(told["end"], number(&view[page * kPage]) + kPage);
    EXPECT_EQ(told["page"], page);
    EXPECT_EQ(told["sharing"], "private");
  }
}

TEST_F(Watch, TellsOfAForkAndOfTheChildsEnd) {
  const auto memory = map(create(client_, kPage), kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto watching = watch({"--event", "fork,exit,fault"});
  Child child([&] { return touch(memory[0]); });
  const pid_t pid = child.pid();
  EXPECT_TRUE(child.wait().exited(0));
  const json forked = next(*watching);
  EXPECT_EQ(forked["event"], "fork");
  EXPECT_EQ(forked["pid"], ::getpid());
  const json fault = next(*watching);
  EXPECT_EQ(fault["event"], "fault");
  EXPECT_EQ(fault["pid"], pid);
  EXPECT_EQ(fault["space"], forked["child_space"]);
  const json gone = next(*watching);
  EXPECT_EQ(gone["event"], "exit");
  EXPECT_EQ(gone["pid"], pid);
  EXPECT_EQ(gone["space"], forked["child_space"]);
}

// Of two processes that do the same, only the one that was asked for is shown.
TEST_F(Watch, ShowsOneProcessAlone) {
  const Gate go;
  Child other([&] {
    const Client client = connect(daemon_.socket());
    if (!go.pass()) return 1;
    (void)map(create(client, kPage, "theirs"), kPage, FL_MAP_SHARED);
    return 0;
  });
  const auto watching = watch({"--pid", std::to_string(other.pid()), "--event", "map"});
  (void)map(create(client_, kPage, "mine"), kPage, FL_MAP_SHARED);
  go.open();
  EXPECT_TRUE(other.wait().exited(0));
  EXPECT_EQ(next(*watching)["object_name"], "theirs");
}

// An object is found by its name, before it is there, or by its id.
TEST_F(Watch, ShowsOneObjectAlone) {
  const auto by_name = watch({"--object", "book"});
  const Object book = create(client_, kPage, "book");
  fl_object_info info{};
  ASSERT_EQ(fl_object_stat(book, &info), 0);
  const auto by_id = watch({"--object", std::to_string(info.id)});
  (void)map(create(client_, kPage, "other"), kPage, FL_MAP_SHARED);
  const auto memory = map(book, kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  memory[0] = kOne;
  for (const auto* watching : {&by_name, &by_id}) {
    EXPECT_EQ(next(**watching)["event"], "map");
    const json fault = next(**watching);
    EXPECT_EQ(fault["event"], "fault");
    EXPECT_EQ(fault["object_name"], "book");
  }
}

TEST_F(Watch, ShowsTheKindsThatWereAskedForAlone) {
  const auto watching = watch({"--event", "unmap"});
  const auto memory = map(create(client_, kPage), kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  memory[0] = kOne;
  EXPECT_EQ(fl_unmap(client_, memory.data(), kPage), 0);
  EXPECT_EQ(next(*watching)["event"], "unmap");
}

// A user sees its own processes and no others, even where it asks for them; root sees all.
TEST_F(Watch, HidesOtherUsersEvents) {
  if (::geteuid() != 0) GTEST_SKIP() << "SKIPPED: becoming another user takes root";
  const std::vector<std::string> as_nobody = {"setpriv", "--reuid", "65534",
                                              "--regid", "65534",   "--clear-groups"};
  const auto of_nobody = watch({"--event", "map"}, as_nobody);
  const auto of_root = watch({"--event", "map"});
  const auto asking_for_roots =
      watch({"--event", "map", "--pid", std::to_string(::getpid())}, as_nobody);
  (void)map(create(client_, kPage, "roots"), kPage, FL_MAP_SHARED);
  const Ran hello = run("setpriv --reuid 65534 --regid 65534 --clear-groups env FAULTLINE_SOCKET=" +
                        daemon_.socket() + " " EXAMPLES_DIRECTORY "/hello_region");
  EXPECT_EQ(hello.code, 0) << hello.output;
  EXPECT_EQ(next(*of_nobody)["uid"], kNobody);
  EXPECT_EQ(next(*of_root)["uid"], 0);
  EXPECT_EQ(next(*of_root)["uid"], kNobody);
  // It was sent nothing: the end of the daemon is the next that it hears.
  daemon_.stop();
  EXPECT_TRUE(asking_for_roots->wait().exited(3));
  EXPECT_EQ(next(*asking_for_roots)["error"]["code"], "ECONNRESET");
  EXPECT_FALSE(asking_for_roots->line());
}

TEST_F(Watch, EndsAfterTheNumberOfEventsThatWereAskedFor) {
  const auto watching = watch({"--event", "map", "--count", "2"});
  const Object object = create(client_, kPage);
  for (int i = 0; i < 3; ++i) (void)map(object, kPage, FL_MAP_SHARED);
  EXPECT_TRUE(watching->wait().exited(0));
  EXPECT_EQ(next(*watching)["event"], "map");
  EXPECT_EQ(next(*watching)["event"], "map");
  EXPECT_FALSE(watching->line());
  EXPECT_EQ(watching->errors(), "");
}

// For people: a heading, and a line an event under it.
TEST_F(Watch, PrintsALineForEachEvent) {
  Running watching(command({"--count", "1", "--event", "map"}));
  const auto heading = watching.line();
  ASSERT_TRUE(heading);
  EXPECT_EQ(heading->find("TIME "), 0U) << *heading;
  (void)map(create(client_, 2 * kPage, "book"), 2 * kPage, FL_MAP_PRIVATE);
  const auto line = watching.line();
  ASSERT_TRUE(line);
  for (const std::string& word :
       {std::string("map"), std::to_string(::getpid()), std::string("8.0 KiB"), std::string("r--p"),
        std::string("book")}) {
    EXPECT_NE(line->find(word), std::string::npos) << word << "\n" << *line;
  }
  EXPECT_TRUE(watching.wait().exited(0));
}

TEST_F(Watch, EndsWellWithASignalOrWithoutAReader) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const auto watching = watch();
    watching->kill(signal);
    EXPECT_TRUE(watching->wait().exited(0)) << signal;
    EXPECT_EQ(watching->errors(), "");
  }
  const auto watching = watch();
  watching->leave();
  EXPECT_TRUE(watching->wait().exited(0)) << "it need not wait for an event to notice";
  EXPECT_EQ(watching->errors(), "");
}

TEST_F(Watch, SaysWhenTheDaemonGoes) {
  const auto watching = watch();
  daemon_.stop();
  EXPECT_TRUE(watching->wait().exited(3));
  EXPECT_EQ(watching->errors(), "faultctl: the daemon closed the connection\n");
}

TEST_F(Watch, FailsWhereNothingCanBeWritten) {
  EXPECT_EQ(run(FAULTCTL_BINARY " --socket " + daemon_.socket() + " watch >/dev/full").code, 1);
}

// The 5 s within which a question must be answered are none for events.
TEST_F(Watch, WaitsForAnEventAsLongAsItTakes) {
  const auto watching = watch({"--event", "map"});
  constexpr int kLongerThanAnAnswerMs = 5'500;
  ::poll(nullptr, 0, kLongerThanAnAnswerMs);
  (void)map(create(client_, kPage), kPage, FL_MAP_SHARED);
  EXPECT_EQ(next(*watching)["event"], "map");
}

// A watcher that does not read keeps no fault waiting. What it lost is counted where it was lost,
// and what it got and what it lost are all there was.
TEST_F(Watch, TellsASlowWatcherHowMuchItLost) {
  const auto memory =
      map(create(client_, kStorm * kPage), kStorm * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto watching = watch({"--event", "fault", "--rate", "all"});
  const auto other = watch({"--event", "unmap"});
  watching->kill(SIGSTOP);
  watching->wait_until_stopped();
  const std::uint64_t faults = storm(memory);
  EXPECT_EQ(fl_unmap(client_, memory.data(), memory.size()), 0);
  EXPECT_EQ(next(*other)["event"], "unmap") << "another watcher is not kept waiting either";
  watching->kill(SIGCONT);
  const auto [told, lost] = account(*watching, faults);
  EXPECT_GT(lost, 0U);
  EXPECT_EQ(told + lost, faults);
  watching->kill(SIGTERM);
  EXPECT_TRUE(watching->wait().exited(0));
  EXPECT_NE(watching->errors().find(" events lost here"), std::string::npos);
}

// So that it takes little of the time of those whom it watches. What it lets go is counted.
TEST_F(Watch, ReadsNoFasterThanItWasAskedTo) {
  constexpr std::uint64_t kRate = 1000;  // unless something else is asked for
  const auto memory =
      map(create(client_, kStorm * kPage), kStorm * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto watching = watch({"--event", "fault"});
  const auto before = std::chrono::steady_clock::now();
  const std::uint64_t faults = storm(memory);
  const auto [told, lost] = account(*watching, faults);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - before;
  EXPECT_EQ(told + lost, faults);
  // A second's worth at once, and one packet more; the last packet is paid for after it was read.
  const std::uint64_t at_once = kRate + 2 * wire::kMaxEvents;
  ASSERT_GT(told, at_once) << "nothing is shown by so few";
  EXPECT_GE(took.count(), static_cast<double>(told - at_once) / kRate);
}

// Also while it rests: it has read what is worth many times as long.
TEST_F(Watch, SaysWhenTheDaemonGoesWhileItRests) {
  constexpr int kMaps = 100;
  const auto watching = watch({"--event", "map", "--rate", "1"});
  const Object object = create(client_, kPage);
  for (int i = 0; i < kMaps; ++i) (void)map(object, kPage, FL_MAP_SHARED);
  // A second's worth at once, and what came beside it.
  for (int i = 0; i < 2; ++i) EXPECT_EQ(next(*watching)["event"], "map");
  const auto before = std::chrono::steady_clock::now();
  daemon_.stop();
  EXPECT_TRUE(watching->wait().exited(3));
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(kMaps / 2));
}

TEST_F(Watch, AWatcherThatDisappearsIsForgotten) {
  const auto watching = watch();
  EXPECT_EQ(watchers(), 1U);
  watching->kill(SIGKILL);
  EXPECT_TRUE(watching->wait().killed_by(SIGKILL));
  EXPECT_TRUE(eventually([&] { return watchers() == 0; }));
}

// Also where it did not read, so that the daemon waits for its socket.
TEST_F(Watch, ASlowWatcherThatDisappearsIsForgotten) {
  const auto watching = watch({"--event", "map"});
  watching->kill(SIGSTOP);
  watching->wait_until_stopped();
  const Object object = create(client_, kPage);
  for (int i = 0; i < 4096; ++i) {
    const auto memory = map(object, kPage, FL_MAP_SHARED);
    ASSERT_EQ(fl_unmap(client_, memory.data(), kPage), 0);
  }
  watching->kill(SIGKILL);
  EXPECT_TRUE(watching->wait().killed_by(SIGKILL));
  EXPECT_TRUE(eventually([&] { return watchers() == 0; }));
}

TEST_F(Watch, AUserHasSixteenWatchersAtMost) {
  std::vector<std::unique_ptr<Running>> all;
  for (int i = 0; i < 16; ++i) all.push_back(watch());
  const Ran refused = run(FAULTCTL_BINARY " --socket " + daemon_.socket() + " watch");
  EXPECT_EQ(refused.code, 1);
  EXPECT_NE(refused.output.find("more than 16 watchers of one user"), std::string::npos)
      << refused.output;
  all.pop_back();
  EXPECT_TRUE(eventually([&] { return watchers() == 15; }));
  (void)watch();
}

// --- what no faultctl sends

class RawWatch : public Watch {
 protected:
  void SetUp() override {
    Watch::SetUp();
    socket_ = UniqueFd{::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    daemon_.socket().copy(static_cast<char*>(address.sun_path), sizeof(address.sun_path) - 1);
    ASSERT_EQ(
        ::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(ask(wire::Op::hello, wire::HelloRequest{}), 0);
  }
  // The status of the answer; 1 where the daemon closed the connection instead.
  template <typename Body>
  int ask(wire::Op op, const Body& body) {
    wire::RequestHeader header;
    header.op = op;
    header.body_size = sizeof(body);
    wire::Packet packet;
    if (wire::send_packet(socket_.get(), wire::join(header, body), {}) != 0) return 1;
    if (wire::receive_packet(socket_.get(), packet) != 0) return 1;
    wire::ReplyHeader reply;
    std::memcpy(&reply, packet.bytes.data(), sizeof(reply));
    return reply.status;
  }
  UniqueFd socket_;
};

TEST_F(RawWatch, KindsAndNamesAreChecked) {
  wire::WatchRequest request;
  EXPECT_EQ(ask(wire::Op::watch, request), -EINVAL) << "no kind";
  request.kinds = wire::kAllEvents + 1;
  EXPECT_EQ(ask(wire::Op::watch, request), -EINVAL) << "an unknown kind";
  request.kinds = wire::kAllEvents;
  request.pid = 0x80000000;
  EXPECT_EQ(ask(wire::Op::watch, request), -EINVAL) << "a pid that none is";
  request.pid = 0;
  request.object_name.fill('x');
  EXPECT_EQ(ask(wire::Op::watch, request), -EPROTO) << "a name without an end";
  EXPECT_EQ(ask(wire::Op::watch, wire::HelloRequest{}), -EPROTO) << "a body of another length";
  request.object_name.fill('\0');
  EXPECT_EQ(ask(wire::Op::watch, request), 0);
  EXPECT_EQ(watchers(), 1U);
}

TEST_F(RawWatch, ARequestWhileItWatchesEndsTheConnection) {
  wire::WatchRequest request;
  request.kinds = wire::kAllEvents;
  EXPECT_EQ(ask(wire::Op::watch, request), 0);
  EXPECT_EQ(ask(wire::Op::watch, request), 1);
  EXPECT_EQ(watchers(), 0U);
}

}  // namespace
}  // namespace faultline::testing
