// Rows that earlier attempts computed, brought back from where they are held.
#include <algorithm>
#include <set>
#include <utility>

#include "worker/engine/core/core.h"

namespace reprise::worker {

void WorkerCore::AskReplicas(Request& request) {
  for (const NodeRef& store : request.restore_from) {
    const bool has = std::any_of(request.replicas.begin(), request.replicas.end(),
                                 [&](const Replica& at) { return at.store.key == store.key; });
    if (!has) request.former.push_back(store);
  }
  int64_t rows = 0;
  for (const Branch& branch : request.branches) {
    if (branch.live) rows = std::max(rows, branch.known_rows);
  }
  if (!request.resumed || rows <= settings_.local_suffix_tokens) return;
  for (const NodeRef& store : request.restore_from) {
    QueryTails query;
    query.query = next_query_++;
    query.store = store;
    query.key = request.key;
    query.timeout_ns = settings_.query_timeout_ns;
    queries_.emplace(query.query, Query{&request, store});
    ++request.queries_open;
    commands_.push_back(std::move(query));
  }
}

void WorkerCore::On(TailsFound& event, TimeNs) {
  auto node = queries_.extract(event.query);
  if (node.empty() || node.mapped().owner == nullptr) return;
  Request& request = *node.mapped().owner;
  --request.queries_open;
  if (event.status.ok()) TakeStates(request, node.mapped().store, event.states);
}

// Blocks need no proof: they are asked for by the ids of this request's own tokens. A tail has no
// such name, so its tokens are compared, and its place by the id of the block before it.
void WorkerCore::TakeStates(Request& request, const NodeRef& store,
                            const std::vector<TailState>& states) {
  request.restore.resize(request.branches.size());
  for (const TailState& state : states) {
    if (state.branch >= request.branches.size()) continue;
    Branch& branch = request.branches[state.branch];
    if (!branch.live) continue;
    BranchRestore& restore = request.restore[state.branch];
    const auto tokens = static_cast<int64_t>(branch.tokens.size());
    const int64_t blocks = std::clamp<int64_t>(state.blocks_held, 0, Whole(tokens));
    if (blocks > 0) restore.blocks.push_back({store, blocks});
    const int64_t first = state.first_position;
    if (first < 0 || first % block_ != 0 || first > branch.known_rows) continue;
    EnsureChain(request, branch, first);
    const kv::BlockId parent =
        first == 0 ? kv::BlockId{} : branch.chain[static_cast<size_t>(Whole(first) - 1)];
    if (parent != state.parent || state.prompt_end != PromptEnd(request)) continue;
    int64_t end = first;
    for (const int32_t token : state.tokens) {
      if (end >= branch.known_rows || end - first >= block_) break;
      if (branch.tokens[static_cast<size_t>(end)] != token) break;
      ++end;
    }
    if (end > first && end > restore.tail_end) {
      restore.tail_store = store;
      restore.tail_first = first;
      restore.tail_end = end;
    }
    for (Replica& replica : request.replicas) {
      if (replica.store.key != store.key) continue;
      const bool contiguous = state.blocks_held >= Whole(first);
      ReplicaRows& rows = replica.branches[state.branch];
      rows.held = rows.sent = contiguous ? end : blocks * block_;
    }
  }
}

const NodeRef* WorkerCore::ReplicaWith(const Request& request, size_t branch, int64_t block) const {
  if (request.restore.empty()) return nullptr;
  for (const BranchRestore::Blocks& at : request.restore[branch].blocks) {
    if (block < at.blocks) return &at.store;
  }
  return nullptr;
}

// The open tail a store has of a branch; its page is for the caller to fill in.
std::optional<FetchedBlock> WorkerCore::TailItem(const Request& request, size_t branch) const {
  if (request.restore.empty() || request.recompute) return std::nullopt;
  const BranchRestore& restore = request.restore[branch];
  if (restore.tail_end <= restore.tail_first) return std::nullopt;
  FetchedBlock item;
  item.branch = branch;
  item.block = Whole(restore.tail_first);
  item.whole = false;
  item.rows_end = request.forked ? restore.tail_end : std::min(restore.tail_end, request.trunk_len);
  item.item.first_position = restore.tail_first;
  item.item.id =
      kv::ReplicaTailId(request.key.id, static_cast<uint32_t>(branch), restore.tail_first);
  return item;
}

// Blocks behind the trunk that branch `branch` may fetch for itself, from `first_block` on, without
// a gap.
std::vector<std::pair<NodeRef, FetchedBlock>> WorkerCore::BranchItems(const Request& request,
                                                                      size_t branch,
                                                                      int64_t computed) const {
  std::vector<std::pair<NodeRef, FetchedBlock>> items;
  if (request.restore.empty() || request.recompute || request.live_branches() < 2) return items;
  const Branch& at = request.branches[branch];
  if (!at.live) return items;
  for (int64_t rows = computed; rows < at.known_rows;) {
    FetchedBlock wanted;
    wanted.branch = branch;
    wanted.block = Whole(rows);
    wanted.rows_end = (wanted.block + 1) * block_;
    wanted.item.first_position = wanted.block * block_;
    const NodeRef* store = nullptr;
    if (wanted.rows_end <= at.known_rows) store = ReplicaWith(request, branch, wanted.block);
    const BranchRestore& restore = request.restore[branch];
    if (store == nullptr && restore.tail_first == wanted.item.first_position &&
        restore.tail_end > rows) {
      store = &restore.tail_store;
      wanted.whole = false;
      wanted.rows_end = restore.tail_end;
      wanted.item.id =
          kv::ReplicaTailId(request.key.id, static_cast<uint32_t>(branch), restore.tail_first);
    }
    if (store == nullptr) break;
    items.emplace_back(*store, wanted);
    rows = wanted.rows_end;
    if (!wanted.whole) break;
  }
  return items;
}

// For the rows that branches bring back for themselves, and for the next row of each behind copies.
int64_t WorkerCore::SparePages(const Request& request) const {
  int64_t pages = 0;
  for (size_t b = 0; b < request.branches.size(); ++b) {
    const std::vector<FetchedBlock> copies = CopiesOf(request, b, request.trunk_len);
    const size_t next = !copies.empty() && copies.back().whole ? 1 : 0;
    const size_t items = BranchItems(request, b, request.trunk_len).size();
    pages += static_cast<int64_t>(std::max(copies.size() + next, items));
  }
  return pages;
}

// Right after the fork: each branch fetches the rows that are its own.
void WorkerCore::RestoreBranches(Request& request, TimeNs now) {
  FetchesBySource by_store;
  std::vector<FetchedBlock> copied;
  for (size_t b = 0; b < request.branches.size(); ++b) {
    Branch& branch = request.branches[b];
    for (FetchedBlock& wanted : CopiesOf(request, b, branch.computed)) {
      if (request.spare.empty()) break;
      wanted.item.page = request.spare.back();
      request.spare.pop_back();
      if (wanted.whole) EnsureChain(request, branch, wanted.rows_end);
      copied.push_back(wanted);
    }
    for (auto& [store, wanted] : BranchItems(request, b, branch.computed)) {
      if (request.spare.empty()) break;
      wanted.item.page = request.spare.back();
      request.spare.pop_back();
      if (wanted.whole) {
        EnsureChain(request, branch, wanted.rows_end);
        wanted.item.id = branch.chain[static_cast<size_t>(wanted.block)];
      }
      by_store.Add(store, std::move(wanted));
    }
  }
  for (const PageId page : std::exchange(request.spare, {})) ReleasePage(page);
  request.restore.clear();
  if (by_store.all.empty() && copied.empty()) return;
  request.phase = Phase::kFetching;
  if (!copied.empty()) StartSwapFetch(request, std::move(copied), now);
  StartFetchesOf(request, std::move(by_store), now);
}

// What arrived continues each branch as far as it goes without a gap.
void WorkerCore::TakeBranches(Request& request, TimeNs now) {
  std::vector<FetchedBlock> arrived = std::exchange(request.arrived, {});
  std::sort(arrived.begin(), arrived.end(),
            [](const FetchedBlock& a, const FetchedBlock& b) { return a.block < b.block; });
  for (const FetchedBlock& block : arrived) {
    Branch& branch = request.branches[block.branch];
    const auto index = static_cast<size_t>(block.block);
    const bool follows = block.block * block_ <= branch.computed &&
                         branch.computed < block.rows_end && index <= branch.pages.size();
    if (!branch.live || !follows) {
      ReleasePage(block.item.page);
      continue;
    }
    if (index == branch.pages.size()) {
      branch.pages.push_back(block.item.page);
    } else {
      ReleasePage(std::exchange(branch.pages[index], block.item.page));
    }
    if (!block.copy) CountRestored(request, block.rows_end - branch.computed);
    branch.computed = block.rows_end;
    if (block.whole) Seal(branch, block.block);
  }
  request.restored_ns = now;
  request.phase = Phase::kComputing;
}

void WorkerCore::CountRestored(const Request& request, int64_t rows) {
  if (request.resumed && rows > 0) stats_.restored_rows += static_cast<uint64_t>(rows);
}

// The choice ------------------------------------------------------------------------------------

bool WorkerCore::ReadyToAdmit(Request& request, TimeNs now) {
  if (request.queries_open > 0) return false;
  SetTrunk(request);
  if (request.resumed && !std::exchange(request.recovery_planned, true)) {
    PlanRecoveryOf(request, now);
  }
  const std::vector<NodeKey>& awaited = request.wait_for;
  for (const auto& [id, fetch] : fetches_) {
    if (id >= request.wait_before) break;
    const bool there = std::find(awaited.begin(), awaited.end(), fetch.source) != awaited.end();
    if (there && !fetch.subscribed && !fetch.swap) return false;
  }
  return true;
}

void WorkerCore::PlanRecoveryOf(Request& request, TimeNs now) {
  int64_t missing = 0;
  int64_t restorable = 0;
  std::map<NodeKey, RecoveryLink> links = LinksOf(request, &missing, &restorable);
  if (restorable == 0) return;
  RecoveryInput input;
  input.rows_restorable = restorable;
  input.rows_behind = std::max<int64_t>(0, missing - restorable);
  for (auto& [source, link] : links) {
    LinkLoad& load = LoadOf(source);
    link.backlog_bytes = load.Backlog(now);
    link.contending_bytes = load.Contending(link.bytes, now);
    link.bytes_per_s = load.bytes_per_s();
    link.latency_ns = load.latency_ns();
    input.links.push_back(link);
    request.wait_for.push_back(source);
  }
  input.prefill_rows_per_s = prefill_rate_.per_s();
  if (decode_steps_.per_s() > 0) input.step_s = 1 / decode_steps_.per_s();
  for (const auto& [rank, other] : running_) {
    if (!(rank < request.rank) || other->phase != Phase::kComputing || other->forked) continue;
    input.rows_ahead += other->trunk_len - other->branches[other->lead].computed;
  }
  input.fetch_timeout_ns = settings_.fetch_timeout_ns;
  if (request.deadline_ns != 0) input.time_left_ns = std::max<TimeNs>(0, request.deadline_ns - now);
  const Recovery choice = settings_.recovery.value_or(PlanRecovery(input).choice);
  ++(choice == Recovery::kRestore     ? stats_.restores
     : choice == Recovery::kRecompute ? stats_.recomputes
                                      : stats_.waits);
  request.recompute = choice == Recovery::kRecompute;
  if (choice == Recovery::kWait) request.wait_before = next_fetch_;
}

// What would cross the link from each source, and how many rows of the request are not here.
std::map<NodeKey, RecoveryLink> WorkerCore::LinksOf(const Request& request, int64_t* missing,
                                                    int64_t* restorable) const {
  const int64_t block_bytes = settings_.row_bytes * block_;
  std::set<kv::BlockId> coming;
  for (const auto& [id, fetch] : fetches_) {
    if (fetch.subscribed || fetch.swap) continue;
    for (const FetchedBlock& block : fetch.blocks) {
      if (block.whole) coming.insert(block.item.id);
    }
  }
  std::map<NodeKey, RecoveryLink> links;
  const auto move = [&](const NodeRef& source, int64_t rows) -> RecoveryLink& {
    RecoveryLink& link = links[source.key];
    link.bytes += block_bytes;
    *restorable += rows;
    return link;
  };
  const std::optional<FetchedBlock> tail = TailItem(request, request.lead);
  const Branch& lead = request.branches[request.lead];
  for (int64_t block = CachedBlocks(request); block < Covering(request.trunk_len); ++block) {
    const int64_t first = block * block_;
    const bool whole = first + block_ <= request.trunk_len;
    *missing += std::min(first + block_, request.trunk_len) - first;
    const NodeRef* source = whole ? SourceOf(request, block) : nullptr;
    if (source != nullptr) {
      RecoveryLink& link = move(*source, block_);
      if (coming.contains(lead.chain[static_cast<size_t>(block)])) link.coming_bytes += block_bytes;
    } else if (tail && tail->block == block) {
      move(request.restore[request.lead].tail_store, tail->rows_end - first);
    }
  }
  for (size_t b = 0; b < request.branches.size(); ++b) {
    const Branch& branch = request.branches[b];
    if (!branch.live || request.live_branches() < 2) continue;
    *missing += std::max<int64_t>(0, branch.known_rows - request.trunk_len);
    int64_t rows = request.trunk_len;
    for (const auto& [store, item] : BranchItems(request, b, rows)) {
      move(store, item.rows_end - rows);
      rows = item.rows_end;
    }
  }
  return links;
}

LinkLoad& WorkerCore::LoadOf(const NodeKey& source) {
  const auto found = loads_.find(source);
  if (found != loads_.end()) return found->second;
  // Processes come and go; what nobody uses is forgotten.
  for (auto at = loads_.begin(); loads_.size() >= limits::kNodesMax && at != loads_.end();) {
    at = at->second.idle() ? loads_.erase(at) : std::next(at);
  }
  return loads_.emplace(source, LinkLoad(settings_.link_bytes_per_s, settings_.link_latency_ns))
      .first->second;
}

}  // namespace reprise::worker
