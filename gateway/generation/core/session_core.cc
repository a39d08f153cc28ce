#include "gateway/generation/core/session_core.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace reprise::gateway {
namespace {

uint32_t Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Codes that say "not here, not now" about an attempt or a placement, and nothing about the
// request.
bool IsRetryable(const Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kAborted:
      return true;
    default:
      return false;
  }
}

EndReason ReasonOf(const Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
      return EndReason::kCancelled;
    case absl::StatusCode::kDeadlineExceeded:
      return EndReason::kDeadline;
    default:
      return EndReason::kError;
  }
}

bool EndsBranch(EndReason reason) {
  return reason == EndReason::kLength || reason == EndReason::kEos || reason == EndReason::kStop;
}

}  // namespace

void Actions::Clear() {
  accept = false;
  deliver.clear();
  watermark = 0;
  branches_ended.clear();
  cancel.reset();
  place.reset();
  submit.reset();
  finish.reset();
}

SessionCore::SessionCore(SessionSpec spec)
    : spec_(std::move(spec)),
      branches_(static_cast<size_t>(spec_.n)),
      backoff_ns_(spec_.backoff_first_ns),
      jitter_(spec_.jitter_seed) {}

void SessionCore::Start(TimeNs now, Actions& actions) {
  if (state_ != State::kIdle) return;
  state_ = State::kPlacing;
  if (now >= spec_.deadline) {
    End(absl::DeadlineExceededError("the deadline passed before placement"), false, actions);
    return;
  }
  Ask(actions);
}

void SessionCore::Ask(Actions& actions) {
  asking_ = true;
  retry_at_ = kNever;
  AskPlacement ask{.ask = ++ask_};
  if (placement_) ask.previous = placement_->attempt;
  size_t longest = 0;
  for (const BranchState& branch : branches_) longest = std::max(longest, branch.tokens.size());
  ask.emitted_tokens = static_cast<int32_t>(longest);
  actions.place = ask;
}

void SessionCore::WaitThenAsk(std::optional<int64_t> hint_ms, TimeNs now) {
  const TimeNs half = backoff_ns_ / 2;
  TimeNs wait = half + static_cast<TimeNs>(jitter_.Below(static_cast<uint64_t>(half) + 1));
  if (hint_ms) wait = std::max(wait, std::min(NsFromMs(*hint_ms), spec_.backoff_max_ns));
  backoff_ns_ = std::min(2 * backoff_ns_, spec_.backoff_max_ns);
  retry_at_ = now + wait;
}

void SessionCore::OnPlaced(uint64_t ask, const Placement& placement, TimeNs now, Actions& actions) {
  if (!asking_ || ask != ask_) {
    ++counters_.stale_events;
    return;
  }
  if (placement_ && placement.attempt <= placement_->attempt) {
    ++counters_.violations;
    OnPlaceRefused(ask,
                   {absl::UnavailableError("the coordinator granted an attempt already used"), {}},
                   now, actions);
    return;
  }
  asking_ = false;
  actions.accept = attempts_ == 0;
  if (attempts_++ > 0) ++counters_.replacements;
  state_ = State::kStreaming;
  progressed_ = false;
  placement_ = placement;
  SubmitAttempt submit{.placement = placement};
  if (spec_.deadline != kNever) {
    submit.remaining_ms = std::max<int64_t>(1, (spec_.deadline - now) / kMillisecond);
  }
  actions.submit = std::move(submit);
}

void SessionCore::OnPlaceRefused(uint64_t ask, const Refusal& refusal, TimeNs now,
                                 Actions& actions) {
  if (!asking_ || ask != ask_) {
    ++counters_.stale_events;
    return;
  }
  asking_ = false;
  ++counters_.refusals;
  if (attempts_ == 0 || !IsRetryable(refusal.status)) {
    End(refusal.status, false, actions);
    return;
  }
  WaitThenAsk(refusal.retry_after_ms, now);
}

SessionCore::Verdict SessionCore::Judge(const TokenEvent& token) const {
  if (token.branch >= branches_.size()) return Verdict::kViolation;
  if (token.id < 0 || token.id >= spec_.vocab_size) return Verdict::kViolation;
  const BranchState& branch = branches_[token.branch];
  const size_t next = branch.tokens.size();
  if (token.index > next) return Verdict::kGap;
  if (token.index < next) {
    const bool equal = branch.tokens[token.index] == token.id &&
                       branch.logprob_bits[token.index] == Bits(token.logprob);
    return equal ? Verdict::kDuplicate : Verdict::kViolation;
  }
  if (branch.ended() || next >= static_cast<size_t>(spec_.max_tokens)) return Verdict::kViolation;
  return Verdict::kAccepted;
}

