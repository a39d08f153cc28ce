#include "cli/client/transcript.h"

#include <algorithm>
#include <utility>

#include "common/limits.h"

namespace reprise::client {

Transcript::Transcript(v1::GenerateRequest request) : request_(std::move(request)) {
  // A request that is a resume itself begins behind what its caller has.
  for (const v1::ReceivedBranch& received : request_.resume().received()) {
    Branch& branch = branches_.emplace_back();
    branch.ids.assign(received.ids().begin(), received.ids().end());
  }
}

Transcript::Branch* Transcript::At(int32_t branch) {
  if (branch < 0 || branch >= limits::kBranchesMax) return nullptr;
  const auto b = static_cast<size_t>(branch);
  if (branches_.size() <= b) branches_.resize(b + 1);
  return &branches_[b];
}

Status Transcript::TakeTokens(v1::Tokens* tokens) {
  auto& list = *tokens->mutable_tokens();
  int kept = 0;
  for (int i = 0; i < list.size(); ++i) {
    const v1::Token& token = list[i];
    Branch* const branch = At(token.branch());
    const auto index = static_cast<size_t>(token.index());
    if (branch == nullptr || token.index() < 0 || index > branch->ids.size()) {
      return absl::InternalError(absl::StrCat("token ", token.index(), " of branch ",
                                              token.branch(), " arrived out of order"));
    }
    if (index < branch->ids.size()) {
      if (branch->ids[index] == token.id()) continue;
      return absl::InternalError(absl::StrCat("token ", index, " of branch ", token.branch(),
                                              " is ", token.id(), ", it was ", branch->ids[index]));
    }
    branch->ids.push_back(token.id());
    ++tokens_;
    if (kept != i) list.SwapElements(kept, i);
    ++kept;
  }
  list.DeleteSubrange(kept, list.size() - kept);
  return absl::OkStatus();
}

StatusOr<bool> Transcript::Take(v1::GenerateEvent* event) {
  switch (event->event_case()) {
    case v1::GenerateEvent::kAccepted:
      if (!accepted()) {
        accepted_ = event->accepted();
        return true;
      }
      if (event->accepted().request_id() == accepted_.request_id()) return false;
      return absl::InternalError(absl::StrCat("request ", accepted_.request_id(),
                                              " was resumed as ", event->accepted().request_id()));
    case v1::GenerateEvent::kTokens: {
      const bool any = event->tokens().tokens_size() > 0;
      RETURN_IF_ERROR(TakeTokens(event->mutable_tokens()));
      return !any || event->tokens().tokens_size() > 0;
    }
    case v1::GenerateEvent::kBranchFinished: {
      Branch* const branch = At(event->branch_finished().branch());
      if (branch == nullptr) {
        return absl::InternalError(
            absl::StrCat("end of branch ", event->branch_finished().branch()));
      }
      return !std::exchange(branch->ended, true);
    }
    case v1::GenerateEvent::kFinished:
      finished_ = true;
      return true;
    case v1::GenerateEvent::EVENT_NOT_SET:
      break;
  }
  return true;  // of a later version
}

v1::GenerateRequest Transcript::ResumeRequest(int64_t elapsed_ms) const {
  v1::GenerateRequest request = request_;
  request.set_request_id(accepted_.request_id());
  request.mutable_sampling()->set_seed(accepted_.seed());
  if (request.deadline_ms() > 0) {
    request.set_deadline_ms(std::max<int64_t>(1, request.deadline_ms() - elapsed_ms));
  }
  v1::Resume* resume = request.mutable_resume();
  resume->Clear();
  resume->set_handle(accepted_.resume_handle());
  for (const Branch& branch : branches_) {
    resume->add_received()->mutable_ids()->Assign(branch.ids.begin(), branch.ids.end());
  }
  return request;
}

}  // namespace reprise::client
