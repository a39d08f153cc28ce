// One client and its request through many gateways: the client leaves and comes back elsewhere with
// what it has, now and then with a lie; workers go on without it, die, drain and forget. Over all
// its streams the client must see each index once with the value the request defines, and a lie
// must hurt nobody but the liar's stream.
#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "gateway/generation/core/random_request.h"

namespace reprise::gateway {
namespace {

struct Totals {
  int64_t streams = 0;
  int64_t attaches = 0;
  int64_t transcripts = 0;
  int64_t replacements = 0;
  int64_t not_found = 0;
  int64_t lies = 0;
};

class Wanderer {
 public:
  Wanderer(uint64_t seed, Totals& totals)
      : random_(seed), totals_(totals), request_(seed, random_), record_(request_) {}

  void Run() {
    Open(/*resume=*/false);
    for (int step = 0; !complete_ && step < 200'000; ++step) {
      Step();
      if (::testing::Test::HasFatalFailure()) return;
    }
    ASSERT_TRUE(complete_);
    record_.ExpectWhole();
  }

 private:
  // The request at a worker.
  struct Running {
    Attempt attempt;
    NodeKey node;
    std::vector<uint32_t> computed;  // tokens of each branch
    uint64_t stream = 0;             // whom its tokens go to; 0: it is an orphan
  };

  void Open(bool resume) {
    SessionSpec spec = request_.Spec(now_ + 1000 * kSecond);
    spec.resumable = true;
    spec.jitter_seed = request_.seed + ++stream_;
    spec.resume = resume;
    lie_ = false;
    if (resume) {
      spec.received = record_.ids();
      spec.has_input = must_have_input_ || random_.Chance(0.7);
      must_have_input_ = false;
      if (!spec.has_input) {
        spec.max_tokens = 0;
        spec.eos_ids.clear();
      }
      // Only a stream that attaches can find a lie.
      for (auto& branch : spec.received) {
        if (branch.empty() || spec.has_input || !random_.Chance(0.2)) continue;
        branch[random_.Below(branch.size())] ^= 1;
        lie_ = true;
        break;
      }
    }
    ++totals_.streams;
    ask_.reset();
    core_ = std::make_unique<SessionCore>(spec);
    has_.clear();
    for (const auto& ids : record_.ids()) has_.push_back(resume ? ids.size() : 0);
    Do([&](Actions& a) { core_->Start(now_, a); });
  }

  template <typename F>
  void Do(F&& event) {
    Actions actions;
    event(actions);
    if (actions.resumed == Resumed::kAttach) ++totals_.attaches;
    if (actions.resumed == Resumed::kTranscript) ++totals_.transcripts;
    if (actions.resumed == Resumed::kReplace) ++totals_.replacements;
    for (const TokenEvent& token : actions.known) {
      ASSERT_LT(token.index, has_[token.branch]);
    }
    record_.Take(actions.deliver);
    if (actions.cancel && worker_ && worker_->attempt == actions.cancel->placement.attempt) {
      worker_.reset();
    }
    if (actions.detach && worker_ && worker_->attempt == actions.detach->attempt) {
      worker_->stream = 0;
    }
    if (actions.place) ask_ = *actions.place;
    if (actions.attach) Attach(*actions.attach);
    if (actions.submit) Submit(actions.submit->placement);
    if (actions.finish) Finish(*actions.finish);
  }

  void Finish(const SessionEnd& finish) {
    if (finish.status.ok()) {
      complete_ = true;
      return;
    }
    if (absl::IsInvalidArgument(finish.status)) {
      ASSERT_TRUE(lie_) << finish.status;
      ++totals_.lies;
    } else if (absl::IsNotFound(finish.status)) {
      ASSERT_FALSE(core_->spec().has_input) << finish.status;
      ++totals_.not_found;
      must_have_input_ = true;
    } else {
      ASSERT_TRUE(finish.goes_on || absl::IsUnavailable(finish.status)) << finish.status;
    }
    reopen_ = true;
  }

  void Attach(const Placement& placement) {
    WorkerMessage answer{.stream = stream_, .attempt = placement.attempt};
    if (!worker_ || worker_->node != placement.worker) {
      answer.done = WorkerDone{absl::NotFoundError("not here"), 0};
      wire_.push_back(answer);
      return;
    }
    worker_->attempt = placement.attempt;
    worker_->stream = stream_;
    AttachedInfo info;
    info.n = static_cast<int32_t>(request_.n);
    info.max_tokens = static_cast<int32_t>(request_.max_tokens);
    info.eos_ids = {RandomRequest::kEos};
    info.remaining_ms = 1'000'000;
    answer.attached = info;
    for (uint32_t b = 0; b < request_.n; ++b) {
      for (uint32_t i = 0; i < worker_->computed[b]; ++i) answer.Tell(request_, b, i);
      if (random_.Chance(0.3)) {
        wire_.push_back(answer);
        answer = {.stream = stream_, .attempt = placement.attempt};
      }
    }
    if (AllComputed()) answer.done = WorkerDone{};
    wire_.push_back(answer);
  }

