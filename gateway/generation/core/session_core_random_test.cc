// SessionCore against a lossy cluster: messages are dropped, repeated, cut, delayed past their
// attempt; workers die; placements are refused. The client must still see each index exactly once
// with the value the request defines.
#include <gtest/gtest.h>

#include <deque>

#include "gateway/generation/core/session_core.h"

namespace reprise::gateway {
namespace {

constexpr int32_t kVocab = 1000;
constexpr int32_t kEosId = 7;

// What the request defines; workers and checker agree on it and on nothing else.
int32_t TrueToken(uint64_t seed, uint32_t branch, uint32_t index) {
  SplitMix64 random(seed ^ (uint64_t{branch} << 32 | index) * 0x9e3779b97f4a7c15u);
  return static_cast<int32_t>(random.Below(kVocab));
}
float TrueLogprob(int32_t id, uint32_t index) {
  return -0.001f * static_cast<float>(id) - static_cast<float>(index);
}

struct Message {
  Attempt attempt;
  std::vector<TokenEvent> tokens;
  std::vector<BranchEnd> ended;
  bool done = false;
};

class LossyCluster {
 public:
  explicit LossyCluster(uint64_t seed) : seed_(seed), random_(seed) {
    SessionSpec spec;
    spec.n = 1 + static_cast<int32_t>(random_.Below(3));
    spec.vocab_size = kVocab;
    spec.max_tokens = 1 + static_cast<int32_t>(random_.Below(40));
    spec.eos_ids = {kEosId};
    spec.deadline = 1000 * kSecond;
    spec.failures_max = 1000;
    spec.jitter_seed = seed;
    core_ = std::make_unique<SessionCore>(spec);
    journal_.resize(static_cast<size_t>(spec.n));
  }

