// Two engines in one process, timed executors, the real KV stream between them.
#include "worker/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "common/random.h"
#include "common/role.h"
#include "kvstore/stream/tail_pack.h"
#include "worker/engine/timed_executor.h"

namespace reprise::worker {
namespace {

constexpr TimeNs kPatience = 20 * kSecond;

class Outbox : public EngineSink {
 public:
  // Carries prefill calls between engines as the server does over gRPC.
  void Connect(const std::string& name, Engine* engine) {
    MutexLock lock(mu_);
    engines_[name] = engine;
  }
  void OnEmits(std::vector<Emit> emits) override {
    MutexLock lock(mu_);
    for (Emit& emit : emits) {
      for (BranchToken& token : emit.tokens) tokens_[emit.key][token.branch].push_back(token.token);
      if (emit.done) done_[emit.key] = *emit.done;
    }
    changed_.NotifyAll();
  }
  void OnCallPrefill(CallPrefill call) override { Send(call.node.key.name, std::move(call.leg)); }
  void OnReleasePrefill(ReleasePrefill release) override {
    Send(release.node.key.name, CancelPrefill{release.key, release.leg});
  }
  void OnAcceptPrefill(const AcceptPrefill& accept) override {
    Send("decode", PrefillStarted{accept.key, accept.leg});
  }
  void OnReplyPrefill(ReplyPrefill reply) override {
    Send("decode", PrefillReply{reply.key, reply.leg, reply.status, std::move(reply.first),
                                reply.cached_tokens});
  }
  StatusOr<Done> Wait(const RequestKey& key) {
    const TimeNs until = RealClock().NowNs() + kPatience;
    MutexLock lock(mu_);
    while (!done_.contains(key)) {
      const TimeNs left = until - RealClock().NowNs();
      if (left <= 0) return absl::DeadlineExceededError("not done");
      changed_.WaitFor(mu_, std::chrono::nanoseconds(left));
    }
    return done_[key];
  }
  bool Ended(const RequestKey& key) {
    MutexLock lock(mu_);
    return done_.contains(key);
  }
  std::vector<int32_t> Ids(const RequestKey& key, uint32_t branch = 0) {
    MutexLock lock(mu_);
    std::vector<int32_t> ids;
    for (const SampledToken& token : tokens_[key][branch]) ids.push_back(token.id);
    return ids;
  }

 private:
  void Send(const std::string& name, Event event) {
    Engine* engine = nullptr;
    {
      MutexLock lock(mu_);
      engine = engines_[name];
    }
    if (engine != nullptr) EXPECT_TRUE(engine->Post(std::move(event)).ok());
  }
  Mutex mu_;
  CondVar changed_;
  std::map<std::string, Engine*> engines_ GUARDED_BY(mu_);
  std::map<RequestKey, std::map<uint32_t, std::vector<SampledToken>>> tokens_ GUARDED_BY(mu_);
  std::map<RequestKey, Done> done_ GUARDED_BY(mu_);
};

TimedModel Model() {
  TimedModel model;
  model.block_tokens = 8;
  model.row_bytes = 128;
  return model;
}

class EngineTest : public testing::Test {
 protected:
  std::unique_ptr<Engine> MakeEngine(const std::string& name, int64_t pages = 64) {
    TimedOptions timed;
    timed.model = Model();
    timed.chunk_tokens_max = 16;
    return StartEngine(name, std::move(*TimedExecutor::Create(timed)), pages);
  }
  std::unique_ptr<Engine> StartEngine(const std::string& name, std::unique_ptr<Executor> executor,
                                      int64_t pages = 64) {
    EngineOptions options;
    options.stream.self = {name, RandomU64() | 1};
    options.pool_bytes = pages * static_cast<int64_t>(TimedFormat(Model()).block_bytes());
    options.core.chunk_tokens = 0;
    auto engine = Engine::Start(std::move(options), std::move(executor), &outbox_, nullptr);
    EXPECT_TRUE(engine.ok()) << engine.status();
    outbox_.Connect(name, engine->get());
    return std::move(*engine);
  }
  NodeRef Ref(const Engine& engine) {
    const kv::PeerAddress at = engine.kv_address();
    return NodeRef{at.key, "", absl::StrCat(at.host, ":", at.port)};
  }
  Submit Request(const std::string& id, int32_t prompt, int32_t max_tokens, int32_t n = 1) {
    Submit submit;
    submit.key = {id, {1, 1}};
    for (int32_t i = 0; i < prompt; ++i) submit.prompt.push_back((i * 37 + 11) % 4096);
    submit.sampling.seed = 5;
    submit.sampling.n = n;
    submit.sampling.max_tokens = max_tokens;
    return submit;
  }
  std::vector<int32_t> Expected(const Submit& submit, uint32_t branch = 0) {
    std::vector<int32_t> ids;
    for (const SampledToken& token :
         ExpectedTimedTokens(Model(), submit.prompt, submit.sampling, branch)) {
      ids.push_back(token.id);
    }
    return ids;
  }

