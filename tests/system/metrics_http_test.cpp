// The endpoint that metrics are read from: what it answers, whom it lets in, and readers that mean
// it ill, of whom neither clients nor other readers notice anything.
#include <grp.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <list>
#include <thread>

#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/scraping.hpp"

namespace faultline::testing {
namespace {

using namespace std::chrono_literals;

constexpr const char* kOpen = "application/openmetrics-text; version=1.0.0; charset=utf-8";
constexpr const char* kPlain = "text/plain; version=0.0.4; charset=utf-8";
// Of the daemon's: connections that it keeps.
constexpr std::size_t kMostConnections = 64;

class MetricsHttp : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(daemon_.ready());
    where_ = metrics_of(daemon_);
  }
  // Clients are served and readers answered, as if nothing were.
  void expect_well() const {
    const Client client = connect(daemon_.socket());
    const Object object = create(client, 8 * kPage);
    const auto memory = map(object, 8 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    for (std::size_t i = 0; i < 8; ++i) memory[i * kPage] = std::byte{1};
    EXPECT_EQ(fl_unmap(client, memory.data(), memory.size()), 0) << fl_last_error();
    EXPECT_EQ(get(where_).status, 200);
  }
  static std::string asking_for(const std::string& accept) { return "Accept: " + accept + "\r\n"; }

  const Daemon daemon_{{"--metrics-listen", "127.0.0.1:0"}};
  std::string where_;
};

TEST_F(MetricsHttp, AreOfTheTypeThatIsAskedFor) {
  const HttpAnswer open = get(where_, asking_for("application/openmetrics-text; version=1.0.0"));
  EXPECT_EQ(open.status, 200);
  EXPECT_EQ(open.headers.at("content-type"), kOpen);
  EXPECT_TRUE(open.body.ends_with("\n# EOF\n"));
  for (const char* accept : {"text/plain", "*/*", "text/html, application/json;q=0.9"}) {
    const HttpAnswer plain = get(where_, asking_for(accept));
    EXPECT_EQ(plain.status, 200);
    EXPECT_EQ(plain.headers.at("content-type"), kPlain);
    EXPECT_EQ(plain.body.find("# EOF"), std::string::npos);
  }
  EXPECT_EQ(get(where_).headers.at("content-type"), kPlain);
}

TEST_F(MetricsHttp, AreNotSentToWhoAsksForTheHeadAlone) {
  HttpConnection connection(where_);
  ASSERT_TRUE(connection.send(request("HEAD /metrics HTTP/1.1") + request("GET /x HTTP/1.1")));
  const HttpAnswer head = connection.receive(true);
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.headers.at("content-type"), kPlain);
  EXPECT_GT(std::stoul(head.headers.at("content-length")), 1000U);
  EXPECT_EQ(connection.receive().status, 404) << "nothing came in between";
}

TEST_F(MetricsHttp, AreAtOnePlaceAndReadOnly) {
  HttpConnection connection(where_);
  const auto ask = [&](const std::string& line) {
    EXPECT_TRUE(connection.send(request(line)));
    return connection.receive();
  };
  EXPECT_EQ(ask("GET / HTTP/1.1").status, 404);
  EXPECT_EQ(ask("GET /metrics/x HTTP/1.1").status, 404);
  EXPECT_EQ(ask("GET /../metrics HTTP/1.1").status, 404);
  EXPECT_EQ(ask("GET /metrics?name=faultline HTTP/1.1").status, 200);
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS"}) {
    const HttpAnswer answer = ask(std::string(method) + " /metrics HTTP/1.1");
    EXPECT_EQ(answer.status, 405) << method;
    EXPECT_EQ(answer.headers.at("allow"), "GET, HEAD");
  }
}

// A body is no next request: what smuggles one in is answered once.
TEST_F(MetricsHttp, TakeNoBodyForARequest) {
  const std::string inside = request("GET /metrics HTTP/1.1");
  for (const std::string& header : {"Content-Length: " + std::to_string(inside.size()) + "\r\n",
                                    std::string("Transfer-Encoding: chunked\r\n")}) {
    HttpConnection connection(where_);
    ASSERT_TRUE(connection.send(request("POST /metrics HTTP/1.1", header) + inside));
    EXPECT_EQ(connection.receive().status, 405);
    EXPECT_TRUE(connection.closed_within(5s));
    EXPECT_EQ(connection.receive().status, 0);
  }
}

