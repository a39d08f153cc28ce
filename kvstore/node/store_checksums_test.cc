// Checksums that leave a store are those of the bytes that once arrived and verified: whatever
// happens to a slot afterwards, its readers see it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kvstore/node/store_tails_fixture.h"

namespace reprise::kv {
namespace {

using ::testing::IsEmpty;

constexpr size_t kSegment = kBlock * 3 * sizeof(int32_t);

TEST(StoreChecksums, DamageOfAnOpenTailIsSeenByItsReader) {
  Store store(2);
  store.Append(Store::Entry(Numbers(0, 8), 0, 3));
  const BlockId id = ReplicaTailId("r", 0, 0);
  const auto before = store.FindTail(0);
  EXPECT_TRUE(before.tail);
  for (size_t byte = 0; byte < kLayers * kSegment; ++byte) {
    store.Flip(before.slot, byte);
    const auto layer = static_cast<uint32_t>(byte / kSegment);
    const auto found = store.core.Find(id, 0);
    EXPECT_FALSE(store.Verifies(id, found, layer)) << byte;
    EXPECT_TRUE(store.Verifies(id, found, 1 - layer)) << byte;
    store.core.Unpin(found.pin);
    store.Flip(before.slot, byte);
  }
}

TEST(StoreChecksums, DamageBeforeTheSealIsSeenAfterIt) {
  Store store(2);
  const auto tokens = Numbers(0, 8);
  const auto plan = store.Plan(Store::Entry(tokens, 0, 3));
  store.End(plan);
  store.Flip(plan.slot, 2);  // of row 0
  store.Append(Store::Entry(tokens, 3, 1));
  const auto sealed = store.core.Find(Ids(tokens)[0], 0);
  ASSERT_EQ(sealed.state, StoreCore::Found::State::kReady);
  EXPECT_FALSE(store.Verifies(Ids(tokens)[0], sealed, 0));
  EXPECT_TRUE(store.Verifies(Ids(tokens)[0], sealed, 1));
}

TEST(StoreChecksums, DamageIsCopiedWithItsTailAndStillSeen) {
  Store store(3);
  const auto tokens = Numbers(0, 8);
  store.Append(Store::Entry(tokens, 0, 2));
  const auto reader = store.FindTail(0);
  store.Flip(reader.slot, 1);
  const auto plan = store.Plan(Store::Entry(tokens, 2, 1));
  EXPECT_EQ(plan.copy_from, reader.slot);
  store.End(plan);
  const BlockId id = ReplicaTailId("r", 0, 0);
  EXPECT_FALSE(store.Verifies(id, store.core.Find(id, 0), 0));
}

TEST(StoreChecksums, RowsThatReplaceDamagedOnesHealTheTail) {
  Store store(2);
  auto tokens = Numbers(0, 8);
  const auto plan = store.Plan(Store::Entry(tokens, 0, 3));
  store.End(plan);
  store.Flip(plan.slot, 4);  // of row 1
  tokens[1] = 77;
  EXPECT_EQ(store.Append(Store::Entry(tokens, 1, 3, {1, 2})).rows, 4);
  EXPECT_EQ(store.Tokens(store.Find(Ids(tokens)[0]).slot, kBlock),
            std::vector<int32_t>(tokens.begin(), tokens.begin() + kBlock));
}

TEST(StoreChecksums, CutAndDamagedRowsLeaveATailThatVerifies) {
  Store store(2);
  auto tokens = Numbers(0, 8);
  store.Append(Store::Entry(tokens, 0, 3));
  tokens[1] = 77;
  store.Append(Store::Entry(tokens, 1, 1, {1, 2}));  // row 2 of the first attempt is left behind
  EXPECT_EQ(store.Tokens(store.FindTail(0).slot, 2), (std::vector<int32_t>{0, 77}));
  Store other(2);
  other.Append(Store::Entry(tokens, 0, 1));
  EXPECT_EQ(other.Append(Store::Entry(tokens, 1, 2), Store::Rows::kDamaged).status.code(),
            kDamaged);
  EXPECT_EQ(other.Tokens(other.FindTail(0).slot, 1), Numbers(0, 1));
}

TEST(StoreChecksums, AReaderOfATailThatWasReleasedMeanwhileGetsItsSums) {
  Store store(2);
  const auto tokens = Numbers(0, 8);
  store.Append(Store::Entry(tokens, 0, 2));
  const auto plan = store.Plan(Store::Entry(tokens, 2, 1));
  const auto reader = store.FindTail(0);
  ASSERT_EQ(reader.state, StoreCore::Found::State::kPending);
  EXPECT_THAT(reader.checksums, IsEmpty());
  store.Release();
  EXPECT_EQ(store.End(plan).status.code(), kNotFound);
  ASSERT_EQ(store.published.size(), 1u) << "and its sums are those of the slot";
  EXPECT_EQ(store.published[0].checksums.size(), kLayers);
}

TEST(StoreChecksums, LayersBeingFetchedArePassedOnUnderTheSumsTheyCameWith) {
  Store store(2);
  const auto tokens = Numbers(0, 4);
  store.Offer(tokens);
  store.ArriveLayer(store.fetches[0], 0, 0);
  const auto pending = store.Find(Ids(tokens)[0]);
  EXPECT_EQ(pending.state, StoreCore::Found::State::kPending);
  EXPECT_EQ(pending.checksums.size(), 1u);
  store.Flip(pending.slot, 0);
  EXPECT_FALSE(store.Verifies(Ids(tokens)[0], pending, 0));
}

TEST(StoreChecksums, AFetchOvertakenByASealKeepsTheSumsOfItsOwnSlot) {
  Store store(4);
  const auto tokens = Numbers(0, 4);
  store.Offer(tokens);
  const auto fetch = store.fetches[0];
  store.ArriveLayer(fetch, 0, 0);
  const auto early = store.Find(Ids(tokens)[0]);
  store.Append(Store::Entry(tokens, 0, 4));
  const auto sealed = store.Find(Ids(tokens)[0]);
  EXPECT_NE(sealed.slot, early.slot);
  store.published.clear();
  store.ArriveLayer(fetch, 0, 1);
  ASSERT_EQ(store.published.size(), 1u);
  EXPECT_EQ(store.published[0].checksums[0], early.checksums[0]);
  EXPECT_NE(store.published[0].checksums[0], sealed.checksums[0]);
}

TEST(StoreChecksums, ABlockWrittenAndLoadedKeepsItsSums) {
  Store store(1, 1);
  const auto tokens = Numbers(0, 4);
  store.AppendAll(tokens, 4);
  const auto sums = store.Find(Ids(tokens)[0]);
  store.core.Unpin(sums.pin);
  store.EndDisk();
  store.Release();
  const auto other = store.Plan(Store::Entry(Numbers(50, 4), 0, 1, {1, 1}, "s"));
  store.End(other);
  store.Release({1, 1}, "s");
  EXPECT_THAT(store.Find(Ids(tokens)[0]).checksums, IsEmpty()) << "not here yet";
  store.Collect();
  store.published.clear();
  store.EndDisk();
  ASSERT_EQ(store.published.size(), 1u);
  EXPECT_EQ(store.published[0].checksums, sums.checksums);
  EXPECT_EQ(store.Find(Ids(tokens)[0]).checksums, sums.checksums);
}

TEST(StoreChecksums, RowsWithoutTheirPartsAreNotTaken) {
  Store store(2);
  const auto plan = store.core.OnAppend(kWorker, Store::Entry(Numbers(0, 4), 0, 2), 0);
  const HeldRows held = store.core.OnAppended(plan.write, absl::OkStatus(), {1}, 0);
  EXPECT_EQ(held.status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(held.rows, 0);
}

}  // namespace
}  // namespace reprise::kv
