#include "coordinator/policy/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>

#include "absl/strings/str_cat.h"

namespace reprise::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int32_t kBlockTokens = 64;

// A cluster written down node by node; each block of the request is held by the nodes named.
class PlacementTest : public ::testing::Test {
 protected:
  PlacementTest() {
    model_.block_tokens = kBlockTokens;
    model_.context_tokens = 200'000;
    model_.format_digest[0] = 1;
    query_.request_id = "r";
    query_.format_digest = model_.format_digest;
    query_.prompt_tokens = 640;
    query_.max_tokens = 128;
  }

  NodeView& Add(const std::string& name, Role role, bool can_prefill, bool can_decode) {
    NodeInfo& info = infos_.emplace_back();
    info.ref.key = {name, 1};
    info.role = role;
    info.can_prefill = can_prefill;
    info.can_decode = can_decode;
    Load& load = loads_.emplace_back();
    load.blocks_total = 4000;
    load.blocks_free = 4000;
    NodeView& view = views_.emplace_back();
    view.info = &info;
    view.load = &load;
    view.slot = static_cast<Slot>(views_.size() - 1);
    return view;
  }
  NodeView& Worker(const std::string& name) { return Add(name, Role::kWorker, true, true); }
  NodeView& Decoder(const std::string& name) { return Add(name, Role::kWorker, false, true); }
  NodeView& Prefiller(const std::string& name) { return Add(name, Role::kWorker, true, false); }
  NodeView& Store(const std::string& name, const std::string& domain = "") {
    NodeView& store = Add(name, Role::kStore, false, false);
    infos_.back().failure_domain = domain;
    return store;
  }
  NodeView& Group(const std::string& name, uint32_t context, uint32_t tensor = 1) {
    NodeView& group = Worker(name);
    infos_.back().group = {.tensor = tensor, .context = context};
    return group;
  }
  Load& LoadOf(NodeView& view) { return loads_[view.slot]; }
  NodeInfo& InfoOf(NodeView& view) { return infos_[view.slot]; }

  // Blocks [from, to) of the request are held by `view`.
  void Holds(const NodeView& view, size_t from, size_t to) {
    if (held_.size() < to) held_.resize(to);
    for (size_t i = from; i < to; ++i) {
      held_[i].push_back(view.slot);
      std::sort(held_[i].begin(), held_[i].end());
    }
    query_.block_ids.resize(held_.size());
  }

  std::variant<Choice, Refusal> Choose() {
    ClusterView view;
    view.model = &model_;
    view.nodes.assign(views_.begin(), views_.end());
    std::sort(view.nodes.begin(), view.nodes.end(), [](const auto& a, const auto& b) {
      return a.info->ref.key.name < b.info->ref.key.name;
    });
    for (const auto& slots : held_) {
      if (slots.empty()) break;
      view.holders.emplace_back(slots);
    }
    return ChoosePlacement(options_, view, query_);
  }
  Choice Granted() {
    auto result = Choose();
    if (const auto* refusal = std::get_if<Refusal>(&result)) {
      ADD_FAILURE() << RefusalName(refusal->code) << ": " << refusal->detail;
      return {};
    }
    return std::get<Choice>(result);
  }
  Placement Place() { return Granted().placement; }
  std::string DecodesOn() { return Place().decode.key.name; }
  std::string PrefillsOn() {
    const Placement placement = Place();
    return placement.prefill ? placement.prefill->key.name : "";
  }
  Refusal Refused() {
    auto result = Choose();
    if (!std::holds_alternative<Refusal>(result)) {
      ADD_FAILURE() << "placed on " << std::get<Choice>(result).placement.decode.key.name;
      return {.detail = "none"};
    }
    return std::get<Refusal>(result);
  }
  PrefixSource From(const NodeView& view, int32_t first, int32_t blocks) {
    return {view.info->ref, first, blocks};
  }

