// SessionCore, the part that takes what workers say.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "common/limits.h"
#include "gateway/generation/core/session_core.h"

namespace reprise::gateway {
namespace {

uint32_t Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

template <typename T>
bool Contains(const std::vector<T>& values, const T& value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

bool EndsBranch(EndReason reason) {
  return reason == EndReason::kLength || reason == EndReason::kEos || reason == EndReason::kStop;
}

bool IsDrain(const Status& status) {
  return absl::IsUnavailable(status) && absl::StartsWith(status.message(), "draining");
}

}  // namespace

const std::vector<int32_t>& SessionCore::received(size_t branch) const {
  static const std::vector<int32_t>& none = *new std::vector<int32_t>;
  return branch < spec_.received.size() ? spec_.received[branch] : none;
}

SessionCore::Verdict SessionCore::Judge(const TokenEvent& token) const {
  if (token.branch >= branches_.size()) return Verdict::kViolation;
  if (token.id < 0 || token.id >= spec_.vocab_size) return Verdict::kViolation;
  const BranchState& branch = branches_[token.branch];
  const size_t next = branch.tokens.size();
  if (token.index > next) return Verdict::kGap;
  if (token.index < next) {
    const uint32_t bits = branch.logprob_bits[token.index];
    const bool equal = branch.tokens[token.index] == token.id &&
                       (bits == kBitsUnknown || bits == Bits(token.logprob));
    return equal ? Verdict::kDuplicate : Verdict::kViolation;
  }
  if (branch.ended() || next >= static_cast<size_t>(spec_.max_tokens)) return Verdict::kViolation;
  const auto& claimed = received(token.branch);
  const bool as_claimed = next >= claimed.size() || claimed[next] == token.id;
  return as_claimed ? Verdict::kAccepted : Verdict::kContradiction;
}

SessionCore::Verdict SessionCore::JudgeEnd(const BranchEnd& end) const {
  if (end.branch >= branches_.size()) return Verdict::kViolation;
  const BranchState& branch = branches_[end.branch];
  if (branch.ended()) {
    return branch.reason == end.reason ? Verdict::kDuplicate : Verdict::kViolation;
  }
  if (branch.tokens.empty()) return Verdict::kGap;
  const int32_t last = branch.tokens.back();
  bool borne_out = false;
  switch (end.reason) {
    case EndReason::kLength:
      borne_out = branch.tokens.size() == static_cast<size_t>(spec_.max_tokens);
      break;
    case EndReason::kEos:
      borne_out = Contains(spec_.eos_ids, last);
      break;
    default:
      borne_out = Contains(spec_.stop_ids, last);
      break;
  }
  if (!borne_out) return Verdict::kGap;
  const bool client_has_more = branch.tokens.size() < received(end.branch).size();
  return client_has_more ? Verdict::kContradiction : Verdict::kAccepted;
}

void SessionCore::OnWorkerEvents(const WorkerEvents& events, TimeNs now, Actions& actions) {
  if (!at_worker() || events.attempt != placement_->attempt) {
    ++counters_.stale_events;
    return;
  }
  if (state_ == State::kAttaching) {
    if (events.attached != nullptr) {
      if (!TakeAttached(*events.attached, now, actions)) return;
    } else if (events.done == nullptr) {
      ++counters_.stale_events;
      return;
    } else {
      TakeDone(*events.done, now, actions);
      return;
    }
  }
  if (!TakeTokens(events, now, actions) || !TakeEnds(events, now, actions)) return;
  if (events.done != nullptr) TakeDone(*events.done, now, actions);
}

// From here on the request is known as well as to the gateway that had it before.
bool SessionCore::TakeAttached(const AttachedInfo& info, TimeNs now, Actions& actions) {
  attach_ = false;
  if (info.n < 1 || info.n > limits::kBranchesMax || info.max_tokens < 1) {
    Violation(absl::InternalError(absl::StrCat("the worker attached a request of ", info.n,
                                               " branches of ", info.max_tokens, " tokens")),
              actions);
    return false;
  }
  if (info.contradicts_input) {
    Contradiction(absl::InvalidArgumentError(
                      "the input is not that of the running request: another prompt or seed"),
                  actions);
    return false;
  }
  if (spec_.received.size() > static_cast<size_t>(info.n)) {
    Contradiction(absl::InvalidArgumentError(absl::StrCat("received has ", spec_.received.size(),
                                                          " branches, the request has ", info.n)),
                  actions);
    return false;
  }
  for (const auto& claimed : spec_.received) {
    if (claimed.size() <= static_cast<size_t>(info.max_tokens)) continue;
    Contradiction(absl::InvalidArgumentError(absl::StrCat(
                      "received has ", claimed.size(),
                      " tokens of a branch, the request's max_tokens is ", info.max_tokens)),
                  actions);
    return false;
  }
  spec_.n = info.n;
  spec_.prompt_tokens = info.prompt_tokens;
  spec_.max_tokens = info.max_tokens;
  spec_.stop_ids = info.stop_ids;
  spec_.eos_ids = info.eos_ids;
  spec_.has_input = true;
  spec_.deadline = info.remaining_ms > 0 ? now + NsFromMs(info.remaining_ms) : kNever;
  branches_.assign(static_cast<size_t>(info.n), {});
  state_ = State::kStreaming;
  accepted_ = actions.accept = true;
  actions.resumed = Resumed::kAttach;
  return true;
}

// Always false, for the caller to return: the attempt is over, or with kContradiction the stream.
bool SessionCore::OverBy(Verdict verdict, const Status& why, TimeNs now, Actions& actions) {
  if (verdict == Verdict::kContradiction) {
    Contradiction(absl::InvalidArgumentError(why.message()), actions);
  } else if (verdict == Verdict::kViolation) {
    Violation(absl::InternalError(why.message()), actions);
  } else {
    ++counters_.gaps;
    actions.cancel = CancelWorker{.placement = *placement_};
    Replace(why, Cause::kFailed, now, actions);
  }
  return false;
}

void SessionCore::Accept(const TokenEvent& token, TimeNs now, Actions& actions) {
  BranchState& branch = branches_[token.branch];
  const bool known = branch.tokens.size() < received(token.branch).size();
  branch.tokens.push_back(token.id);
  branch.logprob_bits.push_back(Bits(token.logprob));
  if (known) {
    actions.known.push_back(token);
    return;
  }
  actions.deliver.push_back(token);
  setbacks_ = 0;
  failures_ = 0;
  tokens_since_crash_ = std::min(tokens_since_crash_ + 1, kInnocentTokens);
  backoff_ns_ = spec_.backoff_first_ns;
  if (lost_at_ == kNever) return;
  actions.resumed_after_ns = now - lost_at_;
  lost_at_ = kNever;
}

bool SessionCore::TakeTokens(const WorkerEvents& events, TimeNs now, Actions& actions) {
  actions.watermark = events.watermark;
  for (const TokenEvent& token : events.tokens) {
    const Verdict verdict = Judge(token);
    switch (verdict) {
      case Verdict::kAccepted:
        Accept(token, now, actions);
        break;
      case Verdict::kDuplicate:
        ++counters_.duplicates;
        break;
      case Verdict::kGap:
        return OverBy(verdict,
                      absl::UnavailableError(absl::StrCat(
                          "branch ", token.branch, ": token ", token.index, " arrived when ",
                          branches_[token.branch].tokens.size(), " was next")),
                      now, actions);
      case Verdict::kViolation:
        return OverBy(verdict,
                      absl::InternalError(absl::StrCat("the worker's token ", token.index,
                                                       " of branch ", token.branch,
                                                       " contradicts the request or what was "
                                                       "sent")),
                      now, actions);
      case Verdict::kContradiction:
        return OverBy(
            verdict,
            absl::InvalidArgumentError(absl::StrCat(
                "received has id ", received(token.branch)[token.index], " at index ", token.index,
                " of branch ", token.branch, ", the request has ", token.id)),
            now, actions);
    }
  }
  return true;
}

bool SessionCore::TakeEnds(const WorkerEvents& events, TimeNs now, Actions& actions) {
  for (const BranchEnd& end : events.ended) {
    // Cancelled, deadline and error are the attempt's ends, and `done` tells which.
    if (!EndsBranch(end.reason)) continue;
    const Verdict verdict = JudgeEnd(end);
    switch (verdict) {
      case Verdict::kAccepted:
        branches_[end.branch].reason = end.reason;
        actions.branches_ended.push_back(end);
        break;
      case Verdict::kDuplicate:
        ++counters_.duplicates;
        break;
      case Verdict::kGap:
        return OverBy(verdict,
                      absl::UnavailableError(
                          absl::StrCat("branch ", end.branch, " ended without its last tokens")),
                      now, actions);
      case Verdict::kViolation:
        return OverBy(verdict,
                      absl::InternalError(absl::StrCat("the worker's end of branch ", end.branch,
                                                       " contradicts the request or what was "
                                                       "sent")),
                      now, actions);
      case Verdict::kContradiction:
        return OverBy(verdict,
                      absl::InvalidArgumentError(absl::StrCat(
                          "received has ", received(end.branch).size(), " tokens of branch ",
                          end.branch, ", which ended after ", branches_[end.branch].tokens.size())),
                      now, actions);
    }
  }
  return true;
}

void SessionCore::TakeDone(const WorkerDone& done, TimeNs now, Actions& actions) {
  cached_tokens_ = done.cached_tokens;
  const Status& status = done.status;
  if (AllEnded()) {
    End(absl::OkStatus(), AtWorker::kNothing, actions);
  } else if (status.ok()) {
    ++counters_.gaps;
    Replace(absl::UnavailableError("the worker was done before every branch had ended"),
            Cause::kFailed, now, actions);
  } else if (absl::IsResourceExhausted(status)) {
    // A full worker is no failed worker: it may be the only one.
    Replace(status, Cause::kLoad, now, actions);
  } else if (IsDrain(status) && !Contains(drained_, placement_->worker)) {
    drained_.push_back(placement_->worker);
    Replace(status, Cause::kDrained, now, actions);
  } else if (absl::IsUnavailable(status) || absl::IsAborted(status)) {
    Replace(status, Cause::kFailed, now, actions);
  } else if (state_ == State::kAttaching) {
    AttachFailed(status, now, actions);
  } else {
    End(status, AtWorker::kNothing, actions);
  }
}

// The worker that was named does not have it, or was lost before it answered.
void SessionCore::AttachFailed(const Status& why, TimeNs now, Actions& actions) {
  if (!spec_.has_input || absl::IsPermissionDenied(why)) {
    End(Hidden(why), AtWorker::kNothing, actions);
    return;
  }
  attach_ = false;
  state_ = State::kReplacing;
  if (++setbacks_ == 1) {
    Ask(actions);
  } else {
    WaitThenAsk({}, now);
  }
}

// What the client has and no worker has told this gateway of.
void SessionCore::AdoptReceived(Actions& actions) {
  for (uint32_t b = 0; b < branches_.size(); ++b) {
    BranchState& branch = branches_[b];
    const auto& claimed = received(b);
    while (branch.tokens.size() < claimed.size()) {
      const auto index = static_cast<uint32_t>(branch.tokens.size());
      branch.tokens.push_back(claimed[index]);
      branch.logprob_bits.push_back(kBitsUnknown);
      actions.known.push_back({b, index, claimed[index], 0, 0});
    }
  }
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

}  // namespace reprise::gateway
