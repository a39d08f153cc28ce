// The part of StoreCore that keeps live sequences: attempts and owners, chains and leases, open
// tails, and what their owners are told.
#include <algorithm>
#include <utility>

#include "kvstore/node/store_core.h"

namespace reprise::kv {
namespace {

bool IsZero(const BlockId& id) { return id == BlockId(); }

}  // namespace

// Attempts, owners, ends -----------------------------------------------------------------------

bool StoreCore::NoteAttempt(const RequestKey& key) {
  if (fences_.Check(key) == Fences::Verdict::kStale) return false;
  const auto found = requests_.find(key.id);
  if (found == requests_.end() || key.attempt == found->second.attempt) return true;
  ReplicaRequest& request = found->second;
  if (key.attempt < request.attempt) return false;  // the fence had been forgotten
  request.attempt = key.attempt;
  for (const auto& [branch, id] : request.branches) sequences_.at(id).request = key;
  Orphan(request, key.id);  // until somebody of this attempt comes
  return true;
}

void StoreCore::Orphan(ReplicaRequest& request, const std::string& id) {
  if (request.orphan_until.has_value()) orphans_.erase({*request.orphan_until, id});
  request.owner = {};
  request.orphan_until = now_ + options_.orphan_ns;
  orphans_.insert({*request.orphan_until, id});
}

void StoreCore::Own(ReplicaRequest& request, const std::string& id, const NodeKey& owner) {
  if (request.orphan_until.has_value()) orphans_.erase({*request.orphan_until, id});
  request.orphan_until.reset();
  if (request.owner == owner) return;
  request.owner = owner;
  for (const auto& [branch, sequence] : request.branches) sequences_.at(sequence).told = -1;
}

StatusOr<Sequence*> StoreCore::OpenSequence(const NodeKey& from, const RequestKey& key,
                                            uint32_t branch, bool takes_over) {
  if (!NoteAttempt(key)) {
    return absl::AbortedError(absl::StrCat("request ", key.id, " has a later attempt"));
  }
  if (fences_.HasEnded(key)) {
    return absl::NotFoundError(absl::StrCat("request ", key.id, " was released"));
  }
  const auto known = requests_.find(key.id);
  const bool exists = known != requests_.end() && known->second.branches.contains(branch);
  if (!exists && sequences_.size() >= limits::kSequencesMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("tails of ", limits::kSequencesMax, " sequences are kept"));
  }
  ReplicaRequest& request = requests_[key.id];
  request.attempt = key.attempt;
  if (!exists) {
    const uint64_t id = next_sequence_++;
    request.branches[branch] = id;
    Sequence& sequence = sequences_[id];
    sequence.id = id;
    sequence.request = key;
    sequence.branch = branch;
  }
  if (takes_over || request.owner.name.empty()) Own(request, key.id, from);
  return &sequences_.at(request.branches.at(branch));
}

void StoreCore::EndRequest(const std::string& id) {
  EndFetchesOf(id);
  auto ended = requests_.extract(id);
  ReplicaRequest& request = ended.mapped();
  if (request.orphan_until.has_value()) orphans_.erase({*request.orphan_until, id});
  for (const auto& [branch, sequence_id] : request.branches) {
    Sequence& sequence = sequences_.at(sequence_id);
    CutChain(sequence, 0);
    if (sequence.tail.has_value()) DropTail(sequence, true);
    sequences_.erase(sequence_id);
  }
}

void StoreCore::OnRelease(const RequestKey& key, TimeNs now) {
  now_ = now;
  if (key.id.empty()) return;
  if (!NoteAttempt(key)) {
    ++counters_.refused_stale;
    return;
  }
  ++counters_.releases;
  fences_.End(key);
  if (requests_.contains(key.id)) {
    EndRequest(key.id);
  } else {
    EndFetchesOf(key.id);  // offered for the cache only
  }
}

void StoreCore::OnFence(const RequestKey& key, TimeNs now) {
  now_ = now;
  NoteAttempt(key);
}

void StoreCore::OnPeerLost(const NodeKey& peer, TimeNs now) {
  now_ = now;
  for (auto& [id, request] : requests_) {
    if (request.owner == peer) Orphan(request, id);
  }
}

void StoreCore::OnTick(TimeNs now) {
  now_ = now;
  while (!orphans_.empty() && orphans_.begin()->first <= now) {
    const std::string id = orphans_.begin()->second;
    ++counters_.orphans_released;
    EndRequest(id);
  }
  CancelEndedFetches();
}

// Chains ---------------------------------------------------------------------------------------

