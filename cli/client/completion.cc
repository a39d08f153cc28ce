#include "cli/client/completion.h"

#include "common/limits.h"

namespace reprise::client {

Status Completion::AddToken(const v1::Token& token) {
  if (token.branch() < 0 || token.branch() >= limits::kBranchesMax) {
    return absl::InternalError(absl::StrCat("token of branch ", token.branch()));
  }
  const auto b = static_cast<size_t>(token.branch());
  if (branches.size() <= b) branches.resize(b + 1);
  Branch& branch = branches[b];
  if (static_cast<size_t>(token.index()) != branch.ids.size()) {
    return absl::InternalError(absl::StrCat("branch ", b, ": token ", token.index(),
                                            " arrived when ", branch.ids.size(), " was next"));
  }
  branch.ids.push_back(token.id());
  branch.logprobs.push_back(token.logprob());
  branch.text += token.text();
  return absl::OkStatus();
}

Status Completion::Add(const v1::GenerateEvent& event) {
  const bool first = accepted.request_id().empty();
  if (first != event.has_accepted()) {
    return absl::InternalError("the stream does not start with one Accepted event");
  }
  if (finished.has_usage()) return absl::InternalError("an event after Finished");
  switch (event.event_case()) {
    case v1::GenerateEvent::kAccepted:
      accepted = event.accepted();
      return absl::OkStatus();
    case v1::GenerateEvent::kTokens:
      for (const v1::Token& token : event.tokens().tokens()) RETURN_IF_ERROR(AddToken(token));
      return absl::OkStatus();
    case v1::GenerateEvent::kBranchFinished: {
      const v1::BranchFinished& end = event.branch_finished();
      const auto b = static_cast<size_t>(end.branch());
      if (b >= static_cast<size_t>(limits::kBranchesMax)) {
        return absl::InternalError(absl::StrCat("end of branch ", end.branch()));
      }
      if (branches.size() <= b) branches.resize(b + 1);
      if (branches[b].reason != v1::FINISH_REASON_UNSPECIFIED) {
        return absl::InternalError(absl::StrCat("branch ", b, " ended twice"));
      }
      if (static_cast<size_t>(end.tokens()) != branches[b].ids.size()) {
        return absl::InternalError(absl::StrCat("branch ", b, " ended with ", end.tokens(),
                                                " tokens, ", branches[b].ids.size(), " came"));
      }
      branches[b].reason = end.reason();
      branches[b].text += end.text();
      return absl::OkStatus();
    }
    case v1::GenerateEvent::kFinished:
      finished = event.finished();
      if (!finished.has_usage()) return absl::InternalError("Finished without usage");
      return absl::OkStatus();
    case v1::GenerateEvent::EVENT_NOT_SET:
      break;
  }
  return absl::InternalError("an event of a kind this client does not know");
}

}  // namespace reprise::client
