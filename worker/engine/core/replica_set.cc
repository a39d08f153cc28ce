// Which stores keep the replicas of a request: those of its placement, and others for those lost.
#include <algorithm>
#include <utility>

#include "kvstore/block/replica_choice.h"
#include "worker/engine/core/core.h"

namespace reprise::worker {

void WorkerCore::SetReplicas(Request& request, const std::vector<NodeRef>& stores, int32_t wanted) {
  for (const NodeRef& store : stores) {
    Replica replica;
    replica.store = store;
    replica.branches.resize(request.branches.size());
    request.replicas.push_back(std::move(replica));
    links_.try_emplace(store.key);
  }
  request.replicas_wanted =
      std::max(request.replicas.size(), static_cast<size_t>(std::max(0, wanted)));
}

void WorkerCore::DropReplica(Request& request, const NodeKey& store) {
  const auto lost = std::find_if(request.replicas.begin(), request.replicas.end(),
                                 [&](const Replica& at) { return at.store.key == store; });
  if (lost == request.replicas.end()) return;
  ++stats_.replicas_lost;
  // It may live on and keep what it has.
  request.former.push_back(lost->store);
  request.replicas.erase(lost);
  request.emit.stores = request.stores();
  emitting_.push_back(request.rank.arrival);
}

void WorkerCore::LoseStore(const NodeKey& store, TimeNs now) {
  const auto link = links_.find(store);
  if (link == links_.end()) return;
  link->second.avoid_until_ns = now + settings_.store_retry_ns;
  for (const auto& [arrival, request] : requests_) {
    if (!request->is_leg && request->phase != Phase::kEnded) DropReplica(*request, store);
  }
}

void WorkerCore::On(LiveStores& event, TimeNs now) {
  live_stores_.clear();
  for (StoreNode& store : event.stores) {
    const NodeKey key = store.node.key;
    live_stores_.emplace(key, std::move(store));
  }
  std::vector<NodeKey> replaced;
  for (auto& [key, link] : links_) {
    if (live_stores_.contains(key)) {
      link.absent_since_ns = 0;
      continue;
    }
    if (link.absent_since_ns == 0) link.absent_since_ns = now;
    // A later life of the same store has nothing of what the earlier one held in memory.
    const auto other = live_stores_.lower_bound(NodeKey{key.name, 0});
    if (other != live_stores_.end() && other->first.name == key.name) replaced.push_back(key);
  }
  for (const NodeKey& key : replaced) LoseStore(key, now);
}

// A store that a fresh coordinator has not heard of yet is not lost, one that stays absent is.
void WorkerCore::CheckStores(TimeNs now) {
  for (auto at = links_.begin(); at != links_.end();) {
    StoreLink& link = at->second;
    const NodeKey key = at->first;
    ++at;
    if (link.absent_since_ns == 0 || now - link.absent_since_ns < settings_.store_absent_ns) {
      continue;
    }
    LoseStore(key, now);
    link.absent_since_ns = 0;
    if (!link.packing) links_.erase(key);
  }
}

// Requests that lack a replica get another, a few at a time.
void WorkerCore::FillReplicaSets(TimeNs now) {
  int32_t rebuilding = 0;
  std::vector<Request*> lacking;
  for (const auto& [arrival, request] : requests_) {
    if (request->is_leg || request->phase == Phase::kEnded) continue;
    for (const Replica& replica : request->replicas) rebuilding += replica.rebuild_rows > 0;
    if (request->replicas.size() < request->replicas_wanted) lacking.push_back(request.get());
  }
  for (Request* request : lacking) {
    while (rebuilding < settings_.rebuilds_max &&
           request->replicas.size() < request->replicas_wanted && AddReplica(*request, now)) {
      ++rebuilding;
    }
  }
}

bool WorkerCore::AddReplica(Request& request, TimeNs now) {
  std::set<std::string> used_domains = {settings_.failure_domain};
  std::vector<kv::ReplicaCandidate> nodes;
  std::vector<const StoreNode*> stores;
  for (const auto& [key, store] : live_stores_) {
    const bool has =
        std::any_of(request.replicas.begin(), request.replicas.end(),
                    [&name = key.name](const Replica& at) { return at.store.key.name == name; });
    if (has) used_domains.insert(store.domain);
    const auto link = links_.find(key);
    if (has || (link != links_.end() && link->second.avoid_until_ns > now)) continue;
    nodes.push_back({key.name, store.domain});
    stores.push_back(&store);
  }
  const std::vector<size_t> picked = kv::PickReplicas(request.key.id, used_domains, nodes, 1);
  if (picked.empty()) return false;
  Replica replica;
  replica.store = stores[picked[0]]->node;
  replica.branches.resize(request.branches.size());
  replica.rebuild_rows = std::max<int64_t>(1, request.Computed());
  links_.try_emplace(replica.store.key);
  request.replicas.push_back(std::move(replica));
  ++stats_.rebuilds;
  request.emit.stores = request.stores();
  emitting_.push_back(request.rank.arrival);
  return true;
}

// Everything a store has not answered for too long is told again: offers and appends are best
// effort, and repeating them is harmless.
void WorkerCore::RetellSilent(TimeNs now) {
  for (const auto& [arrival, request] : requests_) {
    for (Replica& replica : request->replicas) {
      for (size_t b = 0; b < request->branches.size(); ++b) {
        const std::optional<TimeNs> at = SilentUntil(*request, replica, b);
        if (!at || *at > now) continue;
        ReplicaRows& rows = replica.branches[b];
        replica.offered = false;
        rows.offered = 0;
        rows.sent = rows.held;
        rows.silent_ns = 0;
      }
    }
  }
}

std::optional<TimeNs> WorkerCore::SilentUntil(const Request& request, const Replica& replica,
                                              size_t branch) const {
  const ReplicaRows& rows = replica.branches[branch];
  if (request.is_leg || request.phase != Phase::kComputing || !request.forked ||
      !request.branches[branch].live || rows.silent_ns == 0) {
    return std::nullopt;
  }
  return rows.silent_ns + settings_.replica_stall_ns;
}

std::optional<TimeNs> WorkerCore::NextReplicaTick() const {
  std::optional<TimeNs> next;
  const auto consider = [&next](TimeNs at) {
    if (!next || at < *next) next = at;
  };
  bool lacking = false;
  for (const auto& [arrival, request] : requests_) {
    if (request->is_leg || request->phase == Phase::kEnded) continue;
    lacking |= request->replicas.size() < request->replicas_wanted;
    for (const Replica& replica : request->replicas) {
      if (replica.paused_until_ns > now_) consider(replica.paused_until_ns);
      for (size_t b = 0; b < request->branches.size(); ++b) {
        if (const auto at = SilentUntil(*request, replica, b)) consider(*at);
      }
    }
  }
  for (const auto& [key, link] : links_) {
    if (link.absent_since_ns != 0) consider(link.absent_since_ns + settings_.store_absent_ns);
    if (link.waiting_since_ns != 0 && !link.packing) {
      consider(link.waiting_since_ns + settings_.append_linger_ns);
    }
    const bool choosable = lacking && live_stores_.contains(key);
    if (choosable && link.avoid_until_ns > now_) consider(link.avoid_until_ns);
  }
  return next;
}

}  // namespace reprise::worker
