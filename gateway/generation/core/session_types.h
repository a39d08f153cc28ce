// What goes into and comes out of the life cycle of a request in the gateway (session_core.h):
// plain values, validated by whoever fills them in. Any thread.
#ifndef REPRISE_GATEWAY_GENERATION_CORE_SESSION_TYPES_H_
#define REPRISE_GATEWAY_GENERATION_CORE_SESSION_TYPES_H_

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "common/clock.h"
#include "common/ids.h"
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
  bool resumable = false;  // it goes on at its worker when its client's stream is gone
  // A request accepted before, by whoever: attach to it where it runs, else go on from `received`,
  // what the client has of each branch (at most n branches of at most max_tokens valid ids).
  bool resume = false;
  std::vector<std::vector<int32_t>> received;
  // False (with resume only): prompt, n, max_tokens and ends are not known and come from whom we
  // attach to; without such a one there is nothing to go on from.
  bool has_input = true;
  int32_t failures_max = 8;  // attempts in a row that failed without a token
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
// The worker's answer to an Attach: the request as it runs there.
struct AttachedInfo {
  int32_t n = 1;
  int32_t prompt_tokens = 0;
  int32_t max_tokens = 0;
  std::vector<int32_t> stop_ids;
  std::vector<int32_t> eos_ids;
  int64_t remaining_ms = 0;        // to the deadline; 0: none
  bool contradicts_input = false;  // the client gave another prompt or seed
};
// One message of the worker about this request; views live for the call.
struct WorkerEvents {
  Attempt attempt;
  std::span<const TokenEvent> tokens;
  std::span<const BranchEnd> ended;
  int64_t watermark = 0;
  const WorkerDone* done = nullptr;
  const AttachedInfo* attached = nullptr;  // precedes the tokens
};

// How an attempt was lost other than by the worker's word.
enum class Loss : uint8_t {
  kCrash,  // the worker's process died, or stood still, with the request in it
  kOther,  // it could not be reached, or was taken out of service
};

struct Placement {
  Attempt attempt;
  NodeKey worker;
  bool running = false;  // answers an attach: the request runs there, under an older attempt
};

// Why no placement was granted.
struct Refusal {
  Status status;  // not OK; handed to the client as it is when it refuses the request
  std::optional<int64_t> retry_after_ms;
};

// Stands for the logprob of a token that only the client told of; no worker sends this NaN.
inline constexpr uint32_t kBitsUnknown = 0xffffffff;

struct BranchState {
  std::vector<int32_t> tokens;
  std::vector<uint32_t> logprob_bits;  // of each token, or kBitsUnknown
  EndReason reason = EndReason::kNone;
  bool ended() const { return reason != EndReason::kNone; }
};

struct AskPlacement {
  uint64_t ask = 0;                 // to be named by the answer
  std::optional<Attempt> previous;  // the highest granted
  int32_t emitted_tokens = 0;       // of the longest branch
  bool attach = false;              // `previous` is not known, the resume handle speaks
  uint32_t crashes = 0;             // in a row without a token between them
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
  bool goes_on = false;   // the stream ends with `status`, the request waits to be resumed
  Status status;          // OK when every branch ended by itself
  Usage usage;
  std::vector<BranchEnd> branches;  // every branch, in order
};
enum class Resumed : uint8_t { kAttach, kTranscript, kReplace };

// What to do, in order of the fields. Buffers are kept by Clear.
struct Actions {
  bool accept = false;
  // Tokens the client has already: they count for text and later attempts, and are not delivered.
  std::vector<TokenEvent> known;
  std::vector<TokenEvent> deliver;
  int64_t watermark = 0;  // of `deliver`
  std::vector<BranchEnd> branches_ended;
  std::optional<CancelWorker> cancel;
  std::optional<Placement> detach;      // the request goes on there without us
  std::optional<AskPlacement> place;    // with avoid() and branches() as they are now
  std::optional<Placement> attach;      // take it over
  std::optional<SubmitAttempt> submit;  // with branches() as they are now
  std::optional<SessionEnd> finish;
  // To be counted: how the request went on, and how long after the loss it was placed again and
  // gave a token again.
  std::optional<Resumed> resumed;
  std::optional<TimeNs> placed_after_ns;
  std::optional<TimeNs> resumed_after_ns;
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

}  // namespace reprise::gateway

#endif  // REPRISE_GATEWAY_GENERATION_CORE_SESSION_TYPES_H_
