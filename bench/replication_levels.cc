// One batch of a timed model whose rows go to a store, in DejaVu's four ways: every strip of a row
// by itself ("naive": rows are [layer][field][head] strips in memory, none next to the other);
// packed, one message a step, the prompt's when it is done; the prompt layer by layer while later
// layers compute; and at last token steps in the background of the next step. In all but the last a
// step waits until the store has acknowledged its rows. The bytes move over the product's stream
// into the product's store, in this process.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/replication_parts.h"
#include "common/mutex.h"
#include "common/random.h"
#include "common/role.h"
#include "kvstore/node/store_server.h"
#include "kvstore/stream/tail_pack.h"

namespace reprise::bench {
namespace {

constexpr uint32_t kBlockTokens = 16;
constexpr uint32_t kLayers = 32;
constexpr uint32_t kHeads = 8;
constexpr uint32_t kElements = 128;
constexpr uint32_t kStrips = kLayers * 2 * kHeads;  // of one token
constexpr int kPromptTokens = 496;                  // whole blocks
constexpr int kNewTokens = 500;
constexpr int kTokens = kPromptTokens + kNewTokens;
constexpr double kPromptOverToken = 14;  // as in DejaVu's failure tests
constexpr TimeNs kStepNs = 10 * kMillisecond;
constexpr TimeNs kTimeoutNs = 120 * kSecond;
constexpr int64_t kOutstandingMax = 32;  // appends; well below what the stream takes

enum class Level { kNone, kNaive, kPacked, kLayers, kBackground };
constexpr std::pair<Level, const char*> kLevels[] = {{Level::kNaive, "naive"},
                                                     {Level::kPacked, "packed"},
                                                     {Level::kLayers, "layer_by_layer"},
                                                     {Level::kBackground, "background"}};

// Llama-3-8B's rows: 128 KiB a token.
kv::KvFormat RowsFormat() {
  kv::KvFormat format;
  for (const char* field : {"k", "v"}) {
    format.fields.push_back({.name = field, .heads = kHeads, .elements = kElements});
  }
  format.layers = kLayers;
  format.block_tokens = kBlockTokens;
  format.codec = kv::ElementCodec::kBF16;
  return format;
}

// What one strip's tokens of a block are: contiguous in the block of rows.
kv::KvFormat StripFormat() {
  kv::KvFormat format;
  format.fields = {{.name = "strip", .heads = 1, .elements = kElements}};
  format.layers = 1;
  format.block_tokens = kBlockTokens;
  format.codec = kv::ElementCodec::kBF16;
  return format;
}

// A store of blocks of one format.
StatusOr<std::unique_ptr<kv::StoreServer>> StartStore(const kv::KvFormat& format,
                                                      MetricsRegistry* metrics) {
  kv::StoreOptions options;
  options.memory_bytes =
      int64_t{2} * kTokens * static_cast<int64_t>(RowsFormat().row_bytes()) * kLayers;
  v1::ModelInfo model;
  const Digest256 digest = format.Digest();
  model.set_format_digest(digest.data(), digest.size());
  model.set_format_text(format.CanonicalText());
  return kv::StoreServer::Start(options, {"store", RandomU64() | 1}, model, metrics);
}

// The worker's end: pages that the store may read layer by layer, and what the store has.
class Sender : public kv::SegmentSource {
 public:
  static StatusOr<std::unique_ptr<Sender>> Create(const kv::KvFormat& format) {
    std::unique_ptr<Sender> sender(new Sender(format));
    kv::StreamOptions options;
    options.self = {"sender", RandomU64() | 1};
    options.format = format;
    ASSIGN_OR_RETURN(sender->stream_, kv::KvStream::Create(options, sender.get()));
    RETURN_IF_ERROR(sender->stream_->Register(sender->pages_.data(), sender->pages_.size()));
    sender->stream_->OnHeld(
        [s = sender.get()](const NodeKey&, const std::vector<kv::HeldRows>& held) {
          s->TakeHeld(held);
        });
    sender->stream_->OnReplicaLost([s = sender.get()](const NodeKey&, const Status& status) {
      MutexLock lock(s->mu_);
      s->error_ = status;
      s->changed_.NotifyAll();
    });
    return sender;
  }
  ~Sender() override { stream_ = nullptr; }

