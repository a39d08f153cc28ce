// How a group of ranks shares the KV of one model: pipeline stages own ranges of layers, tensor
// ranks ranges of heads, context ranks whole blocks by where they stand in their sequence. The same
// rules as those by which the ranks compute (worker/parallel, worker/model/model_share.h). Pure;
// any thread.
//
// Invariants:
// 1. Rank r of a group is (stage, context, tensor) with r = (stage * context ranks + context) *
//    tensor ranks + tensor.
// 2. Every (block, layer, head) belongs to exactly one rank, or, with more tensor ranks than heads,
//    to the same number of ranks, which are neighbours.
// 3. Who owns a block follows from its position alone: stripes of `stripe_leaves` attention leaves
//    of 512 positions go to the context ranks there and back (0 1 .. P-1 P-1 .. 1 0), so that under
//    causal attention each has near and far positions and the work is even (zigzag, as in ring
//    attention).
#ifndef REPRISE_KVSTORE_BLOCK_GROUP_SPLIT_H_
#define REPRISE_KVSTORE_BLOCK_GROUP_SPLIT_H_

#include <cstdint>

#include "common/status.h"
#include "kvstore/block/kv_part.h"

namespace reprise::kv {

inline constexpr int64_t kLeafPositions = 512;  // of attention (docs/determinism.md)

struct GroupSplit {
  uint32_t pipeline = 1;       // at most the layers; stage s has [layers s / P, layers (s+1) / P)
  uint32_t tensor = 1;         // divides the heads, or is a multiple of them (heads are replicated)
  uint32_t context = 1;        // each block belongs to one of them
  uint32_t stripe_leaves = 1;  // leaves in a row of one context rank

  uint32_t ranks() const { return pipeline * tensor * context; }
  bool operator==(const GroupSplit&) const = default;
};

struct RankPlace {
  uint32_t stage = 0;
  uint32_t context = 0;
  uint32_t tensor = 0;
};
inline RankPlace PlaceOf(const GroupSplit& split, uint32_t rank) {
  return {.stage = rank / (split.context * split.tensor),
          .context = rank / split.tensor % split.context,
          .tensor = rank % split.tensor};
}
inline uint32_t RankAt(const GroupSplit& split, const RankPlace& place) {
  return (place.stage * split.context + place.context) * split.tensor + place.tensor;
}

// Of `ranks` context ranks, the one that has this stripe.
inline uint32_t StripeOwner(uint32_t ranks, int64_t stripe) {
  const auto turn = static_cast<uint32_t>(static_cast<uint64_t>(stripe) % (uint64_t{2} * ranks));
  return turn < ranks ? turn : 2 * ranks - 1 - turn;
}
// The one whose stripe this position lies in.
inline uint32_t ContextOwner(uint32_t ranks, uint32_t stripe_leaves, int64_t position) {
  return StripeOwner(ranks, position / (kLeafPositions * stripe_leaves));
}
inline uint32_t ContextOwner(const GroupSplit& split, int64_t position) {
  return ContextOwner(split.context, split.stripe_leaves, position);
}

// INVALID_ARGUMENT: a degree is 0, or all ranks together are more than limits::kGroupRanksMax.
Status CheckRanks(const GroupSplit& split);

// INVALID_ARGUMENT names what does not fit: stages the layers, tensor ranks the heads, blocks the
// stripes, or the ranks limits::kGroupRanksMax.
Status CheckSplit(const KvFormat& format, const GroupSplit& split);

// What rank `rank` holds of every block it owns. The split is valid.
KvPart PartOfRank(const KvFormat& format, const GroupSplit& split, uint32_t rank);

// How many neighbouring tensor ranks hold the same heads.
uint32_t HeadReplicas(const KvFormat& format, const GroupSplit& split);

}  // namespace reprise::kv

#endif  // REPRISE_KVSTORE_BLOCK_GROUP_SPLIT_H_
