// Requests that outlive their gateways.
#include "worker/engine/core/core_fixture.h"

namespace reprise::worker {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class WindowTest : public CoreTest {
 protected:
  Submit Resumable(const std::string& id, int prompt, int max_tokens) {
    Submit submit = Request(id, prompt, max_tokens);
    submit.resume_handle = "0123456789abcdef";
    submit.resume_window_ns = 1'000;
    return submit;
  }
  Attach AttachTo(const Submit& request, uint64_t epoch = 2) {
    return Attach{{request.key.id, {epoch, 1}}, request.resume_handle};
  }
  std::vector<int32_t> Indices(const RequestKey& key, uint32_t branch = 0) {
    std::vector<int32_t> indices;
    for (const BranchToken& token : cluster_.outcome(key).tokens[branch]) {
      indices.push_back(static_cast<int32_t>(token.index));
    }
    return indices;
  }
  void ExpectWhole(const Submit& request, const RequestKey& key) {
    for (uint32_t b = 0; b < static_cast<uint32_t>(request.sampling.n); ++b) {
      EXPECT_EQ(Given(key, b), Expected(request, b));
      for (size_t i = 0; i < Indices(key, b).size(); ++i) {
        EXPECT_EQ(Indices(key, b)[i], static_cast<int32_t>(i));
      }
    }
    ASSERT_EQ(cluster_.outcome(key).dones.size(), 1u);
    EXPECT_TRUE(cluster_.outcome(key).dones[0].status.ok());
  }
};

TEST_F(WindowTest, WhoeverAttachesGetsEveryTokenFromTheFirst) {
  Record();
  cluster_.AddWorker(cluster_.Settings("a"));
  Submit request = Resumable("r", 10, 40);
  request.sampling.n = 2;
  request.deadline_ns = kSecond;
  cluster_.Send("a", request);
  ASSERT_TRUE(cluster_.RunUntil([&] { return Given(request.key).size() >= 5; }));
  cluster_.Send("a", Orphan{request.key});
  ASSERT_TRUE(cluster_.RunUntil([&] { return Given(request.key).size() >= 15; }));
  const Attach attach = AttachTo(request);
  cluster_.Send("a", attach);
  EXPECT_TRUE(absl::IsAborted(RefusalOf(request.key)));  // the old gateway, should it live
  cluster_.RunToEnd();
  ExpectWhole(request, attach.key);
  EXPECT_EQ(cluster_.HeldPages(), 0);
  for (const Emit& emit : Recorded<Emit>()) {
    if (!emit.attached) continue;
    EXPECT_EQ(emit.attached->prompt, request.prompt);
    EXPECT_EQ(emit.attached->sampling.seed, request.sampling.seed);
    EXPECT_EQ(emit.attached->resume_window_ns, 1'000);
    EXPECT_EQ(emit.attached->deadline_ns, kSecond);
  }
  EXPECT_EQ(cluster_.core("a").stats().attached, 1u);
}

TEST_F(WindowTest, LogprobsComeAgainToTheBit) {
  cluster_.AddWorker(cluster_.Settings("a"));
  const Submit request = Resumable("r", 10, 12);
  cluster_.Send("a", request);
  ASSERT_TRUE(cluster_.RunUntil([&] { return Given(request.key).size() >= 7; }));
  cluster_.Send("a", AttachTo(request));
  cluster_.RunToEnd();
  const std::vector<SampledToken> expected =
      ExpectedTimedTokens(cluster_.model(), request.prompt, request.sampling, 0);
  const auto& tokens = cluster_.outcome(AttachTo(request).key).tokens[0];
  ASSERT_EQ(tokens.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(tokens[i].token.logprob, expected[i].logprob);
  }
}

TEST_F(WindowTest, LogprobsOfEarlierAttemptsComeAgainToo) {
  cluster_.AddWorker(cluster_.Settings("a"));
  Submit request = Resumable("r", 10, 12);
  const std::vector<SampledToken> expected =
      ExpectedTimedTokens(cluster_.model(), request.prompt, request.sampling, 0);
  request.branches.resize(1);
  for (size_t i = 0; i < 5; ++i) {
    request.branches[0].emitted.push_back(expected[i].id);
    request.branches[0].logprobs.push_back(expected[i].logprob);
  }
  cluster_.Send("a", request);
  ASSERT_TRUE(cluster_.RunUntil([&] { return Given(request.key).size() >= 2; }));
  cluster_.Send("a", AttachTo(request));
  cluster_.RunToEnd();
  const auto& tokens = cluster_.outcome(AttachTo(request).key).tokens[0];
  ASSERT_EQ(tokens.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(tokens[i].token.logprob, expected[i].logprob);
  }
}

TEST_F(WindowTest, ARequestThatEndedUnheardIsToldWithinTheWindow) {
  cluster_.AddWorker(cluster_.Settings("a"));
  Submit request = Resumable("r", 10, 8);
  request.resume_window_ns = 100'000;
  cluster_.Send("a", request);
  cluster_.Send("a", Orphan{request.key});
  ASSERT_TRUE(cluster_.RunUntil([&] { return !cluster_.outcome(request.key).dones.empty(); }));
  EXPECT_EQ(cluster_.HeldPages(), 0);
  EXPECT_FALSE(cluster_.core("a").idle());  // somebody may still come
  cluster_.Send("a", AttachTo(request));
  ExpectWhole(request, AttachTo(request).key);
  EXPECT_TRUE(cluster_.core("a").idle());
  // And again, should that gateway go too.
  cluster_.Send("a", AttachTo(request, 3));
  ExpectWhole(request, AttachTo(request, 3).key);
}

TEST_F(WindowTest, AfterTheWindowNothingIsLeft) {
  cluster_.AddWorker(cluster_.Settings("a"));
  cluster_.AddStore("s");
  Submit request = Resumable("r", 10, 80);
  request.resume_window_ns = 20;
  request.stores = {cluster_.StoreNode("s")};
  cluster_.Send("a", request);
  ASSERT_TRUE(cluster_.RunUntil([&] { return Given(request.key).size() >= 5; }));
  cluster_.Send("a", Orphan{request.key});
  cluster_.RunToEnd();
  EXPECT_TRUE(absl::IsCancelled(RefusalOf(request.key)));
  cluster_.Send("a", AttachTo(request));
  EXPECT_TRUE(absl::IsNotFound(RefusalOf(AttachTo(request).key)));
  EXPECT_TRUE(cluster_.core("a").idle());
  EXPECT_EQ(cluster_.HeldPages(), 0);
  EXPECT_EQ(cluster_.HeldSequences(), 0);
  EXPECT_EQ(cluster_.core("a").stats().windows_over, 1u);
}

TEST_F(WindowTest, ReplicasOfAnUnheardEndStayForTheWindow) {
  cluster_.AddWorker(cluster_.Settings("a"));
  cluster_.AddStore("s");
  Submit request = Resumable("r", 10, 8);
  request.resume_window_ns = 500;
  request.stores = {cluster_.StoreNode("s")};
  cluster_.Send("a", request);
  cluster_.Send("a", Orphan{request.key});
  ASSERT_TRUE(cluster_.RunUntil([&] { return cluster_.now() > 300; }) || cluster_.now() > 1);
  cluster_.RunToEnd();
  EXPECT_GE(cluster_.now(), 500);
  EXPECT_EQ(cluster_.HeldSequences(), 0);
}

TEST_F(WindowTest, ReplicasOfAnUnheardEndGoThoughALaterAttemptHasOthers) {
  cluster_.AddWorker(cluster_.Settings("a"));
  cluster_.AddStore("s");
  cluster_.AddStore("t");
  Submit request = Resumable("r", 10, 8);
  request.resume_window_ns = 100'000;
  request.stores = {cluster_.StoreNode("s")};
  cluster_.Send("a", request);
  cluster_.Send("a", Orphan{request.key});
  ASSERT_TRUE(cluster_.RunUntil([&] { return !cluster_.outcome(request.key).dones.empty(); }));
  EXPECT_EQ(cluster_.HeldSequences(), 1);
  Submit again = request;
  again.key.attempt = {2, 1};
  again.stores = {cluster_.StoreNode("t")};
  cluster_.Send("a", again);
  cluster_.RunToEnd();
  ExpectWhole(again, again.key);
  EXPECT_EQ(cluster_.HeldSequences(), 0);
}

TEST_F(WindowTest, WithoutAWindowAVanishedGatewayIsACancel) {
  cluster_.AddWorker(cluster_.Settings("a"));
  const Submit request = Request("r", 10, 80);
  cluster_.Send("a", request);
  cluster_.Send("a", Orphan{request.key});
  EXPECT_TRUE(absl::IsCancelled(RefusalOf(request.key)));
  cluster_.RunToEnd();
  EXPECT_EQ(cluster_.HeldPages(), 0);
}

TEST_F(WindowTest, AWrongHandleAttachesNothingAndFencesNothing) {
  cluster_.AddWorker(cluster_.Settings("a"));
  const Submit request = Resumable("r", 10, 20);
  cluster_.Send("a", request);
  for (const char* handle : {"", "0123456789abcdeg", "0123456789abcdef0"}) {
    Attach wrong = AttachTo(request, 9);
    wrong.key.attempt.n = static_cast<uint32_t>(std::string(handle).size());
    wrong.resume_handle = handle;
    cluster_.Send("a", wrong);
    EXPECT_TRUE(absl::IsPermissionDenied(RefusalOf(wrong.key))) << handle;
  }
  Submit open = Request("open", 5, 4);  // has no handle: nobody attaches, with none either
  cluster_.Send("a", open);
  cluster_.Send("a", Attach{{"open", {2, 1}}, ""});
  EXPECT_TRUE(absl::IsPermissionDenied(RefusalOf({"open", {2, 1}})));
  cluster_.Send("a", Attach{{"unknown", {2, 1}}, "0123456789abcdef"});
  EXPECT_TRUE(absl::IsNotFound(RefusalOf({"unknown", {2, 1}})));
  cluster_.RunToEnd();
  ExpectServed(request);
}

TEST_F(WindowTest, AnAttachBelowTheHighestAttemptIsRefused) {
  cluster_.AddWorker(cluster_.Settings("a"));
  const Submit request = Resumable("r", 10, 20);
  cluster_.Send("a", request);
  cluster_.Send("a", AttachTo(request, 5));
  cluster_.Send("a", AttachTo(request, 4));
  EXPECT_TRUE(absl::IsAborted(RefusalOf(AttachTo(request, 4).key)));
  cluster_.Send("a", Cancel{request.key, {}});  // of the superseded owner: no effect
  cluster_.RunToEnd();
  ExpectWhole(request, AttachTo(request, 5).key);
}

TEST_F(WindowTest, AnAttachWhileThePrefillLegRunsLosesNothing) {
  for (int cut = 0; cut < 40; ++cut) {
    SCOPED_TRACE(cut);
    FakeCluster cluster(7, 20);
    cluster.AddWorker(cluster.Settings("d"));
    CoreSettings settings = cluster.Settings("p");
    settings.leg_linger_ns = 500;
    cluster.AddWorker(settings);
    Submit request = Resumable("r", 22, 6);
    request.resume_window_ns = 100'000;
    request.prefill = cluster.Node("p");
    cluster.Send("d", request);
    for (int event = 0; event < cut && cluster.outcome(request.key).dones.empty(); ++event) {
      cluster.Next();
    }
    cluster.Send("d", AttachTo(request));
    cluster.RunToEnd();
    ASSERT_EQ(cluster.trouble, "");
    std::vector<int32_t> ids;
    for (const BranchToken& token : cluster.outcome(AttachTo(request).key).tokens[0]) {
      ids.push_back(token.token.id);
    }
    EXPECT_EQ(ids, Expected(request));
    EXPECT_EQ(cluster.HeldPages(), 0);
    EXPECT_EQ(cluster.core("d").stats().legs_failed, 0u);
  }
}

TEST_F(WindowTest, TokensOfEarlierAttemptsAreGivenToWhoeverAttaches) {
  cluster_.AddWorker(cluster_.Settings("a"));
  Submit request = Resumable("r", 10, 20);
  const std::vector<int32_t> all = Expected(request);
  request.key.attempt.n = 2;
  request.branches = {{{all.begin(), all.begin() + 7}, false}};
  cluster_.Send("a", request);
  cluster_.Send("a", AttachTo(request));
  cluster_.RunToEnd();
  ExpectWhole(request, AttachTo(request).key);
}

TEST_F(WindowTest, KeptEndsAreBounded) {
  CoreSettings settings = cluster_.Settings("a");
  settings.kept_max = 2;
  cluster_.AddWorker(settings);
  std::vector<Submit> requests;
  for (int i = 0; i < 3; ++i) {
    requests.push_back(Resumable(absl::StrCat("r", i), 5, 3));
    requests.back().resume_window_ns = kSecond;
    cluster_.Send("a", requests.back());
    ASSERT_TRUE(
        cluster_.RunUntil([&] { return !cluster_.outcome(requests.back().key).dones.empty(); }));
  }
  for (const Submit& request : requests) cluster_.Send("a", AttachTo(request));
  EXPECT_TRUE(absl::IsNotFound(RefusalOf(AttachTo(requests[0]).key)));
  ExpectWhole(requests[1], AttachTo(requests[1]).key);
  ExpectWhole(requests[2], AttachTo(requests[2]).key);
}

TEST_F(WindowTest, ADrainWaitsForAnUnheardEndToItsDeadlineOnly) {
  cluster_.AddWorker(cluster_.Settings("a"));
  Submit request = Resumable("r", 10, 8);
  request.resume_window_ns = kSecond;
  cluster_.Send("a", request);
  cluster_.Send("a", Orphan{request.key});
  ASSERT_TRUE(cluster_.RunUntil([&] { return !cluster_.outcome(request.key).dones.empty(); }));
  cluster_.Send("a", Drain{.deadline_ns = cluster_.now() + 50});
  EXPECT_FALSE(cluster_.core("a").idle());
  cluster_.RunToEnd();
  EXPECT_TRUE(cluster_.core("a").idle());
  EXPECT_LT(cluster_.now(), kSecond);
}

TEST_F(WindowTest, ADrainWaitsForWhomNobodyListensToUntilItsDeadline) {
  cluster_.AddWorker(cluster_.Settings("a"));
  Submit request = Resumable("r", 10, 80);
  cluster_.Send("a", request);
  cluster_.Send("a", Orphan{request.key});
  cluster_.Send("a", Drain{.deadline_ns = 40});
  ASSERT_TRUE(cluster_.RunUntil([&] { return Given(request.key).size() >= 10; }));
  cluster_.RunToEnd();
  EXPECT_TRUE(absl::IsUnavailable(RefusalOf(request.key)));
  EXPECT_LT(Given(request.key).size(), 80u);
  EXPECT_TRUE(cluster_.core("a").idle());
  EXPECT_EQ(cluster_.HeldPages(), 0);
}

}  // namespace
}  // namespace reprise::worker
