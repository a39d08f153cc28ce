// A store between two other nodes, over the real stream: it takes what one offers, gives it to the
// other, and still has it on disk after a restart.
#include "kvstore/node/store_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "common/random.h"
#include "kvstore/block/checksum.h"
#include "kvstore/stream/tail_pack.h"

namespace reprise::kv {
namespace {

using ::testing::HasSubstr;

constexpr TimeNs kPatience = 20 * kSecond;

KvFormat TestFormat() {
  KvFormat format;
  format.fields = {{"k", 2, 16, true}, {"v", 2, 16, false}};
  format.layers = 4;
  format.block_tokens = 8;
  return format;
}

v1::ModelInfo TestModel() {
  const KvFormat format = TestFormat();
  const Digest256 digest = format.Digest();
  v1::ModelInfo model;
  model.set_format_text(format.CanonicalText());
  model.set_format_digest(digest.data(), digest.size());
  return model;
}

std::vector<int32_t> Tokens(int count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), 100);
  return tokens;
}

// A worker's end: serves blocks whose bytes follow from their id, and fetches.
class Peer : public SegmentSource {
 public:
  explicit Peer(const std::string& name) {
    auto stream = KvStream::Create({.self = {name, RandomU64() | 1}, .format = TestFormat()}, this);
    EXPECT_TRUE(stream.ok()) << stream.status();
    stream_ = *std::move(stream);
  }
  ~Peer() override { stream_ = nullptr; }

