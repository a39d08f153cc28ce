// How live sequences change hands and end: attempts, readers of open tails, releases and orphans.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kvstore/node/store_tails_fixture.h"

namespace reprise::kv {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// ---- Attempts. ----

TEST(StoreAttempts, NothingOfALowerAttemptIsTaken) {
  Store store(4);
  const auto tokens = Numbers(0, 8);
  store.Append(Store::Entry(tokens, 0, 2, {1, 1}));
  store.core.OnFence({"r", {1, 2}}, 0);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 2, 1, {1, 1})).status.code(), kAborted);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 2, 1, {1, 2})).rows, 3);
  EXPECT_EQ(store.core.OnQuery(kWorker, {"r", {1, 1}}, 0).status().code(), kAborted);
  store.Release({1, 1});
  EXPECT_EQ(store.core.replicas().sequences, 1) << "a zombie releases nothing";
  store.Offer(tokens, "r", kWorker, {1, 1});
  EXPECT_THAT(store.fetches, IsEmpty());
  EXPECT_EQ(store.core.counters().refused_stale, 4u);
}

TEST(StoreAttempts, RowsOnTheirWayWhenTheAttemptRisesAreNotTaken) {
  Store store(4);
  const auto tokens = Numbers(0, 8);
  store.Append(Store::Entry(tokens, 0, 1, {1, 1}));
  const auto plan = store.Plan(Store::Entry(tokens, 1, 2, {1, 1}));
  store.core.OnFence({"r", {2, 1}}, 0);
  EXPECT_EQ(store.End(plan).status.code(), kAborted);
  EXPECT_EQ(store.Query(kOther, {2, 1})[0].tokens, Numbers(0, 1));
}

TEST(StoreAttempts, AHigherAttemptSeesWhatIsHeldAndGoesOn) {
  Store store(6);
  auto tokens = Numbers(0, 16);
  store.AppendAll(tokens, 10);
  const auto states = store.Query(kOther, {1, 2});
  ASSERT_EQ(states.size(), 1u);
  EXPECT_EQ(states[0].blocks_held, 2);
  EXPECT_EQ(states[0].parent, Ids(tokens)[1]);
  EXPECT_EQ(states[0].first_position, 8);
  EXPECT_EQ(states[0].tokens, Numbers(8, 2));
  tokens[9] = 500;  // sampled otherwise than the old attempt had
  EXPECT_EQ(store.Append(Store::Entry(tokens, 9, 2, {1, 2}), Store::Rows::kWhole, kOther).rows, 11);
  EXPECT_EQ(store.core.counters().tails_cut, 1u);
  EXPECT_EQ(store.Tokens(store.FindTail(8).slot, 3), (std::vector<int32_t>{8, 500, 10}));
}

TEST(StoreAttempts, AnAttemptThatContradictsItselfIsRefused) {
  Store store(6);
  auto tokens = Numbers(0, 12);
  store.AppendAll(tokens, 6);
  auto other = tokens;
  other[5] = 99;
  EXPECT_EQ(store.Append(Store::Entry(other, 5, 1)).status.code(), kInvalid);
  other[1] = 98;
  EXPECT_EQ(store.Append(Store::Entry(other, 1, 1)).status.code(), kInvalid);
  EXPECT_EQ(store.Append(Store::Entry(other, 6, 1)).status.code(), kInvalid) << "its parent";
  EXPECT_EQ(store.Append(Store::Entry(tokens, 6, 1)).rows, 7);
}

TEST(StoreAttempts, AHigherAttemptReplacesSealedBlocksWithOtherTokens) {
  Store store(6);
  const auto tokens = Numbers(0, 12);
  store.AppendAll(tokens, 9);
  auto other = tokens;
  other[6] = 99;
  HeldRows held = store.Append(Store::Entry(other, 6, 2, {1, 2}));
  EXPECT_EQ(held.status.code(), kGap) << "from the block's beginning, please";
  EXPECT_EQ(held.rows, 4);
  held = store.Append(Store::Entry(other, 4, 4, {1, 2}));
  EXPECT_EQ(held.rows, 8);
  EXPECT_TRUE(store.core.events().Lists(Ids(other)[1]));
  EXPECT_EQ(store.Append(Store::Entry(other, 8, 1, {1, 2})).rows, 9);
}

// ---- Readers. ----

