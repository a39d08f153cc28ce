// Live sequences in StoreCore: rows appended, sealed, leased, fenced, read, released. Slots hold
// one number per row here, so that what a reader sees can be compared.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "common/random.h"
#include "kvstore/node/store_core.h"

namespace reprise::kv {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int kBlock = 4;
constexpr uint32_t kLayers = 2;
const NodeKey kWorker{"w1", 7};
const NodeKey kOther{"w2", 8};

constexpr auto kAborted = absl::StatusCode::kAborted;
constexpr auto kNotFound = absl::StatusCode::kNotFound;
constexpr auto kGap = absl::StatusCode::kOutOfRange;
constexpr auto kDamaged = absl::StatusCode::kDataLoss;
constexpr auto kNoRoom = absl::StatusCode::kResourceExhausted;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

std::vector<int32_t> Numbers(int first, int count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

std::vector<BlockId> Ids(const std::vector<int32_t>& tokens) {
  return ChainIds({.format_digest = {}, .block_tokens = kBlock, .tenant_salt = {}}, tokens);
}

// A store core with the bytes around it, and checks after every event.
class Store {
 public:
  explicit Store(Slot memory, Slot disk = 0)
      : core({.format_digest = {},
              .block_tokens = kBlock,
              .layers = kLayers,
              .memory_slots = memory,
              .disk_slots = disk}),
        slots_(static_cast<size_t>(memory), std::vector<int32_t>(kBlock, -1)) {}

  // Rows [first, first + count) of the sequence with these tokens.
  static TailEntry Entry(const std::vector<int32_t>& tokens, int first, int count,
                         const Attempt& attempt = {1, 1}, const std::string& request = "r",
                         uint32_t branch = 0) {
    const int index = first / kBlock;
    TailEntry entry{.request = {request, attempt},
                    .branch = branch,
                    .parent = {},
                    .first_position = first,
                    .tokens = {tokens.begin() + first, tokens.begin() + first + count}};
    if (index > 0) entry.parent = Ids(tokens)[static_cast<size_t>(index) - 1];
    return entry;
  }

  StoreCore::AppendPlan Plan(const TailEntry& entry, const NodeKey& from = kWorker) {
    StoreCore::AppendPlan plan = core.OnAppend(from, entry, now);
    Collect();
    if (plan.write == 0) return plan;
    auto& slot = slots_[static_cast<size_t>(plan.slot)];
    if (plan.copy_from >= 0) slot = slots_[static_cast<size_t>(plan.copy_from)];
    for (size_t i = plan.skip; i < entry.tokens.size(); ++i) {
      slot[plan.first_row + i - plan.skip] = entry.tokens[i];
    }
    return plan;
  }
  HeldRows End(const StoreCore::AppendPlan& plan, const Status& status = absl::OkStatus()) {
    HeldRows held = core.OnAppended(plan.write, status, now);
    Collect();
    return held;
  }
  HeldRows Append(const TailEntry& entry, const Status& status = absl::OkStatus(),
                  const NodeKey& from = kWorker) {
    const StoreCore::AppendPlan plan = Plan(entry, from);
    EXPECT_FALSE(plan.busy);
    return plan.write == 0 ? plan.held : End(plan, status);
  }
  // All rows of `tokens`, block by block; what the last answer said.
  HeldRows AppendAll(const std::vector<int32_t>& tokens, int rows,
                     const std::string& request = "r") {
    HeldRows held;
    for (int at = 0; at < rows; at += kBlock) {
      held = Append(Entry(tokens, at, std::min(kBlock, rows - at), {1, 1}, request));
    }
    return held;
  }
  void Offer(const std::vector<int32_t>& tokens, const std::string& request = "r",
             const NodeKey& from = kWorker, const Attempt& attempt = {1, 1}) {
    core.OnOffer({.source = from,
                  .request = {request, attempt},
                  .parent = {},
                  .first_position = 0,
                  .tenant_salt = {},
                  .derivation = {},
                  .tokens = tokens,
                  .branch = 0},
                 now);
    Collect();
  }
  void EndFetch(size_t at, const Status& status = absl::OkStatus()) {
    const StartStoreFetch fetch = fetches[at];
    fetches.erase(fetches.begin() + static_cast<std::ptrdiff_t>(at));
    if (status.ok()) {
      for (size_t i = 0; i < fetch.items.size(); ++i) {
        for (uint32_t layer = 0; layer < kLayers; ++layer) {
          core.OnLayer(fetch.fetch, i, layer, layer + 1);
        }
      }
    }
    core.OnFetchDone(fetch.fetch, std::vector<Status>(fetch.items.size(), status), now);
    Collect();
  }
  void EndDisk(const Status& status = absl::OkStatus()) {
    const StoreCommand command = disk.front();
    disk.erase(disk.begin());
    if (const auto* write = std::get_if<WriteDisk>(&command)) {
      core.OnDiskWritten(write->record.id, status, {1, 2});
    } else {
      core.OnDiskLoaded(std::get<LoadDisk>(command).id, status);
    }
    Collect();
  }
  void Release(const Attempt& attempt = {1, 1}, const std::string& request = "r") {
    core.OnRelease({request, attempt}, now);
    Collect();
  }
  // Rows of a slot as a reader sees them.
  std::vector<int32_t> Rows(Slot slot, size_t rows) const {
    const auto& bytes = slots_[static_cast<size_t>(slot)];
    return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(rows)};
  }
  const std::vector<int32_t>& Bytes(Slot slot) const { return slots_[static_cast<size_t>(slot)]; }
  StoreCore::Found FindTail(int first_position, const std::string& request = "r",
                            uint32_t branch = 0) {
    return core.Find(ReplicaTailId(request, branch, first_position), now);
  }
  std::vector<TailState> Query(const NodeKey& from, const Attempt& attempt) {
    const auto states = core.OnQuery(from, {"r", attempt}, now);
    EXPECT_TRUE(states.ok()) << states.status();
    return states.ok() ? *states : std::vector<TailState>();
  }

  void Collect() {
    for (StoreCommand& command : core.TakeCommands()) {
      if (auto* fetch = std::get_if<StartStoreFetch>(&command)) fetches.push_back(*fetch);
      if (auto* publish = std::get_if<PublishBlock>(&command)) published.push_back(*publish);
      if (std::holds_alternative<WriteDisk>(command) || std::holds_alternative<LoadDisk>(command)) {
        disk.push_back(command);
      }
    }
    for (ToldHeld& one : core.TakeTold()) told.push_back(std::move(one));
    for (const TierCounts& tier : {core.memory(), core.disk()}) {
      ASSERT_EQ(tier.used + tier.free + tier.quarantined, tier.total);
    }
    const Status audit = core.Audit();
    ASSERT_TRUE(audit.ok()) << audit;
  }

  StoreCore core;
  TimeNs now = 0;
  std::vector<StartStoreFetch> fetches;
  std::vector<StoreCommand> disk;
  std::vector<PublishBlock> published;
  std::vector<ToldHeld> told;

 private:
  std::vector<std::vector<int32_t>> slots_;
};

// ---- Growing and sealing. ----

TEST(StoreTails, AppendedRowsGrowATailThatSealsItself) {
  Store store(4);
  const auto tokens = Numbers(100, 12);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 0, 1)).rows, 1);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 1, 2)).rows, 3);
  EXPECT_EQ(store.core.blocks(), 0u);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 3, 1)).rows, 4);
  const auto sealed = store.core.Find(Ids(tokens)[0], 0);
  ASSERT_EQ(sealed.state, StoreCore::Found::State::kReady);
  EXPECT_EQ(store.Bytes(sealed.slot), Numbers(100, 4));
  EXPECT_THAT(sealed.checksums, IsEmpty()) << "computed when it is sent";
  EXPECT_EQ(store.FindTail(0).state, StoreCore::Found::State::kMissing);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 4, 4)).rows, 8);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 8, 1)).rows, 9);
  EXPECT_EQ(store.core.blocks(), 2u);
  EXPECT_EQ(store.core.replicas().tail_rows, 1);
  EXPECT_THAT(store.told, IsEmpty()) << "the answers say it all";
}