SessionCore::Verdict SessionCore::JudgeEnd(const BranchEnd& end) const {
  if (end.branch >= branches_.size()) return Verdict::kViolation;
  const BranchState& branch = branches_[end.branch];
  if (branch.ended()) {
    return branch.reason == end.reason ? Verdict::kDuplicate : Verdict::kViolation;
  }
  if (branch.tokens.empty()) return Verdict::kGap;
  const int32_t last = branch.tokens.back();
  switch (end.reason) {
    case EndReason::kLength:
      return branch.tokens.size() == static_cast<size_t>(spec_.max_tokens) ? Verdict::kAccepted
                                                                           : Verdict::kGap;
    case EndReason::kEos:
      return Contains(spec_.eos_ids, last) ? Verdict::kAccepted : Verdict::kGap;
    default:
      return Contains(spec_.stop_ids, last) ? Verdict::kAccepted : Verdict::kGap;
  }
}

void SessionCore::OnWorkerEvents(const WorkerEvents& events, TimeNs now, Actions& actions) {
  if (state_ != State::kStreaming || events.attempt != placement_->attempt) {
    ++counters_.stale_events;
    return;
  }
  if (!TakeTokens(events, now, actions) || !TakeEnds(events, now, actions)) return;
  if (events.done != nullptr) TakeDone(*events.done, now, actions);
}

// False when the attempt is over.
bool SessionCore::TakeTokens(const WorkerEvents& events, TimeNs now, Actions& actions) {
  actions.watermark = events.watermark;
  for (const TokenEvent& token : events.tokens) {
    switch (Judge(token)) {
      case Verdict::kAccepted: {
        BranchState& branch = branches_[token.branch];
        branch.tokens.push_back(token.id);
        branch.logprob_bits.push_back(Bits(token.logprob));
        actions.deliver.push_back(token);
        progressed_ = true;
        break;
      }
      case Verdict::kDuplicate:
        ++counters_.duplicates;
        break;
      case Verdict::kGap:
        ++counters_.gaps;
        actions.cancel = CancelWorker{.placement = *placement_};
        Replace(absl::UnavailableError(
                    absl::StrCat("branch ", token.branch, ": token ", token.index, " arrived when ",
                                 branches_[token.branch].tokens.size(), " was next")),
                /*avoid=*/true, now, actions);
        return false;
      case Verdict::kViolation:
        Violation(absl::InternalError(absl::StrCat("the worker's token ", token.index,
                                                   " of branch ", token.branch,
                                                   " contradicts the request or what was sent")),
                  actions);
        return false;
    }
  }
  return true;
}

// False when the attempt is over.
bool SessionCore::TakeEnds(const WorkerEvents& events, TimeNs now, Actions& actions) {
  for (const BranchEnd& end : events.ended) {
    // Cancelled, deadline and error are the attempt's ends, and `done` tells which.
    if (!EndsBranch(end.reason)) continue;
    switch (JudgeEnd(end)) {
      case Verdict::kAccepted:
        branches_[end.branch].reason = end.reason;
        actions.branches_ended.push_back(end);
        break;
      case Verdict::kDuplicate:
        ++counters_.duplicates;
        break;
      case Verdict::kGap:
        ++counters_.gaps;
        actions.cancel = CancelWorker{.placement = *placement_};
        Replace(absl::UnavailableError(
                    absl::StrCat("branch ", end.branch, " ended without its last tokens")),
                /*avoid=*/true, now, actions);
        return false;
      case Verdict::kViolation:
        Violation(absl::InternalError(absl::StrCat("the worker's end of branch ", end.branch,
                                                   " contradicts the request or what was sent")),
                  actions);
        return false;
    }
  }
  return true;
}

void SessionCore::TakeDone(const WorkerDone& done, TimeNs now, Actions& actions) {
  cached_tokens_ = done.cached_tokens;
  if (AllEnded()) {
    End(absl::OkStatus(), false, actions);
  } else if (done.status.ok()) {
    ++counters_.gaps;
    Replace(absl::UnavailableError("the worker was done before every branch had ended"),
            /*avoid=*/true, now, actions);
  } else if (IsRetryable(done.status)) {
    // A full worker is no failed worker: it may be the only one.
    Replace(done.status, done.status.code() != absl::StatusCode::kResourceExhausted, now, actions);
  } else {
    End(done.status, false, actions);
  }
}

