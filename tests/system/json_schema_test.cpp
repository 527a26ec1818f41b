// Every command's --json is what docs/faultctl.schema.json says, errors included.
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "faultline/pin.h"
#include "faultline/wait.h"
#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/harness.hpp"

namespace faultline::testing {
namespace {

constexpr const char* kValidate =
    "python3 " SOURCE_DIRECTORY "/tests/system/validate_json.py " SOURCE_DIRECTORY
    "/docs/faultctl.schema.json ";

class JsonSchema : public SystemTest {
 protected:
  void SetUp() override {
    if (run("python3 -c 'import jsonschema'").code != 0) {
      GTEST_SKIP() << "SKIPPED: no python3-jsonschema here, see scripts/bootstrap";
    }
    SystemTest::SetUp();
  }
  // What the command prints on standard output is of that kind; returns its exit status.
  int check(const std::string& arguments, const std::string& definition,
            const std::string& how = "") {
    const std::string output = (daemon_.directory() / "output").string();
    const int code = run("(" FAULTCTL_BINARY " --socket " + socket_ + " " + arguments +
                         " --json 2>/dev/null >" + output + ")")
                         .code;
    const Ran valid = run(kValidate + definition + " " + how + " <" + output);
    EXPECT_EQ(valid.code, 0) << arguments << ": " << valid.output << run("cat " + output).output;
    return code;
  }

