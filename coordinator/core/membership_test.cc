#include "coordinator/core/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace reprise::coordinator {
namespace {

using ::testing::HasSubstr;

// One cluster seen by one judge, told as a story in milliseconds.
class MembershipTest : public ::testing::Test {
 protected:
  StatusOr<Slot> Report(const std::string& name, uint64_t incarnation, Load load = {},
                        bool leaving = false) {
    coordinator::Report report;
    report.node.ref.key = {name, incarnation};
    report.node.role = Role::kWorker;
    report.sequence = ++sequence_;
    report.load = load;
    report.leaving = leaving;
    return members_.OnReport(report, clock_.NowNs());
  }
  void RunFor(int64_t ms) {
    for (int64_t t = 0; t < ms; t += 50) {
      clock_.Advance(50 * kMillisecond);
      members_.Tick(clock_.NowNs());
    }
  }
  void FreezeFor(int64_t ms) { clock_.Advance(NsFromMs(ms)); }
  NodeState StateOf(const std::string& name) { return members_.Find(name)->state; }

  ManualClock clock_{kSecond};
  Membership members_{MembershipOptions{}};
  uint64_t sequence_ = 0;
};

TEST_F(MembershipTest, ASilentNodeIsSuspectedThenDeadThenForgotten) {
  ASSERT_TRUE(Report("w", 1).ok());
  RunFor(550);
  EXPECT_EQ(StateOf("w"), NodeState::kLive);
  RunFor(50);
  EXPECT_EQ(StateOf("w"), NodeState::kSuspect);
  EXPECT_EQ(members_.Find("w")->reason, "silent");
  RunFor(400);
  EXPECT_EQ(StateOf("w"), NodeState::kDead);
  RunFor(59'950);
  EXPECT_NE(members_.Find("w"), nullptr);
  RunFor(50);
  EXPECT_EQ(members_.Find("w"), nullptr);
}

TEST_F(MembershipTest, OneThatWasAskedToReportMoreRarelyIsDeadLater) {
  ASSERT_TRUE(Report("w", 1).ok());
  members_.AllowSilence("w", 300 * kMillisecond);
  RunFor(600);
  EXPECT_EQ(StateOf("w"), NodeState::kSuspect);
  RunFor(650);
  EXPECT_EQ(StateOf("w"), NodeState::kSuspect);
  RunFor(50);
  EXPECT_EQ(StateOf("w"), NodeState::kDead);
  ASSERT_TRUE(Report("w", 1).ok());
  members_.AllowSilence("w", 0);
  RunFor(1000);
  EXPECT_EQ(StateOf("w"), NodeState::kDead);
}

TEST_F(MembershipTest, ASuspectOrDeadNodeThatReportsIsLiveAgain) {
  ASSERT_TRUE(Report("w", 1).ok());
  RunFor(700);
  ASSERT_TRUE(Report("w", 1).ok());
  EXPECT_EQ(StateOf("w"), NodeState::kLive);
  RunFor(1000);
  EXPECT_EQ(StateOf("w"), NodeState::kDead);
  ASSERT_TRUE(Report("w", 1).ok());
  EXPECT_EQ(StateOf("w"), NodeState::kLive);
}

TEST_F(MembershipTest, ARestartReplacesTheOldIncarnationAtOnceAndTheOldOneIsRefused) {
  const Slot slot = *Report("w", 1);
  members_.TakeChanges();
  EXPECT_EQ(*Report("w", 2), slot);
  const std::vector<MembershipChange> changes = members_.TakeChanges();
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_EQ(changes[0].kind, MembershipChange::Kind::kReplaced);
  EXPECT_EQ(changes[0].key, (NodeKey{"w", 1}));
  EXPECT_EQ(changes[0].to, NodeState::kDead);
  EXPECT_EQ(changes[1].kind, MembershipChange::Kind::kJoined);
  const Status refused = Report("w", 1).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("STALE_INCARNATION"));
  EXPECT_EQ(members_.Find("w")->info.ref.key.incarnation, 2u);
  EXPECT_EQ(members_.stale_refused(), 1u);
}

TEST_F(MembershipTest, ALateReportOfADeadIncarnationDoesNotLockTheLivingOneOut) {
  ASSERT_TRUE(Report("w", 2).ok());
  ASSERT_TRUE(Report("w", 1).ok());  // sent before 2 started, heard after: nobody can tell
  EXPECT_FALSE(Report("w", 2).ok());
  RunFor(1100);
  EXPECT_EQ(StateOf("w"), NodeState::kDead);
  ASSERT_TRUE(Report("w", 2).ok());
  EXPECT_EQ(StateOf("w"), NodeState::kLive);
  EXPECT_EQ(members_.Find("w")->info.ref.key.incarnation, 2u);
  EXPECT_FALSE(Report("w", 1).ok());
}

TEST_F(MembershipTest, TheLastSixteenIncarnationsOfANameStayFenced) {
  for (uint64_t incarnation = 1; incarnation <= 18; ++incarnation) {
    ASSERT_TRUE(Report("w", incarnation).ok());
  }
  for (uint64_t incarnation = 2; incarnation <= 17; ++incarnation) {
    EXPECT_FALSE(Report("w", incarnation).ok()) << incarnation;
  }
  EXPECT_TRUE(Report("w", 18).ok());
}

TEST_F(MembershipTest, AJudgeThatWasFrozenAccusesNobody) {
  ASSERT_TRUE(Report("w", 1).ok());
  RunFor(100);
  FreezeFor(5000);
  RunFor(50);
  EXPECT_EQ(StateOf("w"), NodeState::kLive);
  EXPECT_EQ(members_.compensated_ns(), 5000 * kMillisecond);
  // The clock that runs on is the node's own silence: 150 ms so far.
  RunFor(400);
  EXPECT_EQ(StateOf("w"), NodeState::kLive);
  RunFor(50);
  EXPECT_EQ(StateOf("w"), NodeState::kSuspect);
}

TEST_F(MembershipTest, ATickLateByLessThanTheToleranceMovesNoDeadline) {
  ASSERT_TRUE(Report("w", 1).ok());
  members_.Tick(clock_.NowNs());
  for (int i = 0; i < 6; ++i) {
    FreezeFor(50);
    RunFor(50);
  }
  EXPECT_EQ(StateOf("w"), NodeState::kSuspect);
}

TEST_F(MembershipTest, BusyWithoutProgressIsStuckAndIdleWithoutProgressIsNot) {
  const Load busy{.progress = 7, .busy = true};
  const Load idle{.progress = 7, .busy = false};
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(Report("wedged", 1, busy).ok());
    ASSERT_TRUE(Report("resting", 1, idle).ok());
    RunFor(200);
  }
  EXPECT_EQ(StateOf("wedged"), NodeState::kSuspect);
  EXPECT_EQ(members_.Find("wedged")->reason, "stuck");
  EXPECT_EQ(StateOf("resting"), NodeState::kLive);
  ASSERT_TRUE(Report("wedged", 1, {.progress = 8, .busy = true}).ok());
  EXPECT_EQ(StateOf("wedged"), NodeState::kLive);
}