TEST(StoreTails, TheChecksumsOfASealedBlockComeFromWhoWritesItToDisk) {
  Store store(4, 4);
  const auto tokens = Numbers(0, 4);
  store.Append(Store::Entry(tokens, 0, 4));
  ASSERT_EQ(store.disk.size(), 1u);
  EXPECT_THAT(std::get<WriteDisk>(store.disk[0]).record.checksums, IsEmpty());
  store.EndDisk();
  EXPECT_THAT(store.core.Find(Ids(tokens)[0], 0).checksums, ElementsAre(1, 2));
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
  HeldRows held = store.Append(Store::Entry(tokens, 0, 2), absl::DataLossError("checksum"));
  EXPECT_EQ(held.status.code(), kDamaged);
  EXPECT_EQ(held.rows, 0);
  EXPECT_EQ(store.core.memory().free, 2) << "an empty tail keeps no slot";
  store.Append(Store::Entry(tokens, 0, 2));
  held = store.Append(Store::Entry(tokens, 2, 2), absl::DataLossError("checksum"));
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
  const auto reader = store.core.Find(Ids(tokens)[0], 0);
  EXPECT_EQ(reader.state, StoreCore::Found::State::kPending);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 0, 4)).rows, 4);
  const auto sealed = store.core.Find(Ids(tokens)[0], 0);
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
  const auto found = store.core.Find(Ids(tokens)[0], 0);
  ASSERT_EQ(found.state, StoreCore::Found::State::kPending);
  store.Collect();
  store.EndDisk(absl::DataLossError("damaged"));
  ASSERT_FALSE(store.told.empty());
  EXPECT_EQ(store.told.back().held.rows, 0);
  EXPECT_EQ(store.told.back().held.status.code(), absl::StatusCode::kUnavailable);
}

