// A store between two other nodes, over the real stream: it takes what one offers, gives it to the
// other, and still has it on disk after a restart.
#include "kvstore/node/store_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "absl/strings/match.h"
#include "common/failpoint.h"
#include "kvstore/node/store_test_peer.h"

namespace reprise::kv {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

MATCHER(IsOk, "") { return arg.ok(); }

class StoreServerTest : public testing::Test {
 protected:
  StoreServerTest() {
    options_.memory_bytes = 16 * static_cast<int64_t>(TestFormat().block_bytes());
    options_.disk_bytes = options_.memory_bytes;
    options_.disk_path = absl::StrCat(testing::TempDir(), "/store_server_test.", getpid());
    std::filesystem::remove(options_.disk_path);
  }
  ~StoreServerTest() override { std::filesystem::remove(options_.disk_path); }

  std::unique_ptr<StoreServer> StartStore(MetricsRegistry* metrics,
                                          const Clock& clock = RealClock()) {
    auto server =
        StoreServer::Start(options_, {"store", RandomU64() | 1}, TestModel(), metrics, clock);
    EXPECT_TRUE(server.ok()) << server.status();
    return server.ok() ? *std::move(server) : nullptr;
  }

  static bool AwaitMetric(const MetricsRegistry& metrics, const std::string& line) {
    const TimeNs until = RealClock().NowNs() + kPatience;
    while (metrics.Serialize().find(line) == std::string::npos) {
      if (RealClock().NowNs() > until) return false;
      std::this_thread::yield();
    }
    return true;
  }

  // Reports until the store has told of `blocks` listed blocks; how many were told.
  static size_t WaitForBlocks(StoreServer& store, size_t blocks) {
    const TimeNs until = RealClock().NowNs() + kPatience;
    std::set<std::string> told;
    v1::ReportResponse answer;
    answer.set_coordinator_incarnation(1);
    answer.set_next_event(1);
    store.OnReportAnswer(answer);
    while (told.size() < blocks && RealClock().NowNs() < until) {
      v1::ReportRequest report;
      store.FillReport(&report);
      for (const auto& event : report.events().events()) {
        event.removed() ? (void)told.erase(event.id()) : (void)told.insert(event.id());
      }
      answer.set_next_event(report.events().first() +
                            static_cast<uint64_t>(report.events().events_size()));
      store.OnReportAnswer(answer);
      std::this_thread::yield();
    }
    return told.size();
  }

