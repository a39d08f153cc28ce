// A store between two other nodes, over the real stream: it takes what one offers, gives it to the
// other, and still has it on disk after a restart.
#include "kvstore/node/store_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "common/random.h"
#include "kvstore/block/checksum.h"

namespace reprise::kv {
namespace {

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
                            std::vector<std::vector<uint8_t>>* out) {
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
    FetchSpec spec{
        .source = source, .fence = {}, .items = {}, .subscribe = true, .timeout_ns = kPatience};
    for (size_t i = 0; i < ids.size(); ++i) {
      spec.items.push_back({ids[i], static_cast<int64_t>(i) * 8, (*out)[i].data()});
    }
    auto listener = std::make_shared<Listener>();
    EXPECT_TRUE(stream_->Fetch(std::move(spec), listener).ok());
    MutexLock lock(listener->mu);
    while (!listener->done) listener->changed.Wait(listener->mu);
    return listener->statuses;
  }

  KvStream& stream() { return *stream_; }

 private:
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