// ---- Attempts. ----

TEST(StoreTails, NothingOfALowerAttemptIsTaken) {
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

TEST(StoreTails, RowsOnTheirWayWhenTheAttemptRisesAreNotTaken) {
  Store store(4);
  const auto tokens = Numbers(0, 8);
  store.Append(Store::Entry(tokens, 0, 1, {1, 1}));
  const auto plan = store.Plan(Store::Entry(tokens, 1, 2, {1, 1}));
  store.core.OnFence({"r", {2, 1}}, 0);
  EXPECT_EQ(store.End(plan).status.code(), kAborted);
  EXPECT_EQ(store.Query(kOther, {2, 1})[0].tokens, Numbers(0, 1));
}

TEST(StoreTails, AHigherAttemptSeesWhatIsHeldAndGoesOn) {
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
  EXPECT_EQ(store.Append(Store::Entry(tokens, 9, 2, {1, 2}), {}, kOther).rows, 11);
  EXPECT_EQ(store.core.counters().tails_cut, 1u);
  EXPECT_EQ(store.Rows(store.FindTail(8).slot, 3), (std::vector<int32_t>{8, 500, 10}));
}

TEST(StoreTails, AnAttemptThatContradictsItselfIsRefused) {
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

TEST(StoreTails, AHigherAttemptReplacesSealedBlocksWithOtherTokens) {
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

TEST(StoreTails, ATailThatIsReadIsCopiedBeforeRowsAreAdded) {
  Store store(3);
  const auto tokens = Numbers(0, 8);
  store.Append(Store::Entry(tokens, 0, 2));
  const auto reader = store.FindTail(0);
  ASSERT_EQ(reader.state, StoreCore::Found::State::kReady);
  const std::vector<int32_t> seen = store.Bytes(reader.slot);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 2, 1)).rows, 3);
  EXPECT_EQ(store.Bytes(reader.slot), seen);
  EXPECT_EQ(store.core.counters().tails_copied, 1u);
  const auto again = store.FindTail(0);
  EXPECT_NE(again.slot, reader.slot);
  EXPECT_EQ(store.Rows(again.slot, 3), Numbers(0, 3));
  store.core.Unpin(reader.pin);
  store.core.Unpin(again.pin);
  EXPECT_EQ(store.core.memory().quarantined, 0);
  EXPECT_EQ(store.Append(Store::Entry(tokens, 3, 1)).rows, 4);
  EXPECT_EQ(store.core.counters().tails_copied, 1u);
}

TEST(StoreTails, ATailThatIsReadIsCopiedBeforeItIsCut) {
  Store store(3);
  auto tokens = Numbers(0, 8);
  store.Append(Store::Entry(tokens, 0, 3));
  const auto reader = store.FindTail(0);
  const std::vector<int32_t> seen = store.Bytes(reader.slot);
  tokens[1] = 77;
  EXPECT_EQ(store.Append(Store::Entry(tokens, 1, 2, {1, 2})).rows, 3);
  EXPECT_EQ(store.Bytes(reader.slot), seen);
  EXPECT_EQ(store.Rows(store.FindTail(0).slot, 3), (std::vector<int32_t>{0, 77, 2}));
}

