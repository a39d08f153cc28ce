// From waiting to computing: room, reuse of prefixes, fetches and the remote prefill leg.
#include <algorithm>
#include <utility>

#include "worker/engine/core/core.h"

namespace reprise::worker {

void WorkerCore::AdmitWaiting(int64_t pages_wanted, TimeNs now) {
  // In order only: a large request is not overtaken for ever by small ones. But whoever waits for
  // an answer or a transfer, which has its deadline, holds nobody up.
  for (auto next = waiting_.begin(); next != waiting_.end() && running() < settings_.running_max;) {
    Request& request = *(next++)->second;
    if (!ReadyToAdmit(request, now)) continue;
    // Free pages are of those whose turn comes before they are anybody's.
    if (!AnyParked() && TryAdmit(request, pages_wanted, now)) continue;
    if (!AdmitBeyondPool(request, now)) return;
  }
}

// Leading blocks of the trunk that are cached here.
int64_t WorkerCore::CachedBlocks(const Request& request) const {
  const std::vector<kv::BlockId>& chain = request.branches[request.lead].chain;
  int64_t blocks = 0;
  while (blocks < Whole(request.trunk_len) &&
         cache_.FindSealed(chain[static_cast<size_t>(blocks)])) {
    ++blocks;
  }
  return blocks;
}

// The rows every live branch has in common: they are computed once.
void WorkerCore::SetTrunk(Request& request) {
  size_t lead = 0;
  while (lead + 1 < request.branches.size() && !request.branches[lead].live) ++lead;
  Branch& from = request.branches[request.lead];
  Branch& to = request.branches[lead];
  if (&from != &to) {
    to.pages = std::exchange(from.pages, {});
    to.computed = std::exchange(from.computed, 0);
    to.islands = std::exchange(from.islands, {});
  }
  request.lead = lead;
  const bool alone = request.is_leg || request.live_branches() == 1;
  request.trunk_len = alone ? static_cast<int64_t>(to.tokens.size()) : request.prompt_len();
  EnsureChain(request, to, request.trunk_len);
}

WorkerCore::Room WorkerCore::RoomFor(const Request& request) const {
  const Branch& lead = request.branches[request.lead];
  Room room;
  room.hits = CachedBlocks(request);
  // Room for what is known and one block more, so that admission is followed by progress.
  const int64_t rows_ever = request.prompt_len() + request.sampling.max_tokens - 1;
  room.rows = request.is_leg
                  ? request.trunk_len
                  : std::min(request.trunk_len + block_, std::max(request.trunk_len, rows_ever));
  // When even the last row is cached it still runs, for its output, in a copy of its page.
  bool copies = request.TrunkHasOutput() && room.hits * block_ == request.trunk_len;
  if (copies && Covering(room.rows) + 1 > settings_.pages) {
    --room.hits;  // computing the whole block anew needs no page more
    copies = false;
  }
  for (int64_t block = 0; block < room.hits; ++block) {
    room.idle_hits += cache_.idle(*cache_.FindSealed(lead.chain[static_cast<size_t>(block)]));
  }
  // What branches restore for themselves needs room too, if there ever is so much.
  room.spare = SparePages(request);
  if (Covering(room.rows) + copies + room.spare > settings_.pages) room.spare = 0;
  room.needed = Covering(room.rows) - room.hits + copies + room.spare;
  return room;
}

bool WorkerCore::TryAdmit(Request& request, int64_t pages_wanted, TimeNs now) {
  Branch& lead = request.branches[request.lead];
  const Room room = RoomFor(request);
  const PagePool::Counts& counts = pool_.counts();
  if (counts.free + counts.cached - room.idle_hits < room.needed + pages_wanted) return false;

  for (int64_t block = 0; block < room.hits; ++block) {
    const PageId page = *cache_.FindSealed(lead.chain[static_cast<size_t>(block)]);
    RefPage(page);
    lead.pages.push_back(page);
  }
  // Never at the cost of rows that run already: they must find their pages in this very step.
  if (counts.free < room.needed + pages_wanted) {
    Evict(room.needed + pages_wanted - counts.free);
    while (!lead.pages.empty()) {
      ReleasePage(lead.pages.back());
      lead.pages.pop_back();
    }
    return false;  // until the evicted pages are quiet
  }
  for (int64_t page = room.hits; page < Covering(room.rows); ++page) {
    lead.pages.push_back(*pool_.Allocate());
  }
  for (int64_t page = 0; page < room.spare; ++page) request.spare.push_back(*pool_.Allocate());
  lead.computed = std::min(room.hits * block_, request.trunk_len - request.TrunkHasOutput());
  waiting_.erase(request.rank);
  running_.emplace(request.rank, &request);
  JoinMicrobatch(request);
  BeginWork(request, room.hits, now);
  return true;
}

void WorkerCore::BeginWork(Request& request, int64_t hits, TimeNs now) {
  const Branch& lead = request.branches[request.lead];
  if (!std::exchange(request.admitted_before, true)) {
    request.cached_tokens = static_cast<int32_t>(std::min(lead.computed, request.prompt_len()));
    stats_.cached_tokens += static_cast<uint64_t>(request.cached_tokens);
    CountRestored(request, std::min(lead.computed, lead.known_rows));
    StartFetches(request, hits, now);
    if (request.fetches_open == 0 && !request.awaiting_leg()) request.restored_ns = now;
  } else {
    StartSwapIn(request, hits, now);
  }
  if (request.awaiting_leg()) {
    request.phase = Phase::kFetching;
    return;
  }
  ListPending(request, hits);
  if (request.is_leg) {
    commands_.push_back(AcceptPrefill{request.key, request.leg});
    ++stats_.legs_served;
  }
  OfferPrompt(request, now);
  request.phase = request.fetches_open > 0 ? Phase::kFetching : Phase::kComputing;
  if (request.phase == Phase::kComputing && lead.computed >= request.trunk_len) Fork(request);
}

// Where a whole block of the trunk may be had: where the placement says, else from a replica.
const NodeRef* WorkerCore::SourceOf(const Request& request, int64_t block) const {
  if (request.recompute) return nullptr;
  for (const PrefixSource& source : request.sources) {
    if (source.node.key == settings_.self.key) continue;
    if (block >= source.first_block &&
        block - source.first_block < static_cast<int64_t>(source.blocks)) {
      return &source.node;
    }
  }
  return ReplicaWith(request, request.lead, block);
}

void WorkerCore::StartFetches(Request& request, int64_t first_block, TimeNs now) {
  const Branch& lead = request.branches[request.lead];
  FetchesBySource by_source;
  std::vector<FetchedBlock> from_leg;
  int64_t leg_rows = 0;
  const bool remote =
      !request.is_leg && request.prefill && request.prefill->key != settings_.self.key;
  const std::optional<FetchedBlock> tail = TailItem(request, request.lead);
  for (int64_t block = first_block; block < Covering(request.trunk_len); ++block) {
    FetchedBlock wanted;
    wanted.branch = request.lead;
    wanted.block = block;
    wanted.item.first_position = block * block_;
    wanted.item.page = lead.pages[static_cast<size_t>(block)];
    wanted.rows_end = (block + 1) * block_;
    const bool whole = wanted.rows_end <= request.trunk_len;
    const NodeRef* source = whole ? SourceOf(request, block) : nullptr;
    if (whole) wanted.item.id = lead.chain[static_cast<size_t>(block)];
    if (source == nullptr && tail && tail->block == block) {
      wanted.whole = false;
      wanted.rows_end = tail->rows_end;
      wanted.item.id = tail->item.id;
      source = &request.restore[request.lead].tail_store;
    }
    if (source) {
      by_source.Add(*source, std::move(wanted));
    } else if (remote && block * block_ < request.prompt_len()) {
      wanted.from_leg = true;
      if (wanted.rows_end > request.prompt_len()) {
        wanted.whole = false;
        wanted.rows_end = request.prompt_len();
        wanted.item.id = kv::TailId(request.key, 1, block * block_);
      }
      leg_rows += wanted.rows_end - block * block_;
      from_leg.push_back(wanted);
    }
  }
  if (leg_rows > settings_.local_suffix_tokens) {
    request.leg_blocks = std::move(from_leg);
    CallLeg(request, now);
  }
  StartFetchesOf(request, std::move(by_source), now);
}

void WorkerCore::StartFetchesOf(Request& request, FetchesBySource fetches, TimeNs now) {
  for (auto& [key, fetch] : fetches.all) {
    StartFetchOf(request, fetch.first, std::move(fetch.second), now);
  }
}

void WorkerCore::CallLeg(Request& request, TimeNs now) {
  ++stats_.legs_called;
  request.leg = 1;
  request.leg_key = request.key;
  request.leg_state = LegState::kCalled;
  request.leg_deadline_ns = now + settings_.leg_timeout_ns;
  SubmitPrefill leg;
  leg.key = request.key;
  leg.leg = request.leg;
  leg.prompt = request.prompt;
  leg.sampling = request.sampling;
  leg.sources = request.sources;
  leg.stores = request.stores();
  leg.tenant = request.tenant;
  leg.deadline_ns = request.deadline_ns;
  const int64_t here = Whole(request.branches[request.lead].computed);
  if (here > 0) leg.sources.push_back({settings_.self, 0, static_cast<int32_t>(here)});
  commands_.push_back(CallPrefill{*request.prefill, std::move(leg)});
}

void WorkerCore::StartFetchOf(Request& request, const NodeRef& source,
                              std::vector<FetchedBlock> blocks, TimeNs now) {
  for (size_t at = 0; at < blocks.size(); at += limits::kFetchItemsMax) {
    const size_t count = std::min(limits::kFetchItemsMax, blocks.size() - at);
    Fetch fetch;
    fetch.owner = &request;
    fetch.blocks.assign(blocks.begin() + static_cast<std::ptrdiff_t>(at),
                        blocks.begin() + static_cast<std::ptrdiff_t>(at + count));
    StartFetch start;
    start.fetch = next_fetch_++;
    start.source = source;
    start.key = request.key;
    start.leg = request.leg;
    const bool from_leg = fetch.blocks.front().from_leg;
    // A store's tail may have rows on their way into it: then it is there a moment later.
    start.subscribe = from_leg || !fetch.blocks.front().whole;
    start.restore = request.resumed && !from_leg;
    fetch.subscribed = from_leg;
    fetch.source = source.key;
    if (!fetch.subscribed) {
      LoadOf(source.key)
          .Begin(start.fetch, static_cast<int64_t>(count) * settings_.row_bytes * block_, now);
    }
    if (from_leg) start.key = request.leg_key;
    start.timeout_ns = from_leg ? settings_.leg_timeout_ns : settings_.fetch_timeout_ns;
    for (const FetchedBlock& block : fetch.blocks) start.items.push_back(block.item);
    ++stats_.fetches;
    ++request.fetches_open;
    fetches_.emplace(start.fetch, std::move(fetch));
    commands_.push_back(std::move(start));
  }
}

// The rest is computed here: what arrived stays, what is under way ends first.
void WorkerCore::LegFailed(Request& request, TimeNs now) {
  ++stats_.legs_failed;
  request.leg_state = LegState::kFailed;
  request.leg_deadline_ns = 0;
  request.leg_blocks.clear();
  commands_.push_back(ReleasePrefill{*request.prefill, request.leg_key, request.leg});
  for (const auto& [id, fetch] : fetches_) {
    if (fetch.owner == &request && fetch.blocks.front().from_leg) {
      commands_.push_back(CancelFetch{id});
    }
  }
  ResolveIfArrived(request, now);
}

void WorkerCore::ResolveIfArrived(Request& request, TimeNs now) {
  if (request.phase != Phase::kFetching || request.awaiting_leg() || request.fetches_open > 0) {
    return;
  }
  if (request.forked) return TakeBranches(request, now);
  request.restored_ns = now;
  if (request.leg_state == LegState::kOk) {
    commands_.push_back(ReleasePrefill{*request.prefill, request.leg_key, request.leg});
  }
  SetTrunk(request);
  TakeArrived(request);
  request.phase = Phase::kComputing;
  Branch& lead = request.branches[request.lead];
  if (request.leg_state == LegState::kFailed) {
    ListPending(request, Whole(lead.computed));
    OfferPrompt(request, now);
  } else if (request.leg_state == LegState::kOk) {
    // The prefill node has offered them.
    for (Replica& replica : request.replicas) NoteOffered(request, replica, request.prompt_len());
  }
  if (lead.computed >= request.trunk_len) Fork(request);
}

void WorkerCore::TakeArrived(Request& request) {
  Branch& lead = request.branches[request.lead];
  std::vector<FetchedBlock> arrived = std::exchange(request.arrived, {});
  std::sort(arrived.begin(), arrived.end(),
            [](const FetchedBlock& a, const FetchedBlock& b) { return a.block < b.block; });
  const int64_t rows_max = request.trunk_len - request.TrunkHasOutput();
  int64_t cached = 0;
  for (const FetchedBlock& block : arrived) {
    const Island island{block.item.first_position, std::min(block.rows_end, rows_max)};
    if (island.first < island.last) lead.islands.push_back(island);
    // A block whose last row still runs here is sealed then.
    if (block.whole && block.rows_end <= rows_max) Seal(lead, block.block);
    if (block.from_leg || block.copy) continue;
    cached += std::min(island.last, request.prompt_len()) - island.first;
    CountRestored(request, std::min(island.last, lead.known_rows) - island.first);
  }
  cached = std::max<int64_t>(cached, 0);
  if (request.leg_state != LegState::kOk) request.cached_tokens += static_cast<int32_t>(cached);
  stats_.cached_tokens += static_cast<uint64_t>(cached);
  lead.Advance();
}

}  // namespace reprise::worker