  static std::vector<uint8_t> BytesOf(const BlockId& id) {
    uint64_t seed;
    std::memcpy(&seed, id.bytes.data(), 8);
    SplitMix64 random(seed);
    std::vector<uint8_t> bytes(TestFormat().block_bytes());
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.Next());
    return bytes;
  }

  void Add(const BlockId& id, int64_t first_position) {
    MutexLock lock(mu_);
    blocks_[id] = {first_position, BytesOf(id)};
  }

  Block Find(const BlockId& id) override {
    MutexLock lock(mu_);
    const auto it = blocks_.find(id);
    if (it == blocks_.end()) return {};
    Block block;
    block.state = State::kReady;
    block.layers_ready = TestFormat().layers;
    block.first_position = it->second.first;
    block.data = it->second.second.data();
    return block;
  }

  // The statuses of fetching `ids` from `source`; bytes into `out`.
  std::vector<Status> Fetch(const PeerAddress& source, const std::vector<BlockId>& ids,
                            std::vector<std::vector<uint8_t>>* out, const RequestKey& request = {},
                            int64_t first_block = 0) {
    struct Listener : FetchListener {
      void OnLayer(size_t, uint32_t, uint32_t) override {}
      void OnDone(const std::vector<Status>& items) override {
        MutexLock lock(mu);
        statuses = items;
        done = true;
        changed.NotifyAll();
      }
      Mutex mu;
      CondVar changed;
      bool done GUARDED_BY(mu) = false;
      std::vector<Status> statuses GUARDED_BY(mu);
    };
    out->assign(ids.size(), std::vector<uint8_t>(TestFormat().block_bytes()));
    FetchSpec spec{.source = source,
                   .fence = {request, 0},
                   .items = {},
                   .subscribe = true,
                   .timeout_ns = kPatience};
    for (size_t i = 0; i < ids.size(); ++i) {
      spec.items.push_back({ids[i], (first_block + static_cast<int64_t>(i)) * 8, (*out)[i].data()});
    }
    auto listener = std::make_shared<Listener>();
    EXPECT_TRUE(stream_->Fetch(std::move(spec), listener).ok());
    MutexLock lock(listener->mu);
    while (!listener->done) listener->changed.Wait(listener->mu);
    return listener->statuses;
  }

  KvStream& stream() { return *stream_; }

  // A worker's replication: appends rows of one sequence whose bytes follow from the tokens.
  void Listen() {
    stream_->OnHeld([this](const NodeKey&, std::vector<HeldRows> held) {
      MutexLock lock(mu_);
      for (const HeldRows& one : held) {
        held_ = one.rows;
        codes_.push_back(one.status.code());
      }
      changed_.NotifyAll();
    });
    stream_->OnReplicaLost([this](const NodeKey&, const Status&) {
      MutexLock lock(mu_);
      held_ = -1;
      changed_.NotifyAll();
    });
  }
  static std::vector<uint8_t> RowsBlock(int64_t index) {
    return BytesOf(TailId({"rows", {}}, 0, index));
  }
  void Append(const PeerAddress& store, const std::vector<int32_t>& tokens, int64_t first,
              uint32_t rows, const Attempt& attempt = {1, 1}) {
    const KvFormat format = TestFormat();
    const int64_t index = first / 8;
    TailEntry entry{.request = {"r", attempt}, .parent = {}, .first_position = first};
    entry.tokens.assign(tokens.begin() + first, tokens.begin() + first + rows);
    const auto ids =
        ChainIds({.format_digest = format.Digest(), .block_tokens = 8, .tenant_salt = {}}, tokens);
    if (index > 0) entry.parent = ids[static_cast<size_t>(index) - 1];
    auto packed = std::make_shared<PackedRows>(PackedBytes(format, rows));
    entry.checksum = *PackTail(format, RowsBlock(index), {static_cast<uint32_t>(first % 8), rows},
                               TailSeed(entry), packed->writable());
    TailAppend append;
    append.entries.push_back(std::move(entry));
    append.rows = packed;
    stream_->Append(store, std::move(append));
  }
  // Whether the store came to say that it holds `rows`.
  bool AwaitHeld(int64_t rows) {
    MutexLock lock(mu_);
    const TimeNs until = RealClock().NowNs() + kPatience;
    while (held_ != rows && RealClock().NowNs() < until) {
      changed_.WaitFor(mu_, std::chrono::milliseconds(100));
    }
    return held_ == rows;
  }
  absl::StatusCode AwaitCode(size_t answer) {
    MutexLock lock(mu_);
    const TimeNs until = RealClock().NowNs() + kPatience;
    while (codes_.size() <= answer && RealClock().NowNs() < until) {
      changed_.WaitFor(mu_, std::chrono::milliseconds(100));
    }
    return codes_.size() > answer ? codes_[answer] : absl::StatusCode::kUnknown;
  }
  std::vector<TailState> Query(const PeerAddress& store, const Attempt& attempt) {
    struct Answer {
      Mutex mu;
      CondVar came;
      bool done GUARDED_BY(mu) = false;
      std::vector<TailState> states GUARDED_BY(mu);
    };
    const auto answer = std::make_shared<Answer>();
    stream_->QueryTails(store, {"r", attempt}, kPatience,
                        [answer](const Status& status, std::vector<TailState> states) {
                          EXPECT_TRUE(status.ok()) << status;
                          MutexLock lock(answer->mu);
                          answer->states = std::move(states);
                          answer->done = true;
                          answer->came.NotifyAll();
                        });
    MutexLock lock(answer->mu);
    while (!answer->done) answer->came.Wait(answer->mu);
    return answer->states;
  }

 private:
  CondVar changed_;
  int64_t held_ GUARDED_BY(mu_) = 0;
  std::vector<absl::StatusCode> codes_ GUARDED_BY(mu_);
  Mutex mu_;
  std::map<BlockId, std::pair<int64_t, std::vector<uint8_t>>> blocks_ GUARDED_BY(mu_);
  std::unique_ptr<KvStream> stream_;
};

class StoreServerTest : public testing::Test {
 protected:
  StoreServerTest() {
    options_.memory_bytes = 16 * static_cast<int64_t>(TestFormat().block_bytes());
    options_.disk_bytes = options_.memory_bytes;
    options_.disk_path = absl::StrCat(testing::TempDir(), "/store_server_test.", getpid());
    std::filesystem::remove(options_.disk_path);
  }
  ~StoreServerTest() override { std::filesystem::remove(options_.disk_path); }

