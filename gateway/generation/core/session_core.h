// The life cycle of one request in the gateway: placed, streamed, placed again when its worker is
// lost, ended. A pure state machine: (state, event, now) -> (state, actions), with no threads,
// clocks, sockets or logging; gateway/server and the simulator drive this same code. One thread at
// a time.
//
// Invariants:
// 1. Per branch, tokens are delivered once each, in order of index from 0.
// 2. Exactly one `finish` is ever given, and nothing after it. `accept` precedes every delivery.
// 3. At most one placement is being asked for and at most one attempt runs, the highest granted.
//    Events of any other attempt change nothing and are counted.
// 4. A branch end counts only when the tokens delivered agree with it, so a lost tail is a gap.
#ifndef REPRISE_GATEWAY_GENERATION_CORE_SESSION_CORE_H_
#define REPRISE_GATEWAY_GENERATION_CORE_SESSION_CORE_H_

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "common/clock.h"
#include "common/ids.h"
#include "common/random.h"
#include "common/status.h"

namespace reprise::gateway {

inline constexpr TimeNs kNever = std::numeric_limits<TimeNs>::max();

// Numbers equal those of reprise.v1.FinishReason.
enum class EndReason : uint8_t {
  kNone = 0,
  kLength = 1,
  kEos = 2,
  kStop = 3,
  kCancelled = 4,
  kDeadline = 5,
  kError = 6,
};

// What of the request the life cycle depends on. Validated: n >= 1, max_tokens >= 1.
struct SessionSpec {
  int32_t n = 1;
  int32_t prompt_tokens = 0;
  int32_t vocab_size = 0;
  int32_t max_tokens = 0;  // per branch, already cut to the context
  std::vector<int32_t> stop_ids;
  std::vector<int32_t> eos_ids;
  TimeNs deadline = kNever;
  int32_t attempts_max = 8;  // granted placements
  // Waits before asking again, after a refusal or an attempt without a token: doubled each time,
  // drawn from the upper half of [0, wait].
  TimeNs backoff_first_ns = 20 * kMillisecond;
  TimeNs backoff_max_ns = kSecond;
  uint64_t jitter_seed = 0;
};

struct TokenEvent {
  uint32_t branch = 0;
  uint32_t index = 0;
  int32_t id = 0;
  float logprob = 0;
  uint32_t source = 0;  // the caller's own, handed through (a position in the worker's message)
};
struct BranchEnd {
  uint32_t branch = 0;
  EndReason reason = EndReason::kNone;
};
struct WorkerDone {
  Status status;
  int32_t cached_tokens = 0;
};
// One message of the worker about this request; views live for the call.
struct WorkerEvents {
  Attempt attempt;
  std::span<const TokenEvent> tokens;
  std::span<const BranchEnd> ended;
  int64_t watermark = 0;
  const WorkerDone* done = nullptr;
};

struct Placement {
  Attempt attempt;
  NodeKey worker;
};

// Why no placement was granted.
struct Refusal {
  Status status;  // not OK; handed to the client as it is when it refuses the request
  std::optional<int64_t> retry_after_ms;
};

struct BranchState {
  std::vector<int32_t> tokens;
  std::vector<uint32_t> logprob_bits;  // of each token
  EndReason reason = EndReason::kNone;
  bool ended() const { return reason != EndReason::kNone; }
};

struct AskPlacement {
  uint64_t ask = 0;                 // to be named by the answer
  std::optional<Attempt> previous;  // the highest granted
  int32_t emitted_tokens = 0;       // of the longest branch
};
struct SubmitAttempt {
  Placement placement;
  int64_t remaining_ms = 0;  // to the deadline, at least 1; 0: none
};
struct CancelWorker {
  Placement placement;
  bool deadline = false;
};
struct Usage {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t generated_tokens = 0;
  int32_t attempts = 0;
};
struct SessionEnd {
  bool accepted = false;  // false: a refusal, the client gets `status` and no event
  Status status;          // OK when every branch ended by itself
  Usage usage;
  std::vector<BranchEnd> branches;  // every branch, in order
};

// What to do, in order of the fields. Buffers are kept by Clear.
struct Actions {
  bool accept = false;
  std::vector<TokenEvent> deliver;
  int64_t watermark = 0;  // of `deliver`
  std::vector<BranchEnd> branches_ended;
  std::optional<CancelWorker> cancel;
  std::optional<AskPlacement> place;    // with avoid() and branches() as they are now
  std::optional<SubmitAttempt> submit;  // with branches() as they are now
  std::optional<SessionEnd> finish;
  void Clear();
};

struct SessionCounters {
  int64_t stale_events = 0;  // of another attempt or of an answered placement
  int64_t duplicates = 0;    // tokens again, equal to what was delivered
  int64_t gaps = 0;          // a token or a branch end ahead of what was delivered
  int64_t replacements = 0;  // attempts after the first
  int64_t refusals = 0;      // placements refused
  int64_t violations = 0;    // a worker contradicted itself or the promise
};

class SessionCore {
 public:
  enum class State { kIdle, kPlacing, kStreaming, kReplacing, kEnded };

