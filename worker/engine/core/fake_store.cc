#include "worker/engine/core/fake_store.h"

#include <algorithm>
#include <cstring>

namespace reprise::worker {

bool FakeStore::Admit(const RequestKey& key) {
  const auto released = released_.find(key.id);
  if (released != released_.end() && key.attempt <= released->second) return false;
  Attempt& highest = fences_[key.id];
  if (key.attempt < highest) return false;
  highest = key.attempt;
  return true;
}

std::vector<kv::BlockId> FakeStore::Offer(const OfferBlocks& offer) {
  Sequence& sequence = sequences_[{offer.key.id, offer.branch}];
  sequence.tenant = offer.tenant;
  sequence.prompt_end = offer.prompt_end;
  const auto [mine, theirs] = std::mismatch(sequence.tokens.begin(), sequence.tokens.end(),
                                            offer.tokens.begin(), offer.tokens.end());
  if (theirs != offer.tokens.end()) {
    sequence.tokens = offer.tokens;
    sequence.tail.clear();
  }
  chain_.tenant_salt = offer.tenant;
  if (theirs != offer.tokens.end()) {
    sequence.chain = kv::ChainIds(chain_, sequence.tokens, offer.prompt_end);
  }
  return Missing(sequence.chain);
}

std::vector<kv::BlockId> FakeStore::OfferForCache(const OfferBlocks& offer) {
  chain_.tenant_salt = offer.tenant;
  return Missing(kv::ChainIds(chain_, offer.tokens, offer.prompt_end));
}

std::vector<kv::BlockId> FakeStore::Missing(const std::vector<kv::BlockId>& chain) const {
  std::vector<kv::BlockId> missing;
  for (const kv::BlockId& id : chain) {
    if (!blocks_.contains(id)) missing.push_back(id);
  }
  return missing;
}

void FakeStore::CopyRow(const std::vector<uint8_t>& from, std::vector<uint8_t>& to,
                        int64_t row) const {
  for (uint32_t layer = 0; layer < layers_; ++layer) {
    const size_t at =
        (layer * static_cast<size_t>(block()) + static_cast<size_t>(row)) * row_bytes_;
    std::memcpy(to.data() + at, from.data() + at, row_bytes_);
  }
}

// Rows from `rows` on turned out to belong to other tokens.
void FakeStore::Cut(Sequence& sequence, int64_t rows) {
  sequence.tokens.resize(static_cast<size_t>(rows));
  if (rows >= ChainRows(sequence)) return;
  const auto block_index = static_cast<size_t>(rows / block());
  const auto sealed = blocks_.find(sequence.chain[block_index]);
  sequence.chain.resize(block_index);
  if (sealed != blocks_.end()) {
    sequence.tail = sealed->second;
  } else {
    sequence.tokens.resize(static_cast<size_t>(ChainRows(sequence)));
    sequence.tail.clear();
  }
}

Status FakeStore::Append(const AppendRows::Entry& entry, const std::vector<uint8_t>& page) {
  const auto found = sequences_.find({entry.key.id, entry.branch});
  const bool starts = entry.first_position == 0;
  if (found == sequences_.end() && !starts) return absl::OutOfRangeError("nothing before it");
  Sequence& sequence = sequences_[{entry.key.id, entry.branch}];
  sequence.tenant = entry.tenant;
  sequence.prompt_end = entry.prompt_end;
  chain_.tenant_salt = entry.tenant;
  int64_t position = entry.first_position;
  for (const int32_t token : entry.tokens) {
    const auto rows = static_cast<int64_t>(sequence.tokens.size());
    if (position > rows) return absl::OutOfRangeError("a gap before it");
    const bool same = position < rows && sequence.tokens[static_cast<size_t>(position)] == token;
    if (same) {
      ++position;
      continue;
    }
    if (position < rows) Cut(sequence, position);
    if (position != static_cast<int64_t>(sequence.tokens.size())) {
      return absl::OutOfRangeError("cut too far");
    }
    const kv::BlockId parent = sequence.chain.empty() ? kv::BlockId{} : sequence.chain.back();
    if (position / block() != static_cast<int64_t>(sequence.chain.size()) ||
        parent != entry.parent) {
      return absl::OutOfRangeError("another parent");
    }
    sequence.tail.resize(BlockBytes());
    CopyRow(page, sequence.tail, position % block());
    sequence.tokens.push_back(token);
    ++position;
    if (position % block() != 0) continue;
    const std::span<const int32_t> tokens(sequence.tokens);
    const kv::BlockId id =
        kv::ChildId(chain_, parent, tokens.last(static_cast<size_t>(block())),
                    kv::FormDerivation(chain_, position - block(), entry.prompt_end));
    sequence.chain.push_back(id);
    blocks_.emplace(id, std::exchange(sequence.tail, {}));
  }
  return absl::OkStatus();
}

std::optional<int64_t> FakeStore::Held(const std::string& request, uint32_t branch) const {
  const auto found = sequences_.find({request, branch});
  if (found == sequences_.end()) return std::nullopt;
  const Sequence& sequence = found->second;
  for (size_t i = 0; i < sequence.chain.size(); ++i) {
    if (!blocks_.contains(sequence.chain[i])) return static_cast<int64_t>(i) * block();
  }
  return static_cast<int64_t>(sequence.tokens.size());
}

std::vector<uint32_t> FakeStore::BranchesOf(const std::string& request) const {
  std::vector<uint32_t> branches;
  for (const auto& [key, sequence] : sequences_) {
    if (key.first == request) branches.push_back(key.second);
  }
  return branches;
}

std::vector<TailState> FakeStore::States(const std::string& request) const {
  std::vector<TailState> states;
  for (const uint32_t branch : BranchesOf(request)) {
    const Sequence& sequence = sequences_.at({request, branch});
    TailState state;
    state.branch = branch;
    while (static_cast<size_t>(state.blocks_held) < sequence.chain.size() &&
           blocks_.contains(sequence.chain[static_cast<size_t>(state.blocks_held)])) {
      ++state.blocks_held;
    }
    state.first_position = ChainRows(sequence);
    state.prompt_end = sequence.prompt_end;
    if (!sequence.chain.empty()) state.parent = sequence.chain.back();
    state.tokens.assign(sequence.tokens.begin() + state.first_position, sequence.tokens.end());
    states.push_back(std::move(state));
  }
  return states;
}

const std::vector<uint8_t>* FakeStore::Find(const kv::BlockId& id) const {
  const auto block = blocks_.find(id);
  if (block != blocks_.end()) return &block->second;
  for (const auto& [key, sequence] : sequences_) {
    if (sequence.tail.empty()) continue;
    if (id == kv::ReplicaTailId(key.first, key.second, ChainRows(sequence))) return &sequence.tail;
  }
  return nullptr;
}

std::string FakeStore::Describe() const {
  std::string text;
  for (const auto& [key, sequence] : sequences_) {
    const Attempt& attempt = fences_.at(key.first);
    absl::StrAppend(&text, " ", key.first, " branch ", key.second, " of attempt ",
                    attempt.owner_epoch, ".", attempt.n, ", ", sequence.tokens.size(), " tokens;");
  }
  return text;
}

void FakeStore::Release(const RequestKey& key) {
  if (!Admit(key)) return;
  released_[key.id] = key.attempt;
  for (const uint32_t branch : BranchesOf(key.id)) sequences_.erase({key.id, branch});
}

}  // namespace reprise::worker
