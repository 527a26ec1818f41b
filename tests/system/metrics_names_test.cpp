// What others rely on: that the text is what strict readers and Prometheus itself read, and that
// the page, the dashboard and the rules speak of the metrics that there are.
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <regex>
#include <set>
#include <sstream>

#include "tests/places.hpp"
#include "tests/system/command.hpp"
#include "tests/system/scraping.hpp"

namespace faultline::testing {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
namespace fs = std::filesystem;

std::string content_of(const fs::path& file) {
  std::ifstream in(file);
  EXPECT_TRUE(in) << file;
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

const fs::path kSource = SOURCE_DIRECTORY;

// A program of the package `prometheus`, which tests that need it do without, and say so: to
// install it is to run a server that listens to the network.
bool have(const std::string& program) {
  return run("command -v " + program).code == 0;
}
#define SKIP_WITHOUT(program)                                                               \
  if (!have(program))                                                                       \
  GTEST_SKIP() << "SKIPPED: there is no " << (program)                                      \
               << "; it is in the Debian package prometheus (apt-get install prometheus), " \
                  "which scripts/bootstrap leaves out because it starts a service"

class MetricNames : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(daemon_.ready());
    where_ = metrics_of(daemon_);
    client_ = connect(daemon_.socket());
    // Some of everything, so that not all is 0.
    object_ = create(client_, 64 * kPage);
    const auto memory = map(object_, 64 * kPage, FL_MAP_SHARED | FL_MAP_WRITE);
    for (std::size_t i = 0; i < 64; ++i) memory[i * kPage] = std::byte{1};
  }

  [[nodiscard]] fs::path scraped(const std::string& accept, const std::string& name) const {
    const HttpAnswer answer = get(where_, "Accept: " + accept + "\r\n");
    EXPECT_EQ(answer.status, 200);
    const fs::path file = daemon_.directory() / name;
    std::ofstream(file) << answer.body;
    return file;
  }
  // What a strict reader takes it for.
  [[nodiscard]] json families() const {
    const fs::path file = scraped("application/openmetrics-text; version=1.0.0", "metrics.om");
    // Debian's python3-prometheus-client is Debian's python's.
    const Ran ran = run("/usr/bin/python3 " + (kSource / "tests/system/openmetrics.py").string() +
                        " " + file.string());
    EXPECT_EQ(ran.code, 0) << ran.output;
    return ran.code == 0 ? json::parse(ran.output) : json::array();
  }
  [[nodiscard]] std::set<std::string> sample_names() const {
    std::set<std::string> names;
    for (const json& family : families()) {
      for (const json& sample : family["samples"]) names.insert(sample);
    }
    return names;
  }
  void expect_known(const std::string& expression, const std::set<std::string>& known) const {
    static const std::regex name(
        "[a-zA-Z_:][a-zA-Z0-9_:]*faultline_[a-z_]*|faultline_[a-zA-Z0-9_:]*");
    bool any = expression.find("up{") != std::string::npos;
    for (std::sregex_iterator at(expression.begin(), expression.end(), name), end; at != end;
         ++at) {
      any = true;
      EXPECT_TRUE(known.contains(at->str())) << at->str() << ", in " << expression;
    }
    EXPECT_TRUE(any) << "about nothing of ours: " << expression;
  }

  const Daemon daemon_{{"--metrics-listen", "127.0.0.1:0"}};
  std::string where_;
  Client client_;
  Object object_;
};

TEST_F(MetricNames, AreReadByAStrictReaderOfOpenMetrics) {
  const json all = families();
  EXPECT_GT(all.size(), 30U);
  for (const json& family : all) {
    const std::string name = family["name"];
    EXPECT_TRUE(name.starts_with("faultline_")) << name;
    EXPECT_FALSE(family["help"].get<std::string>().empty()) << name;
    EXPECT_FALSE(family["samples"].empty()) << name;
  }
}