  Outbox outbox_;
};

TEST_F(EngineTest, AColdRequestGivesTheExpectedTokens) {
  const auto engine = MakeEngine("decode");
  const Submit request = Request("r", 45, 20, 2);
  ASSERT_TRUE(engine->Post(request).ok());
  const auto done = outbox_.Wait(request.key);
  ASSERT_TRUE(done.ok() && done->status.ok()) << done.status();
  EXPECT_EQ(outbox_.Ids(request.key, 0), Expected(request, 0));
  EXPECT_EQ(outbox_.Ids(request.key, 1), Expected(request, 1));
  EXPECT_GT(engine->progress(), 20u);
}

// The timed executor, but for what a test changes.
class ChangedExecutor : public Executor {
 public:
  ChangedExecutor() : inner_(std::move(*TimedExecutor::Create({.model = Model()}))) {}
  const ExecutorInfo& info() const override { return inner_->info(); }
  void AttachPool(uint8_t* base, int32_t pages) override { inner_->AttachPool(base, pages); }
  Status Run(std::span<const StepItem> items, const LayerDone& layer_done) override {
    return inner_->Run(items, layer_done);
  }
  SampledToken Sample(size_t item, const SampleInput& input) override {
    return inner_->Sample(item, input);
  }

 private:
  const std::unique_ptr<Executor> inner_;
};

// Gives many signs of life in every layer.
class TickingExecutor final : public ChangedExecutor {
 public:
  static constexpr int kTicks = 1000;
  void SetTick(Tick tick) override { tick_ = std::move(tick); }
  Status Run(std::span<const StepItem> items, const LayerDone& layer_done) override {
    for (int i = 0; tick_ && i < kTicks; ++i) tick_();
    return ChangedExecutor::Run(items, layer_done);
  }

 private:
  Tick tick_;
};

TEST_F(EngineTest, PartsOfALayerCountAsProgress) {
  const auto engine = StartEngine("decode", std::make_unique<TickingExecutor>());
  const Submit request = Request("r", 45, 20);
  ASSERT_TRUE(engine->Post(request).ok());
  const auto done = outbox_.Wait(request.key);
  ASSERT_TRUE(done.ok() && done->status.ok()) << done.status();
  EXPECT_EQ(outbox_.Ids(request.key, 0), Expected(request, 0));
  EXPECT_GT(engine->progress(), 20u * TickingExecutor::kTicks);
}

// Is lost after some steps, as a group whose ranks are gone.
class LosingExecutor final : public ChangedExecutor {
 public:
  explicit LosingExecutor(int steps) : steps_(steps) {}
  Status Run(std::span<const StepItem> items, const LayerDone& layer_done) override {
    if (steps_-- <= 0) return absl::UnavailableError("no rank answers");
    return ChangedExecutor::Run(items, layer_done);
  }

