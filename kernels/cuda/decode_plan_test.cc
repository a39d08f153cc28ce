// Every plan covers every key once and joins a unit's leaves by the same tree.
#include "kernels/cuda/decode_plan.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>

#include "kernels/cuda/numerics.h"

namespace reprise::cuda {
namespace {

// The tree over leaves [first, end) of a node of that many levels, written out.
std::string Tree(int first, int end, int level) {
  if (level == 0) return std::to_string(first);
  const int middle = first + (1 << (level - 1));
  if (middle >= end) return Tree(first, end, level - 1);
  return "(" + Tree(first, std::min(end, middle), level - 1) + " " + Tree(middle, end, level - 1) +
         ")";
}

// Does with texts what the two kernels do with numbers.
class Evaluator {
 public:
  explicit Evaluator(const DecodePlan& plan) : plan_(plan), slots_(plan.slots) {
    for (const DecodeRun& run : plan.runs) Run(run);
    for (const DecodeJoin& join : plan.joins) Join(join);
  }
  std::map<int, std::string> results;

 private:
  void Run(const DecodeRun& run) {
    int kept = 0;
    const auto slot = [&](int i) -> std::string& {
      EXPECT_LT(i, NodesMax(run.end_leaf - run.first_leaf));
      return slots_.at(static_cast<size_t>(run.slot + i));
    };
    int levels[64] = {};
    for (int leaf = run.first_leaf; leaf < run.end_leaf; ++leaf) {
      std::string node = std::to_string(leaf);
      const int joins = JoinsAfter(leaf, run.first_leaf);
      for (int j = 0; j < joins; ++j) node = "(" + slot(--kept) + " " + node + ")";
      levels[kept] = joins;
      slot(kept++) = node;
    }
    if (run.end_leaf == run.leaves) {
      while (kept > 1 && (FirstOf(slot(kept - 2)) >> levels[kept - 2]) % 2 == 0) {
        slot(kept - 2) = "(" + slot(kept - 2) + " " + slot(kept - 1) + ")";
        ++levels[kept - 2];
        --kept;
      }
    }
    if (run.whole != 0 && run.leaves > 0) {
      EXPECT_EQ(kept, 1);
      results[run.unit] = slot(0);
    }
  }
  static int FirstOf(const std::string& text) {
    return std::stoi(text.substr(text.find_first_not_of("(")));
  }
  void Join(const DecodeJoin& join) {
    const auto node = [&](int place) -> std::string& {
      return slots_[static_cast<size_t>(plan_.nodes[static_cast<size_t>(join.first_node + place)])];
    };
    for (int round = 0; round < join.rounds; ++round) {
      const auto r = static_cast<size_t>(join.first_round + round);
      std::map<int, int> touched;
      for (int m = plan_.round_begin[r]; m < plan_.round_begin[r + 1]; ++m) {
        const DecodeMerge merge = plan_.merges[static_cast<size_t>(m)];
        EXPECT_EQ(touched[merge.left]++, 0);
        EXPECT_EQ(touched[merge.right]++, 0);
        node(merge.left) = "(" + node(merge.left) + " " + node(merge.right) + ")";
      }
    }
    results[join.unit] = node(0);
  }

  const DecodePlan& plan_;
  std::vector<std::string> slots_;
};

TEST(DecodePlan, EveryPlanHasTheSameTree) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> keys(1 + random() % 9);
    for (int32_t& k : keys) k = static_cast<int32_t>(random() % (random() % 3 == 0 ? 40000 : 3000));
    const int kv_heads = 1 + static_cast<int>(random() % 3);
    for (const int workers : {1, 2, 7, 64, 264}) {
      const DecodePlan plan = PlanDecode(keys, kv_heads, workers);
      ASSERT_EQ(plan.run_begin.size(), static_cast<size_t>(workers) + 1);
      ASSERT_EQ(plan.run_begin.back(), static_cast<int32_t>(plan.runs.size()));
      const Evaluator evaluated(plan);
      for (size_t r = 0; r < keys.size(); ++r) {
        const int leaves = (keys[r] + kStepLeaf - 1) / kStepLeaf;
        if (leaves == 0) continue;
        for (int h = 0; h < kv_heads; ++h) {
          const int unit = static_cast<int>(r) * kv_heads + h;
          ASSERT_EQ(evaluated.results.at(unit), Tree(0, leaves, 20))
              << "keys " << keys[r] << " workers " << workers;
        }
      }
    }
  }
}

TEST(DecodePlan, WorkersHaveEqualShares) {
  const std::vector<int32_t> keys(128, 32768);
  const DecodePlan plan = PlanDecode(keys, 1, 264);
  int64_t most = 0;
  for (size_t w = 0; w < 264; ++w) {
    int64_t leaves = 0;
    for (int r = plan.run_begin[w]; r < plan.run_begin[w + 1]; ++r) {
      leaves +=
          plan.runs[static_cast<size_t>(r)].end_leaf - plan.runs[static_cast<size_t>(r)].first_leaf;
    }
    most = std::max(most, leaves);
  }
  // 128 * 128 leaves over 264 workers are 62.06 each.
  EXPECT_LE(most, 64);
}

TEST(DecodePlan, OneLongSequenceIsSharedByAll) {
  const std::vector<int32_t> keys = {32768};
  const DecodePlan plan = PlanDecode(keys, 1, 264);
  EXPECT_EQ(plan.joins.size(), 1U);
  EXPECT_GE(plan.runs.size(), 64U);
}

TEST(DecodePlan, RowsWithoutKeysAreSomebodysToAnswer) {
  const std::vector<int32_t> keys = {0, 5, 0};
  const DecodePlan plan = PlanDecode(keys, 2, 4);
  int empty = 0;
  for (const DecodeRun& run : plan.runs) empty += run.end_leaf == run.first_leaf ? 1 : 0;
  EXPECT_EQ(empty, 4);
}

}  // namespace
}  // namespace reprise::cuda
