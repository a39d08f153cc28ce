// Every plan covers every key once and joins a unit's leaves by the same tree.
#include "kernels/cuda/decode_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
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
  explicit Evaluator(const DecodePlan& plan, int kv_heads = 1, const DecodeSharing& with = {})
      : plan_(plan), kv_heads_(kv_heads), with_(with), slots_(static_cast<size_t>(plan.slots)) {
    for (const DecodeRun& run : plan.runs) Run(run);
    for (const DecodeJoin& join : plan.joins) Join(join);
  }
  std::map<int, std::string> results;

 private:
  // What a slot has, and of which run; a shared unit's node lies in several.
  struct Slot {
    std::string text;
    const DecodeRun* run = nullptr;
  };
  void Run(const DecodeRun& run) {
    const int step = run.rows > 0 ? with_.node_slots : 1;
    int kept = 0;
    const auto slot = [&](int i) -> std::string& {
      EXPECT_LT(i, NodesMax(run.end_leaf - run.first_leaf));
      for (int s = run.slot + i * step; s < run.slot + (i + 1) * step; ++s) {
        Slot& taken = slots_.at(static_cast<size_t>(s));
        EXPECT_TRUE(taken.run == nullptr || taken.run == &run) << "two runs in one slot";
        taken.run = &run;
      }
      return slots_.at(static_cast<size_t>(run.slot + i * step)).text;
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
    // A copy: the nodes of a shared unit are in other rows' joins, too.
    std::vector<std::string> texts;
    for (int i = 0; i < join.nodes; ++i) {
      const auto at = static_cast<size_t>(plan_.nodes[static_cast<size_t>(join.first_node + i)]);
      texts.push_back(slots_.at(at).text);
      ExpectOf(join, i, *slots_.at(at).run);
    }
    const auto node = [&](int place) -> std::string& {
      return texts.at(static_cast<size_t>(place));
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
    EXPECT_EQ(results.count(join.unit), 0U);
    results[join.unit] = node(0);
  }
  // The join's node is of this run, and the run computes it for the join's row and head.
  void ExpectOf(const DecodeJoin& join, int node, const DecodeRun& run) const {
    ASSERT_EQ(run.rows > 0, node < join.shared);
    if (run.rows == 0) {
      ASSERT_EQ(run.unit, join.unit);
      return;
    }
    ASSERT_LT(join.place, run.rows);
    ASSERT_LE(run.rows, with_.rows);
    const auto rows = plan_.rows.begin() + run.first_row;
    ASSERT_EQ(rows[join.place], join.unit / kv_heads_);
    ASSERT_EQ(run.unit, rows[0] * kv_heads_ + join.unit % kv_heads_);
  }

  const DecodePlan& plan_;
  const int kv_heads_;
  const DecodeSharing with_;
  std::vector<Slot> slots_;
};

void ExpectTrees(const DecodePlan& plan, const Evaluator& evaluated,
                 const std::vector<int32_t>& keys, int kv_heads, int workers) {
  ASSERT_EQ(plan.run_begin.size(), static_cast<size_t>(workers) + 1);
  ASSERT_EQ(plan.run_begin.back(), static_cast<int32_t>(plan.runs.size()));
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

TEST(DecodePlan, EveryPlanHasTheSameTree) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> keys(1 + random() % 9);
    for (int32_t& k : keys) k = static_cast<int32_t>(random() % (random() % 3 == 0 ? 40000 : 3000));
    const int kv_heads = 1 + static_cast<int>(random() % 3);
    for (const int workers : {1, 2, 7, 64, 264}) {
      const DecodePlan plan = PlanDecode(keys, kv_heads, workers);
      ExpectTrees(plan, Evaluator(plan), keys, kv_heads, workers);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

// Groups of any size, of any number of leaves that all their rows have, the rest of a row or none
// behind them.
TEST(DecodePlan, GroupsChangeNoTree) {
  std::mt19937 random(8);
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> keys(2 + random() % 40);
    std::vector<int32_t> order(keys.size());
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    const DecodeSharing with = {2 + static_cast<int>(random() % 7), random() % 2 == 0 ? 2 : 4};
    DecodeShares shares = {{}, with};
    for (size_t next = 0; next + 2 < order.size();) {
      const size_t count = std::min<size_t>(order.size() - next, 2 + random() % 20);
      const auto first = order.begin() + static_cast<int64_t>(next);
      const auto leaves = static_cast<int32_t>(1 + random() % (random() % 3 == 0 ? 100 : 6));
      if (random() % 4 != 0) {
        shares.groups.push_back({{first, first + static_cast<int64_t>(count)}, leaves});
      }
      for (size_t i = next; i < next + count; ++i) {
        const auto tail = static_cast<int32_t>(random() % 4 == 0 ? 0 : random() % 3000);
        keys[static_cast<size_t>(order[i])] = leaves * kStepLeaf + tail;
      }
      next += count;
    }
    const int kv_heads = 1 + static_cast<int>(random() % 3);
    for (const int workers : {1, 3, 64, 264}) {
      const DecodePlan plan = PlanDecode(keys, kv_heads, workers, shares);
      ExpectTrees(plan, Evaluator(plan, kv_heads, with), keys, kv_heads, workers);
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

// Every leaf is computed for every row once, and a group's for as many rows at once as fit.
TEST(DecodePlan, SharedLeavesAreComputedOnceForTheRowsThatFit) {
  std::vector<int32_t> keys(20, 3 * kStepLeaf + 10);
  keys[7] = 3 * kStepLeaf;  // ends where the others go on
  DecodeShares shares = {{{{}, 3}}, {8, 4}};
  for (int32_t row = 1; row < 20; ++row) shares.groups[0].rows.push_back(row);
  const DecodePlan plan = PlanDecode(keys, 2, 5, shares);
  int shared = 0;
  int own = 0;
  for (const DecodeRun& run : plan.runs) {
    (run.rows > 0 ? shared : own) += run.end_leaf - run.first_leaf;
    EXPECT_LT(run.first_leaf, run.end_leaf) << "row 7 has nothing of its own";
  }
  EXPECT_EQ(shared, 2 * 3 * 3) << "19 rows are three units";
  EXPECT_EQ(own, 2 * (4 + 18)) << "row 0 alone, the others' last leaves";
  EXPECT_EQ(plan.joins.size(), 2U * 19) << "row 0 may be whole or not";
}

TEST(DecodePlan, WithoutGroupsNothingIsShared) {
  const std::vector<int32_t> keys = {5000, 0, 300};
  const DecodePlan plan = PlanDecode(keys, 1, 3, {{}, {8, 4}});
  EXPECT_TRUE(plan.rows.empty());
  // Twenty leaves and two, three beginnings: 25 in parts of nine and the one that a worker who
  // begins within a row is given.
  const std::vector<DecodeRun> want = {{0, 0, 9, 20, 0, 0},
                                       {0, 9, 18, 20, 9, 0},
                                       {0, 18, 20, 20, 18, 0},
                                       {1, 0, 0, 0, 23, 1},
                                       {2, 0, 2, 2, 24, 1}};
  ASSERT_EQ(plan.runs.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(std::memcmp(&plan.runs[i], &want[i], sizeof(DecodeRun)), 0) << i;
  }
  EXPECT_EQ(plan.run_begin, (std::vector<int32_t>{0, 1, 2, 5}));
  ASSERT_EQ(plan.joins.size(), 1U);
  EXPECT_EQ(plan.joins[0].shared, 0);
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
