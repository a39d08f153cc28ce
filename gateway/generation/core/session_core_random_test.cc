// SessionCore against a lossy cluster: messages are dropped, repeated, cut, delayed past their
// attempt; workers die; placements are refused. The client must still see each index exactly once
// with the value the request defines.
#include <gtest/gtest.h>

#include <deque>
#include <memory>

#include "gateway/generation/core/random_request.h"

namespace reprise::gateway {
namespace {

class LossyCluster {
 public:
  explicit LossyCluster(uint64_t seed) : random_(seed), request_(seed, random_), record_(request_) {
    SessionSpec spec = request_.Spec(1000 * kSecond);
    spec.jitter_seed = seed;
    core_ = std::make_unique<SessionCore>(spec);
  }

  void Run() {
    Do([&](Actions& a) { core_->Start(now_, a); });
    for (int step = 0; finishes_ == 0 && step < 100'000; ++step) Step();
    ASSERT_EQ(finishes_, 1);
    // Whatever still flies changes nothing.
    for (int step = 0; step < 20; ++step) Step();
    ASSERT_EQ(finishes_, 1);
    CheckEnd();
  }

  const SessionCounters& counters() const { return core_->counters(); }

 private:
  struct Running {
    Attempt attempt;
    std::vector<uint32_t> next;  // index, of each branch
  };

  template <typename F>
  void Do(F&& event) {
    Actions actions;
    event(actions);
    ASSERT_TRUE(finishes_ == 0 || (actions.deliver.empty() && !actions.finish && !actions.submit))
        << "acts after its end";
    record_.Take(actions.deliver);
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
    WorkerMessage message{.attempt = worker_->attempt};
    bool open = false;
    for (uint32_t b = 0; b < worker_->next.size(); ++b) {
      if (worker_->next[b] == request_.Length(b)) continue;
      message.Tell(request_, b, worker_->next[b]++);
      open = open || worker_->next[b] < request_.Length(b);
    }
    if (!open) {
      message.done = WorkerDone{};
      worker_.reset();
    }
    if (random_.Chance(0.02)) return;  // dropped
    if (random_.Chance(0.02) && !message.tokens.empty()) message.tokens.pop_back();
    wire_.push_back(message);
    if (random_.Chance(0.05)) wire_.push_back(message);  // twice
  }

  void Arrive() {
    // Mostly in order; sometimes a later one overtakes.
    const size_t at = random_.Chance(0.03) ? random_.Below(wire_.size()) : 0;
    const WorkerMessage message = wire_[at];
    wire_.erase(wire_.begin() + static_cast<ptrdiff_t>(at));
    Do([&](Actions& a) { message.ArriveAt(*core_, now_, a); });
  }

  void CheckEnd() {
    ASSERT_TRUE(finish_.status.ok()) << finish_.status;
    EXPECT_EQ(core_->counters().violations, 0);
    record_.ExpectWhole();
    for (uint32_t b = 0; b < request_.n; ++b) {
      EXPECT_EQ(finish_.branches[b].reason, request_.Reason(b));
    }
  }

  SplitMix64 random_;
  const RandomRequest request_;
  ClientRecord record_;
  TimeNs now_ = 0;
  std::unique_ptr<SessionCore> core_;
  std::optional<uint64_t> ask_;
  uint32_t granted_ = 0;
  std::optional<Running> worker_;
  std::deque<WorkerMessage> wire_;
  int finishes_ = 0;
  SessionEnd finish_;
};

TEST(SessionCoreRandom, EveryIndexArrivesOnceWithTheRightValueWhateverIsLost) {
  SessionCounters total;
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE(seed);
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