  PlacementOptions options_;
  ModelInfo model_;
  PlaceQuery query_;
  std::deque<NodeInfo> infos_;
  std::deque<Load> loads_;
  std::deque<NodeView> views_;
  std::vector<std::vector<Slot>> held_;
};

TEST_F(PlacementTest, EqualWorkersTieToTheLowerNameWhateverTheirOrder) {
  Worker("b");
  Worker("a");
  EXPECT_EQ(DecodesOn(), "a");
}

TEST_F(PlacementTest, HitsBeatEmptinessUntilTheQueueSaysOtherwise) {
  query_.prompt_tokens = 100 * kBlockTokens;
  Worker("a");
  NodeView& holder = Worker("b");
  Holds(holder, 0, 90);
  EXPECT_EQ(DecodesOn(), "b");
  LoadOf(holder).running = 4;
  EXPECT_EQ(DecodesOn(), "b");
  LoadOf(holder).waiting = 10;
  EXPECT_EQ(DecodesOn(), "a");
  EXPECT_THAT(Place().sources, ElementsAre(From(holder, 0, 90)));
}

TEST_F(PlacementTest, TheShorterQueueOfPrefillTokensWins) {
  LoadOf(Worker("a")).queued_prefill_tokens = 1000;
  Worker("b");
  EXPECT_EQ(DecodesOn(), "b");
}

TEST_F(PlacementTest, ALongUncachedPromptGoesToThePrefillWorker) {
  Worker("a");
  Worker("b");
  Prefiller("p");
  EXPECT_EQ(DecodesOn(), "a");
  EXPECT_EQ(PrefillsOn(), "p");
  query_.prompt_tokens = 100'000;  // however long
  LoadOf(views_[0]).blocks_free = LoadOf(views_[1]).blocks_free = 4000;
  EXPECT_EQ(PrefillsOn(), "p");
}

TEST_F(PlacementTest, AShortUncachedSuffixNeedsNoPrefillLeg) {
  NodeView& a = Worker("a");
  NodeView& p = Prefiller("p");
  query_.prompt_tokens = 255;
  EXPECT_EQ(PrefillsOn(), "");
  query_.prompt_tokens = 256;
  EXPECT_EQ(PrefillsOn(), "p");
  query_.prompt_tokens = 640;
  Holds(a, 0, 7);  // 192 tokens are left
  EXPECT_EQ(PrefillsOn(), "");
  EXPECT_THAT(Place().sources, IsEmpty());
  Holds(p, 7, 10);
  EXPECT_EQ(PrefillsOn(), "");
}

TEST_F(PlacementTest, NothingToComputeIsNoPrefillLegEvenWhenAllAreWanted) {
  options_.remote_prefill_min_tokens = 0;
  Prefiller("p");
  Holds(Worker("a"), 0, 10);
  EXPECT_EQ(PrefillsOn(), "");
}

TEST_F(PlacementTest, TheDecodeWorkerPrefillsItselfWhereNobodyElseCan) {
  Decoder("a");
  Decoder("b");
  EXPECT_EQ(PrefillsOn(), "");
  NodeView& p = Prefiller("p");
  EXPECT_EQ(PrefillsOn(), "p");
  p.state = NodeState::kSuspect;
  EXPECT_EQ(PrefillsOn(), "");
}

TEST_F(PlacementTest, MixedWorkersPrefillForThemselvesUnlessTheDedicatedOneIsFree) {
  Worker("a");
  Worker("b");
  EXPECT_EQ(PrefillsOn(), "");
  NodeView& p = Prefiller("p");
  LoadOf(p).queued_prefill_tokens = 50'000;
  EXPECT_EQ(PrefillsOn(), "");
  LoadOf(p).queued_prefill_tokens = 100;
  EXPECT_EQ(PrefillsOn(), "p");
}

