#include "tests/simulation/journal.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/match.h"

namespace reprise::sim {
namespace {

bool Holds(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

gateway::EndReason Journal::ReasonOf(const worker::SamplingParams& sampling, int32_t last) {
  if (Holds(sampling.eos_ids, last)) return gateway::EndReason::kEos;
  if (Holds(sampling.stop_ids, last)) return gateway::EndReason::kStop;
  return gateway::EndReason::kLength;
}

void Journal::Fail(const std::string& id, const std::string& what) {
  context_.world.Fail(absl::StrCat("request ", id, ": ", what));
}

void Journal::Submitted(const ClientRequest& request) {
  Entry& entry = entries_[request.id];
  entry.request = request;
  entry.submitted = context_.world.now();
  requests_.push_back(request);
  kv::ChainContext chain = context_.chain;
  chain.tenant_salt = request.tenant;
  for (int32_t b = 0; b < request.sampling.n; ++b) {
    Branch& branch = entry.branches.emplace_back();
    branch.expected = worker::ExpectedTimedTokens(context_.model, request.prompt, request.sampling,
                                                  static_cast<uint32_t>(b));
    branch.reason = ReasonOf(request.sampling, branch.expected.back().id);
    std::vector<int32_t> tokens = request.prompt;
    for (const worker::SampledToken& token : branch.expected) tokens.push_back(token.id);
    context_.oracle.Learn(chain, tokens, static_cast<int64_t>(request.prompt.size()));
  }
  ++open_;
}

void Journal::Granted(const std::string& id, const Attempt& attempt, Pid coordinator) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;  // a probe
  Entry& entry = found->second;
  context_.world.Trace(context_.world.name(coordinator), " grants ", id, " (", attempt.owner_epoch,
                       ", ", attempt.n, ")");
  if (!entry.granted.insert(attempt).second) {
    Fail(id, absl::StrCat("attempt (", attempt.owner_epoch, ", ", attempt.n, ") granted twice"));
  }
  if (coordinator == entry.granted_by && attempt <= entry.attempt) {
    Fail(id, absl::StrCat("attempt (", attempt.owner_epoch, ", ", attempt.n, ") granted after (",
                          entry.attempt.owner_epoch, ", ", entry.attempt.n, ")"));
  }
  ++totals_.attempts;
  if (entry.attempt != Attempt{}) ++totals_.replaced;
  entry.attempt = std::max(entry.attempt, attempt);
  entry.granted_by = coordinator;
}

void Journal::Led(uint64_t epoch, Pid coordinator) {
  const auto [leader, first] = leaders_.emplace(epoch, coordinator);
  if (first || leader->second == coordinator) return;
  context_.world.Fail(absl::StrCat("two lead in epoch ", epoch, ": ",
                                   context_.world.name(leader->second), " and ",
                                   context_.world.name(coordinator)));
}

void Journal::Taken(const RequestKey& request) {
  if (!entries_.at(request.id).taken.insert(request.attempt).second) {
    Fail(request.id, absl::StrCat("attempt (", request.attempt.owner_epoch, ", ", request.attempt.n,
                                  ") taken twice"));
  }
}

void Journal::Owned(const RequestKey& request, Pid worker) {
  Entry& entry = entries_.at(request.id);
  if (!entry.granted.contains(request.attempt)) Fail(request.id, "runs under no granted attempt");
  const auto [owner, first] = entry.owners.emplace(request.attempt, worker);
  if (!first && owner->second != worker) Fail(request.id, "two workers own one attempt");
}

std::vector<std::vector<int32_t>> Journal::Received(const std::string& id) const {
  std::vector<std::vector<int32_t>> received;
  for (const Branch& branch : entries_.at(id).branches) {
    std::vector<int32_t>& tokens = received.emplace_back();
    for (size_t i = 0; i < branch.received; ++i) tokens.push_back(branch.expected[i].id);
  }
  return received;
}

std::vector<int32_t> Journal::Tokens(const std::string& id, size_t branch) const {
  const Entry& entry = entries_.at(id);
  std::vector<int32_t> tokens = entry.request.prompt;
  for (const worker::SampledToken& token : entry.branches.at(branch).expected) {
    tokens.push_back(token.id);
  }
  return tokens;
}

void Journal::Accepted(const std::string& id) {
  Entry& entry = entries_.at(id);
  if ((entry.accepted && entry.resumes == 0) || entry.finished) {
    Fail(id, "accepted twice or after its end");
  }
  if (!std::exchange(entry.accepted, true)) ++totals_.accepted;
}

void Journal::Token(const std::string& id, const gateway::TokenEvent& token) {
  Entry& entry = entries_.at(id);
  if (!entry.accepted || entry.finished) return Fail(id, "a token outside the stream");
  if (token.branch >= entry.branches.size()) return Fail(id, "a token of no branch");
  Branch& branch = entry.branches[token.branch];
  if (branch.ended) return Fail(id, "a token after its branch's end");
  if (token.index != branch.received) {
    return Fail(id, absl::StrCat("branch ", token.branch, ": token ", token.index, " came when ",
                                 branch.received, " was next"));
  }
  if (token.index >= branch.expected.size()) return Fail(id, "more tokens than there are");
  const worker::SampledToken& expected = branch.expected[token.index];
  if (expected.id != token.id || std::memcmp(&expected.logprob, &token.logprob, 4) != 0) {
    return Fail(id, absl::StrCat("branch ", token.branch, " token ", token.index, " is ", token.id,
                                 ", an undisturbed run gives ", expected.id));
  }
  ++branch.received;
  ++totals_.tokens;
}

void Journal::BranchEnded(const std::string& id, const gateway::BranchEnd& end) {
  Entry& entry = entries_.at(id);
  Branch& branch = entry.branches.at(end.branch);
  if (std::exchange(branch.ended, true) && entry.resumes == 0) {
    return Fail(id, "a branch ended twice");
  }
  if (branch.received != branch.expected.size() || end.reason != branch.reason) {
    Fail(id,
         absl::StrCat("branch ", end.branch, " ended after ", branch.received, " of ",
                      branch.expected.size(), " tokens, reason ", static_cast<int>(end.reason)));
  }
}

Journal::Entry* Journal::Close(const std::string& id) {
  Entry& entry = entries_.at(id);
  if (std::exchange(entry.finished, true)) Fail(id, "finished twice");
  --open_;
  return &entry;
}

void Journal::Finished(const std::string& id, const gateway::SessionEnd& finish) {
  const Entry& entry = *Close(id);
  if (!entry.accepted) return Fail(id, "ended before it was accepted");
  if (finish.status.ok()) {
    CheckComplete(id, entry, finish);
  } else {
    CheckExcuse(id, entry, finish.status);
  }
}

void Journal::Refused(const std::string& id) {
  if (Close(id)->accepted) Fail(id, "its end contradicts its acceptance");
  ++totals_.refused;
}

void Journal::Lost(const std::string& id) {
  Close(id);
  ++totals_.lost;
  if (context_.faults.calm()) Fail(id, "lost though nothing went wrong");
}

void Journal::Ended(const std::string& id, const Status& status) {
  CheckExcuse(id, *Close(id), status);
}

void Journal::CheckComplete(const std::string& id, const Entry& entry,
                            const gateway::SessionEnd& finish) {
  ++totals_.completed;
  totals_.cached_tokens += static_cast<uint64_t>(finish.usage.cached_tokens);
  for (size_t b = 0; b < entry.branches.size(); ++b) {
    const Branch& branch = entry.branches[b];
    const bool whole = branch.ended && branch.received == branch.expected.size();
    if (!whole || finish.branches[b].reason != branch.reason) {
      Fail(id, absl::StrCat("OK, but branch ", b, " has ", branch.received, " of ",
                            branch.expected.size(), " tokens"));
    }
  }
  const bool moved = finish.usage.attempts > 1;
  if (moved && context_.faults.calm()) Fail(id, "lost an attempt though nothing went wrong");
}

// An accepted request may fail only for a reason of its own, or after all its attempts.
void Journal::CheckExcuse(const std::string& id, const Entry& entry, const Status& status) {
  const TimeNs lived = context_.world.now() - entry.submitted;
  const bool due =
      entry.request.deadline != 0 &&
      (lived + 5 * kMillisecond >= entry.request.deadline || context_.faults.clock_jumps);
  const bool kills = absl::IsInternal(status) && absl::StrContains(status.message(), "crashed");
  if (absl::IsCancelled(status) && entry.cancel_asked) {
    ++totals_.cancelled;
  } else if (absl::IsDeadlineExceeded(status) && due) {
    ++totals_.past_deadline;
  } else if ((kills || absl::StrContains(status.message(), "gave up after")) &&
             !context_.faults.calm()) {
    ++totals_.gave_up;
  } else {
    Fail(id, absl::StrCat("ended with ", status.ToString()));
  }
}

std::string Journal::OpenIds() const {
  std::string ids;
  for (const auto& [id, entry] : entries_) {
    if (!entry.finished) absl::StrAppend(&ids, ids.empty() ? "" : ", ", id);
  }
  return ids;
}

}  // namespace reprise::sim
