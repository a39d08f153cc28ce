// The plan covers every row once, longest first; leaves join by the tree over their absolute index.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "kernels/cuda/prefill_tiles.h"

namespace reprise::cuda {
namespace {

PrefillRun Rows(int32_t rows, int32_t first_position, int32_t keys) {
  return {.rows = rows, .first_position = first_position, .key_rows = keys};
}

TEST(PrefillPlan, CoversEveryRowOnceLongestFirst) {
  const std::vector<PrefillRun> runs = {Rows(300, 0, 300), Rows(0, 5, 5), Rows(1, 5000, 5001),
                                        Rows(128, 100, 228)};
  PrefillPlan plan;
  ASSERT_EQ(PlanPrefill(runs, &plan), 0);
  std::vector<int32_t> covered(runs.size());
  int32_t last = 1 << 30;
  for (const PrefillTile& tile : plan.tiles) {
    const PrefillRun& run = runs[static_cast<size_t>(tile.run)];
    covered[static_cast<size_t>(tile.run)] += RowsOfTile(run, tile.first_row);
    const int32_t blocks = VisibleBlocks(run, tile.first_row);
    EXPECT_LE(blocks, last);
    last = blocks;
  }
  EXPECT_EQ(covered, (std::vector<int32_t>{300, 0, 1, 128}));
  EXPECT_EQ(plan.tiles.front().run, 2);
  EXPECT_EQ(plan.leaves_max, 2);
  EXPECT_EQ(plan.rows_max, 300);
}

TEST(PrefillPlan, SeesNoBlockBeyondItsLastRow) {
  EXPECT_EQ(VisibleBlocks(Rows(300, 0, 300), 0), 1);
  EXPECT_EQ(VisibleBlocks(Rows(300, 0, 300), 128), 2);
  EXPECT_EQ(VisibleBlocks(Rows(300, 0, 300), 256), 3);
  EXPECT_EQ(VisibleBlocks(Rows(300, 1, 301), 0), 2);
  EXPECT_EQ(VisibleBlocks(Rows(10, 0, 0), 0), 0);
  PrefillRun later = Rows(100, 0, 50);
  later.key_position = 128;
  EXPECT_EQ(VisibleBlocks(later, 0), 0);
  later.causal = 0;
  EXPECT_EQ(VisibleBlocks(later, 0), 1);
}

TEST(PrefillPlan, RefusesKeysThatBeginWithinABlock) {
  PrefillPlan plan;
  PrefillRun run = Rows(1, 500, 10);
  run.key_position = 64;
  EXPECT_EQ(PlanPrefill({&run, 1}, &plan), kErrorInvalidValue);
  run.key_position = 128;
  EXPECT_EQ(PlanPrefill({&run, 1}, &plan), 0);
  run.key_rows = -1;
  EXPECT_EQ(PlanPrefill({&run, 1}, &plan), kErrorInvalidValue);
}

// The tree over leaves [first, end) of a node that begins at `begin`, written out.
std::string Tree(int begin, int level, int first, int end) {
  if (begin + (1 << level) <= first || begin >= end) return "";
  if (level == 0) return std::to_string(begin);
  const std::string left = Tree(begin, level - 1, first, end);
  const std::string right = Tree(begin + (1 << (level - 1)), level - 1, first, end);
  if (left.empty() || right.empty()) return left + right;
  return "(" + left + " " + right + ")";
}

TEST(PrefillPlan, LeavesJoinByTheTreeOverTheirIndex) {
  for (int first = 0; first < 20; ++first) {
    for (int end = first + 1; end < first + 40; ++end) {
      std::vector<std::string> kept;
      size_t kept_max = 0;
      std::string node;
      for (int leaf = first; leaf < end; ++leaf) {
        node = std::to_string(leaf);
        const bool last = leaf + 1 == end;
        const int joins = last ? static_cast<int>(kept.size()) : JoinsOfLeaf(leaf, first);
        for (int join = 0; join < joins; ++join) {
          node = "(" + kept.back() + " " + node + ")";
          kept.pop_back();
        }
        if (!last) kept.push_back(node);
        kept_max = std::max(kept_max, kept.size());
      }
      EXPECT_EQ(node, Tree(0, 6, first, end));
      EXPECT_LE(kept_max, static_cast<size_t>(KeptNodesMax(end - first)));
    }
  }
}

}  // namespace
}  // namespace reprise::cuda