  std::unique_ptr<StoreServer> StartStore(MetricsRegistry* metrics) {
    auto server = StoreServer::Start(options_, {"store", RandomU64() | 1}, TestModel(), metrics);
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
  const std::vector<BlockId> ids = ChainIds(
      {.format_digest = TestFormat().Digest(), .block_tokens = 8, .tenant_salt = {}}, tokens);
  std::vector<std::vector<uint8_t>> bytes;
  {
    MetricsRegistry metrics;
    const auto store = StartStore(&metrics);
    Peer worker("w1");
    for (size_t i = 0; i < ids.size(); ++i) worker.Add(ids[i], static_cast<int64_t>(i) * 8);
    worker.stream().Offer(store->kv_address(), {.source = worker.stream().address(),
                                                .fence = {{"r", {1, 1}}, 0},
                                                .parent = {},
                                                .first_position = 0,
                                                .tenant_salt = {},
                                                .derivation = {},
                                                .tokens = tokens});
    ASSERT_EQ(WaitForBlocks(*store, ids.size()), ids.size());
    Peer reader("w2");
    for (const Status& status : reader.Fetch(store->kv_address(), ids, &bytes)) {
      EXPECT_TRUE(status.ok()) << status;
    }
    for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(bytes[i], Peer::BytesOf(ids[i])) << i;
    // The disk copy is behind: wait until it is complete.
    const TimeNs until = RealClock().NowNs() + kPatience;
    while (RealClock().NowNs() < until &&
           metrics.Serialize().find("reprise_store_disk_writes_total 5") == std::string::npos) {
      std::this_thread::yield();
    }
  }
  MetricsRegistry metrics;
  const auto store = StartStore(&metrics);
  ASSERT_EQ(WaitForBlocks(*store, ids.size()), ids.size());
  Peer reader("w3");
  for (const Status& status : reader.Fetch(store->kv_address(), ids, &bytes)) {
    EXPECT_TRUE(status.ok()) << status;
  }
  for (size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(bytes[i], Peer::BytesOf(ids[i])) << i;
}

// What replication is for: a worker appends, dies, and another restores every row.
TEST_F(StoreServerTest, AnotherWorkerRestoresWhatOneAppended) {
  MetricsRegistry metrics;
  const auto store = StartStore(&metrics);
  const auto tokens = Tokens(40);
  const std::vector<BlockId> ids = ChainIds(
      {.format_digest = TestFormat().Digest(), .block_tokens = 8, .tenant_salt = {}}, tokens);
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
  for (const Status& status : heir.Fetch(store->kv_address(), {ids[0], ids[1]}, &bytes)) {
    EXPECT_TRUE(status.ok()) << status;
  }
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
  const std::vector<BlockId> ids = ChainIds(
      {.format_digest = TestFormat().Digest(), .block_tokens = 8, .tenant_salt = {}}, tokens);
  {
    MetricsRegistry metrics;
    const auto store = StartStore(&metrics);
    Peer worker("w1");
    worker.Listen();
    for (int64_t at = 0; at < 24; at += 8) worker.Append(store->kv_address(), tokens, at, 8);
    ASSERT_TRUE(worker.AwaitHeld(24));
    AwaitMetric(metrics, "reprise_store_disk_writes_total 3");
  }
  MetricsRegistry metrics;
  const auto store = StartStore(&metrics);
  Peer reader("w2");
  std::vector<std::vector<uint8_t>> bytes;
  for (const Status& status : reader.Fetch(store->kv_address(), {ids[0], ids[1], ids[2]}, &bytes)) {
    EXPECT_TRUE(status.ok()) << status;
  }
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(bytes[static_cast<size_t>(i)], Peer::RowsBlock(i)) << i;
  }
}

TEST_F(StoreServerTest, OfferedBlocksAreToldAsTheyArriveAndTheTailFollows) {
  MetricsRegistry metrics;
  const auto store = StartStore(&metrics);
  const auto tokens = Tokens(24);
  const std::vector<BlockId> ids = ChainIds(
      {.format_digest = TestFormat().Digest(), .block_tokens = 8, .tenant_salt = {}}, tokens);
  Peer worker("w1");
  worker.Listen();
  for (size_t i = 0; i < 2; ++i) worker.Add(ids[i], static_cast<int64_t>(i) * 8);
  worker.stream().Offer(store->kv_address(), {.source = worker.stream().address(),
                                              .fence = {{"r", {1, 1}}, 0},
                                              .parent = {},
                                              .first_position = 0,
                                              .tenant_salt = {},
                                              .derivation = {},
                                              .tokens = {tokens.begin(), tokens.begin() + 16},
                                              .branch = 0});
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
