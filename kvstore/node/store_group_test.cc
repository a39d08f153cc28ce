// A store between two groups of ranks, over the real stream: it puts whole blocks together from the
// parts that the ranks of one group hold, and gives the other group its parts of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "common/mutex.h"
#include "kvstore/node/store_server.h"
#include "kvstore/node/store_test_peer.h"
#include "kvstore/stream/relayout_test_groups.h"

namespace reprise::kv {
namespace {

using ::testing::Each;

MATCHER(IsOk, "") { return arg.ok(); }

std::unique_ptr<KvStream> MakeReal(const StreamOptions& options, SegmentSource* source) {
  auto stream = KvStream::Create(options, source);
  EXPECT_TRUE(stream.ok()) << stream.status();
  return stream.ok() ? *std::move(stream) : nullptr;
}

class Latch {
 public:
  explicit Latch(size_t count) : count_(count) {}
  void Done() {
    MutexLock lock(mu_);
    --count_;
    changed_.NotifyAll();
  }
  void Wait() {
    MutexLock lock(mu_);
    while (count_ > 0) changed_.Wait(mu_);
  }

 private:
  Mutex mu_;
  CondVar changed_;
  size_t count_ GUARDED_BY(mu_);
};

class StoreGroupTest : public testing::Test {
 protected:
  static constexpr int kBlocks = 6;

  StoreGroupTest() {
    StoreOptions options;
    options.memory_bytes = 16 * static_cast<int64_t>(TestFormat().block_bytes());
    auto server = StoreServer::Start(options, {"store", RandomU64() | 1}, TestModel(), &metrics_,
                                     RealClock());
    EXPECT_TRUE(server.ok()) << server.status();
    store_ = *std::move(server);
    from_.Start(MakeReal, RandomU64() | 1);
    to_.Start(MakeReal, RandomU64() | 1);
    from_.MakeBlocks();
  }

  BlockOffer Offer() {
    return {.source = from_.stream(0).address(),
            .fence = {{"r", {1, 1}}, 0},
            .parent = {},
            .first_position = 0,
            .tenant_salt = {},
            .tokens = Tokens(kBlocks * 8),
            .branch = std::nullopt,
            .group = from_.address()};
  }
  void Read() {
    const RankGroup store{.split = {}, .ranks = {store_->kv_address()}};
    Latch latch(2);
    for (uint32_t rank = 0; rank < 2; ++rank) {
      StreamInSpec spec = to_.SpecOf(rank, store);
      spec.subscribe = true;
      const auto started = StreamIn::Start(&to_.stream(rank), TestFormat(), spec,
                                           to_.ListenerOf(rank, spec, [&latch] { latch.Done(); }));
      ASSERT_TRUE(started.ok()) << started.status();
    }
    latch.Wait();
  }
  bool AwaitMetric(const std::string& line) const {
    const TimeNs until = RealClock().NowNs() + kPatience;
    while (metrics_.Serialize().find(line) == std::string::npos) {
      if (RealClock().NowNs() > until) return false;
      std::this_thread::yield();
    }
    return true;
  }

  MetricsRegistry metrics_;
  std::unique_ptr<StoreServer> store_;
  TestGroup from_{"from", TestFormat(), {.pipeline = 2, .tensor = 2}, Tokens(kBlocks * 8)};
  TestGroup to_{"to", TestFormat(), {.tensor = 2}, Tokens(kBlocks * 8)};
};

TEST_F(StoreGroupTest, PutsWholeBlocksTogetherAndServesAnotherGroupsParts) {
  from_.stream(0).Offer(store_->kv_address(), Offer());
  ASSERT_TRUE(AwaitMetric("reprise_store_blocks_stored_total 6"));
  from_.AwaitSent();
  EXPECT_EQ(from_.bytes_sent(), from_.canonical_bytes());
  Read();
  for (uint32_t rank = 0; rank < 2; ++rank) {
    EXPECT_THAT(to_.statuses(rank), Each(IsOk()));
    EXPECT_EQ(to_.WrongBlocks(rank), 0u);
  }
}

TEST_F(StoreGroupTest, ABlockThatChangedInItsMemoryIsReadByNobody) {
  from_.stream(0).Offer(store_->kv_address(), Offer());
  ASSERT_TRUE(AwaitMetric("reprise_store_blocks_stored_total 6"));
  for (uint8_t& byte : store_->memory_for_testing()) byte ^= 1;
  Read();
  for (uint32_t rank = 0; rank < 2; ++rank) {
    for (const Status& status : to_.statuses(rank)) EXPECT_FALSE(status.ok());
  }
}

// Rows that one worker appended, whole, are read by ranks as parts of the open tail.
TEST_F(StoreGroupTest, RanksReadTheirPartsOfAnOpenTail) {
  constexpr size_t kRows = 5;
  Peer worker("worker");
  worker.Listen();
  worker.Append(store_->kv_address(), Tokens(8), 0, kRows);
  ASSERT_TRUE(worker.AwaitHeld(kRows));
  const std::vector<uint8_t> rows = Peer::RowsBlock(0);
  const RankGroup store{.split = {}, .ranks = {store_->kv_address()}};
  for (uint32_t rank = 0; rank < 2; ++rank) {
    StreamInSpec spec = to_.SpecOf(rank, store);
    spec.items.resize(1);
    spec.items[0].id = ReplicaTailId("r", 0, 0);
    spec.subscribe = true;
    const auto outcome = std::make_shared<FetchOutcome>();
    ASSERT_TRUE(StreamIn::Start(&to_.stream(rank), TestFormat(), spec, outcome).ok());
    EXPECT_THAT(outcome->Wait(), Each(IsOk()));
    // One of two heads, of k and of v, in four layers.
    const size_t head = size_t{8} * 16 * 2, row = size_t{16} * 2;
    for (size_t strip = 0; strip < 8; ++strip) {
      EXPECT_EQ(std::memcmp(spec.items[0].destination + strip * head,
                            &rows[(2 * strip + rank) * head], kRows * row),
                0)
          << "rank " << rank << " strip " << strip;
    }
  }
}

// A rank whose parts never come: nothing is listed, and nothing stays behind.
TEST_F(StoreGroupTest, ABlockOfWhichAPartIsMissingIsNotHeld) {
  BlockOffer offer = Offer();
  offer.group->ranks[3].key.incarnation += 1;  // that process is gone
  from_.stream(0).Offer(store_->kv_address(), std::move(offer));
  ASSERT_TRUE(AwaitMetric("reprise_store_fetch_items_failed_total 6"));
  EXPECT_TRUE(AwaitMetric(R"(reprise_store_blocks{state="used",tier="memory"} 0)"));
}

}  // namespace
}  // namespace reprise::kv