 private:
  int steps_;
};

TEST_F(EngineTest, ALostExecutorIsACrashToOthersAndNoErrorOfTheRequest) {
  const auto engine = StartEngine("decode", std::make_unique<LosingExecutor>(10));
  EXPECT_TRUE(engine->health().ok());
  const Submit request = Request("r", 45, 200);
  ASSERT_TRUE(engine->Post(request).ok());
  StopSignal never;
  while (engine->health().ok()) never.WaitFor(kMillisecond);
  EXPECT_THAT(std::string(engine->health().message()), testing::HasSubstr("no rank answers"));
  EXPECT_TRUE(engine->busy());
  engine->Stop();
  EXPECT_FALSE(outbox_.Ended(request.key));
}

// Waits for others in every step but the first, as a group that is being formed.
class WaitingExecutor final : public ChangedExecutor {
 public:
  explicit WaitingExecutor(StopSignal* waits) : waits_(waits) {}
  Status Run(std::span<const StepItem> items, const LayerDone& layer_done) override {
    if (first_) {
      first_ = false;
      return ChangedExecutor::Run(items, layer_done);
    }
    waits_->Stop();
    stop_.Wait();
    return absl::UnavailableError("told to stop");
  }
  void Stop() override { stop_.Stop(); }

 private:
  StopSignal* const waits_;
  StopSignal stop_;
  bool first_ = true;
};

TEST_F(EngineTest, StopEndsAStepThatWaitsForOthers) {
  StopSignal waits;
  const auto engine = StartEngine("decode", std::make_unique<WaitingExecutor>(&waits));
  const Submit request = Request("r", 45, 200);
  ASSERT_TRUE(engine->Post(request).ok());
  waits.Wait();
  engine->Stop();
  EXPECT_FALSE(outbox_.Ended(request.key));
  EXPECT_TRUE(engine->health().ok());  // nothing was lost
}

TEST_F(EngineTest, APrefillLegMovesItsKvLayerByLayerAndTheTokensAreTheSame) {
  const auto decode = MakeEngine("decode");
  const auto prefill = MakeEngine("prefill");
  for (const int32_t prompt : {61, 64}) {
    SCOPED_TRACE(prompt);
    Submit request = Request(absl::StrCat("r", prompt), prompt, 30);
    request.prompt[0] = prompt;  // shares no prefix with the other
    request.prefill = Ref(*prefill);
    ASSERT_TRUE(decode->Post(request).ok());
    const auto done = outbox_.Wait(request.key);
    ASSERT_TRUE(done.ok() && done->status.ok()) << done.status();
    EXPECT_EQ(outbox_.Ids(request.key), Expected(request));
  }
  const CoreStats stats = decode->stats().core;
  EXPECT_EQ(stats.legs_called, 2u);
  EXPECT_EQ(stats.legs_failed, 0u);
  EXPECT_EQ(stats.fetch_hits, 16u);
  EXPECT_EQ(stats.prompt_tokens, 0u);
}

TEST_F(EngineTest, AKnownPrefixIsFetchedFromItsHolder) {
  const auto decode = MakeEngine("decode");
  const auto holder = MakeEngine("holder");
  Submit first = Request("first", 50, 4);
  ASSERT_TRUE(holder->Post(first).ok());
  ASSERT_TRUE(outbox_.Wait(first.key).ok());

  Submit second = Request("second", 60, 12);  // the same first 50 tokens
  second.sources = {{Ref(*holder), 0, 6}};
  ASSERT_TRUE(decode->Post(second).ok());
  const auto done = outbox_.Wait(second.key);
  ASSERT_TRUE(done.ok() && done->status.ok()) << done.status();
  EXPECT_EQ(outbox_.Ids(second.key), Expected(second));
  EXPECT_EQ(done->cached_tokens, 48);
}

TEST_F(EngineTest, ADeadPrefillNodeCostsTimeNeverTokens) {
  const auto decode = MakeEngine("decode");
  NodeRef gone;
  {
    const auto prefill = MakeEngine("prefill");
    gone = Ref(*prefill);
    outbox_.Connect("prefill", nullptr);
  }
  Submit request = Request("r", 40, 10);
  request.prefill = gone;
  request.sources = {{gone, 0, 5}};
  ASSERT_TRUE(decode->Post(request).ok());
  ASSERT_TRUE(
      decode->Post(PrefillReply{request.key, 1, absl::UnavailableError("gone"), {}, 0}).ok());
  const auto done = outbox_.Wait(request.key);
  ASSERT_TRUE(done.ok() && done->status.ok()) << done.status();
  EXPECT_EQ(outbox_.Ids(request.key), Expected(request));
}

TEST_F(EngineTest, ManyRequestsInASmallPoolAllComeOutRight) {
  const auto engine = MakeEngine("decode", 24);
  std::vector<Submit> requests;
  for (int i = 0; i < 40; ++i) {
    requests.push_back(Request(absl::StrCat("r", i), 10 + i, 40));
    requests.back().sampling.seed = static_cast<uint64_t>(i);
    ASSERT_TRUE(engine->Post(requests.back()).ok());
  }
  for (const Submit& request : requests) {
    SCOPED_TRACE(request.key.id);
    const auto done = outbox_.Wait(request.key);
    ASSERT_TRUE(done.ok() && done->status.ok()) << done.status();
    EXPECT_EQ(outbox_.Ids(request.key), Expected(request));
  }
  EXPECT_GT(engine->stats().core.preemptions, 0u);
}

// Takes every append whose rows verify and are the ones expected of the timed model.
class CheckingStore : public kv::TailSink {
 public:
  std::vector<kv::HeldRows> OnAppend(const NodeKey&, std::span<const kv::TailEntry> entries,
                                     std::span<const uint8_t> rows) override {
    const kv::KvFormat format = TimedFormat(Model());
    std::vector<kv::HeldRows> held;
    for (const kv::TailEntry& entry : entries) {
      const size_t bytes = kv::PackedBytes(format, entry.tokens.size());
      std::vector<uint8_t> block(format.block_bytes());
      const auto first = static_cast<uint32_t>(entry.first_position % format.block_tokens);
      kv::TailRows tail{rows.first(bytes), entry.checksum, kv::TailSeed(entry),
                        static_cast<uint32_t>(entry.tokens.size()), 0};
      rows = rows.subspan(bytes);
      std::vector<uint32_t> parts;
      Status status = kv::TailUnpacker(format).Unpack(tail, first, block, &parts);
      if (status.ok() && !RowsMatch(entry, first, block)) status = absl::DataLossError("rows");
      MutexLock lock(mu_);
      if (!status.ok()) ++wrong_;
      if (status.ok() && entry.first_position > rows_) status = absl::OutOfRangeError("gap");
      if (status.ok()) {
        rows_ = entry.first_position + static_cast<int64_t>(entry.tokens.size());
      }
      held.push_back({entry.request, entry.branch, rows_, status});
    }
    return held;
  }
  void OnRelease(const NodeKey&, const RequestKey&) override {
    MutexLock lock(mu_);
    ++released_;
    changed_.NotifyAll();
  }
  StatusOr<std::vector<kv::TailState>> OnQuery(const NodeKey&, const RequestKey&) override {
    return std::vector<kv::TailState>();
  }
  void OnFence(const RequestKey&) override {}
  void OnPeerLost(const NodeKey&) override {}