  explicit SessionCore(SessionSpec spec);

  // Each call adds to `actions`, which the caller has cleared.
  void Start(TimeNs now, Actions& actions);
  void OnPlaced(uint64_t ask, const Placement& placement, TimeNs now, Actions& actions);
  void OnPlaceRefused(uint64_t ask, const Refusal& refusal, TimeNs now, Actions& actions);
  void OnWorkerEvents(const WorkerEvents& events, TimeNs now, Actions& actions);
  // The stream to the worker broke, or the worker was declared dead.
  void OnWorkerLost(Attempt attempt, const Status& status, TimeNs now, Actions& actions);
  void OnClientCancel(Actions& actions);
  void OnClientGone(Actions& actions);
  // The gateway ends it: the reader is too slow, the process stops.
  void OnAbort(const Status& status, Actions& actions);
  // Due at next_wake(), harmless at any time.
  void OnTick(TimeNs now, Actions& actions);

  State state() const { return state_; }
  TimeNs next_wake() const;  // kNever once ended
  std::span<const BranchState> branches() const { return branches_; }
  // Incarnations that failed this request, without repetition.
  std::span<const NodeKey> avoid() const { return avoid_; }
  const SessionSpec& spec() const { return spec_; }
  const SessionCounters& counters() const { return counters_; }
  int32_t attempts() const { return attempts_; }

 private:
  enum class Verdict { kAccepted, kDuplicate, kGap, kViolation };
  Verdict Judge(const TokenEvent& token) const;
  Verdict JudgeEnd(const BranchEnd& end) const;
  bool TakeTokens(const WorkerEvents& events, TimeNs now, Actions& actions);
  bool TakeEnds(const WorkerEvents& events, TimeNs now, Actions& actions);
  void EndBranchesByTokens(Actions& actions);
  void TakeDone(const WorkerDone& done, TimeNs now, Actions& actions);
  void Replace(const Status& why, bool avoid, TimeNs now, Actions& actions);
  void Ask(Actions& actions);
  void WaitThenAsk(std::optional<int64_t> hint_ms, TimeNs now);
  void Violation(const Status& why, Actions& actions);
  void End(const Status& status, bool cancel_worker, Actions& actions);
  bool AllEnded() const;

  const SessionSpec spec_;
  State state_ = State::kIdle;
  std::vector<BranchState> branches_;
  std::vector<NodeKey> avoid_;
  std::optional<Placement> placement_;  // the highest granted
  bool progressed_ = false;             // the running attempt gave a token
  uint64_t ask_ = 0;
  bool asking_ = false;
  TimeNs retry_at_ = kNever;
  TimeNs backoff_ns_;
  SplitMix64 jitter_;
  int32_t attempts_ = 0;
  int32_t cached_tokens_ = 0;
  SessionCounters counters_;
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_GENERATION_CORE_SESSION_CORE_H_
