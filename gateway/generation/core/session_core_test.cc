#include "gateway/generation/core/session_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gateway/generation/core/session_story.h"

namespace reprise::gateway {
namespace {

using State = SessionCore::State;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(SessionCore, StreamsARequestFromPlacementToItsUsage) {
  Story s;
  s.Start();
  ASSERT_TRUE(s.last.place.has_value());
  EXPECT_FALSE(s.last.place->previous.has_value());
  EXPECT_EQ(s.core->state(), State::kPlacing);
  s.Placed("w1", 7);
  EXPECT_TRUE(s.last.accept);
  ASSERT_TRUE(s.last.submit.has_value());
  EXPECT_EQ(s.last.submit->placement.worker, (NodeKey{"w1", 7}));
  EXPECT_EQ(s.last.submit->remaining_ms, 9000);
  s.Tokens({Tok(0, 0, 11), Tok(0, 1, 12)});
  s.Tokens({Tok(0, 2, 13), Tok(0, 3, 14)}, {{0, EndReason::kLength}});
  ASSERT_EQ(s.last.branches_ended.size(), 1u);
  EXPECT_THAT(s.finishes, IsEmpty());
  s.Done({}, {}, 8);
  ASSERT_EQ(s.finishes.size(), 1u);
  const SessionEnd& finish = s.finishes[0];
  EXPECT_TRUE(finish.accepted);
  EXPECT_TRUE(finish.status.ok());
  EXPECT_EQ(finish.usage.prompt_tokens, 10);
  EXPECT_EQ(finish.usage.cached_tokens, 8);
  EXPECT_EQ(finish.usage.generated_tokens, 4);
  EXPECT_EQ(finish.usage.attempts, 1);
  EXPECT_EQ(finish.branches[0].reason, EndReason::kLength);
  EXPECT_THAT(s.seen(0), ElementsAre(11, 12, 13, 14));
  EXPECT_EQ(s.core->next_wake(), kNever);
}

TEST(SessionCore, ALostWorkerIsReplacedAndTheStreamContinuesAtTheNextIndex) {
  Story s;
  s.Streaming();
  s.Tokens({Tok(0, 0, 11), Tok(0, 1, 12)});
  s.Lost();
  EXPECT_EQ(s.core->state(), State::kReplacing);
  ASSERT_TRUE(s.last.place.has_value()) << "an attempt that made progress is replaced at once";
  EXPECT_EQ(*s.last.place->previous, (Attempt{1, 1}));
  EXPECT_EQ(s.last.place->emitted_tokens, 2);
  EXPECT_THAT(s.core->avoid(), ElementsAre(NodeKey{"w1", 1}));
  s.Placed("w2", 2);
  EXPECT_FALSE(s.last.accept) << "accepted once";
  ASSERT_TRUE(s.last.submit.has_value());
  EXPECT_THAT(s.core->branches()[0].tokens, ElementsAre(11, 12));
  s.Tokens({Tok(0, 2, 13), Tok(0, 3, 14)}, {{0, EndReason::kLength}});
  s.Done();
  EXPECT_THAT(s.seen(0), ElementsAre(11, 12, 13, 14));
  ASSERT_EQ(s.finishes.size(), 1u);
  EXPECT_TRUE(s.finishes[0].status.ok());
  EXPECT_EQ(s.finishes[0].usage.attempts, 2);
  EXPECT_EQ(s.core->counters().replacements, 1);
}

TEST(SessionCore, DropsAndCountsEventsOfAStaleAttempt) {
  Story s;
  s.Streaming();
  const Attempt first = s.attempt();
  s.Tokens({Tok(0, 0, 11)});
  s.Lost();
  s.Events(first, {Tok(0, 1, 55)}, {});  // while the new placement is asked for
  s.Placed("w2", 2);
  s.Events(first, {Tok(0, 1, 66)}, {{0, EndReason::kEos}});
  s.Events({2, 0}, {Tok(0, 1, 77)}, {});  // another owner's
  s.Lost(first);
  EXPECT_EQ(s.core->state(), State::kStreaming);
  EXPECT_EQ(s.core->counters().stale_events, 4);
  s.Tokens({Tok(0, 1, 12)});
  EXPECT_THAT(s.seen(0), ElementsAre(11, 12));
}

TEST(SessionCore, IgnoresAnEqualDuplicate) {
  Story s;
  s.Streaming();
  s.Tokens({Tok(0, 0, 11), Tok(0, 1, 12)});
  s.Tokens({Tok(0, 1, 12), Tok(0, 2, 13)});
  EXPECT_THAT(s.seen(0), ElementsAre(11, 12, 13));
  EXPECT_EQ(s.core->counters().duplicates, 1);
  EXPECT_THAT(s.finishes, IsEmpty());
}

TEST(SessionCore, ADuplicateThatDiffersBreaksThePromiseAndEndsWithInternal) {
  for (const TokenEvent& changed : {Tok(0, 0, 99), Tok(0, 0, 11, -1.5f)}) {
    Story s;
    s.Streaming();
    s.Tokens({Tok(0, 0, 11)});
    s.Tokens({changed});
    ASSERT_EQ(s.finishes.size(), 1u);
    EXPECT_EQ(s.finishes[0].status.code(), absl::StatusCode::kInternal);
    EXPECT_EQ(s.finishes[0].branches[0].reason, EndReason::kError);
    EXPECT_EQ(s.core->counters().violations, 1);
    EXPECT_TRUE(s.last.cancel.has_value());
  }
}

TEST(SessionCore, ForeignBranchesIdsAndTokensBeyondTheEndAreViolations) {
  for (const TokenEvent& foreign : {Tok(1, 0, 11), Tok(0, 0, 100), Tok(0, 0, -1)}) {
    Story s;
    s.Streaming();
    s.Tokens({foreign});
    ASSERT_EQ(s.finishes.size(), 1u);
    EXPECT_EQ(s.finishes[0].status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(s.delivered, IsEmpty());
  }
  Story s(2);
  s.Streaming();
  s.Tokens({Tok(0, 0, kEosId)}, {{0, EndReason::kEos}});
  s.Tokens({Tok(0, 1, 11)});
  ASSERT_EQ(s.finishes.size(), 1u);
  EXPECT_EQ(s.finishes[0].status.code(), absl::StatusCode::kInternal);
}

TEST(SessionCore, AGapIsCountedAndTheAttemptReplaced) {
  Story s;
  s.Streaming();
  s.Tokens({Tok(0, 0, 11), Tok(0, 2, 13)});
  EXPECT_EQ(s.core->counters().gaps, 1);
  ASSERT_TRUE(s.last.cancel.has_value()) << "the gapped attempt still runs";
  EXPECT_EQ(s.last.cancel->placement.attempt, (Attempt{1, 1}));
  EXPECT_TRUE(s.last.place.has_value());
  s.Placed("w2", 2);
  s.Tokens({Tok(0, 1, 12)});
  EXPECT_THAT(s.seen(0), ElementsAre(11, 12));
}

TEST(SessionCore, ABranchEndThatTheTokensDoNotBearOutIsAGap) {
  const std::vector<BranchEnd> ends = {
      {0, EndReason::kLength}, {0, EndReason::kEos}, {0, EndReason::kStop}};
  for (const BranchEnd& end : ends) {
    Story s;
    s.Streaming();
    s.Tokens({Tok(0, 0, 11)}, {end});
    EXPECT_EQ(s.core->counters().gaps, 1);
    EXPECT_EQ(s.core->state(), State::kReplacing);
    EXPECT_THAT(s.last.branches_ended, IsEmpty());
  }
  Story s;
  s.Streaming();
  s.Tokens({Tok(0, 0, 11)});
  s.Done();  // OK, with the branch open
  EXPECT_EQ(s.core->counters().gaps, 1);
  EXPECT_EQ(s.core->state(), State::kReplacing);
}

TEST(SessionCore, AFirstRefusalGoesToTheClientAsItIs) {
  Story s;
  s.Start();
  s.Refused(absl::ResourceExhaustedError("64 of 64 requests wait"), 250);
  ASSERT_EQ(s.finishes.size(), 1u);
  EXPECT_FALSE(s.finishes[0].accepted);
  EXPECT_EQ(s.finishes[0].status, absl::ResourceExhaustedError("64 of 64 requests wait"));
}

TEST(SessionCore, ALaterRefusalIsRetriedWithBackOffUntilTheDeadline) {
  Story s;
  s.Streaming();
  s.Tokens({Tok(0, 0, 11)});
  s.Lost();
  TimeNs previous_wait = 0;
  int refusals = 0;
  while (s.finishes.empty()) {
    s.Refused(absl::UnavailableError("no live worker"));
    ++refusals;
    EXPECT_FALSE(s.last.place.has_value()) << "no answer without a wait";
    const TimeNs wait = s.core->next_wake() - s.now;
    ASSERT_GT(wait, 0);
    EXPECT_LE(wait, kSecond);
    if (refusals < 4) EXPECT_GE(wait, previous_wait) << "from the upper half of a doubled wait";
    previous_wait = wait;
    s.TickAt(s.core->next_wake());
    ASSERT_LT(refusals, 100);
  }
  EXPECT_GT(refusals, 8) << "refusals are no attempts";
  EXPECT_EQ(s.now, 10 * kSecond);
  EXPECT_EQ(s.finishes[0].status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(s.finishes[0].branches[0].reason, EndReason::kDeadline);
  EXPECT_TRUE(s.finishes[0].accepted);
}

TEST(SessionCore, ALaterRefusalHonoursTheHintWithinBounds) {
  Story s;
  s.Streaming();
  s.Lost();
  s.Refused(absl::UnavailableError("soon"), 400);
  EXPECT_EQ(s.core->next_wake(), s.now + 400 * kMillisecond);
  s.TickAt(s.core->next_wake());
  s.Refused(absl::UnavailableError("in an hour"), 3'600'000);
  EXPECT_EQ(s.core->next_wake(), s.now + kSecond);
}

TEST(SessionCore, ALaterRefusalThatCannotHealEndsTheRequest) {
  Story s;
  s.Streaming();
  s.Lost();
  s.Refused(absl::NotFoundError("model gone"));
  ASSERT_EQ(s.finishes.size(), 1u);
  EXPECT_TRUE(s.finishes[0].accepted);
  EXPECT_EQ(s.finishes[0].status.code(), absl::StatusCode::kNotFound);
}

TEST(SessionCore, AWorkersOwnErrorsAreReplacedOrFinalByTheirCode) {
  Story full;
  full.Streaming();
  full.Done(absl::ResourceExhaustedError("no pages"));
  EXPECT_EQ(full.core->state(), State::kReplacing);
  EXPECT_THAT(full.core->avoid(), IsEmpty()) << "a full worker has not failed";

  Story wrong;
  wrong.Streaming();
  wrong.Done(absl::InvalidArgumentError("prompt too long"));
  ASSERT_EQ(wrong.finishes.size(), 1u);
  EXPECT_EQ(wrong.finishes[0].status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(wrong.last.cancel.has_value()) << "that attempt is over";
}

TEST(SessionCore, GivesUpAfterTheBoundOnAttempts) {
  Story s;
  s.Streaming();
  for (int i = 1; i < 8; ++i) {
    s.Lost();
    ASSERT_THAT(s.finishes, IsEmpty());
    if (!s.last.place) s.TickAt(s.core->next_wake());
    s.Placed("w", static_cast<uint64_t>(i) + 10);
  }
  s.Lost();
  ASSERT_EQ(s.finishes.size(), 1u);
  EXPECT_EQ(s.finishes[0].status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(s.finishes[0].status.message()), HasSubstr("8 attempts (limit 8)"));
  EXPECT_EQ(s.finishes[0].usage.attempts, 8);
}

TEST(SessionCore, AGrantThatDoesNotRiseIsRefused) {
  Story s;
  s.Streaming();
  s.Lost();
  Actions actions;
  s.core->OnPlaced(s.last_ask, {{1, 1}, {"w2", 2}}, s.now, actions);
  EXPECT_FALSE(actions.submit.has_value());
  EXPECT_EQ(s.core->counters().violations, 1);
  EXPECT_GT(s.core->next_wake(), s.now);
}

TEST(SessionCore, CancelInEveryStateFinishesOnceAndSilencesTheRest) {
  enum Stage { kPlacing, kStreaming, kAsking, kWaiting, kEnded };
  for (Stage stage : {kPlacing, kStreaming, kAsking, kWaiting, kEnded}) {
    for (const bool gone : {false, true}) {
      Story s;
      s.Start();
      if (stage >= kStreaming) {
        s.Placed();
        s.Tokens({Tok(0, 0, 11)});
      }
      if (stage == kAsking || stage == kWaiting) s.Lost();
      if (stage == kWaiting) s.Refused(absl::UnavailableError("none"));
      if (stage == kEnded) s.Done(absl::InternalError("x"));
      gone ? s.Gone() : s.Cancel();
      EXPECT_EQ(s.last.cancel.has_value(), stage == kStreaming);
      s.Cancel();
      s.Gone();
      s.Placed("w3", 3);
      EXPECT_FALSE(s.last.submit.has_value());
      s.Events({1, 1}, {Tok(0, 1, 12)}, {});
      s.Lost({1, 1});
      s.TickAt(100 * kSecond);
      ASSERT_EQ(s.finishes.size(), 1u) << "stage " << stage;
      EXPECT_EQ(s.finishes[0].accepted, stage != kPlacing);
      if (stage != kEnded) {
        EXPECT_EQ(s.finishes[0].status.code(), absl::StatusCode::kCancelled);
        EXPECT_EQ(s.finishes[0].branches[0].reason, EndReason::kCancelled);
      }
      EXPECT_LE(s.delivered.size(), 1u);
      EXPECT_EQ(s.core->state(), State::kEnded);
    }
  }
}

TEST(SessionCore, TheDeadlineEndsTheRequestAndTellsTheWorkerWhy) {
  Story s;
  s.Streaming();
  s.Tokens({Tok(0, 0, 11)});
  EXPECT_EQ(s.core->next_wake(), 10 * kSecond);
  s.TickAt(10 * kSecond - 1);
  EXPECT_THAT(s.finishes, IsEmpty());
  s.TickAt(10 * kSecond);
  ASSERT_EQ(s.finishes.size(), 1u);
  EXPECT_EQ(s.finishes[0].status.code(), absl::StatusCode::kDeadlineExceeded);
  ASSERT_TRUE(s.last.cancel.has_value());
  EXPECT_TRUE(s.last.cancel->deadline);
}

TEST(SessionCore, ARequestWhoseBranchesAllEndedIsCompleteHoweverItsEndIsLearnt) {
  for (int how = 0; how < 4; ++how) {
    Story s;
    s.Streaming();
    s.Tokens({Tok(0, 0, kStopId)}, {{0, EndReason::kStop}});
    if (how == 0) s.Lost();
    if (how == 1) s.Cancel();
    if (how == 2) s.TickAt(10 * kSecond);
    if (how == 3) s.Done(absl::UnavailableError("stopping"));
    ASSERT_EQ(s.finishes.size(), 1u);
    EXPECT_TRUE(s.finishes[0].status.ok()) << how;
    EXPECT_EQ(s.finishes[0].branches[0].reason, EndReason::kStop);
  }
}

TEST(SessionCore, ThreeBranchesEndEachInItsTimeAcrossALoss) {
  Story s(3);
  s.Streaming();
  s.Tokens({Tok(0, 0, 20), Tok(1, 0, kEosId), Tok(2, 0, 30)}, {{1, EndReason::kEos}});
  s.Tokens({Tok(0, 1, 21), Tok(2, 1, 31)});
  s.Tokens({Tok(0, 2, kStopId)}, {{0, EndReason::kStop}});
  s.Lost();
  EXPECT_EQ(s.last.place->emitted_tokens, 3);
  s.Placed("w2", 2);
  EXPECT_TRUE(s.core->branches()[0].ended());
  EXPECT_TRUE(s.core->branches()[1].ended());
  EXPECT_FALSE(s.core->branches()[2].ended());
  s.Tokens({Tok(2, 2, 32), Tok(2, 3, 33)}, {{2, EndReason::kLength}});
  s.Done();
  EXPECT_THAT(s.seen(0), ElementsAre(20, 21, kStopId));
  EXPECT_THAT(s.seen(1), ElementsAre(kEosId));
  EXPECT_THAT(s.seen(2), ElementsAre(30, 31, 32, 33));
  ASSERT_EQ(s.finishes.size(), 1u);
  EXPECT_EQ(s.finishes[0].branches[0].reason, EndReason::kStop);
  EXPECT_EQ(s.finishes[0].branches[1].reason, EndReason::kEos);
  EXPECT_EQ(s.finishes[0].branches[2].reason, EndReason::kLength);
  EXPECT_EQ(s.finishes[0].usage.generated_tokens, 8);
}

TEST(SessionCore, AnEndLostAfterItsTokenIsDerivedFromTheTokens) {
  Story s(2);
  s.Streaming();
  s.Tokens({Tok(0, 0, kEosId), Tok(1, 1, 30)}, {{0, EndReason::kEos}});  // a gap before the end
  EXPECT_EQ(s.core->state(), State::kReplacing);
  ASSERT_EQ(s.last.branches_ended.size(), 1u);
  EXPECT_EQ(s.core->branches()[0].reason, EndReason::kEos);
  s.Placed("w2", 2);
  s.Tokens({Tok(1, 0, 29), Tok(1, 1, kStopId)});
  s.Lost();
  ASSERT_EQ(s.finishes.size(), 1u) << "nothing is left to compute";
  EXPECT_TRUE(s.finishes[0].status.ok());
  EXPECT_EQ(s.finishes[0].branches[1].reason, EndReason::kStop);
}

TEST(SessionCore, AnEndThatBelongsToTheAttemptDoesNotEndTheBranch) {
  Story s;
  s.Streaming();
  s.Tokens({Tok(0, 0, 11)}, {{0, EndReason::kError}});
  s.Done(absl::UnavailableError("stopping"));
  EXPECT_EQ(s.core->state(), State::kReplacing);
  EXPECT_FALSE(s.core->branches()[0].ended());
}

TEST(SessionCore, RepeatedFailuresWithoutATokenBackOff) {
  Story s;
  s.Streaming();
  s.Lost();
  EXPECT_TRUE(s.last.place.has_value());
  s.Placed("w2", 2);
  s.Lost();
  EXPECT_FALSE(s.last.place.has_value());
  EXPECT_GT(s.core->next_wake(), s.now);
  s.TickAt(s.core->next_wake());
  EXPECT_TRUE(s.last.place.has_value());
}

}  // namespace
}  // namespace reprise::gateway