TEST_F(PlacementTest, ThePrefillWorkerWithTheShorterQueueOrTheLongerPrefixIsChosen) {
  Decoder("a");
  NodeView& p = Prefiller("p");
  NodeView& q = Prefiller("q");
  query_.prompt_tokens = 100 * kBlockTokens;
  EXPECT_EQ(PrefillsOn(), "p");
  Holds(q, 0, 50);
  EXPECT_EQ(PrefillsOn(), "q");
  LoadOf(q).queued_prefill_tokens = 10'000;
  EXPECT_EQ(PrefillsOn(), "p");
  LoadOf(p).blocks_free = 10;
  EXPECT_EQ(PrefillsOn(), "q");  // p has no room
}

TEST_F(PlacementTest, AContextRankIsBusyForEachStripeOfTheSuffix) {
  const kv::GroupSplit four{.context = 4};
  EXPECT_EQ(BusyContextRanks(four, 0), 1);
  EXPECT_EQ(BusyContextRanks(four, 512), 1);
  EXPECT_EQ(BusyContextRanks(four, 513), 2);
  EXPECT_EQ(BusyContextRanks(four, 1536), 3);
  EXPECT_EQ(BusyContextRanks(four, 1537), 4);
  EXPECT_EQ(BusyContextRanks(four, int64_t{1} << 40), 4);
  EXPECT_EQ(BusyContextRanks({.context = 4, .stripe_leaves = 4}, 2048), 1);
  EXPECT_EQ(BusyContextRanks({.pipeline = 2, .tensor = 8}, 100'000), 1);
}

TEST_F(PlacementTest, ALongPromptGoesToTheContextGroupAShortOneLeavesItAlone) {
  Group("a", 4);
  Worker("b");
  query_.prompt_tokens = 512;
  EXPECT_EQ(DecodesOn(), "b");
  query_.prompt_tokens = 4096;
  EXPECT_EQ(DecodesOn(), "a");
}

TEST_F(PlacementTest, ALongerQueueOfAContextGroupIsStillTheShorterOne) {
  NodeView& single = Worker("a");
  NodeView& group = Group("b", 4);
  query_.prompt_tokens = 100;
  LoadOf(single).queued_prefill_tokens = 3000;
  LoadOf(group).queued_prefill_tokens = 11'000;  // 2,750 for each
  EXPECT_EQ(DecodesOn(), "b");
  LoadOf(group).queued_prefill_tokens = 9000;
  group.reserved.prefill_tokens = 2000;
  EXPECT_EQ(DecodesOn(), "b");
  group.reserved.prefill_tokens = 4000;
  EXPECT_EQ(DecodesOn(), "a");
}

TEST_F(PlacementTest, OnlyTheUncachedSuffixCountsAsLong) {
  query_.prompt_tokens = 100 * kBlockTokens;
  Group("a", 4);
  Worker("b");
  NodeView& holder = Store("s");
  EXPECT_EQ(DecodesOn(), "a");
  Holds(holder, 0, 92);  // 512 tokens are left
  EXPECT_EQ(DecodesOn(), "b");
}

TEST_F(PlacementTest, WhatWasEmittedIsReplayedStepByStepAndGainsNothing) {
  LoadOf(Worker("a")).running = 3;
  LoadOf(Group("b", 4)).running = 4;
  query_.prompt_tokens = 64;
  query_.emitted_tokens = 4096;
  query_.max_tokens = 5000;
  query_.previous = Attempt{1, 1};
  EXPECT_EQ(DecodesOn(), "a");
}

TEST_F(PlacementTest, ThePrefillWorkerOfALongPromptIsTheContextGroup) {
  Decoder("d");
  NodeView& group = Prefiller("p");
  Prefiller("q");
  InfoOf(group).group.context = 4;
  query_.prompt_tokens = 512;
  EXPECT_EQ(PrefillsOn(), "q");
  query_.prompt_tokens = 2048;
  EXPECT_EQ(PrefillsOn(), "p");
  LoadOf(group).queued_prefill_tokens = 8000;  // 2,000 and 512 against 2,048
  EXPECT_EQ(PrefillsOn(), "q");
}

TEST_F(PlacementTest, AmongEqualsFewerRanksAreTakenFromLongPrompts) {
  Group("a", 4, 2);
  Group("b", 2);
  query_.prompt_tokens = 100;
  EXPECT_EQ(DecodesOn(), "b");
  Group("c", 1, 8);  // nothing of it is for long prompts
  EXPECT_EQ(DecodesOn(), "c");
  Worker("d");
  EXPECT_EQ(DecodesOn(), "c");
}

TEST_F(PlacementTest, SourcesAreTheFewestRangesWorkersFirst) {
  Decoder("a");
  NodeView& w = Prefiller("w");
  NodeView& s = Store("s");
  NodeView& t = Store("t");
  LoadOf(w).running = 100;
  Holds(w, 0, 4);
  Holds(s, 0, 4);
  Holds(t, 2, 9);
  EXPECT_THAT(Place().sources, ElementsAre(From(w, 0, 4), From(t, 4, 5)));
}

TEST_F(PlacementTest, ABetterReachBeatsTheRole) {
  Decoder("a");
  NodeView& w = Prefiller("w");
  NodeView& s = Store("s");
  Holds(w, 0, 4);
  Holds(s, 0, 8);
  EXPECT_THAT(Place().sources, ElementsAre(From(s, 0, 8)));
}

TEST_F(PlacementTest, WhatTheDecodeWorkerHoldsIsNotFetched) {
  NodeView& a = Decoder("a");
  NodeView& s = Store("s");
  Holds(a, 0, 3);
  Holds(s, 0, 6);
  Holds(a, 6, 8);
  EXPECT_THAT(Place().sources, ElementsAre(From(s, 3, 3)));
}

TEST_F(PlacementTest, AvoidedAndUnansweringNodesServeNoPrefix) {
  Decoder("a");
  NodeView& s = Store("s");
  Holds(s, 0, 8);
  s.state = NodeState::kLeaving;
  EXPECT_THAT(Place().sources, SizeIs(1));
  s.state = NodeState::kSuspect;
  EXPECT_THAT(Place().sources, IsEmpty());
  s.state = NodeState::kLive;
  query_.avoid = {s.info->ref.key};
  EXPECT_THAT(Place().sources, IsEmpty());
}

TEST_F(PlacementTest, AnIncarnationThatFailedTheRequestIsAvoidedItsSuccessorIsNot) {
  Worker("a");
  Worker("b");
  query_.avoid = {{"a", 1}};
  EXPECT_EQ(DecodesOn(), "b");
  query_.avoid = {{"a", 7}};
  EXPECT_EQ(DecodesOn(), "a");
}

TEST_F(PlacementTest, LiveBeforeSuspectBeforeAvoidedAndNeverLeaving) {
  NodeView& a = Worker("a");
  NodeView& b = Worker("b");
  NodeView& c = Worker("c");
  query_.avoid = {{"a", 1}};
  b.state = NodeState::kSuspect;
  EXPECT_EQ(DecodesOn(), "c");
  c.state = NodeState::kLeaving;
  EXPECT_EQ(DecodesOn(), "b");
  b.state = NodeState::kLeaving;
  EXPECT_EQ(DecodesOn(), "a");
  a.state = NodeState::kLeaving;
  const Refusal refusal = Refused();
  EXPECT_EQ(refusal.code, RefusalCode::kNoWorkers);
  EXPECT_GT(refusal.retry_after_ms, 0);
}

TEST_F(PlacementTest, ReservationsSpreadABurst) {
  Worker("a");
  Worker("b");
  Worker("c");
  std::map<std::string, int> placed;
  for (int i = 0; i < 30; ++i) {
    query_.request_id = absl::StrCat("r", i);
    const Choice choice = Granted();
    ++placed[choice.placement.decode.key.name];
    views_[choice.decode].reserved += choice.at_decode;
    if (choice.prefill) views_[*choice.prefill].reserved += choice.at_prefill;
  }
  EXPECT_EQ(placed["a"], 10);
  EXPECT_EQ(placed["b"], 10);
  EXPECT_EQ(placed["c"], 10);
}

TEST_F(PlacementTest, AFirstAttemptIsRefusedWhenPagesAndQueuesAreFullALaterOneNever) {
  for (const char* name : {"a", "b"}) {
    NodeView& worker = Worker(name);
    LoadOf(worker).blocks_free = 5;
    LoadOf(worker).blocks_cached = 5;
    LoadOf(worker).waiting = options_.waiting_without_room_max - 1;
  }
  EXPECT_EQ(DecodesOn(), "a");  // one more may wait
  views_[0].reserved.requests = 1;
  EXPECT_EQ(DecodesOn(), "b");
  views_[1].reserved.requests = 1;
  const Refusal refusal = Refused();
  EXPECT_EQ(refusal.code, RefusalCode::kNoRoom);
  EXPECT_EQ(refusal.retry_after_ms, 500);
  EXPECT_THAT(refusal.detail, HasSubstr("needs 11 blocks, no worker has more than 10 free"));
  query_.previous = Attempt{1, 1};
  EXPECT_EQ(DecodesOn(), "a");
}

TEST_F(PlacementTest, BlocksAlreadyThereNeedNoRoom) {
  NodeView& a = Worker("a");
  LoadOf(a).blocks_free = 3;
  LoadOf(a).waiting = 100;
  Refused();
  Holds(a, 0, 8);
  EXPECT_EQ(DecodesOn(), "a");
}

TEST_F(PlacementTest, RoomToGrowBreaksATie) {
  LoadOf(Worker("a")).blocks_free = 12;
  Worker("b");
  query_.max_tokens = 1000;
  EXPECT_EQ(DecodesOn(), "b");
}

TEST_F(PlacementTest, WhatNoWorkerCanEverHoldIsTooLong) {
  LoadOf(Worker("a")).blocks_total = 20;
  query_.max_tokens = 640;
  EXPECT_EQ(DecodesOn(), "a");
  query_.max_tokens = 641;
  Refusal refusal = Refused();
  EXPECT_EQ(refusal.code, RefusalCode::kTooLong);
  EXPECT_THAT(refusal.detail, HasSubstr("needs 21 blocks, the largest worker has 20"));
  model_.context_tokens = 1000;
  refusal = Refused();
  EXPECT_EQ(refusal.code, RefusalCode::kTooLong);
  EXPECT_THAT(refusal.detail, HasSubstr("1281 tokens, the model's context is 1000"));
  EXPECT_EQ(ToStatus(refusal).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(PlacementTest, AForeignFormatIsRefusedNamingBoth) {
  Worker("a");
  query_.format_digest[0] = 0xab;
  const Refusal refusal = Refused();
  EXPECT_EQ(refusal.code, RefusalCode::kWrongFormat);
  EXPECT_THAT(refusal.detail, HasSubstr(HexEncode(query_.format_digest)));
  EXPECT_THAT(refusal.detail, HasSubstr(HexEncode(model_.format_digest)));
  EXPECT_EQ(ToStatus(refusal).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(ToStatus(refusal).message()), ::testing::StartsWith("WRONG_FORMAT: "));
}

TEST_F(PlacementTest, MoreIdsThanTheTokensHaveBlocksIsMalformed) {
  Worker("a");
  query_.block_ids.resize(11);
  EXPECT_EQ(Refused().code, RefusalCode::kMalformed);
  query_.emitted_tokens = 64;
  EXPECT_EQ(DecodesOn(), "a");
}

TEST_F(PlacementTest, StoresAreLiveOnesOutsideTheDecodeWorkersDomain) {
  InfoOf(Worker("w")).failure_domain = "rack-1";
  options_.replica_stores = 2;
  NodeView& near = Store("s1", "rack-1");
  NodeView& far = Store("s2", "rack-2");
  Store("s3", "rack-2").state = NodeState::kSuspect;
  EXPECT_THAT(Place().stores, ElementsAre(far.info->ref, near.info->ref));
  options_.replica_stores = 0;
  EXPECT_THAT(Place().stores, IsEmpty());
}

// The shape of the largest decision: 100,000 tokens, 64 workers, prefixes everywhere.
TEST_F(PlacementTest, AHundredThousandTokensAreOneDecision) {
  query_.prompt_tokens = 100'000;
  query_.max_tokens = 1000;
  for (int i = 0; i < 64; ++i) {
    NodeView& worker = i % 4 == 0 ? Prefiller(absl::StrCat("p", i)) : Worker(absl::StrCat("w", i));
    Holds(worker, 0, static_cast<size_t>(i) * 20);
  }
  query_.block_ids.resize(1562);
  const Placement placement = Place();
  EXPECT_EQ(placement.decode.key.name, "w63");
  EXPECT_THAT(placement.sources, IsEmpty());
}

TEST_F(PlacementTest, StoresOfEarlierAttemptsStayWhereTheyLive) {
  options_.replica_stores = 2;
  Worker("w");
  for (const char* name : {"s1", "s2", "s3", "s4"}) Store(name);
  const std::vector<NodeRef> fresh = Place().stores;
  ASSERT_THAT(fresh, SizeIs(2));
  std::vector<NodeKey> others;
  for (const NodeView& view : views_) {
    const bool chosen = view.info->ref == fresh[0] || view.info->ref == fresh[1];
    if (view.info->role == Role::kStore && !chosen) others.push_back(view.info->ref.key);
  }
  query_.replicas = others;
  const std::vector<NodeRef> kept = Place().stores;
  ASSERT_THAT(kept, SizeIs(2));
  EXPECT_EQ(kept[0].key, others[0]);
  EXPECT_EQ(kept[1].key, others[1]);
  // A restarted one has lost the rows; a dead one is not asked; the rest is chosen as for a new
  // one.
  query_.replicas = {{others[0].name, 99}, {"gone", 1}, others[1]};
  const std::vector<NodeRef> mixed = Place().stores;
  ASSERT_THAT(mixed, SizeIs(2));
  EXPECT_EQ(mixed[0].key, others[1]);
  EXPECT_EQ(mixed[1], fresh[0]);
}

TEST_F(PlacementTest, ARequestMayChooseHowManyStoresKeepIt) {
  options_.replica_stores = 1;
  Worker("w");
  for (const char* name : {"s1", "s2", "s3"}) Store(name);
  query_.replica_stores = 3;
  EXPECT_THAT(Place().stores, SizeIs(3));
  EXPECT_EQ(Place().replica_stores, 3);
  query_.replica_stores = 8;
  EXPECT_EQ(Place().replica_stores, 8) << "more than live: others join as they come";
  query_.replica_stores = -1;
  query_.replicas = {{"s1", 1}};
  EXPECT_THAT(Place().stores, IsEmpty());
}

TEST_F(PlacementTest, AKeptReplicasFailureDomainCounts) {
  options_.replica_stores = 2;
  Worker("w");
  Store("near-1", "rack-1");
  Store("near-2", "rack-1");
  Store("far", "rack-2");
  query_.replicas = {{"near-1", 1}};
  const std::vector<NodeRef> stores = Place().stores;
  ASSERT_THAT(stores, SizeIs(2));
  EXPECT_EQ(stores[0].key.name, "near-1");
  EXPECT_EQ(stores[1].key.name, "far");
}

}  // namespace
}  // namespace reprise::coordinator