TEST(StoreTails, WithoutASlotForTheCopyTheRowsAreRefused) {
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

TEST(StoreTails, ATailBeingWrittenIsReadableWhenTheWriteHasEnded) {
  for (const Status& status : {absl::OkStatus(), Status(absl::DataLossError("checksum"))}) {
    Store store(2);
    const auto tokens = Numbers(0, 8);
    store.Append(Store::Entry(tokens, 0, 2));
    const auto plan = store.Plan(Store::Entry(tokens, 2, 1));
    EXPECT_TRUE(store.Plan(Store::Entry(tokens, 3, 1)).busy);
    const auto reader = store.FindTail(0);
    EXPECT_EQ(reader.state, StoreCore::Found::State::kPending);
    EXPECT_EQ(reader.layers_ready, 0u);
    EXPECT_THAT(store.published, IsEmpty());
    store.End(plan, status);
    ASSERT_EQ(store.published.size(), 1u);
    EXPECT_EQ(store.published[0].id, ReplicaTailId("r", 0, 0));
    EXPECT_EQ(store.published[0].layers_ready, kLayers);
    EXPECT_EQ(store.Rows(reader.slot, 2), Numbers(0, 2));
  }
}

// ---- The end. ----

TEST(StoreTails, AReleaseFreesTailsAndKeepsSealedBlocksAsCache) {
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

TEST(StoreTails, WhatIsStillReadAfterTheEndIsStranded) {
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

TEST(StoreTails, ARowBeingWrittenAfterTheEndIsAnsweredAndFreed) {
  Store store(2);
  const auto plan = store.Plan(Store::Entry(Numbers(0, 8), 0, 2));
  store.Release();
  EXPECT_EQ(store.core.replicas().stranded_slots, 1);
  EXPECT_EQ(store.End(plan).status.code(), kNotFound);
  EXPECT_EQ(store.core.replicas().stranded_slots, 0);
  EXPECT_EQ(store.core.memory().free, 2);
}

TEST(StoreTails, OrphansAreReleasedUnlessSomebodyTakesThemOver) {
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

TEST(StoreTails, AnAttemptThatOnlyShowedItselfIsNoOwner) {
  Store store(4);
  store.AppendAll(Numbers(0, 8), 2);
  store.core.OnFence({"r", {1, 2}}, 0);
  store.core.OnTick(29 * kSecond);
  EXPECT_EQ(store.core.replicas().requests, 1);
  store.core.OnTick(30 * kSecond);
  EXPECT_EQ(store.core.replicas().requests, 0);
}

// ---- Random histories. ----

// What a store should hold of one request whose tokens never change: a number of rows.
struct Model {
  std::vector<int32_t> tokens;
  Attempt highest{1, 0};
  std::optional<Attempt> ended;
  int64_t rows = 0;
};

struct Reading {
  StoreCore::Found found;
  std::optional<std::vector<int32_t>> seen;  // absent: not readable yet
  BlockId id;
};

// Appends that repeat, overlap, leave gaps, arrive damaged or late from lower attempts; releases,
// owners that vanish, readers that keep their pins, disk writes: every answer is the naive model's,
// rows held are the rows sent, nothing read changes, and slots are conserved.
TEST(StoreTails, AgreesWithANaiveModelUnderRandomHistories) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    SplitMix64 random(seed);
    const bool tight = random.Chance(0.3);
    Store store(tight ? 6 : 60, static_cast<Slot>(random.Below(2) * 40));
    std::vector<Model> models(3);
    for (size_t i = 0; i < models.size(); ++i) {
      models[i].tokens = Numbers(static_cast<int>(i) * 1000, 40);
    }
    std::vector<Reading> readings;
    const auto check_reader = [&](const Reading& reading) {
      if (reading.seen.has_value()) {
        ASSERT_EQ(store.Bytes(reading.found.slot), *reading.seen) << "bytes changed under a reader";
      }
    };
    for (int step = 0; step < 400 && !testing::Test::HasFatalFailure(); ++step) {
      store.now = step * kSecond;
      const size_t which = random.Below(models.size());
      Model& model = models[which];
      const std::string name = absl::StrCat("r", which);
      switch (random.Below(8)) {
        default: {
          // Mostly what comes next.
          int64_t first = random.Chance(0.6)
                              ? model.rows
                              : static_cast<int64_t>(random.Below(model.tokens.size()));
          if (first > model.rows && first % kBlock == 0) ++first;  // not a tail of its own
          first = std::min<int64_t>(first, 39);
          const auto count =
              static_cast<int>(1 + random.Below(static_cast<uint64_t>(kBlock - first % kBlock)));
          Attempt attempt = model.highest;
          if (random.Chance(0.1)) ++attempt.n;
          if (random.Chance(0.15) && attempt.n > 0) --attempt.n;
          if (first > model.rows && first % kBlock == 0) break;
          const TailEntry entry =
              Store::Entry(model.tokens, static_cast<int>(first), count, attempt, name);
          const Status arrived =
              random.Chance(0.1) ? Status(absl::DataLossError("checksum")) : absl::OkStatus();
          const HeldRows held = store.Append(entry, arrived);
          if (attempt < model.highest) {
            ASSERT_EQ(held.status.code(), kAborted);
            break;
          }
          model.highest = attempt;
          if (model.ended.has_value() && attempt <= *model.ended) {
            ASSERT_EQ(held.status.code(), kNotFound);
            break;
          }
          if (first > model.rows) {
            ASSERT_EQ(held.status.code(), kGap);
          } else if (first + count <= model.rows) {
            ASSERT_TRUE(held.status.ok()) << held.status;
          } else if (held.status.code() == kNoRoom) {
            ASSERT_TRUE(tight);
          } else {
            ASSERT_EQ(held.status.code(), arrived.code()) << held.status;
            if (arrived.ok()) model.rows = first + count;
          }
          ASSERT_EQ(held.rows, model.rows);
          break;
        }
        case 0: {
          const int64_t tail = model.rows / kBlock * kBlock;
          Reading reading{.id = ReplicaTailId(name, 0, tail)};
          reading.found = store.core.Find(reading.id, store.now);
          store.Collect();
          if (reading.found.state == StoreCore::Found::State::kMissing) {
            ASSERT_EQ(model.rows % kBlock, 0);
            break;
          }
          const auto rows = static_cast<size_t>(model.rows - tail);
          ASSERT_GT(rows, 0u);
          for (size_t row = 0; row < rows; ++row) {
            ASSERT_EQ(store.Bytes(reading.found.slot)[row],
                      model.tokens[static_cast<size_t>(tail) + row]);
          }
          reading.seen = store.Bytes(reading.found.slot);
          readings.push_back(std::move(reading));
          break;
        }
        case 1: {
          if (readings.empty()) break;
          const size_t at = random.Below(readings.size());
          check_reader(readings[at]);
          store.core.Unpin(readings[at].found.pin);
          readings.erase(readings.begin() + static_cast<std::ptrdiff_t>(at));
          break;
        }
        case 2:
          while (!store.disk.empty()) {
            store.EndDisk(random.Chance(0.8) || std::holds_alternative<LoadDisk>(store.disk[0])
                              ? absl::OkStatus()
                              : Status(absl::UnavailableError("disk")));
          }
          break;
        case 3:
          if (!random.Chance(0.15)) break;
          store.Release(model.highest, name);
          model.ended = model.highest;
          model.rows = 0;
          break;
        case 4:
          if (!random.Chance(0.05)) break;
          store.core.OnPeerLost(kWorker, store.now);
          store.core.OnTick(store.now + kMinute);
          store.Collect();
          for (Model& orphan : models) orphan.rows = 0;
          break;
      }
      for (const Reading& reading : readings) check_reader(reading);
      for (size_t i = 0; i < models.size(); ++i) {
        const auto ids = Ids(models[i].tokens);
        for (int64_t block = 0; block < models[i].rows / kBlock; ++block) {
          ASSERT_TRUE(store.core.events().Lists(ids[static_cast<size_t>(block)]));
        }
      }
    }
    for (const Reading& reading : readings) store.core.Unpin(reading.found.pin);
    for (size_t i = 0; i < models.size(); ++i) {
      store.Release({1, 1000}, absl::StrCat("r", i));
    }
    while (!store.disk.empty()) store.EndDisk();
    EXPECT_EQ(store.core.memory().quarantined, 0);
    const ReplicaCounts counts = store.core.replicas();
    EXPECT_EQ(counts.sequences + counts.leased_blocks + counts.tail_rows + counts.stranded_slots,
              0);
  }
}

// Attempts that sample other tokens, offers that complete, fail and overlap with appends, writes
// that end late: whatever is told as held is there with the owner's tokens or an earlier owner's.
TEST(StoreTails, KeepsItsInvariantsWhenAttemptsDisagree) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    SplitMix64 random(seed);
    Store store(static_cast<Slot>(4 + random.Below(12)), static_cast<Slot>(random.Below(12)));
    struct Late {
      StoreCore::AppendPlan plan;
      TailEntry entry;
    };
    std::vector<Late> late;
    std::vector<Reading> readings;
    std::vector<std::vector<int32_t>> streams = {Numbers(0, 32)};
    for (int i = 0; i < 4; ++i) {
      std::vector<int32_t> stream = streams.back();
      const size_t from = random.Below(stream.size());
      for (size_t at = from; at < stream.size(); ++at) stream[at] += 1000;
      streams.push_back(std::move(stream));
    }
    uint32_t highest = 0;
    for (int step = 0; step < 400 && !testing::Test::HasFatalFailure(); ++step) {
      store.now = step * kSecond;
      if (random.Chance(0.02) && highest + 1 < streams.size()) ++highest;
      const auto n =
          static_cast<uint32_t>(random.Chance(0.9) ? highest : random.Below(highest + 1));
      const std::vector<int32_t>& tokens = streams[n];
      const auto branch = static_cast<uint32_t>(random.Below(2));
      switch (random.Below(7)) {
        default: {
          const int first = static_cast<int>(random.Below(30));
          const int count =
              1 + static_cast<int>(random.Below(static_cast<uint64_t>(kBlock - first % kBlock)));
          TailEntry entry = Store::Entry(tokens, first, count, {1, n}, "r", branch);
          const StoreCore::AppendPlan plan = store.Plan(entry);
          if (plan.write != 0) late.push_back({plan, std::move(entry)});
          break;
        }
        case 0:
        case 1:
          if (late.empty()) break;
          {
            const size_t at = random.Below(late.size());
            const HeldRows held =
                store.End(late[at].plan,
                          random.Chance(0.9) ? absl::OkStatus() : absl::DataLossError("checksum"));
            ASSERT_EQ(held.request.attempt, late[at].entry.request.attempt);
            late.erase(late.begin() + static_cast<std::ptrdiff_t>(at));
          }
          break;
        case 2:
          store.Offer({tokens.begin(),
                       tokens.begin() + kBlock * static_cast<std::ptrdiff_t>(1 + random.Below(7))},
                      "r", kWorker, {1, n});
          break;
        case 3:
          if (!store.fetches.empty()) {
            store.EndFetch(
                random.Below(store.fetches.size()),
                random.Chance(0.7) ? absl::OkStatus() : Status(absl::UnavailableError("gone")));
          }
          while (!store.disk.empty()) {
            store.EndDisk(random.Chance(0.8) ? absl::OkStatus()
                                             : Status(absl::DataLossError("disk")));
          }
          break;
        case 4: {
          Reading reading{
              .id = ReplicaTailId("r", branch, kBlock * static_cast<int64_t>(random.Below(8)))};
          reading.found = store.core.Find(reading.id, store.now);
          if (reading.found.state == StoreCore::Found::State::kMissing) break;
          if (reading.found.state == StoreCore::Found::State::kReady) {
            reading.seen = store.Bytes(reading.found.slot);
          }
          readings.push_back(std::move(reading));
          break;
        }
        case 5:
          if (!readings.empty() && random.Chance(0.5)) {
            store.core.Unpin(readings.back().found.pin);
            readings.pop_back();
          }
          if (random.Chance(0.03)) store.Release({1, highest});
          break;
      }
      for (Reading& reading : readings) {
        if (reading.seen.has_value()) {
          ASSERT_EQ(store.Bytes(reading.found.slot), *reading.seen);
        } else if (std::any_of(store.published.begin(), store.published.end(),
                               [&](const auto& p) { return p.id == reading.id; })) {
          reading.seen = store.Bytes(reading.found.slot);
        }
      }
      store.published.clear();
      store.Collect();
    }
    for (const Late& one : late) store.End(one.plan);
    while (!store.fetches.empty()) store.EndFetch(0);
    for (const Reading& reading : readings) store.core.Unpin(reading.found.pin);
    store.Release({9, 9});
    while (!store.disk.empty()) store.EndDisk();
    EXPECT_EQ(store.core.memory().quarantined, 0);
    const ReplicaCounts counts = store.core.replicas();
    EXPECT_EQ(counts.sequences + counts.leased_blocks + counts.tail_rows + counts.stranded_slots,
              0);
  }
}

}  // namespace
}  // namespace reprise::kv
