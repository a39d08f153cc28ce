// A resumed request gets its rows back from wherever they are.
#include "worker/engine/core/core_fixture.h"

namespace reprise::worker {
namespace {

using testing::IsEmpty;

class RestoreTest : public CoreTest {
 protected:
  // `first` runs on "a" with store "s" until it gave so many tokens, then "a" is never heard again;
  // the request goes on at "b" with what came out.
  Submit MoveAfter(Submit request, size_t tokens) {
    cluster_.AddWorker(cluster_.Settings("a"));
    CoreSettings settings = cluster_.Settings("b");
    settings.prefill_tokens_per_s = 1;
    cluster_.AddWorker(settings);
    cluster_.AddStore("s");
    request.stores = {cluster_.StoreNode("s")};
    cluster_.Send("a", request);
    EXPECT_TRUE(cluster_.RunUntil([&] { return Given(request.key).size() >= tokens; }));
    Submit next = request;
    next.key.attempt.n = 2;
    next.replicas = request.stores;
    for (uint32_t b = 0; b < static_cast<uint32_t>(request.sampling.n); ++b) {
      next.branches.push_back({Given(request.key, b), false});
    }
    return next;
  }
  // The rest came out, from where the transcript ended.
  void ExpectContinued(const Submit& next) {
    EXPECT_EQ(cluster_.trouble, "");
    for (uint32_t b = 0; b < next.branches.size(); ++b) {
      const std::vector<int32_t>& had = next.branches[b].emitted;
      std::vector<int32_t> all = had;
      for (const int32_t id : Given(next.key, b)) all.push_back(id);
      EXPECT_EQ(all, Expected(next, b)) << "branch " << b;
    }
    ASSERT_EQ(cluster_.outcome(next.key).dones.size(), 1u);
    EXPECT_TRUE(cluster_.outcome(next.key).dones[0].status.ok());
  }
  const CoreStats& stats() { return cluster_.core("b").stats(); }
};

TEST_F(RestoreTest, RowsAreFetchedAndOnlyTheGapIsReplayed) {
  const Submit next = MoveAfter(Request("r", 18, 40), 21);
  cluster_.Send("b", next);
  cluster_.RunToEnd();
  ExpectContinued(next);
  const auto known = static_cast<int64_t>(18 + next.branches[0].emitted.size() - 1);
  EXPECT_EQ(static_cast<int64_t>(stats().restored_rows + stats().replayed_rows), known);
  EXPECT_LE(stats().replayed_rows, 3u);
  EXPECT_EQ(stats().restores, 1u);
  EXPECT_EQ(cluster_.HeldPages(), 0);
}

// Rows may be on their way into a tail, which is there a moment later; a block that is only on its
// way may never come.
TEST_F(RestoreTest, ATailIsWaitedForAndABlockIsNot) {
  Submit request = Request("r", 18, 24);
  request.sampling.n = 2;
  const Submit next = MoveAfter(request, 13);
  Record();
  cluster_.Send("b", next);
  cluster_.RunToEnd();
  ExpectContinued(next);
  size_t tails = 0;
  for (const StartFetch& fetch : Recorded<StartFetch>()) {
    if (!fetch.restore) continue;
    for (const StartFetch::Item& item : fetch.items) {
      const bool tail = item.id == kv::ReplicaTailId("r", 0, item.first_position) ||
                        item.id == kv::ReplicaTailId("r", 1, item.first_position);
      tails += tail;
      EXPECT_EQ(fetch.subscribe, tail) << item.first_position;
    }
  }
  EXPECT_EQ(tails, 2u);
}

TEST_F(RestoreTest, EveryBranchGetsItsOwnRows) {
  Submit request = Request("r", 18, 24);
  request.sampling.n = 3;
  const Submit next = MoveAfter(request, 21);
  cluster_.Send("b", next);
  cluster_.RunToEnd();
  ExpectContinued(next);
  // The prompt once, and about 20 rows a branch.
  EXPECT_GE(stats().restored_rows, 16u + 3 * 18);
  EXPECT_LE(stats().replayed_rows, 18u);
  EXPECT_EQ(cluster_.HeldPages(), 0);
}

TEST_F(RestoreTest, RowsOfOtherTokensAreNotTaken) {
  const Submit next = MoveAfter(Request("r", 18, 40), 2);
  const auto held = [&] { return cluster_.store("s").Held("r", 0).value_or(0); };
  ASSERT_TRUE(cluster_.RunUntil([&] { return held() >= 19; }));
  ASSERT_LT(held(), 20);  // the tail of the block that the prompt ends in
  // The rows behind the prompt are of tokens that the client never got and that are others now.
  Submit other = next;
  other.sampling.seed = 12;
  const std::vector<int32_t> all = Expected(other);
  ASSERT_NE(all[0], next.branches[0].emitted[0]);
  other.branches = {{{all[0], all[1]}, false}};
  cluster_.Send("b", other);
  cluster_.RunToEnd();
  ExpectContinued(other);
  EXPECT_EQ(stats().restored_rows, 18u);
}

TEST_F(RestoreTest, ALostReplicaCostsTimeNeverTokens) {
  for (const bool before_query : {true, false}) {
    SCOPED_TRACE(before_query);
    cluster_ = FakeCluster(3, 10);
    const Submit next = MoveAfter(Request("r", 18, 40), 21);
    if (before_query) cluster_.KillStore("s");
    cluster_.Send("b", next);
    if (!before_query) {
      ASSERT_TRUE(cluster_.RunUntil([&] { return stats().fetches > 0; }));
      cluster_.KillStore("s");
    }
    cluster_.RunToEnd();
    ExpectContinued(next);
    EXPECT_EQ(cluster_.HeldPages(), 0);
  }
}

TEST_F(RestoreTest, ACancelAtAnyMomentOfARestoreLeavesNothingBehind) {
  for (int cut = 0; cut < 60; ++cut) {
    SCOPED_TRACE(cut);
    cluster_ = FakeCluster(4, 10);
    Submit request = Request("r", 18, 40);
    request.sampling.n = 2;
    const Submit next = MoveAfter(request, 15);
    cluster_.Send("a", Cancel{request.key, {}});
    cluster_.Send("b", next);
    for (int event = 0; event < cut; ++event) cluster_.Next();
    cluster_.Send("b", Cancel{next.key, {}});
    cluster_.RunToEnd();
    ASSERT_EQ(cluster_.trouble, "");
    ASSERT_EQ(cluster_.HeldPages(), 0);
    ASSERT_EQ(cluster_.HeldSequences(), 0);
    ASSERT_TRUE(cluster_.core("b").idle());
  }
}

TEST_F(RestoreTest, AFastProcessorComputesInsteadOfFetching) {
  Submit next = MoveAfter(Request("r", 18, 40), 21);
  CoreSettings settings = cluster_.Settings("c");
  settings.prefill_tokens_per_s = 1e12;
  settings.link_latency_ns = kSecond;
  cluster_.AddWorker(settings);
  cluster_.Send("c", next);
  cluster_.RunToEnd();
  ExpectContinued(next);
  EXPECT_EQ(cluster_.core("c").stats().recomputes, 1u);
  EXPECT_EQ(cluster_.core("c").stats().restored_rows, 0u);
}

TEST_F(RestoreTest, RowsOnTheWayForAnotherRequestAreWaitedForNotFetchedTwice) {
  cluster_.AddWorker(cluster_.Settings("a"));
  CoreSettings settings = cluster_.Settings("b");
  settings.prefill_tokens_per_s = 1;
  cluster_.AddWorker(settings);
  const Submit held = Request("held", 18, 4);
  cluster_.Send("a", held);
  cluster_.RunToEnd();
  std::vector<Submit> resumed;
  Record();
  for (const char* id : {"r1", "r2"}) {
    Submit next = Request(id, 18, 4);
    next.key.attempt.n = 2;
    next.sources = {{cluster_.Node("a"), 0, 4}};
    cluster_.Send("b", next);
    resumed.push_back(next);
  }
  cluster_.RunToEnd();
  for (const Submit& next : resumed) ExpectServed(next);
  EXPECT_EQ(stats().restores, 1u);
  EXPECT_EQ(stats().waits, 1u);
  size_t blocks = 0;
  for (const StartFetch& fetch : Recorded<StartFetch>()) blocks += fetch.items.size();
  EXPECT_EQ(blocks, 4u);
}

TEST_F(RestoreTest, AChoiceThatIsOrderedIsTaken) {
  for (const Recovery choice : {Recovery::kRestore, Recovery::kRecompute, Recovery::kWait}) {
    cluster_ = FakeCluster(5, 10);
    Submit next = MoveAfter(Request("r", 18, 40), 21);
    CoreSettings settings = cluster_.Settings("c");
    settings.recovery = choice;
    cluster_.AddWorker(settings);
    cluster_.Send("c", next);
    cluster_.RunToEnd();
    ExpectContinued(next);
    const CoreStats& stats = cluster_.core("c").stats();
    EXPECT_EQ(stats.restores, choice == Recovery::kRestore ? 1u : 0u);
    EXPECT_EQ(stats.waits, choice == Recovery::kWait ? 1u : 0u);
    EXPECT_EQ(stats.restored_rows > 0, choice != Recovery::kRecompute);
  }
}

TEST_F(RestoreTest, ReplicasGoOnFromWhatTheyHold) {
  Record();
  const Submit next = MoveAfter(Request("r", 18, 40), 21);
  cluster_.store("s").Admit(next.key);  // nothing of the old attempt arrives any more
  const int64_t held = *cluster_.store("s").Held("r", 0);
  commands_.clear();
  cluster_.Send("b", next);
  cluster_.RunToEnd();
  ExpectContinued(next);
  int64_t first = INT64_MAX;
  for (const AppendRows& append : Recorded<AppendRows>()) {
    for (const AppendRows::Entry& entry : append.entries) {
      if (entry.key == next.key) first = std::min(first, entry.first_position);
    }
  }
  EXPECT_EQ(first,
            std::min<int64_t>(held, 17 + static_cast<int64_t>(next.branches[0].emitted.size())));
}

TEST_F(RestoreTest, AHostileStateIsAMiss) {
  WorkerCore core(cluster_.Settings("b"));
  Submit request = Request("r", 18, 40);
  request.key.attempt.n = 2;
  request.replicas = {{{"s", 1}, "", ""}};
  core.Handle(request, 1);
  QueryId query = 0;
  for (const Command& command : core.TakeCommands()) {
    if (const auto* asked = std::get_if<QueryTails>(&command)) query = asked->query;
  }
  EXPECT_FALSE(core.PlanStep(1).has_value());  // it waits for the answer
  TailsFound found{query, absl::OkStatus(), {}};
  found.states.push_back({9, 3, {}, 0, kv::kOneForm, {1}});                  // no such branch
  found.states.push_back({0, -5, {}, -4, kv::kOneForm, {1}});                // negative
  found.states.push_back({0, 0, {}, 3, kv::kOneForm, {request.prompt[3]}});  // inside a block
  found.states.push_back({0, 0, {}, 8, kv::kOneForm, {request.prompt[8]}});  // another parent
  found.states.push_back({0, 0, {}, 1 << 20, kv::kOneForm, {1}});            // beyond the sequence
  found.states.push_back({0, 0, {}, 0, 3, {request.prompt[0]}});             // of another prompt
  core.Handle(found, 2);
  core.Handle(found, 2);
  const std::optional<StepPlan> plan = core.PlanStep(3);
  ASSERT_TRUE(plan.has_value());
  EXPECT_EQ(plan->prompt_tokens, 8);
  for (const Command& command : core.TakeCommands()) {
    EXPECT_FALSE(std::holds_alternative<StartFetch>(command));
  }
}

}  // namespace
}  // namespace reprise::worker