// The control: the reader does refuse.
TEST_F(MetricNames, AreRefusedByThatReaderWhereTheyAreWrong) {
  const fs::path file = scraped("application/openmetrics-text", "metrics.om");
  const std::string good = content_of(file);
  const auto refused = [&](const std::string& text) {
    std::ofstream(file) << text;
    return run("/usr/bin/python3 " + (kSource / "tests/system/openmetrics.py").string() + " " +
               file.string())
               .code != 0;
  };
  EXPECT_FALSE(refused(good));
  EXPECT_TRUE(refused(good.substr(0, good.find("# EOF"))));
  EXPECT_TRUE(refused(std::regex_replace(good, std::regex("_total"), "")));
  EXPECT_TRUE(refused(std::regex_replace(good, std::regex("le=\"\\+Inf\""), "le=\"9.0\"")));
  EXPECT_TRUE(
      refused(std::regex_replace(good, std::regex("# UNIT (\\w+) seconds"), "# UNIT $1 s")));
}

// One row of the page's table a family, in its own words of type, unit and labels.
TEST_F(MetricNames, AreThoseOfTheirPage) {
  std::map<std::string, std::string> there;
  for (const json& family : families()) {
    std::string labels;
    for (const std::string& label :
         std::set<std::string>(family["labels"].begin(), family["labels"].end())) {
      labels += label + " ";
    }
    there[family["name"]] =
        family["type"].get<std::string>() + "|" + family["unit"].get<std::string>() + "|" + labels;
  }
  std::map<std::string, std::string> written;
  std::istringstream page(content_of(kSource / "docs/metrics.md"));
  const std::regex row(R"(\| `(faultline_\w+)` \| (\w+) \| (\w*) ?\| ?([^|]*)\| .+ \|)");
  const std::regex label("`(\\w+)`");
  for (std::string line; std::getline(page, line);) {
    std::smatch found;
    if (!std::regex_match(line, found, row)) continue;
    const std::string cell = found[4];
    std::set<std::string> labels;
    for (std::sregex_iterator at(cell.begin(), cell.end(), label), end; at != end; ++at) {
      labels.insert((*at)[1]);
    }
    std::string joined;
    for (const std::string& each : labels) joined += each + " ";
    written[found[1]] = found[2].str() + "|" + found[3].str() + "|" + joined;
  }
  EXPECT_EQ(written, there);
}

TEST_F(MetricNames, InTheDashboardAreThoseThatThereAre) {
  const json dashboard = json::parse(content_of(kSource / "tools/grafana/faultline.json"));
  const auto known = sample_names();
  std::set<std::string> shown;
  std::set<int> ids;
  std::string rules = "groups:\n  - name: dashboard\n    rules:\n";
  for (const json& panel : dashboard["panels"]) {
    EXPECT_TRUE(ids.insert(panel["id"].get<int>()).second) << panel["id"];
    if (panel["type"] == "row") continue;
    EXPECT_EQ(panel["datasource"]["uid"], "${datasource}") << panel["title"];
    for (const json& target : panel["targets"]) {
      std::string expression = target["expr"];
      expect_known(expression, known);
      for (const std::string& name : known) {
        if (expression.find(name) != std::string::npos) shown.insert(name);
      }
      expression = std::regex_replace(expression, std::regex("\\$__rate_interval"), "5m");
      expression = std::regex_replace(expression, std::regex("\\$instance"), ".*");
      rules +=
          "      - record: panel:" + std::to_string(panel["id"].get<int>()) + ":" +
          std::string(1, static_cast<char>(std::tolower(target["refId"].get<std::string>()[0]))) +
          "\n        expr: '" + expression + "'\n";
    }
  }
  ASSERT_GT(shown.size(), 30U);
  // Every family is to be seen somewhere.
  for (const json& family : families()) {
    const bool seen = std::ranges::any_of(shown, [&](const std::string& name) {
      return name.starts_with(family["name"].get<std::string>());
    });
    EXPECT_TRUE(seen) << family["name"] << " is in no panel";
  }
  const json& variables = dashboard["templating"]["list"];
  EXPECT_TRUE(std::ranges::any_of(variables, [](const json& variable) {
    return variable["name"] == "datasource" && variable["type"] == "datasource";
  }));
  SKIP_WITHOUT("promtool");
  const fs::path file = daemon_.directory() / "dashboard.yml";
  std::ofstream(file) << rules;
  const Ran checked = run("promtool check rules " + file.string());
  EXPECT_EQ(checked.code, 0) << checked.output << rules;
}