const ChainLink* StoreCore::LinkAt(const Sequence& sequence, int64_t index) const {
  const auto found = sequence.chain.find(index);
  return found == sequence.chain.end() ? nullptr : &found->second;
}

bool StoreCore::Lease(Sequence& sequence, int64_t index, const BlockId& id,
                      const Attempt& attempt) {
  const auto block = blocks_.find(id);
  if (block == blocks_.end() || block->second.first_position != index * options_.block_tokens) {
    return false;
  }
  if (const ChainLink* link = LinkAt(sequence, index); link != nullptr && link->id != id) {
    if (!(link->attempt < attempt)) return false;
    CutChain(sequence, index);
  }
  sequence.chain.try_emplace(index, ChainLink{.id = id, .attempt = attempt, .tokens = {}});
  if (block->second.leases.empty()) ++leased_blocks_;
  block->second.leases.insert(sequence.id);
  Relist(id, block->second);
  return true;
}

void StoreCore::Unlease(uint64_t sequence, const BlockId& id) {
  Block& block = blocks_.at(id);
  block.leases.erase(sequence);
  if (block.leases.empty()) --leased_blocks_;
  Relist(id, block);
}

void StoreCore::CutChain(Sequence& sequence, int64_t index) {
  while (!sequence.chain.empty() && sequence.chain.rbegin()->first >= index) {
    const BlockId id = sequence.chain.rbegin()->second.id;
    sequence.chain.erase(std::prev(sequence.chain.end()));
    Unlease(sequence.id, id);
  }
  sequence.complete = std::min(sequence.complete, index);
}

void StoreCore::CountComplete(Sequence& sequence) {
  for (const ChainLink* link; (link = LinkAt(sequence, sequence.complete)) != nullptr;) {
    if (!blocks_.at(link->id).complete()) break;
    ++sequence.complete;
  }
  // A tail whose block came whole another way is of no use.
  if (!sequence.tail.has_value()) return;
  const ChainLink* link = LinkAt(sequence, sequence.tail->index);
  if (link != nullptr && blocks_.at(link->id).complete()) DropTail(sequence, false);
}

Sequence* StoreCore::OfferedTo(const Offer& offer) {
  if (!offer.branch.has_value() || offer.request.id.empty() ||
      offer.first_position % options_.block_tokens != 0) {
    return nullptr;
  }
  const StatusOr<Sequence*> opened =
      OpenSequence(offer.source, offer.request, *offer.branch, false);
  CountRefusal(opened.status());
  return opened.ok() ? *opened : nullptr;
}

void StoreCore::AdoptPrefix(Sequence& sequence, int64_t index, const BlockId& parent) {
  if (index == 0 || LinkAt(sequence, index - 1) != nullptr) return;
  const ReplicaRequest& request = requests_.at(sequence.request.id);
  for (const auto& [branch, id] : request.branches) {
    const Sequence& sibling = sequences_.at(id);
    const ChainLink* last = LinkAt(sibling, index - 1);
    if (last == nullptr || last->id != parent) continue;
    for (const auto& [at, link] : sibling.chain) {
      if (at >= index) break;
      if (LinkAt(sequence, at) == nullptr) Lease(sequence, at, link.id, link.attempt);
    }
    CountComplete(sequence);
    return;
  }
}

void StoreCore::OnBlockComplete(const Block& block) {
  for (const uint64_t id : block.leases) {
    Sequence& sequence = sequences_.at(id);
    CountComplete(sequence);
    Tell(sequence, absl::OkStatus());
  }
}

void StoreCore::OnBlockLost(const std::set<uint64_t>& leases, int64_t first_position) {
  const int64_t index = first_position / options_.block_tokens;
  for (const uint64_t id : leases) {
    Sequence& sequence = sequences_.at(id);
    sequence.chain.erase(index);
    sequence.complete = std::min(sequence.complete, index);
    Tell(sequence, absl::UnavailableError("a block of the sequence is not held"));
  }
}

// What is held and told ------------------------------------------------------------------------

// The tail has rows that follow the complete blocks.
bool StoreCore::CountsTail(const Sequence& sequence) const {
  if (!sequence.tail.has_value() || sequence.tail->index != sequence.complete) return false;
  if (sequence.tail->tokens.empty()) return false;
  if (sequence.complete == 0) return IsZero(sequence.tail->parent);
  return LinkAt(sequence, sequence.complete - 1)->id == sequence.tail->parent;
}

int64_t StoreCore::HeldOf(const Sequence& sequence) const {
  const int64_t rows = sequence.complete * options_.block_tokens;
  return CountsTail(sequence) ? rows + static_cast<int64_t>(sequence.tail->tokens.size()) : rows;
}