  kv::KvStream& stream() { return *stream_; }
  std::span<const uint8_t> Block(int number) const {
    return std::span(pages_).subspan(static_cast<size_t>(number) * kBlockBytes, kBlockBytes);
  }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  const kv::BlockId& id(const std::string& salt, int block) {
    std::vector<kv::BlockId>& ids = ids_[salt];
    if (ids.empty()) {
      ids = kv::ChainIds(
          {.format_digest = digest_, .block_tokens = int{kBlockTokens}, .tenant_salt = salt},
          tokens_);
    }
    return ids[static_cast<size_t>(block)];
  }

  // The prompt's first `layers` layers are there.
  void SetReady(uint32_t layers) {
    {
      MutexLock lock(mu_);
      layers_ready_ = layers;
    }
    for (int block = 0; block < kPromptTokens / int{kBlockTokens}; ++block) {
      stream_->Publish(served_[static_cast<size_t>(block)], layers, {});
    }
  }
  // Until the store holds `rows` rows of `sequences` sequences each.
  Status Await(size_t sequences, int64_t rows) {
    const TimeNs until = RealClock().NowNs() + kTimeoutNs;
    MutexLock lock(mu_);
    const auto behind = [&]() REQUIRES(mu_) {
      return held_.size() < sequences ||
             std::any_of(held_.begin(), held_.end(),
                         [&](const auto& held) { return held.second < rows; });
    };
    while (error_.ok() && behind()) {
      if (RealClock().NowNs() > until) {
        return absl::DeadlineExceededError(absl::StrCat("the store does not hold ", rows, " rows"));
      }
      changed_.WaitFor(mu_, std::chrono::nanoseconds(kSecond));
    }
    return error_;
  }
  // Until at most `outstanding` of `sent` appends have no answer.
  Status AwaitAnswers(int64_t sent, int64_t outstanding) {
    MutexLock lock(mu_);
    while (error_.ok() && sent - answers_ > outstanding) {
      changed_.WaitFor(mu_, std::chrono::nanoseconds(kSecond));
    }
    return error_;
  }

  kv::SegmentSource::Block Find(const kv::BlockId& id) override {
    const auto found = std::find(served_.begin(), served_.end(), id);
    if (found == served_.end()) return {};
    const auto number = static_cast<int>(found - served_.begin());
    kv::SegmentSource::Block block;
    MutexLock lock(mu_);
    block.state = layers_ready_ == kLayers ? State::kReady : State::kPending;
    block.layers_ready = layers_ready_;
    block.first_position = int64_t{number} * kBlockTokens;
    block.data = Block(number).data();
    return block;
  }

 private:
  static constexpr size_t kBlockBytes = size_t{kStrips} * kElements * 2 * kBlockTokens;

  explicit Sender(const kv::KvFormat& format)
      : digest_(format.Digest()), pages_((kTokens / kBlockTokens + 1) * kBlockBytes) {
    SplitMix64 random(5);
    for (size_t at = 0; at < pages_.size(); at += 8) {
      const uint64_t word = random.Next();
      std::memcpy(pages_.data() + at, &word, sizeof word);
    }
    for (int i = 0; i < kTokens; ++i) tokens_.push_back(static_cast<int32_t>(random.Below(1000)));
    served_ = kv::ChainIds({.format_digest = digest_, .block_tokens = int{kBlockTokens}}, tokens_);
  }

  void TakeHeld(const std::vector<kv::HeldRows>& held) {
    MutexLock lock(mu_);
    for (const kv::HeldRows& rows : held) {
      if (!rows.status.ok() && error_.ok()) error_ = rows.status;
      int64_t& best = held_[rows.request.id];
      best = std::max(best, rows.rows);
    }
    answers_ += static_cast<int64_t>(held.size());
    changed_.NotifyAll();
  }

