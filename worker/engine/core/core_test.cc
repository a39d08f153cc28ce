// The life of a request in a worker, told as stories over small clusters of cores.
#include "worker/engine/core/core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "worker/engine/core/core_fixture.h"

namespace reprise::worker {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST_F(CoreTest, AColdPromptRunsInChunksAndGivesItsTokens) {
  cluster_.AddWorker(cluster_.Settings("a"));
  const Submit request = Request("r", 21, 10);
  cluster_.Send("a", request);
  cluster_.RunToEnd();
  ExpectServed(request);
  const CoreStats& stats = cluster_.core("a").stats();
  EXPECT_EQ(stats.prompt_tokens, 21u);
  EXPECT_EQ(stats.steps, 3u + 9u);  // chunks of 8, then a row for each token but the first
  EXPECT_THAT(cluster_.outcome(request.key).ended,
              ElementsAre(testing::Pair(0, EndReason::kLength)));
}

TEST_F(CoreTest, ASecondRequestReusesTheSealedPrefix) {
  cluster_.AddWorker(cluster_.Settings("a"));
  const Submit first = Request("first", 21, 2);
  const Submit second = Request("second", 23, 6);
  cluster_.Send("a", first);
  cluster_.RunToEnd();
  cluster_.Send("a", second);
  cluster_.RunToEnd();
  ExpectServed(second);
  EXPECT_EQ(cluster_.outcome(second.key).dones[0].cached_tokens, 20);
  EXPECT_EQ(cluster_.core("a").stats().prompt_tokens, 21u + 3u);
}

TEST_F(CoreTest, OfAPromptCachedWholeOnlyTheLastPositionRuns) {
  cluster_.AddWorker(cluster_.Settings("a"));
  const Submit first = Request("first", 20, 3);
  const Submit again = Request("again", 20, 3);
  cluster_.Send("a", first);
  cluster_.RunToEnd();
  cluster_.Send("a", again);
  cluster_.RunToEnd();
  ExpectServed(again);
  EXPECT_EQ(cluster_.core("a").stats().prompt_tokens, 21u);
  EXPECT_EQ(cluster_.outcome(again.key).dones[0].cached_tokens, 19);
}

TEST_F(CoreTest, APrefillNodeComputesThePromptAndDecodeGoesOn) {
  cluster_.AddWorker(cluster_.Settings("d"));
  cluster_.AddWorker(cluster_.Settings("p"));
  for (const int prompt : {21, 24}) {  // with and without an open tail
    SCOPED_TRACE(prompt);
    Submit request = Request(absl::StrCat("r", prompt), prompt, 10, prompt);
    request.prefill = cluster_.Node("p");
    cluster_.Send("d", request);
    cluster_.RunToEnd();
    ExpectServed(request);
  }
  EXPECT_EQ(cluster_.core("d").stats().prompt_tokens, 0u);
  EXPECT_EQ(cluster_.core("p").stats().prompt_tokens, 45u);
  EXPECT_EQ(cluster_.core("p").stats().legs_served, 2u);
}

TEST_F(CoreTest, ThePrefillNodeStartsFromWhatTheDecodeNodeHolds) {
  cluster_.AddWorker(cluster_.Settings("d"));
  cluster_.AddWorker(cluster_.Settings("p"));
  const Submit before = Request("before", 13, 1);
  cluster_.Send("d", before);
  cluster_.RunToEnd();
  Submit request = Request("r", 30, 4);
  request.prefill = cluster_.Node("p");
  cluster_.Send("d", request);
  cluster_.RunToEnd();
  ExpectServed(request);
  EXPECT_EQ(cluster_.core("p").stats().prompt_tokens, 18u);
  EXPECT_EQ(cluster_.outcome(request.key).dones[0].cached_tokens, 12);
}

TEST_F(CoreTest, AFailedLegIsComputedHere) {
  cluster_.AddWorker(cluster_.Settings("d"));
  cluster_.AddWorker(cluster_.Settings("p"));
  cluster_.faults.refuse_call = 1;
  Submit request = Request("r", 21, 10);
  request.prefill = cluster_.Node("p");
  cluster_.Send("d", request);
  cluster_.RunToEnd();
  ExpectServed(request);
  EXPECT_EQ(cluster_.core("d").stats().legs_failed, 1u);
  EXPECT_EQ(cluster_.core("d").stats().prompt_tokens, 21u);
}

TEST_F(CoreTest, AFullPrefillNodeRefusesTheLegAndTheClientNeverKnows) {
  cluster_.AddWorker(cluster_.Settings("d"));
  CoreSettings full = cluster_.Settings("p");
  full.waiting_max = 0;
  cluster_.AddWorker(full);
  Submit request = Request("r", 21, 10);
  request.prefill = cluster_.Node("p");
  cluster_.Send("d", request);
  cluster_.RunToEnd();
  ExpectServed(request);
  EXPECT_EQ(cluster_.core("p").stats().refused, 1u);
}

TEST_F(CoreTest, LostItemsAreMissesNeverErrors) {
  cluster_.AddWorker(cluster_.Settings("d"));
  cluster_.AddWorker(cluster_.Settings("s"));
  const Submit before = Request("before", 30, 1);
  cluster_.Send("s", before);
  cluster_.RunToEnd();
  cluster_.faults.lose_item = 0.5;
  Submit request = Request("r", 30, 8);
  request.sources = {{cluster_.Node("s"), 0, 7}};
  cluster_.Send("d", request);
  cluster_.RunToEnd();
  ExpectServed(request);
  const CoreStats& stats = cluster_.core("d").stats();
  EXPECT_EQ(stats.fetch_hits + stats.fetch_misses, 7u);
  EXPECT_GT(stats.fetch_hits, 0u);
  EXPECT_GT(stats.fetch_misses, 0u);
  EXPECT_EQ(stats.prompt_tokens, 30u - 4 * stats.fetch_hits);  // the holes only
}

TEST_F(CoreTest, BranchesShareThePromptAndDrawApart) {
  cluster_.AddWorker(cluster_.Settings("a"));
  Submit request = Request("r", 22, 9);
  request.sampling.n = 3;
  cluster_.Send("a", request);
  cluster_.RunToEnd();
  ExpectServed(request);
  EXPECT_EQ(cluster_.core("a").stats().prompt_tokens, 22u);
  EXPECT_NE(Given(request.key, 0), Given(request.key, 1));
}

TEST_F(CoreTest, TheYoungestIsPreemptedAndResumesWithoutRepeatingItself) {
  CoreSettings small = cluster_.Settings("a");
  small.pages = 14;
  cluster_.AddWorker(small);
  std::vector<Submit> requests;
  for (int i = 0; i < 3; ++i) {
    requests.push_back(Request(absl::StrCat("r", i), 10, 30, i + 1));
    cluster_.Send("a", requests.back());
  }
  std::vector<std::string> order;
  cluster_.on_emit = [&](const Emit& emit) {
    if (emit.done) order.push_back(emit.key.id);
  };
  cluster_.RunToEnd();
  for (const Submit& request : requests) ExpectServed(request);
  EXPECT_GT(cluster_.core("a").stats().preemptions, 0u);
  EXPECT_EQ(order.front(), "r0");  // the oldest never gave way
}

TEST_F(CoreTest, AResumedRequestGoesOnAtTheNextIndex) {
  cluster_.AddWorker(cluster_.Settings("a"));
  Submit request = Request("r", 18, 20);
  const std::vector<int32_t> all = Expected(request);
  request.key.attempt.n = 2;
  request.branches = {{{all.begin(), all.begin() + 7}, false}};
  cluster_.Send("a", request);
  cluster_.RunToEnd();
  EXPECT_EQ(Given(request.key), std::vector<int32_t>(all.begin() + 7, all.end()));
  EXPECT_EQ(cluster_.outcome(request.key).tokens[0].front().index, 7u);
  EXPECT_EQ(cluster_.HeldPages(), 0);
}

TEST_F(CoreTest, AResumedRequestWhoseEndWasNeverToldOnlyTellsIt) {
  cluster_.AddWorker(cluster_.Settings("a"));
  Submit request = Request("r", 18, 5);
  request.key.attempt.n = 2;
  request.branches = {{Expected(request), false}};
  cluster_.Send("a", request);
  cluster_.RunToEnd();
  EXPECT_THAT(Given(request.key), IsEmpty());
  EXPECT_EQ(cluster_.outcome(request.key).ended.at(0), EndReason::kLength);
  EXPECT_EQ(cluster_.outcome(request.key).dones.size(), 1u);
  EXPECT_EQ(cluster_.core("a").stats().steps, 0u);
}

TEST_F(CoreTest, EndOfSequenceAndStopIdsEndABranchWithTheirReason) {
  cluster_.AddWorker(cluster_.Settings("a"));
  Submit request = Request("r", 9, 20);
  const int32_t third = Expected(request)[2];
  request.sampling.stop_ids = {third};
  cluster_.Send("a", request);
  cluster_.RunToEnd();
  ExpectServed(request);
  EXPECT_EQ(Given(request.key).back(), third);
  EXPECT_EQ(cluster_.outcome(request.key).ended.at(0), EndReason::kStop);
}

TEST_F(CoreTest, TheContextEndsARequestWithLength) {
  cluster_.AddWorker(cluster_.Settings("a"));
  Submit request = Request("r", 90, 1000);
  cluster_.Send("a", request);
  cluster_.RunToEnd();
  ExpectServed(request);
  EXPECT_EQ(Given(request.key).size(), 6u);
}

TEST_F(CoreTest, ACancelAfterAnyNumberOfEventsLeavesNothingBehind) {
  // As many runs as the undisturbed one has events; each is cut one event later.
  for (int cut = 0;; ++cut) {
    SCOPED_TRACE(cut);
    FakeCluster cluster(/*seed=*/5, /*delay_max_ns=*/20);
    for (const char* name : {"d", "p", "s"}) {
      CoreSettings settings = cluster.Settings(name);
      settings.leg_linger_ns = 500;
      cluster.AddWorker(settings);
    }
    const Submit before = Request("before", 12, 1);
    cluster.Send("s", before);
    cluster.RunToEnd();
    Submit request = Request("r", 22, 6);
    request.sampling.n = 2;
    request.prefill = cluster.Node("p");
    request.sources = {{cluster.Node("s"), 0, 3}};
    request.stores = {cluster.Node("store")};
    cluster.Send("d", request);
    int events = 0;
    while (events < cut && cluster.Next()) ++events;
    const bool over = events < cut;
    cluster.Send("d", Cancel{request.key, EndReason::kCancelled});
    cluster.RunToEnd();
    ASSERT_EQ(cluster.trouble, "");
    ASSERT_EQ(cluster.HeldPages(), 0);
    ASSERT_TRUE(cluster.core("d").idle() && cluster.core("p").idle());
    ASSERT_EQ(cluster.outcome(request.key).dones.size(), 1u);
    if (over) break;
  }
}

TEST_F(CoreTest, AStaleAttemptIsRefusedAndAHigherOneEndsTheLower) {
  cluster_.AddWorker(cluster_.Settings("a"));
  Submit request = Request("r", 10, 30);
  Submit higher = request;
  higher.key.attempt.n = 2;
  cluster_.Send("a", request);
  cluster_.Send("a", higher);
  Submit stale = request;
  stale.key.attempt = {0, 9};
  cluster_.Send("a", stale);
  cluster_.RunToEnd();
  ExpectServed(higher);
  EXPECT_TRUE(absl::IsAborted(RefusalOf(request.key)));
  EXPECT_TRUE(absl::IsAborted(RefusalOf(stale.key)));
  EXPECT_EQ(cluster_.core("a").stats().stale, 1u);
}

TEST_F(CoreTest, AFullQueueRefusesNewWorkByNameButNeverALaterAttempt) {
  CoreSettings settings = cluster_.Settings("a");
  settings.running_max = 1;
  settings.waiting_max = 2;
  cluster_.AddWorker(settings);
  for (int i = 0; i < 4; ++i) cluster_.Send("a", Request(absl::StrCat("r", i), 10, 5, i));
  const Status refusal = RefusalOf({"r3", {1, 1}});
  EXPECT_EQ(refusal.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refusal.message()),
              HasSubstr("2 requests wait, the limit waiting_max is 2"));
  EXPECT_THAT(std::string(refusal.message()), HasSubstr("retry after 200 ms"));