  void WaitForRelease() {
    const TimeNs until = RealClock().NowNs() + kPatience;
    MutexLock lock(mu_);
    while (released_ == 0 && RealClock().NowNs() < until) {
      changed_.WaitFor(mu_, std::chrono::milliseconds(100));
    }
    EXPECT_EQ(released_, 1);
  }
  int64_t rows() {
    MutexLock lock(mu_);
    return rows_;
  }
  int wrong() {
    MutexLock lock(mu_);
    return wrong_;
  }

 private:
  static bool RowsMatch(const kv::TailEntry& entry, uint32_t first,
                        const std::vector<uint8_t>& block) {
    const TimedModel model = Model();
    std::vector<uint8_t> row(model.row_bytes);
    for (uint32_t layer = 0; layer < model.layers; ++layer) {
      for (size_t i = 0; i < entry.tokens.size(); ++i) {
        WriteTimedRow(model, entry.tokens[i], entry.first_position + static_cast<int64_t>(i),
                      RowForm::kPrompt, layer, row);
        const size_t at = (layer * model.block_tokens + first + i) * model.row_bytes;
        if (!std::equal(row.begin(), row.end(), block.begin() + static_cast<std::ptrdiff_t>(at))) {
          return false;
        }
      }
    }
    return true;
  }
  Mutex mu_;
  CondVar changed_;
  int64_t rows_ GUARDED_BY(mu_) = 0;
  int released_ GUARDED_BY(mu_) = 0;
  int wrong_ GUARDED_BY(mu_) = 0;
};

TEST_F(EngineTest, RowsReachAReplicaPackedAndVerified) {
  CheckingStore sink;
  kv::StreamOptions options;
  options.self = {"store", RandomU64() | 1};
  options.format = TimedFormat(Model());
  const auto store = kv::KvStream::Create(options, nullptr, &sink);
  ASSERT_TRUE(store.ok()) << store.status();
  const auto engine = MakeEngine("decode");
  Submit request = Request("r", 5, 60);  // no whole block in the prompt: all rows are appended
  const kv::PeerAddress at = (*store)->address();
  request.stores = {NodeRef{at.key, "", absl::StrCat(at.host, ":", at.port)}};
  ASSERT_TRUE(engine->Post(request).ok());
  const auto done = outbox_.Wait(request.key);
  ASSERT_TRUE(done.ok() && done->status.ok()) << done.status();
  EXPECT_EQ(outbox_.Ids(request.key), Expected(request));
  sink.WaitForRelease();
  EXPECT_GT(sink.rows(), 0);
  EXPECT_EQ(sink.wrong(), 0);
  EXPECT_EQ(engine->stats().core.replicas_lost, 0u);
}

TEST_F(EngineTest, ADrainEndsWhatIsLeftAtItsDeadline) {
  const auto engine = MakeEngine("decode");
  Submit request = Request("r", 5, 60);
  request.resume_handle = std::string(16, 'h');
  request.resume_window_ns = 100 * kSecond;
  ASSERT_TRUE(engine->Post(request).ok());
  ASSERT_TRUE(engine->Post(Orphan{request.key}).ok());
  EXPECT_FALSE(engine->AwaitDrained(RealClock().NowNs()));
  ASSERT_TRUE(engine->Post(Drain{RealClock().NowNs()}).ok());
  EXPECT_TRUE(engine->AwaitDrained(RealClock().NowNs() + kPatience));
  EXPECT_EQ(engine->stats().running, 0);
}

TEST_F(EngineTest, SealedBlocksAreReportedAsNumberedEvents) {
  const auto engine = MakeEngine("decode");
  const Submit request = Request("r", 24, 2);
  ASSERT_TRUE(engine->Post(request).ok());
  ASSERT_TRUE(outbox_.Wait(request.key).ok());
  kv::ChainContext chain;
  chain.format_digest = TimedFormat(Model()).Digest();
  chain.block_tokens = 8;
  const auto part = engine->PrepareEvents();
  std::vector<kv::BlockId> added;
  for (const kv::KvEvent& event : part.events.events) added.push_back(event.id);
  EXPECT_EQ(added, kv::ChainIds(chain, request.prompt));
}

TEST_F(EngineTest, APoolBelowTwoPagesIsRefusedByName) {
  EngineOptions options;
  options.stream.self = {"tiny", 1};
  options.pool_bytes = 100;
  const auto engine =
      Engine::Start(options, std::move(*TimedExecutor::Create({})), &outbox_, nullptr);
  EXPECT_THAT(std::string(engine.status().message()), testing::HasSubstr("KV pool of 100 bytes"));
}

}  // namespace
}  // namespace reprise::worker