  StoreOptions options_;
};

TEST_F(StoreServerTest, TakesOffersServesThemAndKeepsThemOverARestart) {
  const std::vector<int32_t> tokens = Tokens(40);
  const std::vector<BlockId> ids = TestIds(tokens);
  std::vector<std::vector<uint8_t>> bytes;
  {
    MetricsRegistry metrics;
    const auto store = StartStore(&metrics);
    Peer worker("w1");
    worker.Offer(store->kv_address(), tokens, std::nullopt);
    ASSERT_EQ(WaitForBlocks(*store, ids.size()), ids.size());
    Peer reader("w2");
    EXPECT_THAT(reader.Fetch(store->kv_address(), ids, &bytes), Each(IsOk()));
    for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(bytes[i], Peer::BytesOf(ids[i])) << i;
    // The disk copy is behind: wait until it is complete.
    EXPECT_TRUE(AwaitMetric(metrics, "reprise_store_disk_writes_total 5"));
  }
  MetricsRegistry metrics;
  const auto store = StartStore(&metrics);
  ASSERT_EQ(WaitForBlocks(*store, ids.size()), ids.size());
  Peer reader("w3");
  EXPECT_THAT(reader.Fetch(store->kv_address(), ids, &bytes), Each(IsOk()));
  for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(bytes[i], Peer::BytesOf(ids[i])) << i;
}

// The stream's last words about a fetch come while it ends, and have the store tell readers through
// that same stream.
TEST_F(StoreServerTest, StopsWhileABlockArrivesAndAReaderWaitsForIt) {
  const std::vector<int32_t> tokens = Tokens(16);
  MetricsRegistry metrics;
  auto store = StartStore(&metrics);
  Peer worker("w1");
  worker.Stall();
  worker.Offer(store->kv_address(), tokens, std::nullopt);
  ASSERT_TRUE(AwaitMetric(metrics, "reprise_store_offers_total 1"));
  Peer reader("w2");
  FetchSpec spec{.source = store->kv_address(), .subscribe = true, .timeout_ns = kPatience};
  const BlockId id = TestIds(tokens)[0];
  std::vector<uint8_t> bytes(TestFormat().block_bytes());
  spec.items.push_back({id, 0, bytes.data()});
  const auto outcome = std::make_shared<FetchOutcome>();
  ASSERT_TRUE(reader.stream().Fetch(std::move(spec), outcome).ok());
  ASSERT_TRUE(AwaitMetric(metrics, "reprise_store_hits_total 1"));
  store = nullptr;
  EXPECT_THAT(outcome->Wait(), Each(testing::Not(IsOk())));
}

// What replication is for: a worker appends, dies, and another restores every row.
TEST_F(StoreServerTest, AnotherWorkerRestoresWhatOneAppended) {
  MetricsRegistry metrics;
  const auto store = StartStore(&metrics);
  const auto tokens = Tokens(40);
  const std::vector<BlockId> ids = TestIds(tokens);
  {
    Peer worker("w1");
    worker.Listen();
    for (int64_t at = 0; at < 21; ++at) worker.Append(store->kv_address(), tokens, at, 1);
    ASSERT_TRUE(worker.AwaitHeld(21));
    EXPECT_THAT(metrics.Serialize(), HasSubstr("reprise_store_tail_rows 5"));
  }
  Peer heir("w2");
  heir.Listen();
  const auto states = heir.Query(store->kv_address(), {1, 2});
  ASSERT_EQ(states.size(), 1u);
  EXPECT_EQ(states[0].blocks_held, 2);
  EXPECT_EQ(states[0].parent, ids[1]);
  EXPECT_EQ(states[0].tokens, std::vector<int32_t>(tokens.begin() + 16, tokens.begin() + 21));
  std::vector<std::vector<uint8_t>> bytes;
  EXPECT_THAT(heir.Fetch(store->kv_address(), {ids[0], ids[1]}, &bytes), Each(IsOk()));
  EXPECT_EQ(bytes[0], Peer::RowsBlock(0));
  EXPECT_EQ(bytes[1], Peer::RowsBlock(1));
  const auto tail =
      heir.Fetch(store->kv_address(), {ReplicaTailId("r", 0, 16)}, &bytes, {"r", {1, 2}}, 2);
  ASSERT_TRUE(tail[0].ok()) << tail[0];
  std::vector<uint8_t> restored(PackedBytes(TestFormat(), 5)), sent(restored.size());
  ASSERT_TRUE(PackTail(TestFormat(), bytes[0], {0, 5}, 0, restored).ok());
  ASSERT_TRUE(PackTail(TestFormat(), Peer::RowsBlock(2), {0, 5}, 0, sent).ok());
  EXPECT_EQ(restored, sent);
  // It goes on where the other stopped; the other is fenced.
  heir.Append(store->kv_address(), tokens, 21, 3, {1, 2});
  EXPECT_TRUE(heir.AwaitHeld(24));
  Peer zombie("w3");
  zombie.Listen();
  zombie.Append(store->kv_address(), tokens, 24, 1, {1, 1});
  EXPECT_EQ(zombie.AwaitCode(0), absl::StatusCode::kAborted);
  heir.stream().Release(store->kv_address(), {"r", {1, 2}});
  heir.Append(store->kv_address(), tokens, 24, 1, {1, 2});
  EXPECT_EQ(heir.AwaitCode(1), absl::StatusCode::kNotFound);
  EXPECT_THAT(metrics.Serialize(), HasSubstr("reprise_store_sequences 0"));
  EXPECT_THAT(metrics.Serialize(), HasSubstr("reprise_stranded_bytes 0"));
}

TEST_F(StoreServerTest, SealedRowsSurviveARestartOnDisk) {
  const auto tokens = Tokens(40);
  const std::vector<BlockId> ids = TestIds(tokens);
  {
    MetricsRegistry metrics;
    const auto store = StartStore(&metrics);
    Peer worker("w1");
    worker.Listen();
    for (int64_t at = 0; at < 24; at += 8) worker.Append(store->kv_address(), tokens, at, 8);
    ASSERT_TRUE(worker.AwaitHeld(24));
    EXPECT_TRUE(AwaitMetric(metrics, "reprise_store_disk_writes_total 3"));
  }
  MetricsRegistry metrics;
  const auto store = StartStore(&metrics);
  Peer reader("w2");
  std::vector<std::vector<uint8_t>> bytes;
  EXPECT_THAT(reader.Fetch(store->kv_address(), {ids[0], ids[1], ids[2]}, &bytes), Each(IsOk()));
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(bytes[static_cast<size_t>(i)], Peer::RowsBlock(i)) << i;
  }
}