TEST_F(MembershipTest, LatenessOfTheJudgeIsForgivenBeforeAReportThatWaitedIsJudged) {
  const Load step{.progress = 7, .busy = true};
  ASSERT_TRUE(Report("w", 1, step).ok());
  RunFor(300);
  FreezeFor(3000);
  ASSERT_TRUE(Report("w", 1, step).ok());  // sent before the freeze, in the same long layer
  EXPECT_EQ(StateOf("w"), NodeState::kLive);
  RunFor(50);
  EXPECT_EQ(StateOf("w"), NodeState::kLive);
  EXPECT_EQ(members_.compensated_ns(), 2950 * kMillisecond);  // once
  for (int i = 0; i < 6; ++i) {
    ASSERT_TRUE(Report("w", 1, step).ok());
    RunFor(200);
  }
  EXPECT_EQ(members_.Find("w")->reason, "stuck");
}

TEST_F(MembershipTest, AProbeOlderThanASecondAndAHalfCutsANodeOffAndANodeThatDoesNotProbeIsFine) {
  ASSERT_TRUE(Report("w", 1, {.probe_age_ms = 1499}).ok());
  ASSERT_TRUE(Report("quiet", 1, {.probe_age_ms = -1}).ok());
  EXPECT_EQ(StateOf("w"), NodeState::kLive);
  EXPECT_EQ(StateOf("quiet"), NodeState::kLive);
  ASSERT_TRUE(Report("w", 1, {.probe_age_ms = 1500}).ok());
  EXPECT_EQ(StateOf("w"), NodeState::kSuspect);
  EXPECT_EQ(members_.Find("w")->reason, "unreachable");
  ASSERT_TRUE(Report("w", 1, {.probe_age_ms = 10}).ok());
  EXPECT_EQ(StateOf("w"), NodeState::kLive);
}

