// How live sequences come to be held: rows grow a tail that seals itself, offered blocks complete,
// and leases keep what is held.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kvstore/node/store_tails_fixture.h"

namespace reprise::kv {
namespace {

using ::testing::IsEmpty;

// ---- Growing and sealing. ----

TEST(StoreTails, RowsInStepFormAreSealedUnderIdsThatSaySo) {
  Store store(4);
  const auto tokens = Numbers(100, 8);
  const kv::ChainContext chain{.format_digest = {}, .block_tokens = kBlock, .tenant_salt = {}};
  const auto ids = ChainIds(chain, tokens, 3);
  TailEntry entry = Store::Entry(tokens, 0, 3);
  entry.prompt_end = 3;
  EXPECT_EQ(store.Append(entry).rows, 3);
  EXPECT_EQ(store.core.OnQuery(kOther, {"r", {1, 1}}, store.now)->at(0).prompt_end, 3);
  entry = Store::Entry(tokens, 3, 1);
  EXPECT_EQ(store.Append(entry).status.code(), absl::StatusCode::kInvalidArgument)
      << "the same attempt says that all rows have one form";
  entry.prompt_end = 3;
  EXPECT_EQ(store.Append(entry).rows, 4);
  EXPECT_EQ(store.Find(ids[0]).state, StoreCore::Found::State::kReady);
  EXPECT_EQ(store.Find(Ids(tokens)[0]).state, StoreCore::Found::State::kMissing);
  entry = Store::Entry(tokens, 4, 4);
  entry.parent = ids[0];
  entry.prompt_end = 3;
  EXPECT_EQ(store.Append(entry).rows, 8);
  EXPECT_EQ(store.Find(ids[1]).state, StoreCore::Found::State::kReady);
}

TEST(StoreTails, AppendedRowsGrowATailThatSealsItself) {
  Store store(4);
  const auto tokens = Numbers(100, 12);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 0, 1)).rows, 1);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 1, 2)).rows, 3);
  EXPECT_EQ(store.core.blocks(), 0u);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 3, 1)).rows, 4);
  const auto sealed = store.Find(Ids(tokens)[0]);
  ASSERT_EQ(sealed.state, StoreCore::Found::State::kReady);
  EXPECT_EQ(store.Tokens(sealed.slot, kBlock), Numbers(100, 4));
  EXPECT_EQ(store.FindTail(0).state, StoreCore::Found::State::kMissing);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 4, 4)).rows, 8);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 8, 1)).rows, 9);
  EXPECT_EQ(store.core.blocks(), 2u);
  EXPECT_EQ(store.core.replicas().tail_rows, 1);
  EXPECT_THAT(store.told, IsEmpty()) << "the answers say it all";
}

TEST(StoreTails, RepeatedAndOverlappingRowsChangeNothing) {
  Store store(4);
  const auto tokens = Numbers(0, 12);
  store.AppendAll(tokens, 6);
  for (const auto& [first, count] : {std::pair(0, 4), {1, 2}, {4, 2}, {5, 1}}) {
    const HeldRows held = store.Append(Store::Entry(tokens, first, count));
    EXPECT_TRUE(held.status.ok()) << held.status;
    EXPECT_EQ(held.rows, 6);
  }
  const auto plan = store.Plan(Store::Entry(tokens, 4, 4));
  EXPECT_EQ(plan.skip, 2u);
  EXPECT_EQ(plan.first_row, 2u);
  EXPECT_EQ(store.End(plan).rows, 8);
  EXPECT_EQ(store.core.counters().append_rows, 8u);
}

TEST(StoreTails, RowsBehindAGapAreRefusedWithWhatIsHeld) {
  Store store(4);
  const auto tokens = Numbers(0, 16);
  HeldRows held = store.Append(Store::Entry(tokens, 2, 1));
  EXPECT_EQ(held.status.code(), kGap);
  EXPECT_EQ(held.rows, 0);
  store.AppendAll(tokens, 5);
  for (const int first : {6, 8, 9, 12}) {
    held = store.Append(Store::Entry(tokens, first, 1));
    EXPECT_EQ(held.status.code(), kGap) << first;
    EXPECT_EQ(held.rows, 5);
  }
  EXPECT_EQ(store.core.counters().refused_gap, 5u);
}