void SessionCore::OnWorkerLost(Attempt attempt, const Status& status, TimeNs now,
                               Actions& actions) {
  if (state_ != State::kStreaming || attempt != placement_->attempt) {
    ++counters_.stale_events;
    return;
  }
  Replace(status, /*avoid=*/true, now, actions);
}

// A branch's end follows from its tokens, so an end that was lost after them is not asked for
// again: the next worker would go on behind it.
void SessionCore::EndBranchesByTokens(Actions& actions) {
  for (uint32_t b = 0; b < branches_.size(); ++b) {
    BranchState& branch = branches_[b];
    if (branch.ended() || branch.tokens.empty()) continue;
    const int32_t last = branch.tokens.back();
    if (Contains(spec_.eos_ids, last)) {
      branch.reason = EndReason::kEos;
    } else if (Contains(spec_.stop_ids, last)) {
      branch.reason = EndReason::kStop;
    } else if (branch.tokens.size() == static_cast<size_t>(spec_.max_tokens)) {
      branch.reason = EndReason::kLength;
    } else {
      continue;
    }
    actions.branches_ended.push_back({b, branch.reason});
  }
}

void SessionCore::Replace(const Status& why, bool avoid, TimeNs now, Actions& actions) {
  EndBranchesByTokens(actions);
  if (AllEnded()) {
    End(absl::OkStatus(), false, actions);
    return;
  }
  if (attempts_ >= spec_.attempts_max) {
    End(Status(why.code(), absl::StrCat("gave up after ", attempts_, " attempts (limit ",
                                        spec_.attempts_max, "), the last: ", why.message())),
        false, actions);
    return;
  }
  if (avoid && std::find(avoid_.begin(), avoid_.end(), placement_->worker) == avoid_.end()) {
    avoid_.push_back(placement_->worker);
  }
  state_ = State::kReplacing;
  if (progressed_) {
    backoff_ns_ = spec_.backoff_first_ns;
    Ask(actions);
  } else if (attempts_ == 1) {
    Ask(actions);  // the first failure is news, a second in a row may be a storm
  } else {
    WaitThenAsk({}, now);
  }
}

void SessionCore::Violation(const Status& why, Actions& actions) {
  ++counters_.violations;
  End(why, /*cancel_worker=*/true, actions);
}

void SessionCore::OnClientCancel(Actions& actions) {
  End(absl::CancelledError("cancelled by the client"), true, actions);
}

void SessionCore::OnClientGone(Actions& actions) {
  End(absl::CancelledError("the client closed its stream"), true, actions);
}

void SessionCore::OnAbort(const Status& status, Actions& actions) { End(status, true, actions); }

void SessionCore::OnTick(TimeNs now, Actions& actions) {
  if (state_ == State::kEnded || state_ == State::kIdle) return;
  if (now >= spec_.deadline) {
    End(absl::DeadlineExceededError("the request's deadline passed"), true, actions);
  } else if (now >= retry_at_) {
    Ask(actions);
  }
}

TimeNs SessionCore::next_wake() const {
  return state_ == State::kEnded ? kNever : std::min(spec_.deadline, retry_at_);
}

bool SessionCore::AllEnded() const {
  return std::all_of(branches_.begin(), branches_.end(),
                     [](const BranchState& branch) { return branch.ended(); });
}

void SessionCore::End(const Status& status, bool cancel_worker, Actions& actions) {
  if (state_ == State::kEnded) return;
  if (cancel_worker && state_ == State::kStreaming) {
    actions.cancel = CancelWorker{
        .placement = *placement_,
        .deadline = status.code() == absl::StatusCode::kDeadlineExceeded,
    };
  }
  state_ = State::kEnded;
  asking_ = false;
  retry_at_ = kNever;
  actions.place.reset();
  actions.submit.reset();
  SessionEnd finish{.accepted = attempts_ > 0};
  // What the client has is complete; how the end was learnt does not matter.
  finish.status = finish.accepted && AllEnded() ? absl::OkStatus() : status;
  finish.usage = {
      .prompt_tokens = spec_.prompt_tokens, .cached_tokens = cached_tokens_, .attempts = attempts_};
  for (uint32_t b = 0; b < branches_.size(); ++b) {
    BranchState& branch = branches_[b];
    if (!branch.ended()) branch.reason = ReasonOf(status);
    finish.usage.generated_tokens += static_cast<int32_t>(branch.tokens.size());
    finish.branches.push_back({b, branch.reason});
  }
  actions.finish = std::move(finish);
}

}  // namespace reprise::gateway
