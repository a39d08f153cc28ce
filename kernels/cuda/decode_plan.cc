#include "kernels/cuda/decode_plan.h"

#include <algorithm>
#include <compare>
#include <limits>
#include <map>
#include <utility>

#include "kernels/cuda/numerics.h"

namespace reprise::cuda {
namespace {

// More leaves follow than any run has.
constexpr int32_t kMoreFollow = std::numeric_limits<int32_t>::max();
// Less than this is not worth another run of the same unit.
constexpr int32_t kRunLeavesMin = 2;

// Leaves [first, first + count) as one node of the tree; the last one of a unit may be cut short.
struct Node {
  int32_t first = 0;
  int level = 0;
  int32_t index() const { return first >> level; }
  auto operator<=>(const Node&) const = default;
};

struct Kept {
  Node node;
  int32_t slot = 0;
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
void PlanJoin(const std::vector<Kept>& nodes, DecodePlan* plan) {
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
    kept.push_back({nodes[i].node, static_cast<int32_t>(i), 0});
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

int32_t LeavesOf(int32_t keys) { return (keys + kStepLeaf - 1) / kStepLeaf; }

// Hands runs to workers in turn, to each what its budget allows.
class Workers {
 public:
  // `cost` of all units.
  Workers(int workers, int64_t cost, DecodePlan* plan)
      : workers_(workers),
        // Almost every worker begins in the middle of a unit, which costs as much as beginning it.
        budget_((cost + workers - 1) / workers + kDecodeUnitCost),
        left_(budget_),
        plan_(*plan) {
    plan_.run_begin.push_back(0);
  }

  // Leaves [unit.first_leaf, unit.end_leaf) as runs; behind `kept` goes what is left of them, but
  // for a run that is all of a unit. `node_slots` of each.
  void Cut(const DecodeRun& unit, int node_slots, std::vector<Kept>* kept) {
    int32_t done = unit.first_leaf;
    do {
      if (left_ <= kDecodeUnitCost) Next();
      const int32_t open = unit.end_leaf - done;
      const auto room = static_cast<int32_t>(std::max<int64_t>(left_ - kDecodeUnitCost, 1));
      int32_t take = last() ? open : std::min(open, room);
      if (open - take < kRunLeavesMin) take = open;
      DecodeRun run = unit;
      run.first_leaf = done;
      run.end_leaf = done + take;
      run.slot = plan_.slots;
      run.whole = take == unit.leaves ? 1 : 0;
      plan_.slots += NodesMax(take) * node_slots;
      if (run.whole == 0) {
        int32_t slot = run.slot;
        for (const Node& node : NodesOf(run)) {
          kept->push_back({node, slot});
          slot += node_slots;
        }
      }
      plan_.runs.push_back(run);
      left_ -= take + kDecodeUnitCost;
      done += take;
    } while (done < unit.end_leaf);
  }
  void End() {
    while (static_cast<int>(plan_.run_begin.size()) <= workers_) {
      plan_.run_begin.push_back(static_cast<int32_t>(plan_.runs.size()));
    }
  }

 private:
  bool last() const { return static_cast<int>(plan_.run_begin.size()) >= workers_; }
  void Next() {
    if (last()) return;  // it takes the rest
    plan_.run_begin.push_back(static_cast<int32_t>(plan_.runs.size()));
    left_ = budget_;
  }

  const int workers_;
  const int64_t budget_;
  int64_t left_;
  DecodePlan& plan_;
};

// A row's part in a group: its first leaves are in this shared unit.
struct Shared {
  int32_t leaves = 0;
  int32_t unit = 0;  // that of key head 0 in the list of shared units, the other heads' behind it
  int32_t place = 0;
};

// Shared units are [group][rows that fit][key head], so that units over the same keys are near to
// each other.
class Planner {
 public:
  Planner(std::span<const int32_t> keys, int kv_heads, const DecodeShares& shares)
      : keys_(keys), kv_heads_(kv_heads), shares_(shares), shared_(keys.size()) {
    const auto fit = static_cast<size_t>(shares.with.rows);
    for (const DecodeGroup& group : shares.groups) {
      for (size_t first = 0; first < group.rows.size(); first += fit) {
        AddShared(group, first, std::min(fit, group.rows.size() - first));
      }
    }
  }

  DecodePlan Plan(int workers) {
    Workers hand(workers, Cost(), &plan_);
    std::vector<std::vector<Kept>> shared_nodes(units_.size());
    for (size_t i = 0; i < units_.size(); ++i) {
      hand.Cut(units_[i], shares_.with.node_slots, &shared_nodes[i]);
    }
    std::vector<Kept> nodes;
    for (int32_t unit = 0; unit < static_cast<int32_t>(keys_.size()) * kv_heads_; ++unit) {
      const auto row = static_cast<size_t>(unit / kv_heads_);
      const Shared& shared = shared_[row];
      const int32_t leaves = LeavesOf(keys_[row]);
      nodes.clear();
      if (shared.leaves > 0) {
        const int32_t of_head = shared.unit + unit % kv_heads_;
        nodes = shared_nodes[static_cast<size_t>(of_head)];
      }
      const auto in_shared = static_cast<int32_t>(nodes.size());
      if (HasOwn(row)) hand.Cut({unit, shared.leaves, leaves, leaves}, 1, &nodes);
      if (!nodes.empty()) AddJoin({unit, 0, 0, 0, 0, in_shared, shared.place}, nodes);
    }
    plan_.round_begin.push_back(static_cast<int32_t>(plan_.merges.size()));
    hand.End();
    return std::move(plan_);
  }

 private:
  void AddShared(const DecodeGroup& group, size_t first, size_t count) {
    const auto first_row = static_cast<int32_t>(plan_.rows.size());
    const auto first_unit = static_cast<int32_t>(units_.size());
    for (size_t i = 0; i < count; ++i) {
      const int32_t row = group.rows[first + i];
      plan_.rows.push_back(row);
      shared_[static_cast<size_t>(row)] = {group.leaves, first_unit, static_cast<int32_t>(i)};
    }
    for (int head = 0; head < kv_heads_; ++head) {
      units_.push_back({group.rows[first] * kv_heads_ + head, 0, group.leaves, kMoreFollow, 0, 0,
                        first_row, static_cast<int32_t>(count)});
    }
  }
  // A row without keys has a run that says so.
  bool HasOwn(size_t row) const {
    return shared_[row].leaves == 0 || LeavesOf(keys_[row]) > shared_[row].leaves;
  }
  int64_t Cost() const {
    int64_t cost = 0;
    for (const DecodeRun& unit : units_) cost += unit.end_leaf + kDecodeUnitCost;
    for (size_t row = 0; row < keys_.size(); ++row) {
      if (!HasOwn(row)) continue;
      cost += kv_heads_ * (LeavesOf(keys_[row]) - shared_[row].leaves + kDecodeUnitCost);
    }
    return cost;
  }
  void AddJoin(DecodeJoin join, const std::vector<Kept>& nodes) {
    join.first_node = static_cast<int32_t>(plan_.nodes.size());
    join.nodes = static_cast<int32_t>(nodes.size());
    for (const Kept& kept : nodes) plan_.nodes.push_back(kept.slot);
    plan_.nodes_max = std::max(plan_.nodes_max, join.nodes);
    if (join.shared == 0) {
      plan_.joins.push_back(join);
      PlanJoin(nodes, &plan_);
      return;
    }
    // Rows of a shared unit with tails of one length join alike, and many do.
    tree_.clear();
    for (const Kept& kept : nodes) tree_.push_back(kept.node);
    const auto [known, added] = joins_.try_emplace(tree_, plan_.joins.size());
    if (!added) {
      join.first_round = plan_.joins[known->second].first_round;
      join.rounds = plan_.joins[known->second].rounds;
    }
    plan_.joins.push_back(join);
    if (added) PlanJoin(nodes, &plan_);
  }

  const std::span<const int32_t> keys_;
  const int kv_heads_;
  const DecodeShares& shares_;
  std::vector<Shared> shared_;                 // by row
  std::vector<DecodeRun> units_;               // shared ones, whole
  std::map<std::vector<Node>, size_t> joins_;  // the first with these nodes, of those that share
  std::vector<Node> tree_;
  DecodePlan plan_;
};

}  // namespace

int NodesMax(int leaves) {
  int levels = 0;
  while (leaves >> levels != 0) ++levels;
  return 2 * levels + 1;
}

DecodePlan PlanDecode(std::span<const int32_t> keys, int kv_heads, int workers,
                      const DecodeShares& shares) {
  return Planner(keys, kv_heads, shares).Plan(workers);
}

}  // namespace reprise::cuda
