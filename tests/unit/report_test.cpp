#include "daemon/admin/report.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

namespace faultline::admin {
namespace {

// An operator who looks because memory is not given back finds the thread that holds it up, and for
// how long it has.
TEST(Report, TheStatusNamesTheReaderThatHoldsReclamationUp) {
  const memory::ObjectDirectory objects({});
  space::Overview overview;
  overview.reclamation.pending = 12;
  overview.reclamation.oldest_section = std::chrono::milliseconds(3456);
  overview.reclamation.oldest_thread = 789;
  const wait::WaitService waits(nullptr);
  const pin::PinService pins(objects, {});
  const auto text =
      answer({.query = wire::AdminQuery::status}, ::geteuid(), {}, objects, overview, waits, pins);
  ASSERT_TRUE(text) << text.error().message();
  const auto reclamation = nlohmann::json::parse(*text)["status"]["reclamation"];
  EXPECT_EQ(reclamation["pending"], 12);
  EXPECT_EQ(reclamation["oldest_reader_ms"], 3456);
  EXPECT_EQ(reclamation["oldest_reader_thread"], 789);
}

}  // namespace
}  // namespace faultline::admin