  const Digest256 digest_;
  std::vector<uint8_t> pages_;
  std::vector<int32_t> tokens_;
  std::vector<kv::BlockId> served_;
  std::map<std::string, std::vector<kv::BlockId>> ids_;  // by salt; of the sending thread
  Mutex mu_;
  CondVar changed_;
  uint32_t layers_ready_ GUARDED_BY(mu_) = 0;
  std::map<std::string, int64_t> held_ GUARDED_BY(mu_);
  int64_t answers_ GUARDED_BY(mu_) = 0;
  Status error_ GUARDED_BY(mu_);
  std::unique_ptr<kv::KvStream> stream_;  // last: it calls the rest
};

// One batch from prompt to last token.
class LevelRun {
 public:
  explicit LevelRun(Level level) : level_(level) {}

  // Seconds from the first layer to the last token, the store holding every row then.
  StatusOr<double> Run() {
    const kv::KvFormat format = level_ == Level::kNaive ? StripFormat() : RowsFormat();
    ASSIGN_OR_RETURN(store_, StartStore(format, &metrics_));
    ASSIGN_OR_RETURN(sender_, Sender::Create(format));
    due_ns_ = RealClock().NowNs();
    const TimeNs start = due_ns_;
    RETURN_IF_ERROR(Prompt());
    for (int token = kPromptTokens; token < kTokens; ++token) {
      Compute(kStepNs);
      RETURN_IF_ERROR(Step(token));
    }
    if (level_ == Level::kBackground) RETURN_IF_ERROR(sender_->Await(1, kTokens));
    const double seconds = SecondsFromNs(RealClock().NowNs() - start);
    sender_ = nullptr;
    store_ = nullptr;
    return seconds;
  }

 private:
  // The device computes for `work_ns` from when it is free and the last step's rows are away.
  void Compute(TimeNs work_ns) {
    due_ns_ = std::max(due_ns_, free_ns_) + work_ns;
    never_.WaitFor(std::max<TimeNs>(0, due_ns_ - RealClock().NowNs()));
  }
  void Waited() { free_ns_ = RealClock().NowNs(); }

  Status Prompt() {
    const auto layer_ns = static_cast<TimeNs>(kPromptOverToken * kStepNs / kLayers);
    if (level_ == Level::kLayers || level_ == Level::kBackground) Offer();
    for (uint32_t layer = 1; layer <= kLayers; ++layer) {
      Compute(layer_ns);
      if (level_ == Level::kLayers || level_ == Level::kBackground) sender_->SetReady(layer);
    }
    if (level_ == Level::kNone) return absl::OkStatus();
    if (level_ == Level::kNaive) {
      for (int token = 0; token < kPromptTokens; token += kBlockTokens) {
        RETURN_IF_ERROR(AppendStrips(token, kBlockTokens));
      }
    }
    if (level_ == Level::kPacked) {
      sender_->SetReady(kLayers);
      Offer();
    }
    if (level_ == Level::kBackground) return absl::OkStatus();
    RETURN_IF_ERROR(sender_->Await(Sequences(), kPromptTokens));
    Waited();
    return absl::OkStatus();
  }

  Status Step(int token) {
    if (level_ == Level::kNone) return absl::OkStatus();
    RETURN_IF_ERROR(level_ == Level::kNaive ? AppendStrips(token, 1) : AppendRow(token));
    if (level_ == Level::kBackground) {
      return sender_->AwaitAnswers(sent_, kOutstandingMax);
    }
    RETURN_IF_ERROR(sender_->Await(Sequences(), token + 1));
    Waited();
    return absl::OkStatus();
  }

  size_t Sequences() const { return level_ == Level::kNaive ? kStrips : 1; }

  void Offer() {
    kv::BlockOffer offer;
    offer.source = sender_->stream().address();
    offer.fence.request = {"batch", {1, 1}};
    offer.branch = 0;
    offer.tokens.assign(sender_->tokens().begin(), sender_->tokens().begin() + kPromptTokens);
    sender_->stream().Offer(store_->kv_address(), std::move(offer));
  }

