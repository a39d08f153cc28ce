// Ends of requests and branches, and the tokens between.
#include <algorithm>
#include <utility>

#include "worker/engine/core/core.h"

namespace reprise::worker {

void WorkerCore::Refuse(const RequestKey& key, Status status) {
  ++stats_.refused;
  Emit emit;
  emit.key = key;
  emit.done = Done{std::move(status), 0};
  commands_.push_back(std::move(emit));
}

void WorkerCore::RefuseLeg(const RequestKey& key, uint32_t leg, Status status) {
  ++stats_.refused;
  commands_.push_back(ReplyPrefill{key, leg, std::move(status), {}, 0});
}

void WorkerCore::End(Request& request, Status status, EndReason reason) {
  ++stats_.ended;
  if (request.is_leg) {
    if (request.phase != Phase::kLingering) {
      commands_.push_back(ReplyPrefill{request.key, request.leg, std::move(status), {}, 0});
    }
  } else {
    for (Branch& branch : request.branches) {
      if (branch.live && request.forked) OfferBranch(request, branch);
    }
    for (size_t b = 0; b < request.branches.size(); ++b) {
      if (!std::exchange(request.branches[b].live, false)) continue;
      request.emit.ended.push_back({static_cast<uint32_t>(b), reason});
    }
    request.emit.done = Done{std::move(status), request.cached_tokens};
    commands_.push_back(std::exchange(request.emit, {}));
    // A leg whose pages were taken over has been released already.
    const bool holds_leg = request.awaiting_leg() || (request.leg_state == LegState::kOk &&
                                                      request.phase == Phase::kFetching);
    if (holds_leg) {
      commands_.push_back(ReleasePrefill{*request.prefill, request.key, request.leg});
    }
  }
  DetachFetches(request);
  waiting_.erase(request.rank);
  running_.erase(request.rank);
  Fence& fence = fences_.at(request.key.id);
  if (fence.decode == &request) fence.decode = nullptr;
  if (fence.served_leg == &request) fence.served_leg = nullptr;
  request.phase = Phase::kEnded;
  if (!request.in_step) Destroy(request);
}

void WorkerCore::Destroy(Request& request) {
  ReleaseAll(request);
  requests_.erase(request.rank.arrival);
}

// Transfers in progress keep the pages they write; everything else of the request may go.
void WorkerCore::DetachFetches(Request& request) {
  for (auto& [id, fetch] : fetches_) {
    if (fetch.owner != &request) continue;
    fetch.owner = nullptr;
    commands_.push_back(CancelFetch{id});
    for (const FetchedBlock& block : fetch.blocks) {
      request.branches[request.lead].pages[static_cast<size_t>(block.block)] = -1;
      ReleasePage(block.item.page, 1);
    }
  }
  request.fetches_open = 0;
}

std::optional<EndReason> WorkerCore::ReasonToEnd(const Request& request,
                                                 const Branch& branch) const {
  const auto generated = static_cast<int64_t>(branch.tokens.size()) - request.prompt_len();
  if (generated <= 0) return std::nullopt;
  const int32_t last = branch.tokens.back();
  const SamplingParams& sampling = request.sampling;
  const auto holds = [last](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), last) != ids.end();
  };
  if (holds(sampling.eos_ids)) return EndReason::kEos;
  if (holds(sampling.stop_ids)) return EndReason::kStop;
  if (generated >= sampling.max_tokens) return EndReason::kLength;
  return std::nullopt;
}

void WorkerCore::CommitToken(Request& request, size_t branch_index, SampledToken token,
                             TimeNs now) {
  Branch& branch = request.branches[branch_index];
  const auto index = static_cast<uint32_t>(branch.tokens.size() - request.prompt.size());
  branch.tokens.push_back(token.id);
  if (!std::exchange(request.emitted_any, true)) request.emit.ttft_ns = now - request.submitted_ns;
  request.emit.tokens.push_back({static_cast<uint32_t>(branch_index), index, std::move(token)});
  emitting_.push_back(request.rank.arrival);
  ++stats_.generated_tokens;
  if (const auto reason = ReasonToEnd(request, branch)) {
    EndBranch(request, branch_index, *reason);
  }
}

void WorkerCore::EndBranch(Request& request, size_t branch_index, EndReason reason) {
  Branch& branch = request.branches[branch_index];
  branch.live = false;
  request.emit.ended.push_back({static_cast<uint32_t>(branch_index), reason});
  emitting_.push_back(request.rank.arrival);
  if (!request.forked) return;  // what it holds serves the others
  OfferBranch(request, branch);
  while (!branch.pages.empty()) {
    ReleasePage(branch.pages.back());
    branch.pages.pop_back();
  }
}

void WorkerCore::FinishIfAllEnded(Request& request) {
  if (request.phase == Phase::kEnded || request.live_branches() > 0) return;
  End(request, absl::OkStatus(), EndReason::kLength);
}

void WorkerCore::FlushEmits() {
  for (const uint64_t arrival : emitting_) {
    const auto entry = requests_.find(arrival);
    if (entry == requests_.end()) continue;
    Request& request = *entry->second;
    if (request.emit.tokens.empty() && request.emit.ended.empty()) continue;
    commands_.push_back(std::exchange(request.emit, {}));
    request.emit.key = request.key;
  }
  emitting_.clear();
}

}  // namespace reprise::worker