TEST_F(MetricsHttp, KeepAConnectionForWhoLikes) {
  HttpConnection connection(where_);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(connection.send(request("GET /metrics HTTP/1.1")));
    EXPECT_EQ(connection.receive().status, 200);
  }
  ASSERT_TRUE(connection.send(request("GET /metrics HTTP/1.1", "Connection: close\r\n")));
  EXPECT_EQ(connection.receive().status, 200);
  EXPECT_TRUE(connection.closed_within(5s));
  HttpConnection old(where_);
  ASSERT_TRUE(old.send("GET /metrics HTTP/1.0\r\n\r\n"));
  EXPECT_EQ(old.receive().status, 200);
  EXPECT_TRUE(old.closed_within(5s));
}

TEST_F(MetricsHttp, AnswerWhatWasAskedAheadInOrder) {
  HttpConnection connection(where_);
  std::string many;
  for (int i = 0; i < 50; ++i) {
    many += request(i % 2 == 0 ? "GET /metrics HTTP/1.1" : "GET /nothing HTTP/1.1");
  }
  ASSERT_TRUE(connection.send(many));
  for (int i = 0; i < 50; ++i) EXPECT_EQ(connection.receive().status, i % 2 == 0 ? 200 : 404) << i;
}

// Who has said all that he wants to say is answered all the same.
TEST_F(MetricsHttp, AnswerWhoHasEndedHisSide) {
  HttpConnection connection(where_);
  ASSERT_TRUE(connection.send(request("GET /metrics HTTP/1.1")));
  connection.end_sending();
  EXPECT_EQ(connection.receive().status, 200);
  EXPECT_TRUE(connection.closed_within(5s));
  HttpConnection in_the_middle(where_);
  ASSERT_TRUE(in_the_middle.send("GET /metrics HTTP/1.1\r\nHo"));
  in_the_middle.end_sending();
  EXPECT_TRUE(in_the_middle.closed_within(5s));
  expect_well();
}

