// A request that goes on: attached to, computed again from the client's transcript, left by its
// client, given back by a worker that stops, crashing its workers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gateway/generation/core/session_story.h"

namespace reprise::gateway {
namespace {

using State = SessionCore::State;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

SessionSpec Resuming(std::vector<std::vector<int32_t>> received, bool has_input = true) {
  SessionSpec spec = Story::Spec();
  spec.resumable = true;
  spec.resume = true;
  spec.received = std::move(received);
  spec.has_input = has_input;
  return spec;
}

AttachedInfo Info(int32_t n = 1, int32_t max_tokens = 4) {
  AttachedInfo info;
  info.n = n;
  info.prompt_tokens = 10;
  info.max_tokens = max_tokens;
  info.stop_ids = {kStopId};
  info.eos_ids = {kEosId};
  info.remaining_ms = 5000;
  return info;
}

std::vector<int32_t> Ids(const std::vector<TokenEvent>& tokens) {
  std::vector<int32_t> ids;
  for (const TokenEvent& token : tokens) ids.push_back(token.id);
  return ids;
}

// Attaching ---------------------------------------------------------------------------------------

TEST(SessionResume, AttachesToTheRunningRequestAndDeliversBehindWhatTheClientHas) {
  Story s(Resuming({{11, 12}}));
  s.Start();
  ASSERT_TRUE(s.last.place.has_value());
  EXPECT_TRUE(s.last.place->attach);
  EXPECT_FALSE(s.last.place->previous.has_value());
  EXPECT_EQ(s.last.place->emitted_tokens, 2);
  s.Running();
  ASSERT_TRUE(s.last.attach.has_value());
  EXPECT_FALSE(s.last.submit.has_value());
  EXPECT_FALSE(s.last.accept) << "not before the worker has answered";
  EXPECT_EQ(s.core->state(), State::kAttaching);
  s.Attached(Info(), {Tok(0, 0, 11), Tok(0, 1, 12), Tok(0, 2, 13)});
  EXPECT_TRUE(s.last.accept);
  EXPECT_EQ(s.last.resumed, Resumed::kAttach);
  EXPECT_THAT(Ids(s.known), ElementsAre(11, 12)) << "for the detokenizer";
  EXPECT_THAT(s.seen(0), ElementsAre(13));
  s.Tokens({Tok(0, 3, 14)}, {{0, EndReason::kLength}});
  s.Done();
  ASSERT_EQ(s.finishes.size(), 1u);
  EXPECT_TRUE(s.finishes[0].status.ok());
  EXPECT_EQ(s.finishes[0].usage.generated_tokens, 4);
}

TEST(SessionResume, WithoutInputEverythingIsLearntFromTheWorkerAndALossIsSurvived) {
  SessionSpec spec = Resuming({{11}}, /*has_input=*/false);
  spec.prompt_tokens = 0;
  spec.max_tokens = 0;
  spec.stop_ids.clear();
  spec.eos_ids.clear();
  Story s(spec);
  s.Start();
  s.Running();
  s.Attached(Info(/*n=*/2, /*max_tokens=*/3), {Tok(0, 0, 11), Tok(0, 1, 12), Tok(1, 0, 21)});
  EXPECT_THAT(s.seen(0), ElementsAre(12));
  EXPECT_THAT(s.seen(1), ElementsAre(21));
  EXPECT_EQ(s.core->spec().prompt_tokens, 10);
  EXPECT_EQ(s.core->next_wake(), s.now + 5 * kSecond) << "the request's deadline, not the call's";
  s.Lost();
  ASSERT_TRUE(s.last.place.has_value());
  EXPECT_FALSE(s.last.place->attach);
  EXPECT_EQ(s.last.place->previous, s.attempt());
  s.Placed("w2", 2);
  ASSERT_TRUE(s.last.submit.has_value());
  EXPECT_EQ(s.last.resumed, Resumed::kReplace);
  s.Tokens({Tok(0, 2, 13), Tok(1, 1, 22), Tok(1, 2, 23)},
           {{0, EndReason::kLength}, {1, EndReason::kLength}});
  s.Done();
  EXPECT_THAT(s.seen(0), ElementsAre(12, 13));
  EXPECT_THAT(s.seen(1), ElementsAre(21, 22, 23));
  EXPECT_TRUE(s.finishes[0].status.ok());
}

TEST(SessionResume, ARequestThatHasEndedAtItsWorkerIsToldToItsEnd) {
  Story s(Resuming({{11}}));
  s.Start();
  s.Running();
  const WorkerDone done{{}, 6};
  s.Attached(Info(), {Tok(0, 0, 11), Tok(0, 1, kEosId)}, {{0, EndReason::kEos}}, &done);
  EXPECT_THAT(s.seen(0), ElementsAre(kEosId));
  ASSERT_EQ(s.finishes.size(), 1u);
  EXPECT_TRUE(s.finishes[0].status.ok());
  EXPECT_EQ(s.finishes[0].usage.cached_tokens, 6);
}

TEST(SessionResume, TokensBeforeTheWorkersAnswerAreStale) {
  Story s(Resuming({}));
  s.Start();
  s.Running();
  s.Tokens({Tok(0, 0, 11)});
  EXPECT_EQ(s.core->counters().stale_events, 1);
  EXPECT_THAT(s.delivered, IsEmpty());
}

TEST(SessionResume, ReceivedIdsThatContradictEndThisStreamAndLeaveTheRequest) {
  const std::vector<std::vector<std::vector<int32_t>>> claims = {
      {{11, 99}},              // another id
      {{11, 12, 13, 14, 15}},  // more than max_tokens
      {{11}, {}},              // a branch too many
  };
  for (const auto& claim : claims) {
    Story s(Resuming(claim, /*has_input=*/false));
    s.Start();
    s.Running();
    s.Attached(Info(), {Tok(0, 0, 11), Tok(0, 1, 12), Tok(0, 2, 13)});
    ASSERT_EQ(s.finishes.size(), 1u);
    EXPECT_EQ(s.finishes[0].status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_FALSE(s.finishes[0].accepted);
    EXPECT_FALSE(s.last.accept);
    EXPECT_THAT(s.delivered, IsEmpty());
    EXPECT_FALSE(s.last.cancel.has_value());
    ASSERT_TRUE(s.last.detach.has_value());
    EXPECT_EQ(s.last.detach->attempt, s.attempt());
  }
}

TEST(SessionResume, AContradictionFoundLaterEndsTheAcceptedStream) {
  Story s(Resuming({{11, 12, 13}}));
  s.Start();
  s.Running();
  s.Attached(Info(), {Tok(0, 0, 11)});
  EXPECT_TRUE(s.last.accept);
  s.Tokens({Tok(0, 1, 12), Tok(0, 2, 77)});
  ASSERT_EQ(s.finishes.size(), 1u);
  EXPECT_TRUE(s.finishes[0].accepted);
  EXPECT_FALSE(s.finishes[0].goes_on) << "for this client it is over";
  EXPECT_EQ(s.finishes[0].status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(s.finishes[0].status.message()), HasSubstr("id 13 at index 2"));
  EXPECT_TRUE(s.last.detach.has_value());
}

TEST(SessionResume, AClientThatClaimsMoreThanTheRequestHadIsContradicted) {
  Story s(Resuming({{11, 12}}));
  s.Start();
  s.Running();
  AttachedInfo info = Info();
  info.eos_ids = {11};
  s.Attached(info, {Tok(0, 0, 11)}, {{0, EndReason::kEos}});
  ASSERT_EQ(s.finishes.size(), 1u);
  EXPECT_EQ(s.finishes[0].status.code(), absl::StatusCode::kInvalidArgument);
}

TEST(SessionResume, AnotherInputThanTheRunningRequestsIsRefused) {
  Story s(Resuming({}));
  s.Start();
  s.Running();
  AttachedInfo info = Info();
  info.contradicts_input = true;
  s.Attached(info, {});
  ASSERT_EQ(s.finishes.size(), 1u);
  EXPECT_EQ(s.finishes[0].status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(s.last.detach.has_value());
}

// From the transcript -----------------------------------------------------------------------------

TEST(SessionResume, ARequestThatRunsNowhereGoesOnFromTheTranscript) {
  Story s(Resuming({{11, 12}}));
  s.Start();
  s.Placed("w2", 2);
  EXPECT_TRUE(s.last.accept);
  EXPECT_EQ(s.last.resumed, Resumed::kTranscript);
  ASSERT_TRUE(s.last.submit.has_value());
  EXPECT_TRUE(s.core->continues());
  EXPECT_THAT(s.core->branches()[0].tokens, ElementsAre(11, 12));
  EXPECT_THAT(Ids(s.known), ElementsAre(11, 12));
  s.Tokens({Tok(0, 1, 12, -7.25f), Tok(0, 2, 13)});
  EXPECT_EQ(s.core->counters().duplicates, 1) << "no logprob is known of what the client has";
  s.Tokens({Tok(0, 2, 13, -7.25f)});
  ASSERT_EQ(s.finishes.size(), 1u) << "of what came from a worker it is";
  EXPECT_EQ(s.finishes[0].status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(s.seen(0), ElementsAre(13));
}

TEST(SessionResume, AWorkerThatDoesNotHaveItIsFollowedByTheTranscript) {
  Story s(Resuming({{11}}));
  s.Start();
  s.Running();
  s.Done(absl::NotFoundError("its window is over"));
  ASSERT_TRUE(s.last.place.has_value());
  EXPECT_FALSE(s.last.place->attach);
  EXPECT_EQ(s.last.place->previous, s.attempt());
  s.Placed("w2", 2);
  EXPECT_TRUE(s.last.accept);
  EXPECT_EQ(s.last.resumed, Resumed::kTranscript);
  s.Tokens({Tok(0, 1, 12), Tok(0, 2, 13), Tok(0, 3, 14)}, {{0, EndReason::kLength}});
  s.Done();
  EXPECT_THAT(s.seen(0), ElementsAre(12, 13, 14));
}

TEST(SessionResume, AWorkerLostBeforeItAnsweredIsFollowedByTheTranscript) {
  Story s(Resuming({{11}}));
  s.Start();
  s.Running();
  s.Lost();
  ASSERT_TRUE(s.last.place.has_value());
  EXPECT_FALSE(s.last.place->attach);
  EXPECT_THAT(s.core->avoid(), ElementsAre(NodeKey{"w1", 1}));
  s.Placed("w2", 2);
  EXPECT_EQ(s.last.resumed, Resumed::kTranscript);
}

TEST(SessionResume, AWorkerLostWhileItRepeatsIsReplacedWithAllTheClientHas) {
  Story s(Resuming({{11, 12, 13}}));
  s.Start();
  s.Running();
  s.Attached(Info(), {Tok(0, 0, 11)});
  s.Lost();
  EXPECT_EQ(s.last.place->emitted_tokens, 3);
  EXPECT_THAT(Ids(s.known), ElementsAre(11, 12, 13)) << "each once";
  s.Placed("w2", 2);
  EXPECT_THAT(s.core->branches()[0].tokens, ElementsAre(11, 12, 13));
  s.Tokens({Tok(0, 3, 14)}, {{0, EndReason::kLength}});
  s.Done();
  EXPECT_THAT(s.seen(0), ElementsAre(14));
  EXPECT_TRUE(s.finishes[0].status.ok());
}

TEST(SessionResume, WithoutInputNothingIsMadeUp) {
  Story nowhere(Resuming({{11}}, /*has_input=*/false));
  nowhere.Start();
  nowhere.Placed();
  ASSERT_EQ(nowhere.finishes.size(), 1u);
  EXPECT_EQ(nowhere.finishes[0].status.code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(nowhere.last.submit.has_value());
  EXPECT_FALSE(nowhere.finishes[0].accepted);

  Story forgotten(Resuming({{11}}, /*has_input=*/false));
  forgotten.Start();
  forgotten.Running();
  forgotten.Done(absl::NotFoundError("its window is over"));
  ASSERT_EQ(forgotten.finishes.size(), 1u);
  EXPECT_EQ(forgotten.finishes[0].status.code(), absl::StatusCode::kNotFound);

  Story lost(Resuming({{11}}, /*has_input=*/false));
  lost.Start();
  lost.Running();
  lost.Lost();
  ASSERT_EQ(lost.finishes.size(), 1u);
  EXPECT_EQ(lost.finishes[0].status.code(), absl::StatusCode::kUnavailable) << "it may try again";
}

TEST(SessionResume, AWrongHandleLearnsNothingAndComputesNothing) {
  Story at_worker(Resuming({{11}}));
  at_worker.Start();
  at_worker.Running();
  at_worker.Done(absl::PermissionDeniedError("another handle"));
  ASSERT_EQ(at_worker.finishes.size(), 1u);
  EXPECT_EQ(at_worker.finishes[0].status.code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(at_worker.last.place.has_value());

  Story at_coordinator(Resuming({{11}}));
  at_coordinator.Start();
  at_coordinator.Refused(absl::PermissionDeniedError("another handle"));
  ASSERT_EQ(at_coordinator.finishes.size(), 1u);
  EXPECT_EQ(at_coordinator.finishes[0].status.code(), absl::StatusCode::kNotFound);
}

TEST(SessionResume, ATranscriptThatIsCompleteIsFinishedWithoutAWorker) {
  Story s(Resuming({{11, 12, kStopId}}));
  s.Start();
  s.Placed();
  EXPECT_TRUE(s.last.accept);
  EXPECT_FALSE(s.last.submit.has_value());
  ASSERT_EQ(s.finishes.size(), 1u);
  EXPECT_TRUE(s.finishes[0].status.ok());
  EXPECT_EQ(s.finishes[0].branches[0].reason, EndReason::kStop);
}

TEST(SessionResume, AResumeIsNotGivenUpForLoadOrAYoungCoordinator) {
  Story s(Resuming({{11}}));
  s.Start();
  for (const Status& status :
       {absl::UnavailableError("RECOVERING"), absl::ResourceExhaustedError("NO_ROOM")}) {
    s.Refused(status);
    EXPECT_THAT(s.finishes, IsEmpty());
    s.TickAt(s.core->next_wake());
    ASSERT_TRUE(s.last.place.has_value());
    EXPECT_TRUE(s.last.place->attach);
  }
}

TEST(SessionResume, ACoordinatorThatDoesNotKnowItIsAskedForAFreshPlacement) {
  Story s(Resuming({{11}}));
  s.Start();
  s.Refused(absl::NotFoundError("unknown"));
  ASSERT_TRUE(s.last.place.has_value());
  EXPECT_FALSE(s.last.place->attach);
  s.Placed();
  EXPECT_EQ(s.last.resumed, Resumed::kTranscript);
}

// Leaving -----------------------------------------------------------------------------------------

TEST(SessionResume, AResumableRequestOutlivesItsClientAndItsGateway) {
  for (const bool gone : {false, true}) {
    SessionSpec spec = Story::Spec();
    spec.resumable = true;
    Story s(spec);
    s.Streaming();
    s.Tokens({Tok(0, 0, 11)});
    gone ? s.Gone() : s.Abort(absl::UnavailableError("the gateway is stopping"));
    EXPECT_FALSE(s.last.cancel.has_value());
    ASSERT_TRUE(s.last.detach.has_value());
    ASSERT_EQ(s.finishes.size(), 1u);
    EXPECT_TRUE(s.finishes[0].goes_on);
    EXPECT_FALSE(s.finishes[0].status.ok());
  }
}

TEST(SessionResume, CancelAndDeadlineEndAResumableRequestToo) {
  SessionSpec spec = Story::Spec();
  spec.resumable = true;
  Story cancelled(spec);
  cancelled.Streaming();
  cancelled.Cancel();
  EXPECT_TRUE(cancelled.last.cancel.has_value());
  EXPECT_FALSE(cancelled.last.detach.has_value());
  EXPECT_FALSE(cancelled.finishes[0].goes_on);
  Story late(spec);
  late.Streaming();
  late.TickAt(10 * kSecond);
  EXPECT_TRUE(late.last.cancel.has_value());
  EXPECT_FALSE(late.finishes[0].goes_on);
}

TEST(SessionResume, WithoutAWindowAClientThatLeavesCancels) {
  Story s;
  s.Streaming();
  s.Gone();
  EXPECT_TRUE(s.last.cancel.has_value());
  EXPECT_FALSE(s.last.detach.has_value());
  EXPECT_FALSE(s.finishes[0].goes_on);
}

TEST(SessionResume, AClientThatLeavesWhileAttachingDetachesAgain) {
  Story s(Resuming({}));
  s.Start();
  s.Running();
  s.Gone();
  ASSERT_TRUE(s.last.detach.has_value());
  EXPECT_EQ(s.last.detach->attempt, s.attempt());
}

TEST(SessionResume, AnOwnerThatWasReplacedStops) {
  Story s;
  s.Streaming();
  s.Tokens({Tok(0, 0, 11)});
  s.Lost();
  s.Refused(absl::AbortedError("STALE_ATTEMPT"), 500);
  EXPECT_THAT(s.finishes, IsEmpty()) << "with a hint it is a grant that was lost on its way";
  s.TickAt(s.core->next_wake());
  s.Refused(absl::AbortedError("STALE_ATTEMPT"));
  ASSERT_EQ(s.finishes.size(), 1u);
  EXPECT_EQ(s.finishes[0].status.code(), absl::StatusCode::kAborted);
}

// Setbacks ----------------------------------------------------------------------------------------

TEST(SessionResume, AWorkerThatDrainsIsReplacedAtOnceAndIsNoFailure) {
  Story s;
  s.Streaming();
  for (uint64_t i = 2; i < 6; ++i) {
    s.Done(absl::UnavailableError("draining"));
    ASSERT_TRUE(s.last.place.has_value()) << "without a wait, token or not";
    EXPECT_EQ(s.last.place->crashes, 0u);
    EXPECT_THAT(s.core->avoid(), IsEmpty());
    s.Placed("w", i);
  }
  EXPECT_THAT(s.finishes, IsEmpty());
}

TEST(SessionResume, AWorkerThatSaysSoTwiceIsAvoided) {
  Story s;
  s.Streaming();
  s.Done(absl::UnavailableError("draining"));
  s.Placed("w1", 1);
  s.Done(absl::UnavailableError("draining"));
  EXPECT_THAT(s.core->avoid(), ElementsAre(NodeKey{"w1", 1}));
}

TEST(SessionResume, AWorkerThatFailedOnceIsAskedForAgainWhenThereIsNoOther) {
  Story s;
  s.Streaming();
  s.Lost(Loss::kOther);
  EXPECT_THAT(s.core->avoid(), ElementsAre(NodeKey{"w1", 1}));
  s.Refused(absl::UnavailableError("NO_WORKERS"));
  s.TickAt(s.core->next_wake());
  ASSERT_TRUE(s.last.place.has_value());
  EXPECT_THAT(s.core->avoid(), IsEmpty());
}

TEST(SessionResume, CrashesAreCountedAndOtherLossesAreNot) {
  Story s(1, 100);
  s.Streaming();
  const auto again = [&](uint64_t incarnation) {
    if (!s.last.place) s.TickAt(s.core->next_wake());
    const uint32_t crashes = s.last.place->crashes;
    s.Placed("w", incarnation);
    return crashes;
  };
  s.Lost();
  EXPECT_EQ(again(2), 1u);
  s.Lost(Loss::kOther);
  EXPECT_EQ(again(3), 1u);
  s.Done(absl::ResourceExhaustedError("no pages"));
  EXPECT_EQ(again(4), 1u);
  s.Tokens({Tok(0, 0, 11)});
  s.Lost();
  EXPECT_EQ(again(5), 2u) << "one token clears nobody";
  s.Lost();
  EXPECT_EQ(again(6), 3u);
}

TEST(SessionResume, ARequestThatGoesOnForLongIsInnocentOfItsCrashes) {
  Story s(1, 100);
  s.Streaming();
  s.Lost();
  s.Placed("w", 2);
  std::vector<TokenEvent> tokens;
  for (uint32_t i = 0; i < static_cast<uint32_t>(kInnocentTokens); ++i) {
    tokens.push_back(Tok(0, i, 11));
  }
  s.Tokens(tokens);
  s.Done(absl::UnavailableError("draining"));
  EXPECT_EQ(s.last.place->crashes, 0u);
  s.Placed("w", 3);
  s.Lost();
  EXPECT_EQ(s.last.place->crashes, 1u);
}

TEST(SessionResume, TheThirdCrashIsTheCoordinatorsToRefuse) {
  Story s;
  s.Streaming();
  s.Lost();
  s.Refused(absl::InternalError("CRASHES: 3 attempts crashed"));
  ASSERT_EQ(s.finishes.size(), 1u);
  EXPECT_EQ(s.finishes[0].status, absl::InternalError("CRASHES: 3 attempts crashed"));
}

TEST(SessionResume, LoadNeverEndsWhatWasAccepted) {
  SessionSpec spec = Story::Spec();
  spec.deadline = kNever;
  Story s(spec);
  s.Streaming();
  for (uint64_t i = 2; i < 40; ++i) {
    s.Done(absl::ResourceExhaustedError("no pages"));
    ASSERT_THAT(s.finishes, IsEmpty());
    if (!s.last.place) s.TickAt(s.core->next_wake());
    s.Placed("w", i);
  }
}

TEST(SessionResume, TellsHowLongARecoveryTook) {
  Story s;
  s.Streaming();
  s.Tokens({Tok(0, 0, 11)});
  EXPECT_FALSE(s.last.resumed_after_ns.has_value());
  s.Lost();
  s.Refused(absl::UnavailableError("none"));
  s.TickAt(s.core->next_wake());
  const TimeNs lost_at = kSecond;
  s.Placed("w2", 2);
  EXPECT_EQ(s.last.placed_after_ns, s.now - lost_at);
  s.now += 30 * kMillisecond;
  s.Tokens({Tok(0, 1, 12)});
  EXPECT_EQ(s.last.resumed_after_ns, s.now - lost_at);
  s.Tokens({Tok(0, 2, 13)});
  EXPECT_FALSE(s.last.resumed_after_ns.has_value());
}

}  // namespace
}  // namespace reprise::gateway
