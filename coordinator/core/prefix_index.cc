#include "coordinator/core/prefix_index.h"

#include <algorithm>

namespace reprise::coordinator {

PrefixIndex::Answer PrefixIndex::Apply(Slot slot, const KvEvents* events,
                                       const kv::SnapshotChunk* chunk) {
  PerNode& node = nodes_[slot];
  bool restart_snapshot = false;
  if (events != nullptr && !events->events.empty()) {
    const bool gap_before = node.gapped;
    ApplyEvents(slot, node, *events);
    // The first gap is answered with next_event alone, which a node resends from if it can; a node
    // that goes on beyond it cannot.
    restart_snapshot = gap_before && node.gapped;
  }
  if (chunk != nullptr) restart_snapshot = !ApplyChunk(slot, node, *chunk);
  if (node.collecting) return {.next_event = node.collecting->as_of + 1, .want_snapshot = true};
  return {.next_event = node.next, .want_snapshot = restart_snapshot};
}

void PrefixIndex::ApplyEvents(Slot slot, PerNode& node, const KvEvents& events) {
  node.gapped = events.first > node.next;
  if (node.gapped) {
    ++stats_.gaps;
    return;
  }
  const uint64_t known = node.next - events.first;
  for (size_t i = known; i < events.events.size(); ++i) {
    const kv::KvEvent& event = events.events[i];
    event.removed ? Remove(slot, node, event.id) : Add(slot, node, event.id);
    ++node.next;
  }
  if (node.collecting && node.next > node.collecting->as_of) node.collecting.reset();
}

bool PrefixIndex::ApplyChunk(Slot slot, PerNode& node, const kv::SnapshotChunk& chunk) {
  const bool older_than_collected = node.collecting && chunk.as_of < node.collecting->as_of;
  if (chunk.as_of < node.next || older_than_collected) return true;
  if (!node.collecting || chunk.as_of > node.collecting->as_of) {
    if (chunk.chunk != 0) return node.collecting.has_value();
    Collecting fresh;
    fresh.as_of = chunk.as_of;
    node.collecting = std::move(fresh);
  }
  Collecting& collecting = *node.collecting;
  if (chunk.chunk < collecting.next_chunk) return true;  // a duplicate
  if (chunk.chunk > collecting.next_chunk) {
    node.collecting.reset();
    return false;
  }
  ++collecting.next_chunk;
  const size_t room = options_.blocks_per_node_max - collecting.ids.size();
  const size_t taken = std::min(room, chunk.ids.size());
  stats_.over_limit += chunk.ids.size() - taken;
  collecting.ids.insert(collecting.ids.end(), chunk.ids.begin(),
                        chunk.ids.begin() + static_cast<ptrdiff_t>(taken));
  if (!chunk.last) return true;
  const Collecting whole = std::move(collecting);
  node.collecting.reset();
  Replace(slot, node, whole);
  return true;
}

void PrefixIndex::Replace(Slot slot, PerNode& node, const Collecting& snapshot) {
  const absl::flat_hash_set<kv::BlockId> wanted(snapshot.ids.begin(), snapshot.ids.end());
  std::vector<kv::BlockId> gone;
  for (const kv::BlockId& id : node.blocks) {
    if (!wanted.contains(id)) gone.push_back(id);
  }
  for (const kv::BlockId& id : gone) Remove(slot, node, id);
  for (const kv::BlockId& id : snapshot.ids) Add(slot, node, id);
  node.next = snapshot.as_of + 1;
  node.gapped = false;
  ++stats_.snapshots;
}

void PrefixIndex::Add(Slot slot, PerNode& node, const kv::BlockId& id) {
  if (node.blocks.contains(id)) return;
  if (node.blocks.size() >= options_.blocks_per_node_max ||
      stats_.entries >= options_.entries_max) {
    ++stats_.over_limit;
    return;
  }
  node.blocks.insert(id);
  SlotSet& set = holders_[id];
  set.insert(std::lower_bound(set.begin(), set.end(), slot), slot);
  ++stats_.entries;
  stats_.blocks = holders_.size();
}

void PrefixIndex::Remove(Slot slot, PerNode& node, const kv::BlockId& id) {
  if (node.blocks.erase(id) > 0) RemoveHolder(slot, id);
}

void PrefixIndex::RemoveHolder(Slot slot, const kv::BlockId& id) {
  const auto it = holders_.find(id);
  SlotSet& set = it->second;
  set.erase(std::lower_bound(set.begin(), set.end(), slot));
  if (set.empty()) holders_.erase(it);
  --stats_.entries;
  stats_.blocks = holders_.size();
}

size_t PrefixIndex::Drop(Slot slot) {
  const auto it = nodes_.find(slot);
  if (it == nodes_.end()) return 0;
  const size_t dropped = it->second.blocks.size();
  for (const kv::BlockId& id : it->second.blocks) RemoveHolder(slot, id);
  nodes_.erase(it);
  stats_.dropped_entries += dropped;
  return dropped;
}

std::vector<std::span<const Slot>> PrefixIndex::Holders(std::span<const kv::BlockId> ids) const {
  // Far enough ahead to hide a cache miss behind the lookups between.
  constexpr size_t kAhead = 8;
  std::vector<std::span<const Slot>> found;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i + kAhead < ids.size()) holders_.prefetch(ids[i + kAhead]);
    const auto it = holders_.find(ids[i]);
    if (it == holders_.end()) break;
    found.emplace_back(it->second.data(), it->second.size());
  }
  return found;
}

std::vector<PrefixIndex::NodePrefix> PrefixIndex::LongestPrefix(
    std::span<const kv::BlockId> ids) const {
  const std::vector<std::span<const Slot>> holders = Holders(ids);
  std::vector<NodePrefix> prefixes;
  if (holders.empty()) return prefixes;
  for (const Slot slot : holders[0]) {
    size_t blocks = 1;
    while (blocks < holders.size() &&
           std::binary_search(holders[blocks].begin(), holders[blocks].end(), slot)) {
      ++blocks;
    }
    prefixes.push_back({slot, blocks});
  }
  return prefixes;
}

size_t PrefixIndex::NodeBlocks(Slot slot) const {
  const auto it = nodes_.find(slot);
  return it == nodes_.end() ? 0 : it->second.blocks.size();
}

}  // namespace reprise::coordinator
