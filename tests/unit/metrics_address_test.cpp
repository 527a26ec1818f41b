// Where metrics may be read: this machine's own addresses, and nothing that another reaches.
#include "daemon/server/metrics_address.hpp"

#include <gtest/gtest.h>

#include <string>

namespace faultline::server {
namespace {

TEST(MetricsAddress, IsALoopbackAddressOrAUnixSocket) {
  const auto four = parse_metrics_address("127.0.0.1:9719");
  ASSERT_TRUE(four) << four.error().message();
  EXPECT_EQ(std::get<LoopbackAddress>(*four).host, "127.0.0.1");
  EXPECT_EQ(std::get<LoopbackAddress>(*four).port, 9719);
  const auto six = parse_metrics_address("[::1]:0");
  ASSERT_TRUE(six) << six.error().message();
  EXPECT_EQ(std::get<LoopbackAddress>(*six).host, "::1");
  const auto path = parse_metrics_address("unix:/run/faultline/metrics.sock");
  ASSERT_TRUE(path) << path.error().message();
  EXPECT_EQ(std::get<std::filesystem::path>(*path), "/run/faultline/metrics.sock");
  EXPECT_TRUE(parse_metrics_address("127.8.9.10:1"));
}

TEST(MetricsAddress, ThatOthersReachIsRefusedWithWhatToDo) {
  for (const char* address : {"0.0.0.0:9719", "192.168.1.7:9719", "[::]:9719", "[2001:db8::1]:80",
                              "[::ffff:127.0.0.1]:80"}) {
    const auto parsed = parse_metrics_address(address);
    ASSERT_FALSE(parsed) << address;
    EXPECT_EQ(parsed.error().code(), EINVAL);
    const std::string words = parsed.error().attempted();
    EXPECT_NE(words.find(address), std::string::npos) << words;
    EXPECT_NE(words.find("reverse proxy"), std::string::npos) << words;
  }
}

TEST(MetricsAddress, ThatIsNoneIsRefusedWithWhatIsTaken) {
  for (const char* address :
       {"", "9719", ":9719", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536",
        "127.0.0.1:-1", "127.0.0.1: 80", "::1:9719", "[::1]", "[::1:80", "localhost:9719",
        "unix:", "unix:relative.sock", "unix:/", "127.1:80"}) {
    const auto parsed = parse_metrics_address(address);
    ASSERT_FALSE(parsed) << address;
    EXPECT_NE(parsed.error().attempted().find("127.0.0.1:9719, [::1]:9719 or unix:/PATH"),
              std::string::npos)
        << parsed.error().attempted();
  }
  EXPECT_FALSE(parse_metrics_address("unix:/" + std::string(200, 'x')));
}

}  // namespace
}  // namespace faultline::server