  // Sequences of different salts are different ones, although their tokens are the same.
  kv::TailEntry Entry(std::string request, const std::string& salt, int token, int count) const {
    kv::TailEntry entry;
    entry.request = {std::move(request), {1, 1}};
    entry.tenant_salt = salt;
    const int block = token / int{kBlockTokens};
    if (block > 0) entry.parent = sender_->id(salt, block - 1);
    entry.first_position = token;
    const auto first = sender_->tokens().begin() + token;
    entry.tokens.assign(first, first + count);
    return entry;
  }

  Status Send(kv::TailEntry entry, const kv::KvFormat& format, std::span<const uint8_t> block) {
    const auto rows = static_cast<uint32_t>(entry.tokens.size());
    const auto packed = std::make_shared<kv::PackedRows>(kv::PackedBytes(format, rows));
    const auto row = static_cast<uint32_t>(entry.first_position % kBlockTokens);
    ASSIGN_OR_RETURN(entry.checksum, kv::PackTail(format, block, {row, rows}, kv::TailSeed(entry),
                                                  packed->writable()));
    kv::TailAppend append;
    append.entries.push_back(std::move(entry));
    append.rows = packed;
    ++sent_;
    sender_->stream().Append(store_->kv_address(), std::move(append));
    return absl::OkStatus();
  }

  Status AppendRow(int token) {
    return Send(Entry("batch", "", token, 1), RowsFormat(),
                sender_->Block(token / int{kBlockTokens}));
  }

  // A message for every strip.
  Status AppendStrips(int token, int count) {
    const kv::KvFormat format = StripFormat();
    const std::span<const uint8_t> block = sender_->Block(token / int{kBlockTokens});
    for (uint32_t strip = 0; strip < kStrips; ++strip) {
      const std::string name = absl::StrCat("strip-", strip);
      RETURN_IF_ERROR(Send(Entry(name, name, token, count), format,
                           block.subspan(strip * format.block_bytes(), format.block_bytes())));
      RETURN_IF_ERROR(sender_->AwaitAnswers(sent_, kOutstandingMax));
    }
    return absl::OkStatus();
  }

  const Level level_;
  StopSignal never_;
  TimeNs due_ns_ = 0;   // when the device ends what it was given
  TimeNs free_ns_ = 0;  // when the rows of the last step were away
  int64_t sent_ = 0;    // appends
  MetricsRegistry metrics_;
  std::unique_ptr<kv::StoreServer> store_;
  std::unique_ptr<Sender> sender_;
};

}  // namespace

Status MeasureReplicationLevels(const BenchFlags&, Report& report) {
  report.Note(absl::StrCat("levels: one batch, ", kPromptTokens, " + ", kNewTokens,
                           " tokens of 128 KiB in ", kStrips,
                           " strips, steps of 10 ms, Y/t 14; DejaVu: naive 69 to 131 times slower, "
                           "packed 95 times better, overlap 1.4 times more, in all within 2 %"));
  ASSIGN_OR_RETURN(const double none, LevelRun(Level::kNone).Run());
  std::map<Level, double> slowdown;
  for (const auto& [level, name] : kLevels) {
    ASSIGN_OR_RETURN(const double seconds, LevelRun(level).Run());
    slowdown[level] = seconds / none;
    report.Figure(absl::StrCat("slowdown_", name), slowdown[level], "");
  }
  const auto gain = [&](Level from, Level to) { return slowdown[from] / slowdown[to]; };
  report.Figure("packed_over_naive", gain(Level::kNaive, Level::kPacked), "");
  report.Figure("overlap_over_packed", gain(Level::kPacked, Level::kBackground), "");
  report.Bar("ablation_levels", static_cast<double>(slowdown.size()), "==", 4, 4);
  return absl::OkStatus();
}

}  // namespace reprise::bench
