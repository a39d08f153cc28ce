// The life cycle of one request in the gateway: placed (or attached to where it runs already),
// streamed, placed again when its worker is lost, ended or left to be resumed. A pure state
// machine: (state, event, now) -> (state, actions), with no threads, clocks, sockets or logging;
// gateway/server and the simulator drive this same code. One thread at a time.
//
// Invariants:
// 1. Per branch, tokens are delivered once each, in order of index from 0, or from behind what the
//    client of a resumed request has. `known` and `deliver` together are every index once.
// 2. Exactly one `finish` is ever given, and nothing after it. `accept` precedes every delivery.
// 3. At most one placement is being asked for and at most one attempt runs, the highest granted.
//    Events of any other attempt change nothing and are counted.
// 4. A branch end counts only when the tokens delivered agree with it, so a lost tail is a gap.
// 5. What a client claims to have never hurts its request: where the worker has other tokens, this
//    stream ends with INVALID_ARGUMENT and the request is left as it is.
#ifndef REPRISE_GATEWAY_GENERATION_CORE_SESSION_CORE_H_
#define REPRISE_GATEWAY_GENERATION_CORE_SESSION_CORE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "common/random.h"
#include "gateway/generation/core/session_types.h"

namespace reprise::gateway {

// A request that gave so many tokens since a crash is held innocent of it: its crashes are counted
// to keep one that kills its worker from walking through the cluster, not to end long requests.
inline constexpr int32_t kInnocentTokens = 32;

class SessionCore {
 public:
  // kAttaching: the worker was told, its answer has not come.
  enum class State { kIdle, kPlacing, kAttaching, kStreaming, kReplacing, kEnded };

  explicit SessionCore(SessionSpec spec);

  // Each call adds to `actions`, which the caller has cleared.
  void Start(TimeNs now, Actions& actions);
  void OnPlaced(uint64_t ask, const Placement& placement, TimeNs now, Actions& actions);
  void OnPlaceRefused(uint64_t ask, const Refusal& refusal, TimeNs now, Actions& actions);
  void OnWorkerEvents(const WorkerEvents& events, TimeNs now, Actions& actions);
  // The stream to the worker broke, or the worker was given up.
  void OnWorkerLost(Attempt attempt, const Status& status, TimeNs now, Actions& actions,
                    Loss loss = Loss::kCrash);
  void OnClientCancel(Actions& actions);
  void OnClientGone(Actions& actions);
  // The gateway ends its part: the reader is too slow, the process stops, another stream resumed
  // the request here. A resumable request goes on.
  void OnAbort(const Status& status, Actions& actions);
  // Due at next_wake(), harmless at any time.
  void OnTick(TimeNs now, Actions& actions);

  State state() const { return state_; }
  bool at_worker() const { return state_ == State::kStreaming || state_ == State::kAttaching; }
  TimeNs next_wake() const;  // kNever once ended
  std::span<const BranchState> branches() const { return branches_; }
  // Incarnations that failed this request since a placement was refused, without repetition.
  std::span<const NodeKey> avoid() const { return avoid_; }
  const SessionSpec& spec() const { return spec_; }
  const SessionCounters& counters() const { return counters_; }
  int32_t attempts() const { return attempts_; }
  // Attempts in a row that ended by a crash, with fewer than kInnocentTokens tokens between them.
  uint32_t crashes() const { return tokens_since_crash_ < kInnocentTokens ? crashes_ : 0; }
  // Earlier attempts, here or before the resume, emitted what branches() has.
  bool continues() const { return spec_.resume || attempts_ > 1; }

 private:
  enum class Verdict { kAccepted, kDuplicate, kGap, kViolation, kContradiction };
  enum class Cause { kCrash, kFailed, kLoad, kDrained };
  enum class AtWorker { kNothing, kCancel, kDetach };

  // session_events.cc: what workers say. The Take functions are false when the attempt is over.
  Verdict Judge(const TokenEvent& token) const;
  Verdict JudgeEnd(const BranchEnd& end) const;
  bool TakeAttached(const AttachedInfo& info, TimeNs now, Actions& actions);
  bool TakeTokens(const WorkerEvents& events, TimeNs now, Actions& actions);
  void Accept(const TokenEvent& token, TimeNs now, Actions& actions);
  bool TakeEnds(const WorkerEvents& events, TimeNs now, Actions& actions);
  bool OverBy(Verdict verdict, const Status& why, TimeNs now, Actions& actions);
  void TakeDone(const WorkerDone& done, TimeNs now, Actions& actions);
  void AttachFailed(const Status& why, TimeNs now, Actions& actions);
  void AdoptReceived(Actions& actions);
  void EndBranchesByTokens(Actions& actions);
  const std::vector<int32_t>& received(size_t branch) const;

  void GoOnFromTranscript(Actions& actions);
  void SubmitTo(const Placement& placement, TimeNs now, Actions& actions);
  void Replace(const Status& why, Cause cause, TimeNs now, Actions& actions);
  void Ask(Actions& actions);
  void WaitThenAsk(std::optional<int64_t> hint_ms, TimeNs now);
  void Violation(const Status& why, Actions& actions);
  void Contradiction(const Status& why, Actions& actions);
  void End(const Status& status, AtWorker at_worker, Actions& actions);
  bool AllEnded() const;
  static Status Hidden(const Status& why);

  SessionSpec spec_;  // of a resumed request without input: complete from TakeAttached on
  State state_ = State::kIdle;
  bool attach_;  // where the request runs is still to be found out
  bool accepted_ = false;
  std::vector<BranchState> branches_;
  std::vector<NodeKey> avoid_;
  std::vector<NodeKey> drained_;        // gave the request back because they stop
  std::optional<Placement> placement_;  // the highest granted
  uint64_t ask_ = 0;
  bool asking_ = false;
  TimeNs retry_at_ = kNever;
  TimeNs backoff_ns_;
  SplitMix64 jitter_;
  int32_t attempts_ = 0;
  int32_t setbacks_ = 0;  // attempts that ended since the last token
  int32_t failures_ = 0;  // of these, not for load
  uint32_t crashes_ = 0;
  int32_t tokens_since_crash_ = 0;
  TimeNs lost_at_ = kNever;  // the running attempt replaces one lost then
  int32_t cached_tokens_ = 0;
  SessionCounters counters_;
};

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_GENERATION_CORE_SESSION_CORE_H_