  Submit resumed = Request("again", 10, 5, 7);
  resumed.key.attempt.n = 2;
  cluster_.Send("a", resumed);
  std::vector<std::string> order;
  cluster_.on_emit = [&](const Emit& emit) {
    if (emit.done) order.push_back(emit.key.id);
  };
  cluster_.RunToEnd();
  EXPECT_THAT(order, ElementsAre("r0", "again", "r1", "r2"));
}

TEST_F(CoreTest, RoomForThePromptAndOneBlockIsReservedBeforeAnythingRuns) {
  CoreSettings settings = cluster_.Settings("a");
  settings.pages = 12;
  cluster_.AddWorker(settings);
  const Submit first = Request("first", 28, 8, 1);    // 7 pages and one more
  const Submit second = Request("second", 16, 8, 2);  // 4 pages and one more: not beside it
  cluster_.Send("a", first);
  cluster_.Send("a", second);
  EXPECT_EQ(cluster_.core("a").pages().used, 8);
  EXPECT_EQ(cluster_.core("a").waiting(), 1);
  cluster_.RunToEnd();
  ExpectServed(first);
  ExpectServed(second);
  EXPECT_EQ(cluster_.core("a").stats().preemptions, 0u);
}

TEST_F(CoreTest, WhatCanNeverFitIsRefusedByName) {
  CoreSettings settings = cluster_.Settings("a");
  settings.pages = 8;
  cluster_.AddWorker(settings);
  cluster_.Send("a", Request("pages", 20, 20));
  EXPECT_THAT(std::string(RefusalOf({"pages", {1, 1}}).message()),
              HasSubstr("may need 10 KV pages of 4 tokens, the worker's pool has 8"));
  cluster_.Send("a", Request("context", 96, 1));
  EXPECT_THAT(std::string(RefusalOf({"context", {1, 1}}).message()), HasSubstr("context of 96"));
  Submit unknown = Request("token", 5, 5);
  unknown.prompt[3] = 64;
  cluster_.Send("a", unknown);
  EXPECT_THAT(std::string(RefusalOf(unknown.key).message()), HasSubstr("prompt token 64"));
}