TEST_F(MetricsHttp, RefuseHeadersWithoutEnd) {
  HttpConnection connection(where_);
  EXPECT_TRUE(connection.send(
      request("GET /metrics HTTP/1.1", "X-Long: " + std::string(100'000, 'x') + "\r\n")));
  const HttpAnswer answer = connection.receive();
  EXPECT_EQ(answer.status, 431);
  EXPECT_TRUE(connection.closed_within(5s));
  // One that goes on for ever is cut off.
  HttpConnection endless(where_);
  const std::string line = "X-More: " + std::string(1000, 'x') + "\r\n";
  bool open = endless.send("GET /metrics HTTP/1.1\r\n");
  for (int i = 0; i < 100'000 && open; ++i) open = endless.send(line);
  EXPECT_FALSE(open);
  expect_well();
}

TEST_F(MetricsHttp, RefuseWhatIsNotHttp) {
  for (const std::string& nonsense :
       {std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11),
        std::string("\r\n\r\n\r\n"), std::string(64, '\0'), std::string("GET /metrics\r\n\r\n"),
        std::string("GET /metrics HTTP/9.9\r\n\r\n"),
        std::string("GET /metrics HTTP/1.1\r\n: x\r\n\r\n"),
        std::string("GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n")}) {
    HttpConnection connection(where_);
    (void)connection.send(nonsense);
    connection.end_sending();
    EXPECT_TRUE(connection.closed_within(5s)) << nonsense;
  }
  HttpConnection told(where_);
  ASSERT_TRUE(told.send("hello\r\n\r\n"));
  EXPECT_EQ(told.receive().status, 400);
  expect_well();
}

// Readers that say a byte now and then take every place that there is; who asks at once is answered
// at once, and in time the slow lose theirs.
TEST_F(MetricsHttp, AreReadWhileOthersAreSlow) {
  std::list<HttpConnection> slow;
  for (std::size_t i = 0; i < 2 * kMostConnections; ++i) {
    slow.emplace_back(where_);
    EXPECT_TRUE(slow.back().send("GET /metrics HTTP/1.1\r\nX"));
  }
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(get(where_).status, 200);
    for (HttpConnection& each : slow) (void)each.send("x");
  }
  std::size_t left = 0;
  for (HttpConnection& each : slow) left += each.closed_within(10ms) ? 0U : 1U;
  EXPECT_LE(left, kMostConnections);
  // A byte does not buy more time: a request has ten seconds, from its beginning.
  EXPECT_TRUE(slow.back().closed_within(15s));
  expect_well();
}

// Those who ask, and take nothing of the answer, are given up too.
TEST_F(MetricsHttp, AreReadWhileOthersDoNotRead) {
  std::list<HttpConnection> deaf;
  std::string many;
  for (int i = 0; i < 200; ++i) many += request("GET /metrics HTTP/1.1");
  for (std::size_t i = 0; i < kMostConnections / 2; ++i) {
    deaf.emplace_back(where_);
    EXPECT_TRUE(deaf.back().send(many));
  }
  for (int i = 0; i < 5; ++i) EXPECT_EQ(get(where_).status, 200);
  expect_well();
}

TEST_F(MetricsHttp, SurviveAThousandConnections) {
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = limit.rlim_max;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  expect_well();  // what it opens once, it has
  const std::size_t before = daemon_.open_descriptors();
  {
    std::list<HttpConnection> thousand;
    for (int i = 0; i < 1000; ++i) thousand.emplace_back(where_);
    EXPECT_LE(daemon_.open_descriptors(), before + kMostConnections + 1);
    EXPECT_EQ(get(where_).status, 200) << "behind a thousand that say nothing";
    expect_well();
  }
  EXPECT_TRUE(eventually([&] { return daemon_.open_descriptors() <= before; }, 10s))
      << daemon_.describe_descriptors();
  expect_well();
}

// The daemon stops while readers are in the middle of everything.
TEST_F(MetricsHttp, EndWithTheDaemon) {
  Daemon daemon({"--metrics-listen", "127.0.0.1:0"});
  const std::string where = metrics_of(daemon);
  HttpConnection idle(where);
  HttpConnection half(where);
  ASSERT_TRUE(half.send("GET /metr"));
  HttpConnection deaf(where);
  std::string many;
  for (int i = 0; i < 200; ++i) many += request("GET /metrics HTTP/1.1");
  ASSERT_TRUE(deaf.send(many));
  EXPECT_TRUE((Outcome{daemon.stop()}.exited(0)));
  EXPECT_TRUE(idle.closed_within(5s));
  EXPECT_TRUE(half.closed_within(5s));
}

// --- where it listens

TEST(MetricsListen, AtALoopbackAddressOfEitherKind) {
  const Daemon daemon({"--metrics-listen", "[::1]:0"});
  const std::string where = metrics_of(daemon);
  EXPECT_TRUE(where.starts_with("http://[::1]:")) << where;
  EXPECT_EQ(get(where).status, 200);
}

TEST(MetricsListen, NowhereByDefault) {
  const Daemon daemon;
  EXPECT_EQ(daemon.log().find("metrics are at"), std::string::npos);
}

TEST(MetricsListen, AtASocketOfTheGroup) {
  std::string path;
  {
    // Of the daemon's directory, which goes with it: so it is made first.
    std::string directory = (std::filesystem::temp_directory_path() / "metrics-XXXXXX").string();
    ASSERT_NE(::mkdtemp(directory.data()), nullptr);
    path = directory + "/run/metrics.sock";
    // One that a daemon left that was killed is replaced.
    for (int i = 0; i < 2; ++i) {
      Daemon daemon({"--metrics-listen", "unix:" + path, "--socket-group", "daemon"});
      ASSERT_TRUE(daemon.ready());
      EXPECT_EQ(metrics_of(daemon), "unix:" + path);
      struct stat info {};
      ASSERT_EQ(::stat(path.c_str(), &info), 0);
      EXPECT_TRUE(S_ISSOCK(info.st_mode));
      EXPECT_EQ(info.st_mode & 07777U, 0660U);
      const group* const found = ::getgrnam("daemon");
      ASSERT_NE(found, nullptr);
      EXPECT_EQ(info.st_gid, found->gr_gid);
      const HttpAnswer answer = get("unix:" + path, "Accept: application/openmetrics-text\r\n");
      EXPECT_EQ(answer.status, 200);
      EXPECT_EQ(answer.headers.at("content-type"), kOpen);
      EXPECT_EQ(
          run(FAULTLINED_BINARY " --socket " + daemon.socket() + "2 --metrics-listen unix:" + path)
              .code,
          1)
          << "another daemon listens there";
    }
    EXPECT_FALSE(std::filesystem::exists(path)) << "it is removed at the end";
    std::filesystem::remove_all(directory);
  }
}

TEST(MetricsListen, NeverWhereTheNetworkReaches) {
  for (const char* address : {"0.0.0.0:9719", "[::]:9719", "192.0.2.1:9719"}) {
    const Ran ran = run(FAULTLINED_BINARY " --metrics-listen " + std::string(address));
    EXPECT_EQ(ran.code, 2);
    EXPECT_NE(ran.output.find("only loopback addresses and unix sockets are taken"),
              std::string::npos)
        << ran.output;
    EXPECT_NE(ran.output.find("reverse proxy"), std::string::npos) << ran.output;
  }
}

TEST(MetricsListen, ThatIsInUseIsSaidSo) {
  const Daemon daemon({"--metrics-listen", "127.0.0.1:0"});
  std::string address = metrics_of(daemon).substr(7);
  address.erase(address.find('/'));
  const Ran ran =
      run(FAULTLINED_BINARY " --socket " + daemon.socket() + "2 --metrics-listen " + address);
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.output.find("which is in use: choose another port"), std::string::npos)
      << ran.output;
}

}  // namespace
}  // namespace faultline::testing