  void Submit(const Placement& placement) {
    worker_ = Running{placement.attempt, placement.worker, {}, stream_};
    for (const BranchState& branch : core_->branches()) {
      worker_->computed.push_back(static_cast<uint32_t>(branch.tokens.size()));
    }
  }

  bool AllComputed() const {
    for (uint32_t b = 0; b < request_.n; ++b) {
      if (worker_->computed[b] < request_.Length(b)) return false;
    }
    return true;
  }

  void Step() {
    now_ += kMillisecond;
    if (std::exchange(reopen_, false)) {
      Open(/*resume=*/accepted_once_);
      return;
    }
    if (core_->next_wake() <= now_) Do([&](Actions& a) { core_->OnTick(now_, a); });
    if (reopen_ || complete_) return;
    if (ask_ && random_.Chance(0.5)) Answer();
    if (reopen_ || complete_) return;
    if (worker_ && random_.Chance(0.6)) WorkerStep();
    if (!wire_.empty() && random_.Chance(0.8)) Arrive();
    if (reopen_ || complete_) return;
    if (worker_ && random_.Chance(0.01)) LoseWorker();
    if (reopen_ || complete_) return;
    // A client that never was accepted has nothing to come back with.
    accepted_once_ = accepted_once_ || core_->attempts() > 0;
    if (accepted_once_ && random_.Chance(0.02)) {
      Do([&](Actions& a) { core_->OnClientGone(a); });
    }
  }

  void Answer() {
    const AskPlacement ask = *std::exchange(ask_, {});
    if (core_->attempts() > 0 && random_.Chance(0.2)) {
      Do([&](Actions& a) {
        core_->OnPlaceRefused(ask.ask, {absl::UnavailableError("busy"), {}}, now_, a);
      });
      return;
    }
    Placement placement;
    placement.worker = {"w", ++nodes_};
    if (ask.attach) {
      highest_ = {highest_.owner_epoch + 1, 1};
      // The coordinator may not have heard that it is gone, or where it runs.
      if (worker_ && random_.Chance(0.8)) {
        placement.worker = worker_->node;
        placement.running = true;
      } else if (random_.Chance(0.1)) {
        placement.running = true;
      }
    } else {
      highest_ = {std::max<uint64_t>(1, highest_.owner_epoch), highest_.n + 1};
    }
    placement.attempt = highest_;
    Do([&](Actions& a) { core_->OnPlaced(ask.ask, placement, now_, a); });
  }

  void WorkerStep() {
    if (AllComputed()) return;
    WorkerMessage message{.stream = worker_->stream, .attempt = worker_->attempt};
    for (uint32_t b = 0; b < request_.n; ++b) {
      if (worker_->computed[b] == request_.Length(b)) continue;
      message.Tell(request_, b, worker_->computed[b]++);
    }
    if (AllComputed()) message.done = WorkerDone{};
    if (worker_->stream != 0) wire_.push_back(message);
  }

  void Arrive() {
    const WorkerMessage message = wire_.front();
    wire_.pop_front();
    if (message.stream != stream_) return;  // its gateway is gone
    Do([&](Actions& a) { message.ArriveAt(*core_, now_, a); });
  }

  void LoseWorker() {
    const Running lost = *std::exchange(worker_, {});
    if (lost.stream != stream_) return;
    // What it said is lost with it, or arrives first.
    if (random_.Chance(0.5)) wire_.clear();
    if (random_.Chance(0.3)) {
      wire_.push_back({.stream = stream_,
                       .attempt = lost.attempt,
                       .done = WorkerDone{absl::UnavailableError("draining"), 0}});
      if (core_->state() == SessionCore::State::kStreaming) return;
    }
    while (!wire_.empty() && !reopen_ && !complete_) Arrive();
    if (reopen_ || complete_) return;
    Do([&](Actions& a) {
      core_->OnWorkerLost(lost.attempt, absl::UnavailableError("killed"), now_, a);
    });
  }

  SplitMix64 random_;
  Totals& totals_;
  const RandomRequest request_;
  ClientRecord record_;
  std::vector<size_t> has_;  // of each branch when the stream began
  TimeNs now_ = 0;
  std::unique_ptr<SessionCore> core_;
  uint64_t stream_ = 0;
  std::optional<AskPlacement> ask_;
  Attempt highest_;
  uint64_t nodes_ = 0;
  std::optional<Running> worker_;
  std::deque<WorkerMessage> wire_;
  bool accepted_once_ = false;
  bool must_have_input_ = false;
  bool lie_ = false;
  bool reopen_ = false;
  bool complete_ = false;
};

TEST(SessionResumeRandom, OverAllItsStreamsAClientSeesEveryIndexOnceWithTheRightValue) {
  Totals totals;
  for (uint64_t seed = 1; seed <= 3000; ++seed) {
    SCOPED_TRACE(seed);
    Wanderer(seed, totals).Run();
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(totals.streams, 5000);
  EXPECT_GT(totals.attaches, 500);
  EXPECT_GT(totals.transcripts, 200);
  EXPECT_GT(totals.replacements, 200);
  EXPECT_GT(totals.not_found, 50);
  EXPECT_GT(totals.lies, 50);
}

}  // namespace
}  // namespace reprise::gateway