TEST(StoreTails, DamagedRowsAreNotTaken) {
  Store store(2);
  const auto tokens = Numbers(0, 8);
  HeldRows held = store.Append(Store::Entry(tokens, 0, 2), Store::Rows::kDamaged);
  EXPECT_EQ(held.status.code(), kDamaged);
  EXPECT_EQ(held.rows, 0);
  EXPECT_EQ(store.core.memory().free, 2) << "an empty tail keeps no slot";
  store.Append(Store::Entry(tokens, 0, 2));
  held = store.Append(Store::Entry(tokens, 2, 2), Store::Rows::kDamaged);
  EXPECT_EQ(held.rows, 2);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 2, 2)).rows, 4);
}

TEST(StoreTails, EntriesThatCannotBeAreRefused) {
  Store store(2);
  const auto tokens = Numbers(0, 12);
  TailEntry entry = Store::Entry(tokens, 2, 3);  // crosses the block
  EXPECT_EQ(store.Append(entry).status.code(), kInvalid);
  entry = Store::Entry(tokens, 4, 1);
  entry.parent = {};
  EXPECT_EQ(store.Append(entry).status.code(), kInvalid);
  entry = Store::Entry(tokens, 0, 1);
  entry.parent = Ids(tokens)[0];
  EXPECT_EQ(store.Append(entry).status.code(), kInvalid);
  entry = Store::Entry(tokens, 0, 1);
  entry.first_position = limits::kContextTokensMax;
  EXPECT_EQ(store.Append(entry).status.code(), kInvalid);
  EXPECT_EQ(store.core.replicas().sequences, 0);
}

// ---- Offered blocks. ----

TEST(StoreTails, OfferedBlocksAreLeasedAndToldAsTheyComplete) {
  Store store(4);
  const auto tokens = Numbers(0, 12);
  store.Offer(Numbers(0, 8));
  ASSERT_EQ(store.fetches.size(), 1u);
  EXPECT_EQ(store.core.replicas().leased_blocks, 2);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 8, 1)).rows, 0) << "it does not follow yet";
  store.told.clear();
  store.EndFetch(0);
  ASSERT_FALSE(store.told.empty());
  EXPECT_EQ(store.told.back().owner, kWorker);
  EXPECT_EQ(store.told.back().held.rows, 9);
  EXPECT_TRUE(store.told.back().held.status.ok());
}

TEST(StoreTails, TheOwnerIsWhoAppendsNotWhoOffers) {
  Store store(4);
  const auto tokens = Numbers(0, 12);
  store.Offer(Numbers(0, 8), "r", kOther);
  store.Append(Store::Entry(tokens, 8, 1));
  store.Offer(Numbers(0, 8), "r", kOther);
  store.told.clear();
  store.EndFetch(0);
  for (const ToldHeld& one : store.told) EXPECT_EQ(one.owner, kWorker);
  EXPECT_EQ(store.told.back().held.rows, 9);
}

TEST(StoreTails, AnOfferThatFailsIsToldAndMayComeAgain) {
  Store store(4);
  store.Offer(Numbers(0, 4));
  store.EndFetch(0, absl::UnavailableError("gone"));
  EXPECT_EQ(store.told.back().held.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(store.core.replicas().leased_blocks, 0);
  store.Offer(Numbers(0, 4));
  store.EndFetch(0);
  EXPECT_EQ(store.told.back().held.rows, 4);
}

TEST(StoreTails, ABlockSealedBeforeItsOfferArrivedIsHeldAtOnce) {
  Store store(4);
  const auto tokens = Numbers(0, 8);
  store.Offer(Numbers(0, 4));
  const auto reader = store.Find(Ids(tokens)[0]);
  EXPECT_EQ(reader.state, StoreCore::Found::State::kPending);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 0, 4)).rows, 4);
  const auto sealed = store.Find(Ids(tokens)[0]);
  EXPECT_EQ(sealed.state, StoreCore::Found::State::kReady);
  EXPECT_NE(sealed.slot, reader.slot) << "the fetch still writes there";
  EXPECT_EQ(store.core.memory().quarantined, 1);
  store.EndFetch(0);
  EXPECT_EQ(store.published.back().layers_ready, kLayers) << "the early reader is served too";
  store.core.Unpin(reader.pin);
  EXPECT_EQ(store.core.memory().quarantined, 0);
  EXPECT_EQ(store.core.counters().blocks_stored, 0u);
}

