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
    EndDecode(request, std::move(status), reason);
  }
  DetachFetches(request);
  for (auto& [id, query] : queries_) {
    if (query.owner == &request) query.owner = nullptr;
  }
  waiting_.erase(request.rank);
  running_.erase(request.rank);
  Fence& fence = fences_.at(request.key.id);
  if (fence.decode == &request) fence.decode = nullptr;
  if (fence.served_leg == &request) fence.served_leg = nullptr;
  request.phase = Phase::kEnded;
  if (!request.in_step) Destroy(request);
}

void WorkerCore::EndDecode(Request& request, Status status, EndReason reason) {
  const int64_t watermark = request.Watermark();
  // An attempt that ends so that another goes on has ended no branch.
  const bool goes_on = absl::IsUnavailable(status) || absl::IsAborted(status);
  for (size_t b = 0; b < request.branches.size(); ++b) {
    if (!std::exchange(request.branches[b].live, false)) continue;
    request.branches[b].end = reason;
    if (!goes_on) request.emit.ended.push_back({static_cast<uint32_t>(b), reason});
  }
  const Done done{std::move(status), request.cached_tokens};
  request.emit.watermark = watermark;
  request.emit.done = done;
  commands_.push_back(std::exchange(request.emit, {}));
  // A leg whose pages were taken over has been released already.
  const bool holds_leg =
      request.awaiting_leg() ||
      (request.leg_state == LegState::kOk && request.phase == Phase::kFetching && !request.forked);
  if (holds_leg) {
    commands_.push_back(ReleasePrefill{*request.prefill, request.leg_key, request.leg});
  }
  Keep(request, done);
  LetReplicasGo(request, done.status);
}

// Another attempt needs them when this one only failed: then they go later, and only where no
// higher attempt owns them by then.
void WorkerCore::LetReplicasGo(const Request& request, const Status& status) {
  std::vector<NodeRef> stores = request.stores();
  stores.insert(stores.end(), request.former.begin(), request.former.end());
  if (stores.empty()) return;
  const auto kept = kept_.find(request.key.id);
  if (kept != kept_.end() && kept->second.unheard) {
    kept->second.release = std::move(stores);
  } else if (status.ok() || absl::IsCancelled(status) || absl::IsDeadlineExceeded(status)) {
    ReleaseReplicasOf(request.key, stores);
  } else {
    const TimeNs after = std::max(request.resume_window_ns, settings_.failed_release_ns);
    releases_.emplace(now_ + after, std::pair(request.key, std::move(stores)));
  }
}

void WorkerCore::Destroy(Request& request) {
  ReleaseAll(request);
  for (Branch& branch : request.branches) DropCopies(branch);
  requests_.erase(request.rank.arrival);
}

// Transfers in progress keep the pages they write; everything else of the request may go.
void WorkerCore::DetachFetches(Request& request) {
  for (auto& [id, fetch] : fetches_) {
    if (fetch.owner != &request) continue;
    fetch.owner = nullptr;
    if (!fetch.swap) commands_.push_back(CancelFetch{id});
    for (const FetchedBlock& block : fetch.blocks) {
      // Before the fork the page is in the lead's table.
      if (!request.forked) {
        request.branches[request.lead].pages[static_cast<size_t>(block.block)] = -1;
      }
      ReleasePage(block.item.page, 1);
    }
  }
  if (request.forked) {
    for (const FetchedBlock& block : request.arrived) ReleasePage(block.item.page);
    request.arrived.clear();
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
  if (!std::exchange(request.emitted_any, true)) {
    request.emit.ttft_ns = now - request.submitted_ns;
    if (request.resumed) {
      const TimeNs restored = std::max(request.restored_ns, request.submitted_ns);
      request.emit.recovery = RecoveryTimes{restored - request.submitted_ns, now - restored};
    }
  }
  if (request.resume_window_ns > 0) branch.given.push_back(token);
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
  branch.end = reason;
  request.emit.ended.push_back({static_cast<uint32_t>(branch_index), reason});
  emitting_.push_back(request.rank.arrival);
  if (!request.forked) return;  // what it holds serves the others
  while (!branch.pages.empty()) {
    ReleasePage(branch.pages.back());
    branch.pages.pop_back();
  }
  DropCopies(branch);
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
    const bool empty = request.emit.tokens.empty() && request.emit.ended.empty() &&
                       !request.emit.stores && !request.emit.attached;
    if (empty || request.phase == Phase::kEnded) continue;
    request.emit.watermark = request.Watermark();
    if (!request.replicas.empty()) {
      request.emit.lag = std::max<int64_t>(0, request.Computed() - request.emit.watermark);
    }
    commands_.push_back(std::exchange(request.emit, {}));
    request.emit.key = request.key;
  }
  emitting_.clear();
}

}  // namespace reprise::worker
