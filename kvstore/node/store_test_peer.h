// A worker's end of the stream, for tests of the store server: offers blocks whose bytes follow
// from their ids, appends rows, fetches and asks. Header-only; the test's thread.
#ifndef REPRISE_KVSTORE_NODE_STORE_TEST_PEER_H_
#define REPRISE_KVSTORE_NODE_STORE_TEST_PEER_H_

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/mutex.h"
#include "common/random.h"
#include "kvstore/stream/fetch_outcome.h"
#include "kvstore/stream/kv_stream.h"
#include "kvstore/stream/tail_pack.h"
#include "reprise/v1/cluster.pb.h"

namespace reprise::kv {

inline constexpr TimeNs kPatience = 20 * kSecond;

inline KvFormat TestFormat() {
  KvFormat format;
  format.fields = {{"k", 2, 16, true}, {"v", 2, 16, false}};
  format.layers = 4;
  format.block_tokens = 8;
  return format;
}

inline v1::ModelInfo TestModel() {
  const KvFormat format = TestFormat();
  const Digest256 digest = format.Digest();
  v1::ModelInfo model;
  model.set_format_text(format.CanonicalText());
  model.set_format_digest(digest.data(), digest.size());
  return model;
}

inline std::vector<BlockId> TestIds(const std::vector<int32_t>& tokens) {
  return ChainIds({.format_digest = TestFormat().Digest(), .block_tokens = 8, .tenant_salt = {}},
                  tokens);
}

inline std::vector<int32_t> Tokens(int count) {
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
  // From now on no block is ready any more, and none will be.
  void Stall() {
    MutexLock lock(mu_);
    stalled_ = true;
  }

  Block Find(const BlockId& id) override {
    MutexLock lock(mu_);
    const auto it = blocks_.find(id);
    if (it == blocks_.end()) return {};
    Block block;
    block.state = stalled_ ? State::kPending : State::kReady;
    block.layers_ready = stalled_ ? 0 : TestFormat().layers;
    block.first_position = it->second.first;
    block.data = it->second.second.data();
    return block;
  }

  // The statuses of fetching `ids` from `source`; bytes into `out`.
  std::vector<Status> Fetch(const PeerAddress& source, const std::vector<BlockId>& ids,
                            std::vector<std::vector<uint8_t>>* out, const RequestKey& request = {},
                            int64_t first_block = 0) {
    out->assign(ids.size(), std::vector<uint8_t>(TestFormat().block_bytes()));
    FetchSpec spec{.source = source,
                   .fence = {request, 0},
                   .items = {},
                   .subscribe = true,
                   .timeout_ns = kPatience};
    for (size_t i = 0; i < ids.size(); ++i) {
      spec.items.push_back({ids[i], (first_block + static_cast<int64_t>(i)) * 8, (*out)[i].data()});
    }
    const auto outcome = std::make_shared<FetchOutcome>();
    EXPECT_TRUE(stream_->Fetch(std::move(spec), outcome).ok());
    return outcome->Wait();
  }

  KvStream& stream() { return *stream_; }

  // Offers whole blocks of a sequence, which it serves; with a branch they are leased.
  void Offer(const PeerAddress& store, const std::vector<int32_t>& tokens,
             std::optional<uint32_t> branch) {
    const std::vector<BlockId> ids = TestIds(tokens);
    for (size_t i = 0; i < ids.size(); ++i) Add(ids[i], static_cast<int64_t>(i) * 8);
    stream_->Offer(store, {.source = stream_->address(),
                           .fence = {{"r", {1, 1}}, 0},
                           .parent = {},
                           .first_position = 0,
                           .tenant_salt = {},
                           .tokens = tokens,
                           .branch = branch});
  }

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
    if (index > 0) entry.parent = TestIds(tokens)[static_cast<size_t>(index) - 1];
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
    return Await([&]() REQUIRES(mu_) { return held_ == rows; });
  }
  absl::StatusCode AwaitCode(size_t answer) {
    Await([&]() REQUIRES(mu_) { return codes_.size() > answer; });
    MutexLock lock(mu_);
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
  bool Await(const std::function<bool()>& what) {
    MutexLock lock(mu_);
    const TimeNs until = RealClock().NowNs() + kPatience;
    while (!what()) {
      if (RealClock().NowNs() > until) return false;
      changed_.WaitFor(mu_, std::chrono::milliseconds(100));
    }
    return true;
  }

  CondVar changed_;
  bool stalled_ GUARDED_BY(mu_) = false;
  int64_t held_ GUARDED_BY(mu_) = 0;
  std::vector<absl::StatusCode> codes_ GUARDED_BY(mu_);
  Mutex mu_;
  std::map<BlockId, std::pair<int64_t, std::vector<uint8_t>>> blocks_ GUARDED_BY(mu_);
  std::unique_ptr<KvStream> stream_;
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_NODE_STORE_TEST_PEER_H_