  void Run() {
    Do([&](Actions& a) { core_->Start(now_, a); });
    for (int step = 0; finishes_ == 0 && step < 100'000; ++step) Step();
    ASSERT_EQ(finishes_, 1) << "seed " << seed_;
    // Whatever still flies changes nothing.
    for (int step = 0; step < 20; ++step) Step();
    ASSERT_EQ(finishes_, 1) << "seed " << seed_;
    CheckJournal();
  }

  const SessionCounters& counters() const { return core_->counters(); }

 private:
  struct Running {
    Attempt attempt;
    std::vector<uint32_t> next;
    std::vector<bool> ended;
  };

  template <typename F>
  void Do(F&& event) {
    Actions actions;
    event(actions);
    ASSERT_TRUE(finishes_ == 0 || (actions.deliver.empty() && !actions.finish && !actions.submit))
        << "acts after its end, seed " << seed_;
    for (const TokenEvent& token : actions.deliver) {
      auto& branch = journal_[token.branch];
      ASSERT_EQ(token.index, branch.size()) << "seed " << seed_;
      ASSERT_EQ(token.id, TrueToken(seed_, token.branch, token.index)) << "seed " << seed_;
      branch.push_back(token.id);
    }
    if (actions.cancel) worker_.reset();
    if (actions.place) ask_ = actions.place->ask;
    if (actions.submit) StartWorker(actions.submit->placement.attempt);
    if (actions.finish) {
      ++finishes_;
      finish_ = *actions.finish;
    }
  }

  void StartWorker(Attempt attempt) {
    Running running{.attempt = attempt};
    for (const BranchState& branch : core_->branches()) {
      running.next.push_back(static_cast<uint32_t>(branch.tokens.size()));
      running.ended.push_back(branch.ended());
    }
    worker_ = running;
  }

  void Step() {
    now_ += kMillisecond;
    if (core_->next_wake() <= now_) Do([&](Actions& a) { core_->OnTick(now_, a); });
    if (ask_ && random_.Chance(0.5)) Answer();
    if (worker_ && random_.Chance(0.8)) WorkerStep();
    if (!wire_.empty() && random_.Chance(0.8)) Arrive();
    // A dropped last message leaves the worker gone and the request waiting: its stream ends.
    if (wire_.empty() && !worker_ && core_->state() == SessionCore::State::kStreaming) {
      Do([&](Actions& a) {
        core_->OnWorkerLost({1, granted_}, absl::UnavailableError("ended"), now_, a);
      });
    }
    if (worker_ && random_.Chance(0.02)) {
      const Attempt attempt = worker_->attempt;
      worker_.reset();
      Do([&](Actions& a) {
        core_->OnWorkerLost(attempt, absl::UnavailableError("killed"), now_, a);
      });
    }
  }

  void Answer() {
    const uint64_t ask = *ask_;
    ask_.reset();
    if (core_->attempts() > 0 && random_.Chance(0.3)) {
      Do([&](Actions& a) {
        core_->OnPlaceRefused(ask, {absl::UnavailableError("busy"), {}}, now_, a);
      });
      return;
    }
    const Placement placement{{1, ++granted_}, {"w", granted_}};
    Do([&](Actions& a) { core_->OnPlaced(ask, placement, now_, a); });
    if (random_.Chance(0.1)) Do([&](Actions& a) { core_->OnPlaced(ask, placement, now_, a); });
  }

  void WorkerStep() {
    Message message{.attempt = worker_->attempt};
    bool open = false;
    for (uint32_t b = 0; b < worker_->next.size(); ++b) {
      if (worker_->ended[b]) continue;
      const uint32_t index = worker_->next[b]++;
      const int32_t id = TrueToken(seed_, b, index);
      message.tokens.push_back({b, index, id, TrueLogprob(id, index), 0});
      const bool length = index + 1 == static_cast<uint32_t>(core_->spec().max_tokens);
      if (id == kEosId || length) {
        worker_->ended[b] = true;
        message.ended.push_back({b, id == kEosId ? EndReason::kEos : EndReason::kLength});
      }
      open = open || !worker_->ended[b];
    }
    message.done = !open;
    if (message.done) worker_.reset();
    if (random_.Chance(0.02)) return;  // dropped
    if (random_.Chance(0.02) && !message.tokens.empty()) message.tokens.pop_back();
    wire_.push_back(message);
    if (random_.Chance(0.05)) wire_.push_back(message);  // twice
  }

  void Arrive() {
    // Mostly in order; sometimes a later one overtakes.
    const size_t at = random_.Chance(0.03) ? random_.Below(wire_.size()) : 0;
    const Message message = wire_[at];
    wire_.erase(wire_.begin() + static_cast<ptrdiff_t>(at));
    const WorkerDone done;
    Do([&](Actions& a) {
      core_->OnWorkerEvents({.attempt = message.attempt,
                             .tokens = message.tokens,
                             .ended = message.ended,
                             .watermark = 0,
                             .done = message.done ? &done : nullptr},
                            now_, a);
    });
  }

  void CheckJournal() {
    ASSERT_TRUE(finish_.status.ok()) << finish_.status << ", seed " << seed_;
    EXPECT_EQ(core_->counters().violations, 0) << "seed " << seed_;
    for (uint32_t b = 0; b < journal_.size(); ++b) {
      uint32_t want = 0;
      const auto max_tokens = static_cast<uint32_t>(core_->spec().max_tokens);
      while (want < max_tokens && TrueToken(seed_, b, want) != kEosId) ++want;
      const bool eos = want < max_tokens;
      EXPECT_EQ(journal_[b].size(), eos ? want + 1 : max_tokens) << "seed " << seed_;
      EXPECT_EQ(finish_.branches[b].reason, eos ? EndReason::kEos : EndReason::kLength);
    }
  }

  const uint64_t seed_;
  SplitMix64 random_;
  TimeNs now_ = 0;
  std::unique_ptr<SessionCore> core_;
  std::optional<uint64_t> ask_;
  uint32_t granted_ = 0;
  std::optional<Running> worker_;
  std::deque<Message> wire_;
  std::vector<std::vector<int32_t>> journal_;
  int finishes_ = 0;
  SessionEnd finish_;
};

TEST(SessionCoreRandom, EveryIndexArrivesOnceWithTheRightValueWhateverIsLost) {
  SessionCounters total;
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    LossyCluster cluster(seed);
    cluster.Run();
    if (HasFatalFailure()) return;
    total.gaps += cluster.counters().gaps;
    total.duplicates += cluster.counters().duplicates;
    total.stale_events += cluster.counters().stale_events;
    total.replacements += cluster.counters().replacements;
    total.refusals += cluster.counters().refusals;
  }
  // The faults really happened.
  EXPECT_GT(total.gaps, 500);
  EXPECT_GT(total.duplicates, 500);
  EXPECT_GT(total.stale_events, 500);
  EXPECT_GT(total.replacements, 500);
  EXPECT_GT(total.refusals, 500);
}

}  // namespace
}  // namespace reprise::gateway
