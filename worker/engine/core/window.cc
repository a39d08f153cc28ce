// Requests outlive their gateways: the resume window, and who takes them over within it.
#include <algorithm>
#include <utility>

#include "worker/engine/core/core.h"

namespace reprise::worker {
namespace {

// In a time that does not tell how much of it is right.
bool SameSecret(const std::string& a, const std::string& b) {
  if (a.empty() || a.size() != b.size()) return false;
  unsigned differ = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    differ |= static_cast<unsigned>(static_cast<uint8_t>(a[i]) ^ static_cast<uint8_t>(b[i]));
  }
  return differ == 0;
}

}  // namespace

void WorkerCore::On(const Orphan& event, TimeNs now) {
  Request* request = FindDecode(event.key);
  if (request == nullptr) {
    // Its end may not have been heard.
    const auto kept = kept_.find(event.key.id);
    if (kept == kept_.end() || kept->second.key != event.key || kept->second.unheard) return;
    kept->second.unheard = true;
    ++unheard_;
    return;
  }
  if (request->resume_window_ns == 0) {
    return End(*request, absl::CancelledError("the gateway of the request left"),
               EndReason::kCancelled);
  }
  if (request->orphaned()) return;
  ++stats_.orphaned;
  request->orphan_until_ns = now + request->resume_window_ns;
}

Attached WorkerCore::Describe(const Request& request) {
  return Attached{request.prompt, request.sampling, request.resume_window_ns, request.deadline_ns,
                  request.stores()};
}

void WorkerCore::On(const Attach& event, TimeNs) {
  const auto fence = fences_.find(event.key.id);
  Request* request = fence == fences_.end() ? nullptr : fence->second.decode;
  const auto kept = kept_.find(event.key.id);
  if (request == nullptr && kept == kept_.end()) {
    return Refuse(event.key, absl::NotFoundError("no such request is kept here"));
  }
  const std::string& handle = request ? request->resume_handle : kept->second.resume_handle;
  if (!SameSecret(handle, event.resume_handle)) {
    return Refuse(event.key, absl::PermissionDeniedError("the resume handle is not the request's"));
  }
  if (event.key.attempt <= fence->second.attempt) {
    ++stats_.stale;
    return Refuse(event.key, Superseded(event.key, fence->second.attempt));
  }
  ++stats_.attached;
  fence->second.attempt = event.key.attempt;
  if (request == nullptr) return AnswerKept(kept->second, event.key);
  TakeOver(*request, event.key);
}

void WorkerCore::AnswerKept(Kept& kept, const RequestKey& key) {
  if (std::exchange(kept.unheard, false)) --unheard_;
  kept.key = key;
  Emit emit;
  emit.key = key;
  emit.attached = kept.attached;
  for (size_t b = 0; b < kept.given.size(); ++b) {
    for (size_t i = 0; i < kept.given[b].size(); ++i) {
      emit.tokens.push_back({static_cast<uint32_t>(b), static_cast<uint32_t>(i), kept.given[b][i]});
    }
  }
  emit.ended = kept.ended;
  emit.done = kept.done;
  commands_.push_back(std::move(emit));
}

void WorkerCore::TakeOver(Request& request, const RequestKey& key) {
  Emit told;
  told.key = request.key;
  told.done = Done{Superseded(request.key, key.attempt), request.cached_tokens};
  commands_.push_back(std::move(told));
  request.key = key;
  request.orphan_until_ns = 0;
  // Stores learn of the new attempt by what they are sent from now on.
  for (Replica& replica : request.replicas) {
    for (ReplicaRows& rows : replica.branches) rows.sent = std::max(rows.held, rows.offered);
  }
  request.emit = {};
  request.emit.key = key;
  request.emit.attached = Describe(request);
  for (size_t b = 0; b < request.branches.size(); ++b) {
    const Branch& branch = request.branches[b];
    for (size_t i = 0; i < branch.given.size(); ++i) {
      request.emit.tokens.push_back(
          {static_cast<uint32_t>(b), static_cast<uint32_t>(i), branch.given[i]});
    }
    if (!branch.live) request.emit.ended.push_back({static_cast<uint32_t>(b), branch.end});
  }
  emitting_.push_back(request.rank.arrival);
}

// Ends that a gateway may not have heard stay for the window; so do the replicas of a request that
// ended while nobody listened.
void WorkerCore::Keep(const Request& request, const Done& done) {
  const bool ended = done.status.ok() || absl::IsDeadlineExceeded(done.status);
  if (request.resume_window_ns == 0 || request.resume_handle.empty() || !ended) return;
  DropKept(request.key.id, true);
  while (kept_.size() >= settings_.kept_max) {
    DropKept(kept_order_.front(), true);
    kept_order_.pop_front();
  }
  Kept kept;
  kept.key = request.key;
  kept.attached = Describe(request);
  kept.resume_handle = request.resume_handle;
  for (size_t b = 0; b < request.branches.size(); ++b) {
    kept.given.push_back(request.branches[b].given);
    kept.ended.push_back({static_cast<uint32_t>(b), request.branches[b].end});
  }
  kept.done = done;
  kept.until_ns = now_ + request.resume_window_ns;
  kept.unheard = request.orphaned();
  unheard_ += kept.unheard;
  kept_.emplace(request.key.id, std::move(kept));
  kept_order_.push_back(request.key.id);
}

void WorkerCore::DropKept(const std::string& id, bool release) {
  const auto kept = kept_.find(id);
  if (kept == kept_.end()) return;
  unheard_ -= kept->second.unheard;
  if (release) ReleaseReplicasOf(kept->second.key, kept->second.release);
  kept_.erase(kept);
}

// A later attempt has begun. It may take over what the stores hold, or never hear of it: what it
// has not taken by the end of the window goes then.
void WorkerCore::ReleaseKeptLater(const std::string& id) {
  const auto kept = kept_.find(id);
  if (kept == kept_.end()) return;
  if (!kept->second.release.empty()) {
    releases_.emplace(kept->second.until_ns,
                      std::pair(kept->second.key, std::move(kept->second.release)));
  }
  DropKept(id, /*release=*/false);
}

void WorkerCore::ExpireKept(TimeNs now) {
  std::vector<std::string> over;
  for (const auto& [id, kept] : kept_) {
    if (kept.until_ns <= now) over.push_back(id);
  }
  for (const std::string& id : over) DropKept(id, true);
  while (!kept_order_.empty() && !kept_.contains(kept_order_.front())) kept_order_.pop_front();
  while (!releases_.empty() && releases_.begin()->first <= now) {
    const auto& [key, stores] = releases_.begin()->second;
    ReleaseReplicasOf(key, stores);
    releases_.erase(releases_.begin());
  }
}

}  // namespace reprise::worker