TEST_F(CoreTest, ADeadlineEndsARequestWhereverItIs) {
  CoreSettings settings = cluster_.Settings("a");
  settings.running_max = 1;
  cluster_.AddWorker(settings);
  Submit running = Request("running", 10, 60, 1);
  Submit waiting = Request("waiting", 10, 60, 2);
  running.deadline_ns = waiting.deadline_ns = 10;
  cluster_.Send("a", running);
  cluster_.Send("a", waiting);
  cluster_.RunToEnd();
  for (const RequestKey& key : {running.key, waiting.key}) {
    EXPECT_TRUE(absl::IsDeadlineExceeded(RefusalOf(key)));
    EXPECT_EQ(cluster_.outcome(key).ended.at(0), EndReason::kDeadline);
  }
  EXPECT_EQ(cluster_.HeldPages(), 0);
}

TEST_F(CoreTest, ALegNobodyReleasesKeepsItsPagesForABoundedTime) {
  CoreSettings settings = cluster_.Settings("p");
  settings.leg_linger_ns = 1000;
  cluster_.AddWorker(settings);
  const Submit request = Request("r", 22, 5);
  SubmitPrefill leg;
  leg.key = request.key;
  leg.leg = 1;
  leg.prompt = request.prompt;
  leg.sampling = request.sampling;
  cluster_.Send("p", leg);
  WorkerCore& core = cluster_.core("p");
  ASSERT_TRUE(cluster_.RunUntil([&] { return core.running() == 0; }));
  EXPECT_EQ(core.pages().used, 6);
  cluster_.RunToEnd();
  EXPECT_EQ(cluster_.HeldPages(), 0);
  EXPECT_EQ(core.pages().cached, 5);
  EXPECT_GE(cluster_.now(), 1000);
}