TEST_F(MetricNames, InTheRulesAreThoseThatThereAre) {
  const std::string text = content_of(kSource / "tools/prometheus/faultline.rules.yml");
  const auto known = sample_names();
  const std::regex rule("expr: (>-\\n)?([^]*?)\\n +(for|labels):");
  std::size_t rules = 0;
  for (std::sregex_iterator at(text.begin(), text.end(), rule), end; at != end; ++at) {
    expect_known((*at)[2], known);
    ++rules;
  }
  EXPECT_EQ(rules, 6U);
  SKIP_WITHOUT("promtool");
  const std::string tools = (kSource / "tools/prometheus").string();
  const Ran checked = run("promtool check config " + tools + "/faultline.yml");
  EXPECT_EQ(checked.code, 0) << checked.output;
}

TEST_F(MetricNames, AreWhatPromtoolTakesAsGood) {
  SKIP_WITHOUT("promtool");
  const fs::path file = scraped("text/plain", "metrics.txt");
  const Ran checked = run("promtool check metrics < " + file.string());
  EXPECT_EQ(checked.code, 0) << checked.output;
}

// A server of the package's, with a configuration like the example, scrapes, and has a counter.
TEST_F(MetricNames, ArriveInARealPrometheus) {
  SKIP_WITHOUT("prometheus");
  std::string target = where_.substr(7);
  target.erase(target.find('/'));
  const fs::path config = daemon_.directory() / "prometheus.yml";
  std::string text = content_of(kSource / "tools/prometheus/faultline.yml");
  text = std::regex_replace(text, std::regex("127.0.0.1:9719"), target);
  text = std::regex_replace(text, std::regex("scrape_interval: 15s"), "scrape_interval: 1s");
  text = std::regex_replace(text, std::regex("  - faultline.rules.yml"),
                            "  - " + (kSource / "tools/prometheus/faultline.rules.yml").string());
  std::ofstream(config) << text;
  // Its own endpoint is HTTP too, on a port that was free a moment ago.
  std::string port;
  {
    const Daemon other({"--metrics-listen", "127.0.0.1:0"});
    const std::string url = metrics_of(other).substr(7);
    port = url.substr(url.find(':') + 1, url.find('/') - url.find(':') - 1);
  }
  const fs::path log = daemon_.directory() / "prometheus.log";
  const Child server([&] {
    const std::string data = (daemon_.directory() / "data").string();
    (void)!std::freopen(log.c_str(), "w", stdout);
    (void)!std::freopen(log.c_str(), "a", stderr);
    ::execlp("prometheus", "prometheus", ("--config.file=" + config.string()).c_str(),
             ("--storage.tsdb.path=" + data).c_str(),
             ("--web.listen-address=127.0.0.1:" + port).c_str(), nullptr);
    return 127;
  });
  const auto ask = [&](const std::string& query) -> double {
    const Ran ran =
        run("/usr/bin/python3 -c \"import json,urllib.request as r,urllib.parse as p;"
            "print(json.load(r.urlopen('http://127.0.0.1:" +
            port + "/api/v1/query?query='+p.quote('" + query +
            "')))['data']['result'][0]['value'][1])\"");
    return ran.code == 0 ? std::stod(ran.output) : -1;
  };
  ASSERT_TRUE(eventually([&] { return ask("up{job=\\\"faultline\\\"}") == 1; }, 60s))
      << content_of(log);
  const double faults = Scrape(where_).sum("faultline_faults_total");
  EXPECT_GT(faults, 0);
  EXPECT_TRUE(eventually([&] { return ask("sum(faultline_faults_total)") == faults; }, 30s));
  EXPECT_EQ(ask("sum(faultline_fault_duration_seconds_count)"), faults);
  server.kill(SIGTERM);
}

}  // namespace
}  // namespace faultline::testing
