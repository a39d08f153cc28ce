#include <algorithm>
#include <utility>

#include "kernels/cuda/prefill.h"
#include "kernels/cuda/prefill_tiles.h"

namespace reprise::cuda {
namespace {

bool Valid(const PrefillRun& run) {
  return run.rows >= 0 && run.first_row >= 0 && run.first_position >= 0 && run.key_rows >= 0 &&
         run.first_page >= 0 && run.key_position >= 0 && run.key_position % kPromptBlock == 0;
}

}  // namespace

int PlanPrefill(std::span<const PrefillRun> runs, PrefillPlan* plan) {
  *plan = {};
  std::vector<std::pair<int32_t, PrefillTile>> tiles;  // by blocks of keys
  for (size_t i = 0; i < runs.size(); ++i) {
    const PrefillRun& run = runs[i];
    if (!Valid(run)) return kErrorInvalidValue;
    plan->rows_max = std::max(plan->rows_max, run.rows);
    for (int32_t row = 0; row < run.rows; row += kPrefillTileRows) {
      const int32_t blocks = VisibleBlocks(run, row);
      tiles.push_back({blocks, {static_cast<int32_t>(i), row}});
      if (blocks == 0) continue;
      const int32_t last = run.key_position + (blocks - 1) * kPromptBlock;
      plan->leaves_max =
          std::max(plan->leaves_max, last / kPromptLeaf - run.key_position / kPromptLeaf + 1);
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  for (const auto& [blocks, tile] : tiles) plan->tiles.push_back(tile);
  return 0;
}

int64_t PrefillScratchBytes(const PrefillPlan& plan, int value_dim, int processors) {
  return KeptNodesMax(plan.leaves_max) * PrefillNodeBytes(value_dim) * processors;
}

}  // namespace reprise::cuda