TEST_F(CoreTest, ACancelThatOvertakesItsLegStillEndsIt) {
  Record();
  cluster_.AddWorker(cluster_.Settings("p"));
  const Submit request = Request("r", 22, 5);
  SubmitPrefill leg;
  leg.key = request.key;
  leg.leg = 1;
  leg.prompt = request.prompt;
  cluster_.Send("p", CancelPrefill{request.key, 1});
  cluster_.Send("p", leg);
  cluster_.RunToEnd();
  const auto replies = Recorded<ReplyPrefill>();
  ASSERT_EQ(replies.size(), 1u);
  EXPECT_TRUE(absl::IsCancelled(replies[0].status));
  EXPECT_EQ(cluster_.core("p").stats().steps, 0u);
}

TEST_F(CoreTest, AFailedStepEndsItsRequestsAndOnlyThem) {
  WorkerCore core(cluster_.Settings("a"));
  core.Handle(Request("r", 5, 5), 1);
  ASSERT_TRUE(core.PlanStep(1).has_value());
  core.Handle(Request("next", 5, 5, 1), 2);
  core.Handle(StepDone{absl::InternalError("broken"), {}}, 3);
  int ended = 0;
  for (const Command& command : core.TakeCommands()) {
    const auto* emit = std::get_if<Emit>(&command);
    if (emit == nullptr || !emit->done) continue;
    ++ended;
    EXPECT_EQ(emit->key.id, "r");
    EXPECT_EQ(emit->done->status.message(), "broken");
  }
  EXPECT_EQ(ended, 1);
  EXPECT_TRUE(core.PlanStep(4).has_value());
  EXPECT_TRUE(core.Conserved());
}

}  // namespace
}  // namespace reprise::worker
