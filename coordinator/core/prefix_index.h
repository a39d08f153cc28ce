// Which nodes hold which KV blocks, as far as they have told: an accelerator for placement, never
// an authority (what a node really holds is verified where the blocks arrive). Owned by the
// coordinator core; one thread at a time.
//
// Invariants:
// 1. A node's copy is what its numbered events 1..next-1 give, in order, each applied once; so
//    duplicated and reordered reports change nothing.
// 2. A snapshot replaces the copy when its last chunk arrives, all chunks of one as_of in order;
//    until then the old copy stands.
// 3. A node over the limits keeps its numbering: blocks beyond are left out and counted.
#ifndef REPRISE_COORDINATOR_CORE_PREFIX_INDEX_H_
#define REPRISE_COORDINATOR_CORE_PREFIX_INDEX_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/container/inlined_vector.h"
#include "common/limits.h"
#include "coordinator/core/types.h"

namespace reprise::coordinator {

struct PrefixIndexOptions {
  size_t blocks_per_node_max = limits::kIndexBlocksPerNodeMax;
  size_t entries_max = limits::kIndexEntriesMax;
};

class PrefixIndex {
 public:
  struct Answer {
    uint64_t next_event = 1;
    bool want_snapshot = false;
  };
  struct Stats {
    size_t blocks = 0;   // distinct
    size_t entries = 0;  // (block, node) pairs
    uint64_t gaps = 0;   // reports that began beyond the next event
    uint64_t snapshots = 0;
    uint64_t dropped_entries = 0;  // of nodes that died or were replaced
    uint64_t over_limit = 0;       // blocks left out
  };

  explicit PrefixIndex(const PrefixIndexOptions& options) : options_(options) {}

  // What one report says of a node's blocks; either may be null. A node unknown so far begins
  // empty, at event 1.
  Answer Apply(Slot slot, const KvEvents* events, const kv::SnapshotChunk* chunk);

  // Forgets a node. Returns how many entries went.
  size_t Drop(Slot slot);

  // Who holds each of `ids`, ascending slots, up to the first id nobody holds. Valid until the
  // index changes.
  std::vector<std::span<const Slot>> Holders(std::span<const kv::BlockId> ids) const;

  struct NodePrefix {
    Slot slot = 0;
    size_t blocks = 0;  // leading ids the node holds without a hole; never 0
    bool operator==(const NodePrefix&) const = default;
  };
  // Ascending slots.
  std::vector<NodePrefix> LongestPrefix(std::span<const kv::BlockId> ids) const;

  size_t NodeBlocks(Slot slot) const;
  const Stats& stats() const { return stats_; }

 private:
  struct Collecting {
    uint64_t as_of = 0;
    uint32_t next_chunk = 0;
    std::vector<kv::BlockId> ids;
  };
  struct PerNode {
    uint64_t next = 1;
    bool gapped = false;  // the last report with events began beyond `next`
    absl::flat_hash_set<kv::BlockId> blocks;
    std::optional<Collecting> collecting;
  };
  using SlotSet = absl::InlinedVector<Slot, 8>;  // ascending

  void ApplyEvents(Slot slot, PerNode& node, const KvEvents& events);
  // False when the snapshot must begin again.
  bool ApplyChunk(Slot slot, PerNode& node, const kv::SnapshotChunk& chunk);
  void Replace(Slot slot, PerNode& node, const Collecting& snapshot);
  void Add(Slot slot, PerNode& node, const kv::BlockId& id);
  void Remove(Slot slot, PerNode& node, const kv::BlockId& id);
  void RemoveHolder(Slot slot, const kv::BlockId& id);

  const PrefixIndexOptions options_;
  absl::flat_hash_map<kv::BlockId, SlotSet> holders_;
  absl::flat_hash_map<Slot, PerNode> nodes_;
  Stats stats_;
};

}  // namespace reprise::coordinator

#endif  // REPRISE_COORDINATOR_CORE_PREFIX_INDEX_H_