  std::string socket_ = daemon_.socket();
};

TEST_F(JsonSchema, EveryAnswerIsAsItSays) {
  const PatternFile file(8 * kPage);
  const Object object = create_from(client_, file.fd(), 0, "of.a.file");
  const auto shared = map(object, 8 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
  const auto view = map(object, 8 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  shared[0] = std::byte{1};
  view[kPage] = std::byte{1};
  fl_pinned pin{};
  ASSERT_EQ(fl_pin(&shared[2 * kPage], kPage, FL_PIN_WRITE, &pin), 0) << fl_last_error();
  const std::string pid = std::to_string(::getpid());
  EXPECT_EQ(check("status", "status"), 0);
  EXPECT_EQ(check("objects", "objects"), 0);
  EXPECT_EQ(check("spaces", "spaces"), 0);
  EXPECT_EQ(check("vmas " + pid, "vmas"), 0);
  EXPECT_EQ(check("waiters", "waiters"), 0);
  EXPECT_EQ(check("pins", "pins"), 0);
  EXPECT_EQ(check("map of.a.file", "map"), 0);
  EXPECT_EQ(check("map of.a.file --buckets 3", "map"), 0);
  EXPECT_EQ(check("top --count 2 --interval 0.1", "top", "--lines"), 0);
  EXPECT_EQ(check("check --window 0.1", "check"), 0);
  EXPECT_EQ(check("doctor", "doctor"), 0);
  EXPECT_EQ(check("wake object:1+0x0", "wake"), 0);
  EXPECT_EQ(check("evict of.a.file", "evict"), 0);
  EXPECT_EQ(fl_unpin(&pin), 0);
}

// Somebody waits: a row of waiters too.
TEST_F(JsonSchema, AWaitIsAsItSays) {
  const Object object = create(client_, kPage, "waited.for");
  const auto words = map(object, kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  auto* const word = reinterpret_cast<std::uint32_t*>(words.data());
  *word = 0;
  std::thread waiter([&] { (void)fl_wait(word, 0, nullptr, 0); });
  EXPECT_TRUE(
      eventually([&] { return !daemon_.ask(wire::AdminQuery::waiters)["waiters"].empty(); }));
  EXPECT_EQ(check("waiters", "waiters"), 0);
  __atomic_store_n(word, 1U, __ATOMIC_SEQ_CST);
  (void)fl_wake(word, 1);
  waiter.join();
}

TEST_F(JsonSchema, EventsAreAsItSays) {
  const std::string output = (daemon_.directory() / "events").string();
  Child watcher([&] {
    const int file = ::open(output.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
    ::dup2(file, STDOUT_FILENO);
    ::execl(FAULTCTL_BINARY, "faultctl", "--socket", socket_.c_str(), "watch", "--json",
            static_cast<char*>(nullptr));
    return 127;
  });
  const auto seen = [&](const std::string& word) {
    std::ifstream in(output);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    return text.find("\"" + word + "\"") != std::string::npos;
  };
  ASSERT_TRUE(eventually([&] { return seen("watching"); }));
  const Object object = create(client_, 2 * kPage);
  const auto view = map(object, 2 * kPage, FL_MAP_PRIVATE | FL_MAP_WRITE);
  view[0] = std::byte{1};
  EXPECT_TRUE(in_child([] { return 0; }).exited(0));
  ASSERT_EQ(fl_unmap(client_, view.data(), view.size()), 0) << fl_last_error();
  for (const char* event : {"map", "fault", "break", "fork", "exit", "unmap"}) {
    EXPECT_TRUE(eventually([&] { return seen(event); })) << event;
  }
  watcher.kill(SIGTERM);
  EXPECT_TRUE(watcher.wait().exited(0));
  const Ran valid = run(std::string(kValidate) + "watch --lines <" + output);
  EXPECT_EQ(valid.code, 0) << valid.output;
}

TEST_F(JsonSchema, AReloadIsAsItSays) {
  const std::string settings = (daemon_.directory() / "settings.toml").string();
  std::ofstream(settings) << "max_sessions = 20\n";
  const Daemon configured({"--config", settings});
  socket_ = configured.socket();
  std::ofstream(settings) << "max_sessions = 30\nworkers = 1\n";
  EXPECT_EQ(check("reload", "reload"), 0);
}

// A refusal, wrong usage of each kind, and nobody to ask: each an object, with the exit status that
// it names.
TEST_F(JsonSchema, EveryErrorIsAsItSays) {
  EXPECT_EQ(check("vmas 1", "error"), 1);
  EXPECT_EQ(check("map nothing", "error"), 1);
  EXPECT_EQ(check("wake object:99+0x0", "error"), 1);
  EXPECT_EQ(check("evict nothing", "error"), 1);
  EXPECT_EQ(check("bogus", "error"), 2);
  EXPECT_EQ(check("vmas abc", "error"), 2);
  EXPECT_EQ(check("watch --event", "error"), 2);
  EXPECT_EQ(check("top --sort nothing", "error"), 2);
  EXPECT_EQ(check("status --no-such-option", "error"), 2);
  socket_ = "/nonexistent/socket";
  for (const char* command : {"status", "objects", "spaces", "vmas 1", "waiters", "pins", "watch",
                              "wake object:1+0x0", "evict x", "top", "map x", "check", "reload"}) {
    EXPECT_EQ(check(command, "error"), 3) << command;
  }
  EXPECT_EQ(check("doctor", "doctor"), 1) << "which needs no daemon";
}

TEST_F(JsonSchema, AnErrorNamesItsErrno) {
  const Ran ran = run("(" FAULTCTL_BINARY " --socket " + socket_ + " vmas 1 --json 2>/dev/null)");
  const auto error = nlohmann::json::parse(ran.output)["error"];
  EXPECT_EQ(error["code"], "ESRCH");
  EXPECT_EQ(error["errno"], ESRCH);
  EXPECT_EQ(error["exit"], 1);
  EXPECT_EQ(error["attempted"],
            "looking for mappings of process 1, which is no client that you may see");
}

// The checker finds what it is to find.
TEST_F(JsonSchema, TheCheckerRefusesWhatIsNotThere) {
  const auto verdict = [&](const std::string& text) {
    const std::string output = (daemon_.directory() / "made.up").string();
    std::ofstream(output) << text;
    return run(std::string(kValidate) + "wake <" + output).code;
  };
  EXPECT_EQ(verdict(R"({"schema":1,"key":"k","woken":0})"), 0);
  EXPECT_NE(verdict(R"({"schema":1,"key":"k","woken":-1})"), 0);
  EXPECT_NE(verdict(R"({"schema":2,"key":"k","woken":0})"), 0);
  EXPECT_NE(verdict(R"({"schema":1,"key":"k"})"), 0);
  EXPECT_NE(verdict(R"({"schema":1,"key":"k","woken":0,"more":1})"), 0);
}

}  // namespace
}  // namespace faultline::testing