TEST(StoreAttempts, ATailThatIsReadIsCopiedBeforeRowsAreAdded) {
  Store store(3);
  const auto tokens = Numbers(0, 8);
  store.Append(Store::Entry(tokens, 0, 2));
  const auto reader = store.FindTail(0);
  ASSERT_EQ(reader.state, StoreCore::Found::State::kReady);
  const Store::Bytes seen = store.SlotBytes(reader.slot);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 2, 1)).rows, 3);
  EXPECT_EQ(store.SlotBytes(reader.slot), seen);
  EXPECT_EQ(store.core.counters().tails_copied, 1u);
  const auto again = store.FindTail(0);
  EXPECT_NE(again.slot, reader.slot);
  EXPECT_EQ(store.Tokens(again.slot, 3), Numbers(0, 3));
  store.core.Unpin(reader.pin);
  store.core.Unpin(again.pin);
  EXPECT_EQ(store.core.memory().quarantined, 0);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 3, 1)).rows, 4);
  EXPECT_EQ(store.core.counters().tails_copied, 1u);
}

TEST(StoreAttempts, ATailThatIsReadIsCopiedBeforeItIsCut) {
  Store store(3);
  auto tokens = Numbers(0, 8);
  store.Append(Store::Entry(tokens, 0, 3));
  const auto reader = store.FindTail(0);
  const Store::Bytes seen = store.SlotBytes(reader.slot);
  tokens[1] = 77;
  EXPECT_EQ(store.Append(Store::Entry(tokens, 1, 2, {1, 2})).rows, 3);
  EXPECT_EQ(store.SlotBytes(reader.slot), seen);
  EXPECT_EQ(store.Tokens(store.FindTail(0).slot, 3), (std::vector<int32_t>{0, 77, 2}));
}

TEST(StoreAttempts, WithoutASlotForTheCopyTheRowsAreRefused) {
  Store store(1);
  const auto tokens = Numbers(0, 8);
  store.Append(Store::Entry(tokens, 0, 2));
  const auto reader = store.FindTail(0);
  const HeldRows held = store.Append(Store::Entry(tokens, 2, 1));
  EXPECT_EQ(held.status.code(), kNoRoom);
  EXPECT_EQ(held.rows, 2);
  store.core.Unpin(reader.pin);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 2, 1)).rows, 3);
}

TEST(StoreAttempts, ATailBeingWrittenIsReadableWhenTheWriteHasEnded) {
  for (const Store::Rows rows : {Store::Rows::kWhole, Store::Rows::kDamaged}) {
    Store store(2);
    const auto tokens = Numbers(0, 8);
    store.Append(Store::Entry(tokens, 0, 2));
    const auto plan = store.Plan(Store::Entry(tokens, 2, 1), rows);
    EXPECT_TRUE(store.Plan(Store::Entry(tokens, 3, 1)).busy);
    const auto reader = store.FindTail(0);
    EXPECT_EQ(reader.state, StoreCore::Found::State::kPending);
    EXPECT_EQ(reader.layers_ready, 0u);
    EXPECT_THAT(store.published, IsEmpty());
    store.End(plan);
    ASSERT_EQ(store.published.size(), 1u);
    EXPECT_EQ(store.published[0].id, ReplicaTailId("r", 0, 0));
    EXPECT_EQ(store.published[0].layers_ready, kLayers);
    EXPECT_EQ(store.Tokens(reader.slot, 2), Numbers(0, 2));
  }
}

// ---- The end. ----

TEST(StoreAttempts, AReleaseFreesTailsAndKeepsSealedBlocksAsCache) {
  Store store(4);
  const auto tokens = Numbers(0, 8);
  store.AppendAll(tokens, 6);
  store.Release();
  EXPECT_EQ(store.core.replicas().sequences, 0);
  EXPECT_EQ(store.core.memory().used, 1);
  EXPECT_EQ(store.core.blocks(), 1u);
  EXPECT_EQ(store.FindTail(4).state, StoreCore::Found::State::kMissing);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 6, 1)).status.code(), kNotFound);
  store.Offer(tokens);
  EXPECT_EQ(store.core.replicas().sequences, 0) << "a late offer is cache only";
  EXPECT_EQ(store.Append(Store::Entry(tokens, 0, 1, {1, 2})).rows, 1) << "a later attempt may";
}

TEST(StoreAttempts, WhatIsStillReadAfterTheEndIsStranded) {
  Store store(2);
  const auto tokens = Numbers(0, 8);
  store.Append(Store::Entry(tokens, 0, 2));
  const auto reader = store.FindTail(0);
  store.Release();
  EXPECT_EQ(store.core.replicas().stranded_slots, 1);
  EXPECT_EQ(store.core.memory().quarantined, 1);
  store.core.Unpin(reader.pin);
  EXPECT_EQ(store.core.replicas().stranded_slots, 0);
  EXPECT_EQ(store.core.memory().free, 2);
}

