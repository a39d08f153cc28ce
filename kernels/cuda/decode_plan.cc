#include "kernels/cuda/decode_plan.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/numerics.h"

namespace reprise::cuda {
namespace {

// What beginning a unit costs, in leaves: its query, its result.
constexpr int64_t kUnitCost = 1;
// Less than this is not worth another run of the same unit.
constexpr int32_t kRunLeavesMin = 2;

// Leaves [first, first + count) as one node of the tree; the last one of a unit may be cut short.
struct Node {
  int32_t first = 0;
  int level = 0;
  int32_t index() const { return first >> level; }
};

// The nodes a run is left with: as the kernel leaves them in its slots.
std::vector<Node> NodesOf(const DecodeRun& run) {
  std::vector<Node> kept;
  for (int32_t leaf = run.first_leaf; leaf < run.end_leaf; ++leaf) {
    const int joins = JoinsAfter(leaf, run.first_leaf);
    kept.resize(kept.size() - static_cast<size_t>(joins));
    kept.push_back({leaf >> joins << joins, joins});
  }
  if (run.end_leaf < run.leaves) return kept;
  // Nothing follows: a node without a right sibling is what its parent would be.
  while (kept.size() > 1 && kept[kept.size() - 2].index() % 2 == 0) {
    kept.pop_back();
    ++kept.back().level;
  }
  return kept;
}

// The order in which a unit's nodes join, in rounds; places count from its first node.
void PlanJoin(const std::vector<Node>& nodes, DecodePlan* plan) {
  struct Subtree {
    Node node;
    int32_t place = 0;
    int round = 0;  // first one after it is complete
  };
  std::vector<std::pair<int, DecodeMerge>> merges;  // by round
  std::vector<Subtree> kept;
  const auto join_last_two = [&] {
    const Subtree right = kept.back();
    kept.pop_back();
    Subtree& left = kept.back();
    const int round = std::max(left.round, right.round);
    merges.push_back({round, {left.place, right.place}});
    ++left.node.level;
    left.round = round + 1;
  };
  for (size_t i = 0; i < nodes.size(); ++i) {
    kept.push_back({nodes[i], static_cast<int32_t>(i), 0});
    while (kept.size() > 1) {
      const Node& left = kept[kept.size() - 2].node;
      const Node& right = kept.back().node;
      if (left.level != right.level || left.index() % 2 != 0) break;
      join_last_two();
    }
  }
  while (kept.size() > 1) join_last_two();
  std::stable_sort(merges.begin(), merges.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  DecodeJoin& join = plan->joins.back();
  join.first_round = static_cast<int32_t>(plan->round_begin.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    if (i == 0 || merges[i].first != merges[i - 1].first) {
      plan->round_begin.push_back(static_cast<int32_t>(plan->merges.size()));
      ++join.rounds;
    }
    plan->merges.push_back(merges[i].second);
  }
}

}  // namespace

int NodesMax(int leaves) {
  int levels = 0;
  while (leaves >> levels != 0) ++levels;
  return 2 * levels + 1;
}

DecodePlan PlanDecode(std::span<const int32_t> keys, int kv_heads, int workers) {
  DecodePlan plan;
  int64_t total = 0;
  for (const int32_t k : keys) {
    total += kv_heads * ((k + kStepLeaf - 1) / kStepLeaf + kUnitCost);
  }
  // Almost every worker begins in the middle of a unit, which costs as much as beginning it.
  const int64_t budget = (total + workers - 1) / workers + kUnitCost;
  plan.run_begin.push_back(0);
  int64_t left = budget;
  const auto next_worker = [&] {
    if (static_cast<int>(plan.run_begin.size()) >= workers) return;  // the last one takes the rest
    plan.run_begin.push_back(static_cast<int32_t>(plan.runs.size()));
    left = budget;
  };
  for (int32_t unit = 0; unit < static_cast<int32_t>(keys.size()) * kv_heads; ++unit) {
    const int32_t leaves = (keys[static_cast<size_t>(unit / kv_heads)] + kStepLeaf - 1) / kStepLeaf;
    int32_t done = 0;
    std::vector<Node> nodes;
    const auto first_node = static_cast<int32_t>(plan.nodes.size());
    do {
      if (left <= kUnitCost) next_worker();
      const bool last_worker = static_cast<int>(plan.run_begin.size()) >= workers;
      const auto room = static_cast<int32_t>(std::max<int64_t>(left - kUnitCost, 1));
      int32_t take = last_worker ? leaves - done : std::min(leaves - done, room);
      if (leaves - done - take < kRunLeavesMin) take = leaves - done;
      DecodeRun run{unit, done, done + take, leaves, plan.slots, take == leaves ? 1 : 0};
      plan.slots += NodesMax(take);
      if (run.whole == 0) {
        const std::vector<Node> own = NodesOf(run);
        for (size_t i = 0; i < own.size(); ++i) {
          plan.nodes.push_back(run.slot + static_cast<int32_t>(i));
        }
        nodes.insert(nodes.end(), own.begin(), own.end());
      }
      plan.runs.push_back(run);
      left -= take + kUnitCost;
      done += take;
    } while (done < leaves);
    if (nodes.empty()) continue;
    plan.joins.push_back({unit, first_node, static_cast<int32_t>(nodes.size()), 0, 0});
    plan.nodes_max = std::max(plan.nodes_max, plan.joins.back().nodes);
    PlanJoin(nodes, &plan);
  }
  plan.round_begin.push_back(static_cast<int32_t>(plan.merges.size()));
  while (static_cast<int>(plan.run_begin.size()) <= workers) {
    plan.run_begin.push_back(static_cast<int32_t>(plan.runs.size()));
  }
  return plan;
}

}  // namespace reprise::cuda