// One byte of a row, wherever it lies.
void Damage(StoreServer& store, int64_t position) {
  v1::ReportRequest report;
  store.FillReport(&report);  // takes the lock under which the rows were taken last
  const std::vector<uint8_t> block = Peer::RowsBlock(position / 8);
  const size_t piece = 16 * ElementBytes(TestFormat().codec);  // of one head
  const auto row = block.begin() + static_cast<std::ptrdiff_t>(piece) * (position % 8);
  const std::span<uint8_t> memory = store.memory_for_testing();
  const auto found =
      std::search(memory.begin(), memory.end(), row, row + static_cast<std::ptrdiff_t>(piece));
  ASSERT_NE(found, memory.end()) << "the row at " << position << " is not in the store's memory";
  *found ^= 0x40;
}

TEST_F(StoreServerTest, WhatChangesInItsMemoryIsRefusedByWhoFetchesIt) {
  options_.disk_path.clear();
  MetricsRegistry metrics;
  const auto store = StartStore(&metrics);
  const auto tokens = Tokens(40);
  const std::vector<BlockId> ids = TestIds(tokens);
  Peer worker("w1");
  worker.Listen();
  worker.Append(store->kv_address(), tokens, 0, 5);
  ASSERT_TRUE(worker.AwaitHeld(5));
  Damage(*store, 2);  // before the seal
  worker.Append(store->kv_address(), tokens, 5, 3);
  worker.Append(store->kv_address(), tokens, 8, 8);
  worker.Append(store->kv_address(), tokens, 16, 8);
  worker.Append(store->kv_address(), tokens, 24, 3);
  ASSERT_TRUE(worker.AwaitHeld(27));
  std::vector<std::vector<uint8_t>> bytes;
  Peer reader("w2");
  const auto codes = [&](const std::vector<BlockId>& which, int64_t first_block) {
    std::vector<absl::StatusCode> found;
    for (const Status& status :
         reader.Fetch(store->kv_address(), which, &bytes, {"r", {1, 2}}, first_block)) {
      found.push_back(status.code());
    }
    return found;
  };
  constexpr auto kOk = absl::StatusCode::kOk;
  constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
  EXPECT_THAT(codes({ids[0], ids[1], ids[2], ReplicaTailId("r", 0, 24)}, 0),
              ElementsAre(kDataLoss, kOk, kOk, kOk));
  Damage(*store, 15);  // after the seal
  Damage(*store, 26);  // of the open tail
  EXPECT_THAT(codes({ids[1], ids[2], ReplicaTailId("r", 0, 24)}, 1),
              ElementsAre(kDataLoss, kOk, kDataLoss));
}

TEST_F(StoreServerTest, OfferedBlocksAreToldAsTheyArriveAndTheTailFollows) {
  MetricsRegistry metrics;
  const auto store = StartStore(&metrics);
  const auto tokens = Tokens(24);
  Peer worker("w1");
  worker.Listen();
  worker.Offer(store->kv_address(), {tokens.begin(), tokens.begin() + 16}, 0);
  worker.Append(store->kv_address(), tokens, 16, 3);
  EXPECT_TRUE(worker.AwaitHeld(19));
}

TEST_F(StoreServerTest, RequestsWithoutAnOwnerAreReaped) {
  options_.orphan_ns = 1;
  MetricsRegistry metrics;
  const auto store = StartStore(&metrics);
  {
    Peer worker("w1");
    worker.Listen();
    worker.Append(store->kv_address(), Tokens(8), 0, 3);
    ASSERT_TRUE(worker.AwaitHeld(3));
  }
  EXPECT_TRUE(AwaitMetric(metrics, "reprise_store_orphans_released_total 1"));
  EXPECT_THAT(metrics.Serialize(), HasSubstr("reprise_store_sequences 0"));
}

TEST_F(StoreServerTest, BlocksThatNeverComeAreGivenUpAfterTheRequest) {
  ManualClock clock(kMinute);
  MetricsRegistry metrics;
  const auto store = StartStore(&metrics, clock);
  Peer worker("w1");
  worker.Stall();
  worker.Offer(store->kv_address(), Tokens(16), 0);
  ASSERT_TRUE(AwaitMetric(metrics, "reprise_store_leased_blocks 2"));
  worker.stream().Release(store->kv_address(), {"r", {1, 1}});
  ASSERT_TRUE(AwaitMetric(metrics, "reprise_store_releases_total 1"));
  EXPECT_THAT(metrics.Serialize(),
              HasSubstr("reprise_store_blocks{state=\"used\",tier=\"memory\"} 2"));
  clock.Advance(kSecond);
  EXPECT_TRUE(AwaitMetric(metrics, "reprise_store_fetch_items_failed_total 2"));
  EXPECT_THAT(metrics.Serialize(), HasSubstr("reprise_store_fetches_cancelled_total 1"));
  EXPECT_THAT(metrics.Serialize(),
              HasSubstr("reprise_store_blocks{state=\"used\",tier=\"memory\"} 0"));
}

