// The tails of live sequences in their replicas: what is told, what is acknowledged.
#include <algorithm>
#include <set>
#include <utility>

#include "worker/engine/core/core.h"

namespace reprise::worker {

void WorkerCore::On(RowsHeld& event, TimeNs now) {
  for (const HeldRows& held : event.rows) TakeHeld(event.store, held, now);
  const auto link = links_.find(event.store);
  replicate_ |= link != links_.end() && link->second.behind;
}

void WorkerCore::TakeHeld(const NodeKey& store, const HeldRows& held, TimeNs now) {
  Request* request = FindDecode(held.request);
  if (request == nullptr || held.branch >= request->branches.size()) return;
  const auto replica = std::find_if(request->replicas.begin(), request->replicas.end(),
                                    [&](const Replica& at) { return at.store.key == store; });
  if (replica == request->replicas.end()) return;
  ReplicaRows& rows = replica->branches[held.branch];
  if (held.status.ok()) {
    // Never more than it was told: what else it has may belong to other tokens.
    const int64_t before = rows.held;
    rows.held = std::max(rows.held, std::min(held.rows, rows.sent));
    if (rows.held > before) rows.silent_ns = rows.held < rows.sent ? now : 0;
    NoteLag(*request, now);
  } else if (absl::IsAborted(held.status)) {
    ++stats_.fenced;
    replicate_ = true;
    return End(*request,
               absl::AbortedError(absl::StrCat("store ", store.name, " knows a higher attempt")),
               EndReason::kError);
  } else {
    TakeRefusal(*replica, rows, held, now);
    replicate_ = true;
  }
  if (replica->rebuild_rows == 0) return;
  for (size_t b = 0; b < request->branches.size(); ++b) {
    if (request->branches[b].live && replica->branches[b].held < replica->rebuild_rows) return;
  }
  replica->rebuild_rows = 0;
  replicate_ = true;  // another may begin
}

// A moment later it is told again what it lacks: from where it is, or all of it.
void WorkerCore::TakeRefusal(Replica& replica, ReplicaRows& rows, const HeldRows& held,
                             TimeNs now) const {
  const bool full = absl::IsResourceExhausted(held.status);
  replica.paused_until_ns =
      now + (full ? settings_.store_full_retry_ns : settings_.store_refused_retry_ns);
  if (held.rows >= 0) rows.held = std::min(rows.held, held.rows);
  rows.sent = std::min(rows.sent, std::max(rows.held, rows.offered));
  rows.silent_ns = 0;
  if (absl::IsNotFound(held.status)) rows = {};
  // Blocks that it could not pull, or does not know any more, are offered once more.
  if (absl::IsNotFound(held.status) || absl::IsUnavailable(held.status)) replica.offered = false;
}

void WorkerCore::On(const ReplicaLost& event, TimeNs now) { LoseStore(event.store, now); }

void WorkerCore::On(const RowsPacked& event, TimeNs) {
  auto node = appends_.extract(event.append);
  if (node.empty()) return;
  StoreLink& link = links_[node.mapped().store];
  link.packing = false;
  replicate_ |= link.behind;
  for (const PageId page : node.mapped().pages) {
    --reads_[static_cast<size_t>(page)];
    if (pool_.state(page) == PagePool::State::kQuarantined) pool_.Quiet(page);
  }
}

// A mark is set on the newest row and moved on once every replica holds it, so that its age is
// never more than that of the oldest row some replica lacks.
void WorkerCore::NoteLag(Request& request, TimeNs now) const {
  const int64_t watermark = request.Watermark();
  const int64_t computed = request.Computed();
  if (request.replicas.empty() || watermark >= computed) {
    request.lag_since_ns = 0;
  } else if (request.lag_since_ns == 0 || watermark >= request.lag_rows) {
    request.lag_since_ns = now;
    request.lag_rows = computed;
  }
}

ReplicationLag WorkerCore::Lag(TimeNs now) const {
  ReplicationLag lag;
  for (const auto& [arrival, request] : requests_) {
    if (request->is_leg || request->phase == Phase::kEnded || request->replicas.empty()) continue;
    lag.tokens = std::max(lag.tokens, request->Computed() - request->Watermark());
    if (request->lag_since_ns != 0) lag.ns = std::max(lag.ns, now - request->lag_since_ns);
  }
  lag.bytes = lag.tokens * settings_.row_bytes;
  return lag;
}

// Brings every replica of every request up to date, as far as the bounds allow.
void WorkerCore::Replicate(TimeNs now) {
  if (links_.empty() && live_stores_.empty()) return;
  FillReplicaSets(now);
  struct Wanting {
    NodeRef store;
    int64_t rows = 0;  // most of one branch
  };
  std::map<NodeKey, Wanting> wanting;
  for (const auto& [arrival, request] : requests_) {
    if (request->is_leg || request->phase != Phase::kComputing) continue;
    NoteLag(*request, now);
    if (!request->forked) continue;
    for (Replica& replica : request->replicas) {
      if (replica.paused_until_ns > now) continue;
      OfferReplica(*request, replica, now);
      for (size_t b = 0; b < request->branches.size(); ++b) {
        const Branch& branch = request->branches[b];
        const int64_t rows = branch.computed - replica.branches[b].sent;
        if (!branch.live || rows <= 0) continue;
        Wanting& want =
            wanting.try_emplace(replica.store.key, Wanting{replica.store, 0}).first->second;
        want.rows = std::max(want.rows, rows);
      }
    }
  }
  for (auto& [key, link] : links_) {
    if (wanting.contains(key)) continue;
    link.waiting_since_ns = 0;
    link.behind = false;
  }
  for (const auto& [key, want] : wanting) {
    StoreLink& link = links_[key];
    link.behind = link.packing;
    if (link.packing) continue;
    if (link.waiting_since_ns == 0) link.waiting_since_ns = now;
    const bool waits = want.rows < settings_.append_rows && !draining_ &&
                       now - link.waiting_since_ns < settings_.append_linger_ns;
    if (waits) continue;
    link.waiting_since_ns = 0;
    AppendTo(want.store, now);
  }
}

// The store knows of `rows` whole-block rows of every branch, or of more where it has more.
void WorkerCore::NoteOffered(const Request& request, Replica& replica, int64_t rows) const {
  replica.offered = true;
  for (size_t b = 0; b < request.branches.size(); ++b) {
    ReplicaRows& at = replica.branches[b];
    at.offered = std::max(at.offered, Whole(rows) * block_);
    at.sent = std::max(at.sent, at.offered);
  }
}

// Names every branch's blocks to the store. Where it holds the prompt already, only what it holds:
// the rest continues its tail.
void WorkerCore::OfferReplica(Request& request, Replica& replica, TimeNs now) {
  if (std::exchange(replica.offered, true)) return;
  for (size_t b = 0; b < request.branches.size(); ++b) {
    const Branch& branch = request.branches[b];
    if (!branch.live) continue;
    ReplicaRows& rows = replica.branches[b];
    const int64_t have = request.forked ? branch.computed : request.trunk_len;
    const bool continues = rows.held > 0 && Whole(rows.held) >= Whole(request.prompt_len());
    const int64_t blocks = Whole(continues ? rows.held : have);
    if (blocks > 0) Offer(request, branch, static_cast<uint32_t>(b), replica.store, blocks);
    rows.offered = blocks * block_;
    rows.sent = std::max(rows.held, rows.offered);
    rows.silent_ns = rows.held < rows.sent ? now : 0;
  }
}

// Appended and not acknowledged.
int64_t WorkerCore::UnackedBytes(const NodeKey& store) const {
  int64_t rows = 0;
  for (const auto& [arrival, request] : requests_) {
    if (request->phase == Phase::kEnded) continue;
    for (const Replica& replica : request->replicas) {
      if (replica.store.key != store) continue;
      for (const ReplicaRows& at : replica.branches) {
        rows += std::max<int64_t>(0, at.sent - std::max(at.held, at.offered));
      }
    }
  }
  return rows * settings_.row_bytes;
}

// At most `rows_max` rows; how many it took.
int64_t WorkerCore::AppendBranch(Request& request, size_t branch_index, ReplicaRows& rows,
                                 int64_t rows_max, AppendRows& append) {
  Branch& branch = request.branches[branch_index];
  int64_t taken = 0;
  while (rows.sent < branch.computed && taken < rows_max &&
         append.entries.size() < limits::kAppendEntriesMax) {
    const int64_t block = Whole(rows.sent);
    const int64_t last =
        std::min({branch.computed, (block + 1) * block_, rows.sent + rows_max - taken});
    EnsureChain(request, branch, block * block_);
    AppendRows::Entry entry;
    entry.key = request.key;
    entry.branch = static_cast<uint32_t>(branch_index);
    entry.tenant = request.tenant;
    entry.prompt_end = PromptEnd(request);
    if (block > 0) entry.parent = branch.chain[static_cast<size_t>(block - 1)];
    entry.first_position = rows.sent;
    entry.tokens.assign(branch.tokens.begin() + rows.sent, branch.tokens.begin() + last);
    entry.page = branch.pages[static_cast<size_t>(block)];
    ++reads_[static_cast<size_t>(entry.page)];
    append.entries.push_back(std::move(entry));
    taken += last - rows.sent;
    rows.sent = last;
  }
  return taken;
}

// One append with rows of all requests, beginning after the one that came last in the append
// before, so that a slow store is shared.
void WorkerCore::AppendTo(const NodeRef& store, TimeNs now) {
  const int64_t row_bytes = std::max<int64_t>(1, settings_.row_bytes);
  const int64_t room = settings_.append_bytes_max - UnackedBytes(store.key);
  int64_t rows_max = room / row_bytes;
  StoreLink& link = links_[store.key];
  std::vector<Request*> order;
  for (auto at = requests_.upper_bound(link.last_arrival); at != requests_.end(); ++at) {
    order.push_back(at->second.get());
  }
  for (auto at = requests_.begin(); at != requests_.upper_bound(link.last_arrival); ++at) {
    order.push_back(at->second.get());
  }
  AppendRows append;
  append.store = store;
  for (Request* request : order) {
    if (request->is_leg || request->phase != Phase::kComputing || !request->forked) continue;
    for (Replica& replica : request->replicas) {
      if (replica.store.key != store.key || replica.paused_until_ns > now) continue;
      for (size_t b = 0; b < request->branches.size() && rows_max > 0; ++b) {
        if (!request->branches[b].live) continue;
        ReplicaRows& rows = replica.branches[b];
        const int64_t taken = AppendBranch(*request, b, rows, rows_max, append);
        if (taken == 0) continue;
        rows_max -= taken;
        stats_.appended_rows += static_cast<uint64_t>(taken);
        stats_.appended_bytes += static_cast<uint64_t>(taken * settings_.row_bytes);
        if (rows.silent_ns == 0) rows.silent_ns = now;
        link.last_arrival = request->rank.arrival;
      }
    }
  }
  link.behind = rows_max <= 0 || append.entries.size() >= limits::kAppendEntriesMax;
  if (append.entries.empty()) return;
  append.append = next_append_++;
  Append& open = appends_[append.append];
  open.store = store.key;
  for (const AppendRows::Entry& entry : append.entries) open.pages.push_back(entry.page);
  link.packing = true;
  commands_.push_back(std::move(append));
}

void WorkerCore::ReleaseReplicasOf(const RequestKey& key, const std::vector<NodeRef>& stores) {
  std::set<NodeKey> told;
  for (const NodeRef& store : stores) {
    if (told.insert(store.key).second) commands_.push_back(ReleaseReplicas{store, key});
  }
}

}  // namespace reprise::worker
