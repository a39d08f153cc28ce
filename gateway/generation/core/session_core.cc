#include "gateway/generation/core/session_core.h"

#include <algorithm>
#include <utility>

namespace reprise::gateway {
namespace {

// Codes that say "not here, not now" about a placement, and nothing about the request.
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

void AddOnce(const NodeKey& node, std::vector<NodeKey>& nodes) {
  if (std::find(nodes.begin(), nodes.end(), node) == nodes.end()) nodes.push_back(node);
}

}  // namespace

void Actions::Clear() {
  accept = false;
  known.clear();
  deliver.clear();
  watermark = 0;
  branches_ended.clear();
  cancel.reset();
  detach.reset();
  place.reset();
  attach.reset();
  submit.reset();
  finish.reset();
  resumed.reset();
  placed_after_ns.reset();
  resumed_after_ns.reset();
}

SessionCore::SessionCore(SessionSpec spec)
    : spec_(std::move(spec)),
      attach_(spec_.resume),
      branches_(static_cast<size_t>(spec_.n)),
      backoff_ns_(spec_.backoff_first_ns),
      jitter_(spec_.jitter_seed) {}

void SessionCore::Start(TimeNs now, Actions& actions) {
  if (state_ != State::kIdle) return;
  state_ = State::kPlacing;
  if (now >= spec_.deadline) {
    End(absl::DeadlineExceededError("the deadline passed before placement"), AtWorker::kNothing,
        actions);
    return;
  }
  Ask(actions);
}

void SessionCore::Ask(Actions& actions) {
  asking_ = true;
  retry_at_ = kNever;
  AskPlacement ask{.ask = ++ask_, .attach = attach_, .crashes = crashes()};
  if (placement_) ask.previous = placement_->attempt;
  for (size_t b = 0; b < branches_.size(); ++b) {
    const size_t has = std::max(branches_[b].tokens.size(), received(b).size());
    ask.emitted_tokens = std::max(ask.emitted_tokens, static_cast<int32_t>(has));
  }
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
  const bool used = placement_ && placement.attempt <= placement_->attempt;
  if (used || (placement.running && !attach_)) {
    ++counters_.violations;
    OnPlaceRefused(ask,
                   {absl::UnavailableError(used ? "the coordinator granted an attempt already used"
                                                : "the coordinator says the request runs, to its "
                                                  "owner"),
                    {}},
                   now, actions);
    return;
  }
  asking_ = false;
  placement_ = placement;
  ++attempts_;
  if (placement.running) {
    state_ = State::kAttaching;
    actions.attach = placement;
    return;
  }
  if (attach_ && !spec_.has_input) {
    End(absl::NotFoundError("the request runs nowhere, and without its input it cannot go on"),
        AtWorker::kNothing, actions);
    return;
  }
  if (accepted_) {
    ++counters_.replacements;
    actions.resumed = Resumed::kReplace;
  } else {
    accepted_ = actions.accept = true;
    if (spec_.resume) GoOnFromTranscript(actions);
  }
  if (AllEnded()) {
    End(absl::OkStatus(), AtWorker::kNothing, actions);
    return;
  }
  SubmitTo(placement, now, actions);
}

// Nobody has it any more: it is computed again behind what the client has.
void SessionCore::GoOnFromTranscript(Actions& actions) {
  attach_ = false;
  actions.resumed = Resumed::kTranscript;
  AdoptReceived(actions);
  EndBranchesByTokens(actions);
}

void SessionCore::SubmitTo(const Placement& placement, TimeNs now, Actions& actions) {
  state_ = State::kStreaming;
  if (lost_at_ != kNever) actions.placed_after_ns = now - lost_at_;
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
  const Status& status = refusal.status;
  if (attach_ && absl::IsNotFound(status) && spec_.has_input) {
    attach_ = false;
    Ask(actions);
  } else if (placement_ && absl::IsAborted(status) && !refusal.retry_after_ms) {
    End(absl::AbortedError(
            absl::StrCat("another gateway took the request over: ", status.message())),
        AtWorker::kNothing, actions);
  } else if ((!accepted_ && !spec_.resume) || !IsRetryable(status)) {
    End(attach_ ? Hidden(status) : status, AtWorker::kNothing, actions);
  } else {
    // Who failed us once may be all there is; by now the coordinator knows who is dead.
    avoid_.clear();
    WaitThenAsk(refusal.retry_after_ms, now);
  }
}

void SessionCore::OnWorkerLost(Attempt attempt, const Status& status, TimeNs now, Actions& actions,
                               Loss loss) {
  if (!at_worker() || attempt != placement_->attempt) {
    ++counters_.stale_events;
    return;
  }
  Replace(status, loss == Loss::kCrash ? Cause::kCrash : Cause::kFailed, now, actions);
}

void SessionCore::Replace(const Status& why, Cause cause, TimeNs now, Actions& actions) {
  if (lost_at_ == kNever) lost_at_ = now;
  if (cause == Cause::kCrash) {
    crashes_ = crashes() + 1;
    tokens_since_crash_ = 0;
  }
  if (cause == Cause::kCrash || cause == Cause::kFailed) {
    ++failures_;
    AddOnce(placement_->worker, avoid_);
  }
  if (state_ == State::kAttaching) {
    AttachFailed(why, now, actions);
    return;
  }
  AdoptReceived(actions);
  EndBranchesByTokens(actions);
  if (AllEnded()) {
    End(absl::OkStatus(), AtWorker::kNothing, actions);
    return;
  }
  if (failures_ >= spec_.failures_max) {
    End(Status(why.code(),
               absl::StrCat("gave up after ", failures_, " attempts (limit ", spec_.failures_max,
                            ") without a token, the last: ", why.message())),
        AtWorker::kNothing, actions);
    return;
  }
  state_ = State::kReplacing;
  // The first setback is news, a second in a row may be a storm. A worker that stops is none.
  if (cause == Cause::kDrained || ++setbacks_ == 1) {
    Ask(actions);
  } else {
    WaitThenAsk({}, now);
  }
}

// Nothing is told of a request to whoever does not have its handle.
Status SessionCore::Hidden(const Status& why) {
  const bool hide = absl::IsNotFound(why) || absl::IsPermissionDenied(why);
  return hide ? absl::NotFoundError("no request has this id and resume handle") : why;
}

void SessionCore::Violation(const Status& why, Actions& actions) {
  ++counters_.violations;
  End(why, AtWorker::kCancel, actions);
}

// The client is wrong, the request is not.
void SessionCore::Contradiction(const Status& why, Actions& actions) {
  if (actions.accept) {
    accepted_ = actions.accept = false;
    actions.known.clear();
    actions.deliver.clear();
    actions.branches_ended.clear();
    actions.resumed.reset();
  }
  End(why, AtWorker::kDetach, actions);
}

void SessionCore::OnClientCancel(Actions& actions) {
  End(absl::CancelledError("cancelled by the client"), AtWorker::kCancel, actions);
}

void SessionCore::OnClientGone(Actions& actions) {
  OnAbort(absl::CancelledError("the client closed its stream"), actions);
}

void SessionCore::OnAbort(const Status& status, Actions& actions) {
  const bool goes_on = spec_.resumable;
  End(status, goes_on ? AtWorker::kDetach : AtWorker::kCancel, actions);
  if (goes_on && actions.finish) actions.finish->goes_on = !actions.finish->status.ok();
}

void SessionCore::OnTick(TimeNs now, Actions& actions) {
  if (state_ == State::kEnded || state_ == State::kIdle) return;
  if (now >= spec_.deadline) {
    End(absl::DeadlineExceededError("the request's deadline passed"), AtWorker::kCancel, actions);
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

void SessionCore::End(const Status& status, AtWorker then, Actions& actions) {
  if (state_ == State::kEnded) return;
  if (at_worker() && then == AtWorker::kCancel) {
    actions.cancel = CancelWorker{
        .placement = *placement_,
        .deadline = status.code() == absl::StatusCode::kDeadlineExceeded,
    };
  }
  if (at_worker() && then == AtWorker::kDetach) actions.detach = *placement_;
  state_ = State::kEnded;
  asking_ = false;
  retry_at_ = kNever;
  actions.place.reset();
  actions.attach.reset();
  actions.submit.reset();
  SessionEnd finish{.accepted = accepted_};
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
