// What replica stores are told of live requests, what they say, and what follows when they are
// lost.
#include <algorithm>

#include "worker/engine/core/core_fixture.h"

namespace reprise::worker {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class ReplicationTest : public CoreTest {
 protected:
  std::vector<int32_t> Sequence(const Submit& request, uint32_t branch = 0) {
    std::vector<int32_t> sequence = request.prompt;
    for (const int32_t id : Expected(request, branch)) sequence.push_back(id);
    return sequence;
  }
  // Until `tokens` tokens of the request came out.
  bool RunTo(const RequestKey& key, size_t tokens) {
    return cluster_.RunUntil([&, tokens] { return Given(key).size() >= tokens; });
  }
};

TEST_F(ReplicationTest, StoresPullThePromptAndAreAppendedTheRest) {
  Record();
  cluster_.AddWorker(cluster_.Settings("a"));
  cluster_.AddStore("s");
  Submit request = Request("r", 10, 12);
  request.stores = {cluster_.StoreNode("s")};
  request.tenant = "tenant";
  cluster_.Send("a", request);
  const auto pending = Recorded<ListBlock>();
  ASSERT_EQ(pending.size(), 2u);  // promised before they are computed
  EXPECT_EQ(pending[0].state, ListBlock::State::kPending);
  cluster_.RunToEnd();
  ExpectServed(request);
  const std::vector<int32_t> sequence = Sequence(request);
  const auto offers = Recorded<OfferBlocks>();
  ASSERT_EQ(offers.size(), 1u);
  EXPECT_FALSE(offers[0].leg);
  EXPECT_EQ(offers[0].tokens, std::vector<int32_t>(sequence.begin(), sequence.begin() + 8));
  kv::ChainContext chain = cluster_.Settings("a").chain;
  chain.tenant_salt = "tenant";
  const std::vector<kv::BlockId> ids = kv::ChainIds(chain, sequence);
  int64_t next = 8;
  for (const AppendRows& append : Recorded<AppendRows>()) {
    for (const AppendRows::Entry& entry : append.entries) {
      EXPECT_EQ(entry.first_position, next);
      EXPECT_EQ(entry.parent, ids[static_cast<size_t>(next / 4 - 1)]);
      EXPECT_EQ(entry.tenant, "tenant");
      EXPECT_TRUE(std::equal(entry.tokens.begin(), entry.tokens.end(), sequence.begin() + next));
      EXPECT_LE(next % 4 + static_cast<int64_t>(entry.tokens.size()), 4);
      next += static_cast<int64_t>(entry.tokens.size());
    }
  }
  EXPECT_GE(next, 20);  // of 21 rows; the last few may come too late
  EXPECT_EQ(cluster_.HeldSequences(), 0);
  ASSERT_EQ(Recorded<ReleaseReplicas>().size(), 1u);
}

TEST_F(ReplicationTest, RowsOfTwoStepsShareAnAppendAndNoneWaitsLonger) {
  Record();
  cluster_.AddStore("s");
  const auto appends = [&](const std::string& name, int64_t rows, TimeNs linger_ns) {
    CoreSettings settings = cluster_.Settings(name);
    settings.append_rows = rows;
    settings.append_linger_ns = linger_ns;
    cluster_.AddWorker(settings);
    Submit request = Request(name, 8, 33);
    request.stores = {cluster_.StoreNode("s")};
    const size_t before = Recorded<AppendRows>().size();
    cluster_.Send(name, request);
    cluster_.RunToEnd();
    ExpectServed(request);
    return Recorded<AppendRows>().size() - before;
  };
  const size_t each_step = appends("a", 1, kSecond);
  EXPECT_GE(each_step, 30u);
  EXPECT_LE(appends("b", 2, kSecond), each_step / 2 + 1);
  EXPECT_GE(appends("c", 2, 1), each_step - 1);  // a step takes longer
}

// A leg ends without a word to the stores: a sequence kept for it would never be let go.
TEST_F(ReplicationTest, ALegOffersItsBlocksForTheCacheAlone) {
  Record();
  cluster_.AddWorker(cluster_.Settings("p"));
  cluster_.AddStore("s");
  SubmitPrefill leg;
  leg.key = {"r", {1, 1}};
  leg.leg = 1;
  leg.prompt = Request("r", 22, 5).prompt;
  leg.stores = {cluster_.StoreNode("s")};
  cluster_.Send("p", leg);
  cluster_.RunToEnd();
  const auto offers = Recorded<OfferBlocks>();
  ASSERT_EQ(offers.size(), 1u);
  EXPECT_TRUE(offers[0].leg);
  EXPECT_EQ(cluster_.HeldSequences(), 0);
  for (const kv::BlockId& id : kv::ChainIds(cluster_.Settings("p").chain, offers[0].tokens)) {
    EXPECT_NE(cluster_.store("s").Find(id), nullptr);
  }
}

TEST_F(ReplicationTest, TheWatermarkFollowsTheSlowestStoreAndNeverExceedsWhatIsComputed) {
  cluster_.AddWorker(cluster_.Settings("a"));
  cluster_.AddStore("s");
  cluster_.AddStore("t");
  Submit request = Request("r", 10, 40);
  request.stores = {cluster_.StoreNode("s"), cluster_.StoreNode("t")};
  int64_t last = 0;
  cluster_.on_emit = [&](const Emit& emit) {
    if (emit.done) return;
    EXPECT_GE(emit.watermark, last);
    last = emit.watermark;
    EXPECT_LE(last, 10 + static_cast<int64_t>(Given(request.key).size()));
    EXPECT_LE(last, cluster_.store("s").Held("r", 0).value_or(0));
    EXPECT_LE(last, cluster_.store("t").Held("r", 0).value_or(0));
  };
  cluster_.Send("a", request);
  cluster_.RunToEnd();
  ExpectServed(request);
  EXPECT_GE(last, 30);
}

TEST_F(ReplicationTest, ASilentStoreStopsTheWatermarkAndNothingElse) {
  Record();
  CoreSettings settings = cluster_.Settings("a");
  settings.append_bytes_max = 4 * settings.row_bytes;
  cluster_.AddWorker(settings);
  Submit request = Request("r", 10, 40);
  request.stores = {{{"silent", 3}, "", ""}};
  cluster_.Send("a", request);
  cluster_.RunToEnd();
  ExpectServed(request);
  int64_t rows = 0;
  for (const AppendRows& append : Recorded<AppendRows>()) {
    for (const AppendRows::Entry& entry : append.entries) {
      rows += static_cast<int64_t>(entry.tokens.size());
    }
  }
  EXPECT_EQ(rows, 4);  // what may be unacknowledged
  for (const Emit& emit : Recorded<Emit>()) EXPECT_EQ(emit.watermark, 0);
}

TEST_F(ReplicationTest, EveryBranchIsASequenceOfItsOwn) {
  cluster_.AddWorker(cluster_.Settings("a"));
  cluster_.AddStore("s");
  Submit request = Request("r", 10, 20);
  request.sampling.n = 2;
  request.stores = {cluster_.StoreNode("s")};
  cluster_.Send("a", request);
  ASSERT_TRUE(RunTo(request.key, 15));
  for (const uint32_t branch : {0u, 1u}) {
    const std::vector<int32_t> sequence = Sequence(request, branch);
    for (const TailState& state : cluster_.store("s").States("r")) {
      if (state.branch != branch) continue;
      EXPECT_GE(state.first_position, 16);
      EXPECT_TRUE(std::equal(state.tokens.begin(), state.tokens.end(),
                             sequence.begin() + state.first_position));
    }
  }
  cluster_.RunToEnd();
  ExpectServed(request);
  EXPECT_EQ(cluster_.HeldSequences(), 0);
}

TEST_F(ReplicationTest, APageReadByAPackIsNotReusedBeforeItIsPacked) {
  WorkerCore core(cluster_.Settings("a"));
  Submit request = Request("r", 5, 9);
  request.stores = {{{"s", 1}, "", ""}};
  core.Handle(request, 1);
  ASSERT_TRUE(core.PlanStep(1).has_value());
  core.Handle(StepDone{{}, {SampledToken{.id = 1}}}, 2);
  AppendId append = 0;
  for (const Command& command : core.TakeCommands()) {
    if (const auto* rows = std::get_if<AppendRows>(&command)) append = rows->append;
  }
  ASSERT_NE(append, 0u);
  core.Handle(Cancel{request.key, {}}, 3);
  for (const Command& command : core.TakeCommands()) {
    if (const auto* unlist = std::get_if<UnlistBlock>(&command)) {
      core.Handle(PageQuiet{unlist->page}, 3);
    }
  }
  EXPECT_EQ(core.pages().quarantined, 1);  // the open block's
  EXPECT_EQ(core.stranded_pages(), 1);
  core.Handle(RowsPacked{append}, 4);
  EXPECT_EQ(core.pages().quarantined, 0);
  EXPECT_TRUE(core.Conserved());
}

TEST_F(ReplicationTest, ALostStoreIsReplacedAndTheNewOneGetsEverything) {
  Record();
  cluster_.AddWorker(cluster_.Settings("a"));
  for (const char* name : {"s", "t"}) cluster_.AddStore(name);
  cluster_.TellStores();
  Submit request = Request("r", 10, 60);
  request.stores = {cluster_.StoreNode("s")};
  cluster_.Send("a", request);
  ASSERT_TRUE(RunTo(request.key, 20));
  cluster_.KillStore("s");
  ASSERT_TRUE(RunTo(request.key, 50));
  EXPECT_GE(cluster_.store("t").Held("r", 0).value_or(0), 50);
  std::vector<std::string> sets;
  for (const Emit& emit : Recorded<Emit>()) {
    if (!emit.stores) continue;
    sets.push_back(emit.stores->empty() ? "" : emit.stores->front().key.name);
  }
  EXPECT_THAT(sets, ElementsAre("t"));
  cluster_.RunToEnd();
  ExpectServed(request);
  EXPECT_EQ(cluster_.core("a").stats().replicas_lost, 1u);
  EXPECT_EQ(cluster_.core("a").stats().rebuilds, 1u);
  EXPECT_EQ(cluster_.HeldSequences(), 0);
}

TEST_F(ReplicationTest, WithTooFewStoresTheSetShrinksAndGrowsAgain) {
  CoreSettings settings = cluster_.Settings("a");
  settings.store_retry_ns = 5;
  cluster_.AddWorker(settings);
  cluster_.AddStore("s");
  cluster_.TellStores();
  Submit request = Request("r", 10, 60);
  request.stores = {cluster_.StoreNode("s")};
  cluster_.Send("a", request);
  ASSERT_TRUE(RunTo(request.key, 10));
  cluster_.KillStore("s");
  cluster_.TellStores();
  ASSERT_TRUE(RunTo(request.key, 20));
  EXPECT_EQ(cluster_.core("a").Lag(cluster_.now()).tokens, 0);  // nobody lags where nobody is
  cluster_.AddStore("s");
  cluster_.TellStores();
  ASSERT_TRUE(RunTo(request.key, 50));
  EXPECT_GE(cluster_.store("s").Held("r", 0).value_or(0), 50);
  cluster_.RunToEnd();
  ExpectServed(request);
}

TEST_F(ReplicationTest, ASetThatWasTooSmallAtPlacementGrows) {
  cluster_.AddWorker(cluster_.Settings("a"));
  cluster_.AddStore("s");
  cluster_.TellStores();
  Submit request = Request("r", 10, 60);
  request.stores = {cluster_.StoreNode("s")};
  request.replica_stores = 2;
  cluster_.Send("a", request);
  ASSERT_TRUE(RunTo(request.key, 20));
  cluster_.AddStore("t");
  cluster_.TellStores();
  ASSERT_TRUE(RunTo(request.key, 50));
  EXPECT_GE(cluster_.store("t").Held("r", 0).value_or(0), 50);
  cluster_.RunToEnd();
  ExpectServed(request);
}

TEST_F(ReplicationTest, OnlySoManyReplicasAreBegunAnewAtATime) {
  CoreSettings settings = cluster_.Settings("a");
  settings.rebuilds_max = 2;
  WorkerCore core(settings);
  for (int i = 0; i < 5; ++i) {
    Submit request = Request(absl::StrCat("r", i), 5, 9, i);
    request.stores = {{{"s", 1}, "", ""}};
    core.Handle(request, 1);
  }
  core.Handle(LiveStores{{{{{"t", 1}, "", ""}, ""}}}, 2);
  core.Handle(ReplicaLost{{"s", 1}, absl::UnavailableError("")}, 3);
  EXPECT_EQ(core.stats().replicas_lost, 5u);
  EXPECT_EQ(core.stats().rebuilds, 2u);
}

TEST_F(ReplicationTest, AStoreThatIsMissingFromTheListForAMomentIsNotLost) {
  CoreSettings settings = cluster_.Settings("a");
  settings.store_absent_ns = 100;
  WorkerCore core(settings);
  Submit request = Request("r", 5, 9);
  request.stores = {{{"s", 1}, "", ""}};
  core.Handle(request, 1);
  core.Handle(LiveStores{}, 10);
  core.Handle(Tick{}, 60);
  EXPECT_EQ(core.stats().replicas_lost, 0u);
  core.Handle(LiveStores{{{{{"s", 1}, "", ""}, ""}}}, 70);
  core.Handle(Tick{}, 200);
  EXPECT_EQ(core.stats().replicas_lost, 0u);
  core.Handle(LiveStores{}, 210);
  EXPECT_EQ(core.NextTick(), std::optional<TimeNs>(310));
  core.Handle(Tick{}, 310);
  EXPECT_EQ(core.stats().replicas_lost, 1u);
  EXPECT_EQ(core.NextTick(), std::nullopt);
}

TEST_F(ReplicationTest, ALaterLifeOfAStoreReplacesTheEarlierOne) {
  WorkerCore core(cluster_.Settings("a"));
  Submit request = Request("r", 5, 9);
  request.stores = {{{"s", 1}, "", ""}};
  core.Handle(request, 1);
  core.Handle(LiveStores{{{{{"s", 2}, "", ""}, ""}}}, 10);
  EXPECT_EQ(core.stats().replicas_lost, 1u);
  EXPECT_EQ(core.stats().rebuilds, 1u);
}

TEST_F(ReplicationTest, AStoreThatKnowsAHigherAttemptEndsTheLowerOne) {
  cluster_.AddWorker(cluster_.Settings("a"));
  cluster_.AddStore("s");
  Submit request = Request("r", 10, 60);
  request.stores = {cluster_.StoreNode("s")};
  cluster_.Send("a", request);
  ASSERT_TRUE(RunTo(request.key, 10));
  cluster_.store("s").Admit({"r", {1, 2}});
  cluster_.RunToEnd();
  EXPECT_TRUE(absl::IsAborted(RefusalOf(request.key)));
  EXPECT_EQ(cluster_.core("a").stats().fenced, 1u);
  EXPECT_EQ(cluster_.HeldPages(), 0);
}

TEST_F(ReplicationTest, ARefusedAppendIsSentAgainFromWhereTheStoreIs) {
  cluster_.AddWorker(cluster_.Settings("a"));
  cluster_.AddStore("s");
  CoreSettings settings = cluster_.Settings("b");
  settings.store_full_retry_ns = settings.store_refused_retry_ns = 3;
  settings.replica_stall_ns = 20;
  cluster_.AddWorker(settings);
  cluster_.faults = {.lose_append = 0.2, .lose_held = 0.2, .full_store = 0.2};
  Submit request = Request("r", 10, 80);
  request.stores = {cluster_.StoreNode("s")};
  int64_t last = 0;
  cluster_.on_emit = [&](const Emit& emit) { last = emit.done ? last : emit.watermark; };
  cluster_.Send("b", request);
  cluster_.RunToEnd();
  ExpectServed(request);
  EXPECT_GE(last, 60);
}

TEST_F(ReplicationTest, APreemptedRequestKeepsItsReplicas) {
  CoreSettings small = cluster_.Settings("a");
  small.pages = 14;
  cluster_.AddWorker(small);
  cluster_.AddStore("s");
  std::vector<Submit> requests;
  for (int i = 0; i < 3; ++i) {
    requests.push_back(Request(absl::StrCat("r", i), 10, 30, i + 1));
    requests.back().stores = {cluster_.StoreNode("s")};
    cluster_.Send("a", requests.back());
  }
  std::map<std::string, int64_t> watermarks;
  cluster_.on_emit = [&](const Emit& emit) {
    EXPECT_GE(emit.watermark, watermarks[emit.key.id]);
    if (!emit.done) watermarks[emit.key.id] = emit.watermark;
  };
  cluster_.RunToEnd();
  EXPECT_GT(cluster_.core("a").stats().preemptions, 0u);
  for (const Submit& request : requests) {
    ExpectServed(request);
    EXPECT_GE(watermarks[request.key.id], 30);
  }
}

TEST_F(ReplicationTest, ARequestThatCrashedWorkersRunsAloneAndTheOthersGoOn) {
  cluster_.AddWorker(cluster_.Settings("a"));
  const Submit first = Request("first", 10, 20, 1);
  Submit alone = Request("alone", 20, 20, 2);
  const Submit last = Request("last", 10, 20, 3);
  alone.alone = true;
  // Tokens of one step come out together.
  TimeNs at = 0;
  std::set<std::string> step;
  int mixed = 0;
  cluster_.on_emit = [&](const Emit& emit) {
    if (cluster_.now() != at) step.clear();
    at = cluster_.now();
    if (emit.tokens.empty()) return;
    step.insert(emit.key.id);
    mixed += step.contains("alone") && step.size() > 1;
  };
  for (const Submit& request : {first, alone, last}) cluster_.Send("a", request);
  cluster_.RunToEnd();
  EXPECT_EQ(mixed, 0);
  for (const Submit& request : {first, alone, last}) ExpectServed(request);
  const CoreStats& stats = cluster_.core("a").stats();
  EXPECT_LT(stats.steps, 60u);  // first and last still share theirs
}

TEST_F(ReplicationTest, ADrainingWorkerLetsReplicasCatchUpAndSendsRequestsAway) {
  cluster_.AddWorker(cluster_.Settings("a"));
  cluster_.AddStore("s");
  Submit request = Request("r", 10, 60);
  request.stores = {cluster_.StoreNode("s")};
  cluster_.Send("a", request);
  ASSERT_TRUE(RunTo(request.key, 10));
  cluster_.Send("a", Drain{});
  cluster_.Send("a", Request("late", 10, 5));
  EXPECT_TRUE(absl::IsUnavailable(RefusalOf({"late", {1, 1}})));
  ASSERT_TRUE(cluster_.RunUntil([&] { return cluster_.core("a").idle(); }));
  EXPECT_THAT(std::string(RefusalOf(request.key).message()), HasSubstr("draining"));
  const size_t given = Given(request.key).size();
  EXPECT_LT(given, 60u);
  EXPECT_THAT(cluster_.outcome(request.key).ended, IsEmpty());
  // Every row but that of the last token, which nobody has computed.
  EXPECT_EQ(cluster_.store("s").Held("r", 0), std::optional<int64_t>(9 + given));
  EXPECT_EQ(cluster_.core("a").NextTick(), std::optional<TimeNs>(10 * kSecond + cluster_.now()));
}

TEST_F(ReplicationTest, ADrainDoesNotWaitForAStoreForEver) {
  CoreSettings settings = cluster_.Settings("a");
  settings.drain_flush_ns = 50;
  cluster_.AddWorker(settings);
  Submit request = Request("r", 10, 60);
  request.stores = {{{"silent", 3}, "", ""}};
  cluster_.Send("a", request);
  ASSERT_TRUE(RunTo(request.key, 10));
  cluster_.Send("a", Drain{});
  ASSERT_TRUE(cluster_.RunUntil([&] { return cluster_.core("a").idle(); }));
  EXPECT_TRUE(absl::IsUnavailable(RefusalOf(request.key)));
}

TEST_F(ReplicationTest, RolesChangeAndNothingAcceptedFails) {
  cluster_.AddWorker(cluster_.Settings("a"));
  const Submit request = Request("r", 10, 20);
  cluster_.Send("a", request);
  cluster_.Send("a", SetRoles{.prefill = true, .decode = false});
  cluster_.Send("a", Request("late", 10, 5));
  EXPECT_EQ(RefusalOf({"late", {1, 1}}).code(), absl::StatusCode::kFailedPrecondition);
  cluster_.RunToEnd();
  ExpectServed(request);
  cluster_.Send("a", SetRoles{});
  const Submit again = Request("again", 10, 20);
  cluster_.Send("a", again);
  cluster_.RunToEnd();
  ExpectServed(again);
}

}  // namespace
}  // namespace reprise::worker
