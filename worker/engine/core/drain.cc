// Leaving: requests stop where they are, their replicas catch up, and they end here to go on
// elsewhere.
#include "worker/engine/core/core.h"

namespace reprise::worker {

void WorkerCore::On(const Drain& event, TimeNs now) {
  if (!draining_) drain_flushed_ns_ = now + settings_.drain_flush_ns;
  draining_ = true;
  drain_deadline_ns_ = event.deadline_ns;
}

// Legs end by themselves soon; a request without a gateway has nobody who could place it anew, so
// it goes on until somebody comes, it is over, or the deadline.
void WorkerCore::DrainRequests(TimeNs now) {
  const bool over = drain_deadline_ns_ != 0 && now >= drain_deadline_ns_;
  std::vector<Request*> moving;
  for (const auto& [arrival, request] : requests_) {
    if (request->phase == Phase::kEnded) continue;
    if (over) {
      moving.push_back(request.get());
      continue;
    }
    if (!Frozen(*request) || request->in_step) continue;
    const bool computing = request->phase == Phase::kComputing && request->forked;
    const bool behind =
        computing && !request->replicas.empty() && request->Watermark() < request->Computed();
    if (!behind || now >= drain_flushed_ns_) moving.push_back(request.get());
  }
  for (Request* request : moving) {
    End(*request, absl::UnavailableError("draining: the worker goes away"), EndReason::kError);
  }
  if (!over) return;
  while (!kept_.empty()) {
    const std::string id = kept_.begin()->first;
    DropKept(id, false);
  }
}

int64_t WorkerCore::stranded_pages() const {
  int64_t pages = pool_.counts().quarantined;
  for (const auto& [arrival, request] : requests_) {
    if (request->phase != Phase::kEnded) continue;
    for (const Branch& branch : request->branches) {
      pages += static_cast<int64_t>(branch.pages.size());
    }
  }
  return pages;
}

}  // namespace reprise::worker