TEST(StoreTails, ATailGivesWayToItsBlockWhenThatArrivesWhole) {
  Store store(4);
  const auto tokens = Numbers(0, 8);
  store.Append(Store::Entry(tokens, 0, 2));
  store.Offer(Numbers(0, 4));
  store.EndFetch(0);
  EXPECT_EQ(store.told.back().held.rows, 4);
  EXPECT_EQ(store.core.replicas().tail_rows, 0);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 4, 1)).rows, 5);
}

TEST(StoreTails, RowsOfALaterBlockWaitForTheBlockThatTheTailIsIn) {
  Store store(6);
  const auto tokens = Numbers(0, 16);
  store.AppendAll(tokens, 6);
  store.Offer(Numbers(0, 8));
  const HeldRows held = store.Append(Store::Entry(tokens, 8, 1));
  EXPECT_EQ(held.status.code(), kGap);
  EXPECT_EQ(held.rows, 6) << "what is held does not become less because more is on its way";
  store.EndFetch(0);
  EXPECT_EQ(store.told.back().held.rows, 8);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 8, 1)).rows, 9);
}

TEST(StoreTails, ATailBehindAHoleGivesWayToRowsThatFillIt) {
  Store store(6);
  const auto tokens = Numbers(0, 16);
  store.Offer(Numbers(0, 8));
  store.Append(Store::Entry(tokens, 8, 1));
  store.EndFetch(0, absl::UnavailableError("gone"));
  EXPECT_EQ(store.Append(Store::Entry(tokens, 0, 4)).rows, 4);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 4, 2)).rows, 6);
}

TEST(StoreTails, ABranchStartsFromTheBlocksOfItsSibling) {
  Store store(6);
  auto tokens = Numbers(0, 12);
  store.AppendAll(tokens, 9);
  tokens[8] = 50;
  EXPECT_EQ(store.Append(Store::Entry(tokens, 8, 1, {1, 1}, "r", 1)).rows, 9);
  EXPECT_EQ(store.core.replicas().sequences, 2);
  EXPECT_EQ(store.core.replicas().leased_blocks, 2);
}

// ---- Leases. ----

TEST(StoreTails, LeasedBlocksAreNotEvictedUntilTheirRequestEnds) {
  Store store(2);
  store.AppendAll(Numbers(0, 8), 8);
  const HeldRows held = store.Append(Store::Entry(Numbers(50, 4), 0, 1, {1, 1}, "s"));
  EXPECT_EQ(held.status.code(), kNoRoom);
  store.Offer(Numbers(80, 4), "t");
  EXPECT_EQ(store.told.back().held.status.code(), kNoRoom);
  EXPECT_EQ(store.core.counters().memory_evictions, 0u);
  store.Release();
  EXPECT_EQ(store.core.replicas().leased_blocks, 0);
  EXPECT_EQ(store.Append(Store::Entry(Numbers(50, 4), 0, 1, {1, 1}, "s")).rows, 1);
  EXPECT_EQ(store.core.counters().memory_evictions, 1u);
}

TEST(StoreTails, ALeasedBlockOnDiskMayLeaveMemoryAndOnlyThat) {
  Store store(1, 1);
  const auto tokens = Numbers(0, 4);
  store.AppendAll(tokens, 4);
  store.EndDisk();
  EXPECT_EQ(store.Append(Store::Entry(Numbers(50, 8), 0, 4, {1, 1}, "s")).rows, 4)
      << "its bytes are on disk";
  EXPECT_EQ(store.core.counters().memory_evictions, 1u);
  EXPECT_EQ(store.core.counters().disk_evictions, 0u);
  EXPECT_TRUE(store.core.events().Lists(Ids(tokens)[0]));
  EXPECT_THAT(store.disk, IsEmpty()) << "no disk slot may be taken from it";
}

TEST(StoreTails, ALostBlockMovesWhatIsHeldBackAndIsTold) {
  Store store(1, 2);
  const auto tokens = Numbers(0, 12);
  store.AppendAll(tokens, 8);
  ASSERT_EQ(store.core.blocks(), 1u) << "no room for the second yet";
  store.EndDisk();
  EXPECT_EQ(store.Append(Store::Entry(tokens, 4, 4)).rows, 8);
  store.EndDisk();
  const auto found = store.Find(Ids(tokens)[0]);
  ASSERT_EQ(found.state, StoreCore::Found::State::kPending);
  store.Collect();
  store.EndDisk(absl::DataLossError("damaged"));
  ASSERT_FALSE(store.told.empty());
  EXPECT_EQ(store.told.back().held.rows, 0);
  EXPECT_EQ(store.told.back().held.status.code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace reprise::kv