// Five nodes that probe each other; who accuses whom is told in each test.
class ProbingTest : public MembershipTest {
 protected:
  void SetUp() override {
    Everybody();
    RunFor(100);
    for (int i = 0; i < 10; ++i) {
      Everybody();
      RunFor(200);
    }
  }
  void Everybody() {
    for (const char* name : {"a", "b", "c", "d", "e"}) {
      const Load load{.probe_age_ms = ages_[name], .unreachable = accused_[name]};
      ASSERT_TRUE(Report(name, 1, load).ok());
    }
  }
  void Judge() {
    Everybody();
    RunFor(50);
  }

  std::map<std::string, int64_t> ages_;
  std::map<std::string, std::vector<std::string>> accused_;
};

TEST_F(ProbingTest, WhomMostPeersCannotReachIsSuspectUntilTheyCan) {
  accused_["a"] = accused_["b"] = {"e"};
  Judge();
  EXPECT_EQ(StateOf("e"), NodeState::kLive);  // two of four peers
  accused_["c"] = {"e"};
  Judge();
  EXPECT_EQ(StateOf("e"), NodeState::kSuspect);
  EXPECT_EQ(members_.Find("e")->reason, "unreachable");
  Everybody();
  EXPECT_EQ(StateOf("e"), NodeState::kSuspect);  // its own word does not clear it
  accused_.clear();
  Judge();
  EXPECT_EQ(StateOf("e"), NodeState::kLive);
}

TEST_F(ProbingTest, OneVoiceIsNoMajorityHoweverOftenItNamesANode) {
  accused_["a"] = {"e", "e", "e"};
  Judge();
  EXPECT_EQ(StateOf("e"), NodeState::kLive);
  // Even when nobody else can speak.
  for (const char* name : {"b", "c", "d"}) ages_[name] = -1;
  Judge();
  EXPECT_EQ(StateOf("e"), NodeState::kLive);
}

TEST_F(ProbingTest, TheSmallerSideOfAPartitionIsCutOffAndTheLargerIsNot) {
  accused_["a"] = accused_["b"] = {"c", "d", "e"};
  accused_["c"] = accused_["d"] = accused_["e"] = {"a", "b"};
  Judge();
  for (const char* name : {"a", "b"}) EXPECT_EQ(StateOf(name), NodeState::kSuspect) << name;
  for (const char* name : {"c", "d", "e"}) EXPECT_EQ(StateOf(name), NodeState::kLive) << name;
}

TEST_F(ProbingTest, WhoReachesNobodyIsCutOffUnlessMostOthersReachNobodyEither) {
  accused_["a"] = {"s", "t", "a"};
  Judge();
  EXPECT_EQ(StateOf("a"), NodeState::kSuspect);
  EXPECT_EQ(members_.Find("a")->reason, "unreachable");
  EXPECT_EQ(StateOf("b"), NodeState::kLive);
  // Two of four others say the same: it is not they.
  accused_["b"] = {"s", "t", "b"};
  accused_["c"] = {"s", "t", "c"};
  Judge();
  for (const char* name : {"a", "b", "c"}) EXPECT_EQ(StateOf(name), NodeState::kLive) << name;
}