void StoreCore::Tell(Sequence& sequence, const Status& status) {
  const NodeKey& owner = requests_.at(sequence.request.id).owner;
  const int64_t rows = HeldOf(sequence);
  if (owner.name.empty() || (status.ok() && rows == sequence.told)) return;
  sequence.told = rows;
  told_.push_back(
      {owner,
       {.request = sequence.request, .branch = sequence.branch, .rows = rows, .status = status}});
}

HeldRows StoreCore::Answer(Sequence& sequence, const Status& status) {
  sequence.told = HeldOf(sequence);
  return {.request = sequence.request,
          .branch = sequence.branch,
          .rows = sequence.told,
          .status = status};
}

StatusOr<std::vector<TailState>> StoreCore::OnQuery(const NodeKey& from, const RequestKey& key,
                                                    TimeNs now) {
  now_ = now;
  ++counters_.tail_queries;
  if (!NoteAttempt(key)) {
    ++counters_.refused_stale;
    return absl::AbortedError(absl::StrCat("request ", key.id, " has a later attempt"));
  }
  std::vector<TailState> states;
  const auto found = requests_.find(key.id);
  if (found == requests_.end()) return states;
  Own(found->second, key.id, from);
  for (const auto& [branch, id] : found->second.branches) {
    Sequence& sequence = sequences_.at(id);
    sequence.told = HeldOf(sequence);
    TailState state{.branch = branch, .blocks_held = sequence.complete, .parent = {}, .tokens = {}};
    if (sequence.tail.has_value()) {
      state.parent = sequence.tail->parent;
      state.first_position = sequence.tail->index * options_.block_tokens;
      state.prompt_end = sequence.tail->prompt_end;
      state.tokens = sequence.tail->tokens;
    }
    states.push_back(std::move(state));
  }
  return states;
}

void StoreCore::CountRefusal(const Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kAborted:
      ++counters_.refused_stale;
      break;
    case absl::StatusCode::kNotFound:
      ++counters_.refused_released;
      break;
    case absl::StatusCode::kOutOfRange:
      ++counters_.refused_gap;
      break;
    case absl::StatusCode::kDataLoss:
      ++counters_.refused_damaged;
      break;
    case absl::StatusCode::kResourceExhausted:
      ++counters_.refused_no_room;
      break;
    case absl::StatusCode::kOk:
      break;
    default:
      ++counters_.refused_contradiction;
  }
}

ReplicaCounts StoreCore::replicas() const {
  ReplicaCounts counts{.requests = static_cast<int64_t>(requests_.size()),
                       .sequences = static_cast<int64_t>(sequences_.size()),
                       .leased_blocks = leased_blocks_,
                       .tail_rows = 0,
                       .stranded_slots = stranded_slots_};
  for (const auto& [tail, id] : tails_) {
    counts.tail_rows += static_cast<int64_t>(sequences_.at(id).tail->tokens.size());
  }
  return counts;
}

Status StoreCore::Audit() const {
  int64_t leases = 0, links = 0, tails = 0, leased = 0;
  for (const auto& [id, block] : blocks_) {
    leases += static_cast<int64_t>(block.leases.size());
    leased += !block.leases.empty();
  }
  for (const auto& [id, sequence] : sequences_) {
    links += static_cast<int64_t>(sequence.chain.size());
    for (const auto& [index, link] : sequence.chain) {
      const auto block = blocks_.find(link.id);
      if (block == blocks_.end() || !block->second.leases.contains(id) ||
          block->second.first_position != index * options_.block_tokens) {
        return absl::InternalError(absl::StrCat("link ", index, " of sequence ", id, " is loose"));
      }
      if (index < sequence.complete && !block->second.complete()) {
        return absl::InternalError(absl::StrCat("block ", index, " counts and is not complete"));
      }
    }
    if (!sequence.tail.has_value()) continue;
    ++tails;
    const auto tail = tails_.find(sequence.tail->id);
    if (tail == tails_.end() || tail->second != id ||
        !memory_[static_cast<size_t>(sequence.tail->slot)].owned) {
      return absl::InternalError(absl::StrCat("the tail of sequence ", id, " is loose"));
    }
  }
  if (links != leases || leased != leased_blocks_ || tails != static_cast<int64_t>(tails_.size())) {
    return absl::InternalError(absl::StrCat(links, " links, ", leases, " leases, ", leased,
                                            " leased blocks, counted ", leased_blocks_, ", ", tails,
                                            " tails, listed ", tails_.size()));
  }
  return absl::OkStatus();
}

}  // namespace reprise::kv