TEST(StoreAttempts, ARowBeingWrittenAfterTheEndIsAnsweredAndFreed) {
  Store store(2);
  const auto plan = store.Plan(Store::Entry(Numbers(0, 8), 0, 2));
  store.Release();
  EXPECT_EQ(store.core.replicas().stranded_slots, 1);
  EXPECT_EQ(store.End(plan).status.code(), kNotFound);
  EXPECT_EQ(store.core.replicas().stranded_slots, 0);
  EXPECT_EQ(store.core.memory().free, 2);
}

TEST(StoreAttempts, BlocksOnTheirWayMayArriveForASecondAfterTheEnd) {
  Store store(4);
  const auto tokens = Numbers(0, 8);
  store.Offer(tokens);
  store.Release();
  store.Tick(kSecond - 1);
  EXPECT_THAT(store.cancelled, IsEmpty());
  store.Tick(kSecond);
  EXPECT_THAT(store.cancelled, ElementsAre(store.fetches[0].fetch));
  store.Tick(2 * kSecond);
  EXPECT_EQ(store.cancelled.size(), 1u) << "once";
  store.EndFetch(0, absl::CancelledError("cancelled"));
  EXPECT_EQ(store.core.memory().free, 4);
  EXPECT_EQ(store.core.counters().fetches_cancelled, 1u);
}

TEST(StoreAttempts, OfferedForTheCacheAloneTheyEndWithTheRequestToo) {
  Store store(4);
  store.core.OnOffer({.source = kWorker,
                      .request = {"r", {1, 1}},
                      .parent = {},
                      .first_position = 0,
                      .tenant_salt = {},
                      .tokens = Numbers(0, 4)},
                     0);
  store.Collect();
  EXPECT_EQ(store.core.replicas().requests, 0);
  store.Release();
  store.Tick(kSecond);
  EXPECT_EQ(store.cancelled.size(), 1u);
}

TEST(StoreAttempts, BlocksOnTheirWayThatOthersWantAreNotCancelled) {
  Store store(4);
  const auto tokens = Numbers(0, 8);
  store.Offer(tokens, "r");
  store.Offer({tokens.begin(), tokens.begin() + 4}, "s");
  const auto reader = store.Find(Ids(tokens)[1]);
  store.Release({1, 1}, "r");
  store.Tick(kMinute);
  store.Release({1, 1}, "s");
  store.Tick(2 * kMinute);
  EXPECT_THAT(store.cancelled, IsEmpty()) << "somebody reads the second";
  store.core.Unpin(reader.pin);
  store.Tick(3 * kMinute);
  EXPECT_EQ(store.cancelled.size(), 1u);
}

TEST(StoreAttempts, OrphansAreReleasedUnlessSomebodyTakesThemOver) {
  Store store(4);
  const auto tokens = Numbers(0, 8);
  store.AppendAll(tokens, 2, "a");
  store.AppendAll(tokens, 2, "b");
  store.AppendAll(tokens, 2, "c");
  store.core.OnPeerLost(kOther, 0);
  store.core.OnTick(kMinute);
  EXPECT_EQ(store.core.replicas().requests, 3) << "their owner is connected";
  store.now = kMinute;
  store.core.OnPeerLost(kWorker, store.now);
  store.now += 29 * kSecond;
  store.Append(Store::Entry(tokens, 2, 1, {1, 1}, "b"));
  ASSERT_TRUE(store.core.OnQuery(kOther, {"c", {1, 2}}, store.now).ok());
  store.now += 2 * kSecond;
  store.core.OnTick(store.now);
  store.Collect();
  EXPECT_EQ(store.core.replicas().requests, 2);
  EXPECT_EQ(store.core.counters().orphans_released, 1u);
  EXPECT_EQ(store.FindTail(0, "a").state, StoreCore::Found::State::kMissing);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 0, 1, {1, 1}, "a")).rows, 1) << "it may come back";
}

TEST(StoreAttempts, AnAttemptThatOnlyShowedItselfIsNoOwner) {
  Store store(4);
  store.AppendAll(Numbers(0, 8), 2);
  store.core.OnFence({"r", {1, 2}}, 0);
  store.core.OnTick(29 * kSecond);
  EXPECT_EQ(store.core.replicas().requests, 1);
  store.core.OnTick(30 * kSecond);
  EXPECT_EQ(store.core.replicas().requests, 0);
}

}  // namespace
}  // namespace reprise::kv
