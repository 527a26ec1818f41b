// What check calls ill, and what a doctor says of limits.
#include "tools/faultctl/health.hpp"

#include <gtest/gtest.h>

#include "tests/unit/top_answers.hpp"
#include "tools/faultctl/daemon_probe.hpp"
#include "tools/faultctl/failure.hpp"

namespace faultline::ctl {
namespace {

TEST(Health, ADaemonThatWorksIsWell) {
  EXPECT_TRUE(ailments(load_answer(1, {{.waiting_faults = 3, .pages_mapped = 10}}),
                       load_answer(2, {{.waiting_faults = 3, .pages_mapped = 11}}))
                  .empty());
  EXPECT_TRUE(ailments(load_answer(1, {{.waiting_faults = 3}}), load_answer(2, {{}})).empty());
  EXPECT_TRUE(ailments(load_answer(1, {}), load_answer(2, {{.waiting_faults = 3}})).empty());
  EXPECT_TRUE(ailments(load_answer(1, {}, 1, 5), load_answer(2, {}, 1, 5)).empty())
      << "what was poisoned long ago";
}

TEST(Health, NamesWhatIsWrong) {
  const auto stuck =
      ailments(load_answer(1, {{.waiting_faults = 3}}), load_answer(2, {{.waiting_faults = 2}}));
  ASSERT_EQ(stuck.size(), 1U);
  EXPECT_EQ(stuck[0], "2 faults of process 1001 wait and none is answered");
  const auto others = ailments(load_answer(1, {}, 1, 5), load_answer(2, {}, 1, 7, 6000));
  ASSERT_EQ(others.size(), 2U);
  EXPECT_EQ(others[0], "a reader has held reclamation up for 6000 ms");
  EXPECT_EQ(others[1], "2 pages more could not be supplied");
}

nlohmann::json status(std::uint64_t objects, std::uint64_t of) {
  return {{"version", FAULTLINE_VERSION},
          {"pid", 1},
          {"uptime_seconds", 1},
          {"user_mode_only", false},
          {"fork_events", true},
          {"reclamation", {{"oldest_reader_ms", 0}, {"oldest_reader_thread", 0}}},
          {"swap_bytes", 0},
          {"swapped_bytes", 0},
          {"objects", objects},
          {"sessions", 1},
          {"pinned_bytes", 0},
          {"yours", {{"sessions", 1}, {"spaces", 0}}},
          {"limits",
           {{"objects", of},
            {"sessions", 10},
            {"sessions_per_user", 10},
            {"spaces_per_user", 10},
            {"pinned_bytes", 10},
            {"pinned_bytes_per_user", 10}}}};
}

Finding finding(const Findings& findings, const std::string& subject) {
  for (const Finding& one : findings) {
    if (one.subject == subject) return one;
  }
  ADD_FAILURE() << "nothing of " << subject;
  return {};
}

// A limit that is nearly reached is a warning, one that is reached a problem; both with the setting
// to raise.
TEST(Doctor, TellsHowMuchRoomIsLeft) {
  EXPECT_EQ(finding(findings_in(status(89, 100)), "objects").verdict, Verdict::ok);
  EXPECT_EQ(finding(findings_in(status(90, 100)), "objects").verdict, Verdict::warning);
  const Finding full = finding(findings_in(status(100, 100)), "objects");
  EXPECT_EQ(full.verdict, Verdict::problem);
  EXPECT_NE(full.fix.find("max_objects"), std::string::npos);
}

TEST(Doctor, WhatIsNotWellHasAFix) {
  nlohmann::json ill = status(100, 100);
  ill["user_mode_only"] = true;
  ill["fork_events"] = false;
  ill["version"] = "0.0.1";
  ill["swap_bytes"] = 100;
  ill["swapped_bytes"] = 95;
  ill["reclamation"]["oldest_reader_ms"] = 9000;
  std::size_t not_well = 0;
  for (const Finding& one : findings_in(ill)) {
    if (one.verdict == Verdict::ok) continue;
    ++not_well;
    EXPECT_FALSE(one.fix.empty()) << one.subject;
  }
  EXPECT_EQ(not_well, 5U);
  EXPECT_EQ(worst_of(findings_in(ill)), Verdict::problem);
  EXPECT_EQ(worst_of({}), Verdict::ok);
}

TEST(Failure, TellsTheErrnoApartFromWhatWasAttempted) {
  const auto told = Refused::in_words(ESRCH, "looking for pins of process 1: No such process");
  const auto json = nlohmann::json::parse(error_json(told));
  EXPECT_EQ(json["error"]["code"], "ESRCH");
  EXPECT_EQ(json["error"]["errno"], ESRCH);
  EXPECT_EQ(json["error"]["attempted"], "looking for pins of process 1");
  EXPECT_EQ(json["error"]["exit"], 1);
  EXPECT_EQ(Refused::in_words(EPROTO, "speaking another version").attempted(),
            "speaking another version");
}

}  // namespace
}  // namespace faultline::ctl