TEST_F(MembershipTest, TheOnlyProbingNodeIsNotJudgedByItsOwnWord) {
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(Report("w", 1, {.probe_age_ms = 0, .unreachable = {"s", "w"}}).ok());
    RunFor(200);
  }
  EXPECT_EQ(StateOf("w"), NodeState::kLive);
}

TEST_F(ProbingTest, ANodeThatCannotReachItselfIsNoWitness) {
  accused_["a"] = accused_["b"] = accused_["c"] = {"e"};
  ages_["a"] = ages_["b"] = 3000;
  Judge();
  EXPECT_EQ(StateOf("e"), NodeState::kLive);
}

TEST_F(ProbingTest, WhatPeersKnewOfTheIncarnationBeforeIsNotHeldAgainstANewOne) {
  accused_["a"] = accused_["b"] = accused_["c"] = {"e"};
  Judge();
  ASSERT_EQ(StateOf("e"), NodeState::kSuspect);
  ASSERT_TRUE(Report("e", 2).ok());
  RunFor(50);
  EXPECT_EQ(StateOf("e"), NodeState::kLive);
}

TEST_F(MembershipTest, ADrainedNodeStaysOutUntilItsIncarnationEnds) {
  EXPECT_EQ(members_.Drain("w", 0).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Report("w", 1, {.running = 3, .waiting = 1}).ok());
  const auto requests = members_.Drain("w", 5000);
  ASSERT_TRUE(requests.ok());
  EXPECT_EQ(*requests, 4);
  EXPECT_EQ(StateOf("w"), NodeState::kLeaving);
  EXPECT_EQ(members_.Find("w")->reason, "draining");
  ASSERT_TRUE(Report("w", 1).ok());
  EXPECT_EQ(StateOf("w"), NodeState::kLeaving);
  RunFor(1100);
  EXPECT_EQ(members_.Drain("w", 0).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Report("w", 2).ok());
  EXPECT_EQ(StateOf("w"), NodeState::kLive);
}

TEST_F(MembershipTest, ALeavingNodeStaysLeavingUntilItFallsSilent) {
  ASSERT_TRUE(Report("w", 1, {}, /*leaving=*/true).ok());
  RunFor(950);
  EXPECT_EQ(StateOf("w"), NodeState::kLeaving);
  RunFor(50);
  EXPECT_EQ(StateOf("w"), NodeState::kDead);
}

TEST_F(MembershipTest, ADelayedReportProvesNoLife) {
  ASSERT_TRUE(Report("w", 1, {.running = 1}).ok());
  RunFor(500);
  sequence_ = 0;  // what comes now was sent first
  ASSERT_TRUE(Report("w", 1, {.running = 9}).ok());
  EXPECT_EQ(members_.Find("w")->load.running, 1);
  RunFor(100);
  EXPECT_EQ(StateOf("w"), NodeState::kSuspect);
}

TEST_F(MembershipTest, NodesBeyondTheLimitAreRefusedAndSlotsOfForgottenOnesReused) {
  Membership small(MembershipOptions{.nodes_max = 1});
  coordinator::Report report;
  report.sequence = 1;
  report.node.ref.key = {"a", 1};
  ASSERT_EQ(*small.OnReport(report, 0), 0);
  report.node.ref.key = {"b", 1};
  EXPECT_EQ(small.OnReport(report, 0).status().code(), absl::StatusCode::kResourceExhausted);
  for (TimeNs now = 0; now <= 62 * kSecond; now += 50 * kMillisecond) small.Tick(now);
  EXPECT_EQ(*small.OnReport(report, 62 * kSecond), 0);
}

TEST_F(MembershipTest, AnIncarnationKeepsItsRole) {
  ASSERT_TRUE(Report("w", 1).ok());
  coordinator::Report report;
  report.node.ref.key = {"w", 1};
  report.node.role = Role::kStore;
  report.sequence = 99;
  EXPECT_EQ(members_.OnReport(report, clock_.NowNs()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace reprise::coordinator
