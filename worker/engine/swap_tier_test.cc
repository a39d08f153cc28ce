// The swap tier alone, and under an engine: sequences that left the pool go on with the same
// tokens, whatever happens to their copies.
#include "worker/engine/swap_tier.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <deque>
#include <map>
#include <numeric>
#include <optional>

#include "common/metrics.h"
#include "common/random.h"
#include "worker/engine/engine.h"
#include "worker/engine/timed_executor.h"

namespace reprise::worker {
namespace {

constexpr TimeNs kPatience = 20 * kSecond;

TimedModel Model() {
  TimedModel model;
  model.block_tokens = 8;
  model.row_bytes = 128;
  model.layers = 2;
  model.vocab_size = 512;
  model.context_tokens = 512;
  return model;
}

// Files of this process end at `bytes`, as a full disk would end them.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

class SwapTierTest : public testing::Test {
 protected:
  static constexpr int32_t kPages = 8;

  SwapTierTest() : format_(TimedFormat(Model())), page_bytes_(format_.block_bytes()) {
    pool_.resize(kPages * page_bytes_);
    std::iota(pool_.begin(), pool_.end(), uint8_t{0});
  }
  void Open(int32_t host, int32_t disk) {
    SwapOptions options;
    options.host_bytes = host * static_cast<int64_t>(page_bytes_);
    options.disk_bytes = disk * static_cast<int64_t>(page_bytes_);
    options.disk_dir = testing::TempDir();
    auto tier = SwapTier::Create(options, {pool_.data(), format_}, [this](Event event) {
      MutexLock lock(mu_);
      events_.push_back(std::move(event));
      changed_.NotifyAll();
    });
    ASSERT_TRUE(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }
  Event Next() {
    const TimeNs until = RealClock().NowNs() + kPatience;
    MutexLock lock(mu_);
    while (events_.empty() && RealClock().NowNs() < until) {
      changed_.WaitFor(mu_, std::chrono::seconds(1));
    }
    Event event = events_.empty() ? Event(Tick{}) : std::move(events_.front());
    if (!events_.empty()) events_.pop_front();
    return event;
  }
  Status Out(PageId page, SlotId slot, uint64_t ticket) {
    tier_->Send(SwapOut{1, {{page, slot, ticket}}});
    const Event event = Next();
    const auto* done = std::get_if<SwapDone>(&event);
    return done != nullptr ? done->status : absl::UnknownError("no answer");
  }
  Status In(SlotId slot, uint64_t ticket, PageId page) {
    tier_->Send(SwapIn{2, {{page, slot, ticket}}});
    const Event event = Next();
    const auto* done = std::get_if<FetchDone>(&event);
    return done != nullptr && done->items.size() == 1 ? done->items[0]
                                                      : absl::UnknownError("no answer");
  }
  std::vector<uint8_t> Page(PageId page) const {
    const auto* const at = pool_.data() + static_cast<size_t>(page) * page_bytes_;
    return {at, at + page_bytes_};
  }

  const kv::KvFormat format_;
  const size_t page_bytes_;
  std::vector<uint8_t> pool_;
  Mutex mu_;
  CondVar changed_;
  std::deque<Event> events_ GUARDED_BY(mu_);
  std::unique_ptr<SwapTier> tier_;
};

TEST_F(SwapTierTest, WhatGoesOutComesBackFromMemoryAndFromDisk) {
  Open(2, 2);
  for (const SlotId slot : {0, 1, 2, 3}) {
    const std::vector<uint8_t> before = Page(slot);
    ASSERT_TRUE(Out(slot, slot, 10 + static_cast<uint64_t>(slot)).ok());
    ASSERT_TRUE(In(slot, 10 + static_cast<uint64_t>(slot), slot + 4).ok());
    EXPECT_EQ(Page(slot + 4), before);
  }
}

TEST_F(SwapTierTest, AnotherTicketAndADamagedByteDoNotVerify) {
  Open(1, 1);
  for (const SlotId slot : {0, 1}) {
    EXPECT_TRUE(absl::IsDataLoss(In(slot, 5, 4)));  // nothing there yet
    ASSERT_TRUE(Out(0, slot, 5).ok());
    EXPECT_TRUE(absl::IsDataLoss(In(slot, 6, 4)));
    tier_->Damage(slot);
    EXPECT_TRUE(absl::IsDataLoss(In(slot, 5, 4)));
    ASSERT_TRUE(Out(0, slot, 7).ok());
    EXPECT_TRUE(In(slot, 7, 4).ok());
  }
}

TEST_F(SwapTierTest, AFullDiskIsAnErrorAndWhatIsThereStays) {
  Open(0, 4);
  const FileSizeLimit limit(page_bytes_ + 1);
  ASSERT_TRUE(Out(0, 0, 1).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Out(1, 1, 2)));
  EXPECT_TRUE(In(0, 1, 4).ok());
  EXPECT_TRUE(absl::IsDataLoss(In(1, 2, 5)));
}

TEST_F(SwapTierTest, ADiskTierNeedsAFolder) {
  SwapOptions options;
  options.disk_bytes = 1 << 20;
  const auto post = [](Event) {};
  EXPECT_TRUE(
      absl::IsInvalidArgument(SwapTier::Create(options, {pool_.data(), format_}, post).status()));
  options.disk_dir = "/no such folder";
  EXPECT_TRUE(
      absl::IsUnavailable(SwapTier::Create(options, {pool_.data(), format_}, post).status()));
}

class Answers : public EngineSink {
 public:
  void OnEmits(std::vector<Emit> emits) override {
    MutexLock lock(mu_);
    for (Emit& emit : emits) {
      for (const BranchToken& token : emit.tokens) {
        ids_[{emit.key.id, token.branch}].push_back(token.token.id);
      }
      if (emit.done) done_[emit.key.id] = emit.done->status;
    }
    changed_.NotifyAll();
  }
  void OnCallPrefill(CallPrefill) override {}
  void OnReleasePrefill(ReleasePrefill) override {}
  void OnAcceptPrefill(const AcceptPrefill&) override {}
  void OnReplyPrefill(ReplyPrefill) override {}
  Status Wait(const std::string& id) {
    const TimeNs until = RealClock().NowNs() + kPatience;
    MutexLock lock(mu_);
    while (!done_.contains(id)) {
      if (RealClock().NowNs() > until) return absl::DeadlineExceededError(id + " is not done");
      changed_.WaitFor(mu_, std::chrono::seconds(1));
    }
    return done_[id];
  }
  std::vector<int32_t> Ids(const std::string& id, uint32_t branch) {
    MutexLock lock(mu_);
    return ids_[{id, branch}];
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::map<std::pair<std::string, uint32_t>, std::vector<int32_t>> ids_ GUARDED_BY(mu_);
  std::map<std::string, Status> done_ GUARDED_BY(mu_);
};

struct Shape {
  int32_t pool_pages = 0;
  int32_t host_pages = 0;
  int32_t disk_pages = 0;
  int32_t microbatches = 1;
  int32_t sequences = 0;
  int32_t branches = 1;
  rlim_t file_bytes_max = RLIM_INFINITY;  // once the engine has started
};

// Serves the sequences, each of 20 tokens of prompt and 60 new ones; their tokens are the expected
// ones and nothing stays behind.
EngineStats Serve(const Shape& shape) {
  const auto page = static_cast<int64_t>(TimedFormat(Model()).block_bytes());
  TimedOptions timed;
  timed.model = Model();
  timed.step_ms = 1;
  timed.prefill_ms_per_token = 0.2;
  EngineOptions options;
  options.stream.self = {"w", 1};
  options.pool_bytes = shape.pool_pages * page;
  options.swap.host_bytes = shape.host_pages * page;
  options.swap.disk_bytes = shape.disk_pages * page;
  options.swap.disk_dir = testing::TempDir();
  options.core.microbatches = shape.microbatches;
  Answers answers;
  auto engine = Engine::Start(options, *TimedExecutor::Create(timed), &answers, nullptr);
  EXPECT_TRUE(engine.ok()) << engine.status();
  std::optional<FileSizeLimit> limit;
  if (shape.file_bytes_max != RLIM_INFINITY) limit.emplace(shape.file_bytes_max);
  std::vector<Submit> sent;
  for (int32_t i = 0; i < shape.sequences; ++i) {
    Submit submit;
    submit.key = {absl::StrCat("r", i), {1, 1}};
    for (int32_t t = 0; t < 20; ++t) submit.prompt.push_back((i * 31 + t * 7) % 512);
    submit.sampling.max_tokens = 60;
    submit.sampling.n = shape.branches;
    EXPECT_TRUE((*engine)->Post(submit).ok());
    sent.push_back(submit);
  }
  for (const Submit& submit : sent) {
    EXPECT_TRUE(answers.Wait(submit.key.id).ok());
    for (int32_t b = 0; b < shape.branches; ++b) {
      const auto branch = static_cast<uint32_t>(b);
      std::vector<int32_t> expected;
      for (const SampledToken& token :
           ExpectedTimedTokens(Model(), submit.prompt, submit.sampling, branch)) {
        expected.push_back(token.id);
      }
      EXPECT_EQ(answers.Ids(submit.key.id, branch), expected) << submit.key.id << " " << b;
    }
  }
  static_cast<void>((*engine)->Post(Drain{0}));
  EXPECT_TRUE((*engine)->AwaitDrained(RealClock().NowNs() + kPatience));
  const EngineStats stats = (*engine)->stats();
  EXPECT_EQ(stats.pages.used, 0);
  EXPECT_EQ(stats.swap.host_slots + stats.swap.disk_slots, 0);
  EXPECT_EQ(stats.violations, 0u);
  (*engine)->Stop();
  return stats;
}

TEST(SwapEngine, TokensAreTheSameAcrossBatchesAndTiers) {
  for (const int32_t sequences : {3, 8}) {
    for (const int32_t branches : {1, 2}) {
      for (const int32_t host : {0, 6, 400}) {
        SCOPED_TRACE(absl::StrCat(sequences, " x ", branches, ", ", host, " pages in memory"));
        Shape shape{.pool_pages = 22 * branches, .host_pages = host, .disk_pages = 400};
        shape.sequences = sequences;
        shape.branches = branches;
        const EngineStats stats = Serve(shape);
        EXPECT_GT(stats.core.preemptions, 0u);
        EXPECT_GT(stats.core.swap_ins, 0u);
        EXPECT_EQ(stats.core.swap_lost, 0u);
      }
    }
  }
}

TEST(SwapEngine, MicrobatchesTakeTurnsInThePool) {
  Shape shape{.pool_pages = 44, .host_pages = 200, .disk_pages = 0, .microbatches = 4};
  shape.sequences = 8;
  const EngineStats stats = Serve(shape);
  EXPECT_GT(stats.core.turns_given, 0u);
}

TEST(SwapEngine, AFullDiskCostsTimeOnly) {
  Shape shape{.pool_pages = 22, .host_pages = 0, .disk_pages = 400};
  shape.file_bytes_max = 4 * TimedFormat(Model()).block_bytes();
  shape.sequences = 8;
  const EngineStats stats = Serve(shape);
  EXPECT_GT(stats.core.swap_failures, 0u);
}

}  // namespace
}  // namespace reprise::worker
