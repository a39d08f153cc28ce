// How prompt attention is cut, for the planner and the kernels: tiles of query rows, blocks and
// leaves of keys, and the order in which leaves join.
#ifndef REPRISE_KERNELS_CUDA_PREFILL_TILES_H_
#define REPRISE_KERNELS_CUDA_PREFILL_TILES_H_

#include "kernels/cuda/numerics.h"
#include "kernels/cuda/prefill.h"

namespace reprise::cuda {

inline constexpr int kPrefillTileRows = 128;

REPRISE_HOST_DEVICE int32_t RowsOfTile(const PrefillRun& run, int32_t first_row) {
  const int32_t left = run.rows - first_row;
  return left < kPrefillTileRows ? left : kPrefillTileRows;
}

// Blocks of keys, from the run's first on, of which some row of the tile at `first_row` sees a key.
REPRISE_HOST_DEVICE int32_t VisibleBlocks(const PrefillRun& run, int32_t first_row) {
  int32_t keys = run.key_rows;
  if (run.causal != 0) {
    const int32_t last = run.first_position + first_row + RowsOfTile(run, first_row) - 1;
    const int32_t seen = last - run.key_position + 1;
    keys = keys < seen ? keys : seen;
  }
  return keys <= 0 ? 0 : (keys + kPromptBlock - 1) / kPromptBlock;
}

// With how many of the nodes kept, last first, leaf `leaf` of a run of keys from leaf `first` on is
// joined; the binary tree over the absolute index, in which a node missing a child is the other.
REPRISE_HOST_DEVICE int JoinsOfLeaf(int leaf, int first) {
  int joins = 0;
  while ((leaf >> joins & 1) != 0 && leaf >> joins << joins > first) ++joins;
  return joins;
}

// Nodes that wait at once while `leaves` leaves are walked through: those before the last one.
inline int KeptNodesMax(int leaves) {
  int nodes = 0;
  while ((leaves - 1) >> nodes > 0) ++nodes;
  return nodes;
}

// Of a tile: each of 256 threads has half a row's columns and the log-sum-exps of two.
constexpr int64_t PrefillNodeBytes(int value_dim) {
  return int64_t{4} * (value_dim / 2 + 2) * 2 * kPrefillTileRows;
}

}  // namespace reprise::cuda

#endif  // REPRISE_KERNELS_CUDA_PREFILL_TILES_H_