int64_t HitsOf(const std::string& failpoint) {
  for (const auto& [name, hits] : FailpointHits()) {
    if (name == failpoint) return hits;
  }
  return -1;
}

int64_t ProbeAgeMs(StoreServer& store) {
  v1::ReportRequest report;
  store.FillReport(&report);
  return report.load().probe_age_ms();
}

TEST_F(StoreServerTest, ABlockedDiskIsReportedAndMemoryServesOn) {
  ManualClock clock(kMinute);
  MetricsRegistry metrics;
  ASSERT_TRUE(ArmFailpoint("store.disk.write", FailpointAction::kHang, 1).ok());
  const int64_t before = HitsOf("store.disk.write");
  const auto store = StartStore(&metrics, clock);
  const auto tokens = Tokens(40);
  const std::vector<BlockId> ids = TestIds(tokens);
  Peer worker("w1");
  worker.Listen();
  worker.Append(store->kv_address(), tokens, 0, 8);
  const TimeNs until = RealClock().NowNs() + kPatience;
  while (HitsOf("store.disk.write") == before && RealClock().NowNs() < until) {
    std::this_thread::yield();
  }
  clock.Advance(1'500 * kMillisecond);
  EXPECT_EQ(ProbeAgeMs(*store), -1);
  clock.Advance(kMillisecond);
  EXPECT_EQ(ProbeAgeMs(*store), 1'501);
  clock.Advance(kSecond);
  EXPECT_EQ(ProbeAgeMs(*store), 2'501);
  worker.Append(store->kv_address(), tokens, 8, 8);
  worker.Append(store->kv_address(), tokens, 16, 3);
  EXPECT_TRUE(worker.AwaitHeld(19));
  Peer reader("w2");
  std::vector<std::vector<uint8_t>> bytes;
  EXPECT_THAT(reader.Fetch(store->kv_address(), {ids[0], ids[1]}, &bytes), Each(IsOk()));
  EXPECT_EQ(bytes[1], Peer::RowsBlock(1));
  ASSERT_TRUE(ArmFailpoint("store.disk.write", FailpointAction::kCount, 1).ok());  // lets go
  EXPECT_TRUE(AwaitMetric(metrics, "reprise_store_disk_writes_total 2"));
  EXPECT_TRUE(AwaitMetric(metrics, "reprise_store_disk_failures_total 0"));
  EXPECT_EQ(ProbeAgeMs(*store), -1);
}

TEST_F(StoreServerTest, EveryFailpointOfAStoreIsMetInALife) {
  std::map<std::string, int64_t> before;
  for (const auto& [name, hits] : FailpointHits()) {
    if (absl::StartsWith(name, "store.")) before[name] = hits;
  }
  ASSERT_TRUE(ArmFailpoint("store.offer", FailpointAction::kCount, 1).ok());
  {
    MetricsRegistry metrics;
    const auto store = StartStore(&metrics);
    const auto tokens = Tokens(24);
    Peer worker("w1");
    worker.Listen();
    worker.Offer(store->kv_address(), {tokens.begin(), tokens.begin() + 8}, 0);
    worker.Append(store->kv_address(), tokens, 8, 8);
    ASSERT_TRUE(worker.AwaitHeld(16));
    EXPECT_EQ(worker.Query(store->kv_address(), {1, 1}).size(), 1u);
    std::vector<std::vector<uint8_t>> bytes;
    EXPECT_THAT(worker.Fetch(store->kv_address(), {TestIds(tokens)[0]}, &bytes), Each(IsOk()));
    worker.stream().Release(store->kv_address(), {"r", {1, 1}});
    EXPECT_TRUE(AwaitMetric(metrics, "reprise_store_releases_total 1"));
    EXPECT_TRUE(AwaitMetric(metrics, "reprise_store_disk_writes_total 2"));
  }
  for (const auto& [name, hits] : before) EXPECT_GT(HitsOf(name), hits) << name;
}

TEST_F(StoreServerTest, AnswersNotFoundForWhatItDoesNotHold) {
  MetricsRegistry metrics;
  const auto store = StartStore(&metrics);
  Peer reader("w1");
  std::vector<std::vector<uint8_t>> bytes;
  const auto statuses = reader.Fetch(store->kv_address(), {TailId({"x", {}}, 0, 0)}, &bytes);
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kNotFound) << statuses[0];
}

TEST_F(StoreServerTest, RefusesMemoryThatHoldsNoBlockByName) {
  options_.memory_bytes = 10;
  MetricsRegistry metrics;
  const auto server = StoreServer::Start(options_, {"store", 1}, TestModel(), &metrics);
  EXPECT_THAT(server.status().message(), testing::HasSubstr("memory of 10 bytes holds no block"));
}

}  // namespace
}  // namespace reprise::kv
