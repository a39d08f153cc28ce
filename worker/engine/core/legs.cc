// Prefill legs: those served for other workers, and what comes of those called there.
#include <algorithm>
#include <utility>

#include "worker/engine/core/core.h"

namespace reprise::worker {

void WorkerCore::On(SubmitPrefill& event, TimeNs now) {
  Fence* fence = RaiseFence(event.key);
  if (fence == nullptr || (fence->leg_seen && event.leg < fence->leg)) {
    return RefuseLeg(event.key, event.leg,
                     absl::AbortedError(absl::StrCat("prefill leg ", event.leg, " is stale")));
  }
  if (fence->leg_seen && event.leg == fence->leg) {
    if (fence->leg_cancelled) {
      return RefuseLeg(event.key, event.leg, absl::CancelledError("cancelled before it came"));
    }
    ++stats_.duplicates;
    return;
  }
  if (fence->served_leg) {
    End(*fence->served_leg, absl::AbortedError("superseded by a later leg"), EndReason::kError);
  }
  fence->leg_seen = true;
  fence->leg_cancelled = false;
  fence->leg = event.leg;
  const bool new_work = event.key.attempt.n <= 1;
  Status status = Validate(event.prompt, event.sampling, false);
  if (status.ok()) status = CheckLoad(new_work, "prefill leg");
  if (status.ok() && !can_prefill_) {
    status = absl::FailedPreconditionError("this worker serves no prefill legs");
  }
  if (!status.ok()) return RefuseLeg(event.key, event.leg, std::move(status));

  auto request = std::make_unique<Request>();
  request->is_leg = true;
  request->leg = event.leg;
  request->key = std::move(event.key);
  request->prompt = std::move(event.prompt);
  request->sampling = std::move(event.sampling);
  request->sources = std::move(event.sources);
  request->leg_stores = std::move(event.stores);
  request->tenant = std::move(event.tenant);
  request->deadline_ns = event.deadline_ns;
  request->branches.resize(1);
  request->branches[0].tokens = request->prompt;
  fence->served_leg = &Add(std::move(request), new_work, now);
}

// A leg is answered under the attempt that called it.
Request* WorkerCore::FindCaller(const RequestKey& key, uint32_t leg) {
  const auto entry = fences_.find(key.id);
  if (entry == fences_.end()) return nullptr;
  Request* request = entry->second.decode;
  return request && request->leg == leg && request->leg_key == key ? request : nullptr;
}

Request* WorkerCore::FindLeg(const RequestKey& key, uint32_t leg) {
  const auto entry = fences_.find(key.id);
  if (entry == fences_.end() || entry->second.attempt != key.attempt) return nullptr;
  Request* served = entry->second.served_leg;
  return served && served->leg == leg ? served : nullptr;
}

void WorkerCore::On(const CancelPrefill& event, TimeNs) {
  if (Request* request = FindLeg(event.key, event.leg)) {
    return End(*request, absl::CancelledError("the prefill leg was cancelled"),
               EndReason::kCancelled);
  }
  // It may overtake the leg it cancels.
  Fence* fence = RaiseFence(event.key);
  if (fence == nullptr || (fence->leg_seen && event.leg <= fence->leg)) return;
  fence->leg_seen = true;
  fence->leg_cancelled = true;
  fence->leg = event.leg;
}

void WorkerCore::On(const PrefillStarted& event, TimeNs now) {
  Request* request = FindCaller(event.key, event.leg);
  if (request == nullptr || request->leg_state != LegState::kCalled) return;
  request->leg_state = LegState::kStarted;
  StartFetchOf(*request, *request->prefill, std::exchange(request->leg_blocks, {}), now);
}

void WorkerCore::On(PrefillReply& event, TimeNs now) {
  Request* request = FindCaller(event.key, event.leg);
  if (request == nullptr || !request->awaiting_leg()) return;
  bool usable = event.status.ok() && event.first.size() == request->branches.size();
  for (const SampledToken& token : event.first) {
    usable &= token.id >= 0 && token.id < settings_.vocab_size;
  }
  if (!usable) return LegFailed(*request, now);
  if (request->leg_state == LegState::kCalled) {
    On(PrefillStarted{event.key, event.leg}, now);
  }
  request->leg_state = LegState::kOk;
  request->leg_deadline_ns = 0;
  request->cached_tokens =
      std::clamp<int32_t>(event.cached_tokens, 0, static_cast<int32_t>(request->prompt_len()));
  // Tokens are the truth: they go out before the rows they came from are here.
  for (size_t b = 0; b < request->branches.size(); ++b) {
    const Branch& branch = request->branches[b];
    if (!branch.live || branch.tokens.size() != request->prompt.size()) continue;
    CommitToken(*request, b, std::move(event.first[b]), now);
  }
  if (request->live_branches() == 0) return FinishIfAllEnded(*request);
  ResolveIfArrived(*request, now);
}

}  // namespace reprise::worker
