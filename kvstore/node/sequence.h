// What a store keeps of the live sequences it replicates: per request its owner and highest
// attempt, per branch a chain of leased blocks and at most one open tail. Values of StoreCore,
// which owns them and keeps their invariants.
#ifndef REPRISE_KVSTORE_NODE_SEQUENCE_H_
#define REPRISE_KVSTORE_NODE_SEQUENCE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/ids.h"
#include "kvstore/block/block_id.h"

namespace reprise::kv {

using Slot = int32_t;

// A block of the sequence that exists in the store, complete or being fetched, and is leased.
struct ChainLink {
  BlockId id;
  Attempt attempt;              // that offered or appended it
  std::vector<int32_t> tokens;  // of a block sealed here; empty: it was offered
};

// What is known of the bytes of a tail's slot: the part (crc32c.h) of each of its first `rows`
// rows, held or cut off. Behind them is what the slot held before.
struct SlotParts {
  std::vector<uint32_t> parts;  // [row][layer], a row's together: one or two cache lines
  uint32_t rows = 0;
};

// The rows behind the last whole block, in a memory slot of their own.
struct OpenTail {
  BlockId id;         // it is fetched under: ReplicaTailId
  int64_t index = 0;  // of the block in its sequence
  BlockId parent;
  std::string tenant_salt;
  int64_t prompt_end = kOneForm;  // of the sequence
  std::vector<int32_t> tokens;    // of the rows held, from the block's first
  SlotParts known;
  Attempt attempt;  // that appended the last of them
  Slot slot = -1;
  uint64_t write = 0;  // rows are being written behind these; 0: none
};

struct Sequence {
  uint64_t id = 0;
  RequestKey request;  // with the highest attempt seen
  uint32_t branch = 0;
  std::map<int64_t, ChainLink> chain;  // by index
  int64_t complete = 0;                // leading complete blocks
  std::optional<OpenTail> tail;
  int64_t told = -1;  // rows the owner was told last; -1: nothing yet
};

struct ReplicaRequest {
  Attempt attempt;
  NodeKey owner;                          // who is told; no name: nobody
  std::optional<TimeNs> orphan_until;     // no owner is connected: released then
  std::map<uint32_t, uint64_t> branches;  // branch -> sequence
};

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_NODE_SEQUENCE_H_
