// Who decodes what: shares the keys of a batch of single query rows among the workers of a card.
// Pure host code.
//
// A unit is the query row of one sequence with the keys of one key head. Its keys are cut into
// leaves at absolute multiples of kStepLeaf (numerics.h), and leaves join by the binary tree over
// their index. A worker takes runs, each some consecutive leaves of a unit, and joins what of the
// tree lies within the run; what is left of a unit that several workers share, its nodes, is joined
// by a second kernel as the plan's rounds say. So the tree, and with it every bit, does not depend
// on the plan.
//
// Rows whose first keys are the same memory may be a group (decode_share.h finds them): the leaves
// that all of them have are read once for as many rows as a product has columns for, as a shared
// unit. Its nodes are nodes of each row's own tree, where the second kernel finds them as columns;
// the row's own unit begins behind the group's leaves. A plan without groups is the same as ever.
#ifndef REPRISE_KERNELS_CUDA_DECODE_PLAN_H_
#define REPRISE_KERNELS_CUDA_DECODE_PLAN_H_

#include <cstdint>
#include <span>
#include <vector>

namespace reprise::cuda {

// What beginning a unit costs, in leaves: its query, its result.
inline constexpr int64_t kDecodeUnitCost = 1;

struct DecodeRun {
  int32_t unit = 0;
  int32_t first_leaf = 0;
  int32_t end_leaf = 0;  // first_leaf: the unit sees no key
  int32_t leaves = 0;    // of the unit
  // Where the run keeps finished nodes: slots from here on, at most NodesMax(run) of them. What is
  // in them at the end, in order, are its nodes.
  int32_t slot = 0;
  int32_t whole = 0;  // the run is all of the unit: it has the result
  // Of a shared unit: DecodePlan::rows that it is computed for, the first of them `unit`'s. `rows`
  // 0: the unit's own row alone.
  int32_t first_row = 0;
  int32_t rows = 0;
};

// Node `left` becomes left joined with right; slots.
struct DecodeMerge {
  int32_t left = 0;
  int32_t right = 0;
};

// A unit whose nodes are to be joined. Merges of a round do not depend on each other; the result is
// in `nodes` first slot. Units may have their rounds in common.
struct DecodeJoin {
  int32_t unit = 0;
  int32_t first_node = 0;  // in DecodePlan::nodes
  int32_t nodes = 0;
  int32_t first_round = 0;  // in DecodePlan::round_begin
  int32_t rounds = 0;
  int32_t shared = 0;  // the first so many nodes are a shared unit's,
  int32_t place = 0;   // whose rows count from 0: this one
};

struct DecodePlan {
  std::vector<DecodeRun> runs;     // by worker
  std::vector<int32_t> run_begin;  // [workers + 1]
  std::vector<DecodeJoin> joins;
  std::vector<int32_t> nodes;        // slots, by unit in order
  std::vector<DecodeMerge> merges;   // by round; left and right count from the unit's first node
  std::vector<int32_t> round_begin;  // in merges; one more at the end
  std::vector<int32_t> rows;         // of shared units
  int32_t slots = 0;
  int32_t nodes_max = 0;  // of a join
};

// Rows whose keys [0, leaves * kStepLeaf) are the same memory, and who all see these.
struct DecodeGroup {
  std::vector<int32_t> rows;  // at least two
  int32_t leaves = 0;         // at least one
};

// What the kernel can share (DecodeSharingOf in decode.h).
struct DecodeSharing {
  int rows = 1;        // of a shared unit, at most; 1: it cannot
  int node_slots = 1;  // that a shared unit's node takes
};

// No row is in two groups.
struct DecodeShares {
  std::vector<DecodeGroup> groups;
  DecodeSharing with;  // rows > 1 where there are groups
};

// Nodes that `leaves` consecutive leaves anywhere in a unit are left with, at most.
int NodesMax(int leaves);

// `keys` of each query row; row r with key head h is unit r * kv_heads + h.
DecodePlan PlanDecode(std::span<const int32_t> keys, int kv_heads, int workers,
                      const DecodeShares& shares = {});

// ---- the tree, as the kernel walks it: shared so that tests can hold the two together ----

// After leaf `leaf` of a run from `first_leaf` on: how many nodes, kept last, the new one is joined
// with, one after the other. The result covers 2^that leaves.
#if defined(__CUDACC__)
__host__ __device__
#endif
    inline int
    JoinsAfter(int leaf, int first_leaf) {
  int level = 0;
  while ((leaf >> level & 1) != 0 && ((leaf >> level) - 1) << level >= first_leaf) ++level;
  return level;
}

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_DECODE_PLAN_H_
