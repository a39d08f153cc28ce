// The top of the tree that attention merges by (kernels/ops.h, AttentionArgs): its nodes over whole
// stripes, and which of them a set of ranks can compute by itself. Pure; any thread.
//
// A query row at a position of stripe `last` sees stripes 0 to last. A node missing one child is
// the other, so a node whose right half begins beyond `last` is its left half; it goes by the name
// of the highest such node. All names below are of that kind.
#ifndef REPRISE_WORKER_PARALLEL_CONTEXT_STRIPE_TREE_H_
#define REPRISE_WORKER_PARALLEL_CONTEXT_STRIPE_TREE_H_

#include <compare>
#include <cstdint>
#include <vector>

#include "worker/parallel/context/stripes.h"

namespace reprise::parallel {

// Stripes [index << level, (index + 1) << level).
struct StripeNode {
  int level = 0;
  int64_t index = 0;
  int64_t first() const { return index << level; }
  int64_t end() const { return (index + 1) << level; }
  StripeNode Parent() const { return {level + 1, index >> 1}; }
  StripeNode Sibling() const { return {level, index ^ 1}; }
  bool IsLeft() const { return (index & 1) == 0; }
  bool operator==(const StripeNode&) const = default;
};

// The node of all stripes up to `last`.
inline bool IsRoot(const StripeNode& node, int64_t last) {
  return node.index == 0 && node.end() > last;
}
// Whether there is nothing right of this left node: then it is its parent.
inline bool IsAlone(const StripeNode& node, int64_t last) {
  return node.IsLeft() && node.Sibling().first() > last;
}

// Ranks [begin, end).
struct RankSpan {
  int begin = 0;
  int end = 0;
  bool Has(int rank) const { return rank >= begin && rank < end; }
  bool operator==(const RankSpan&) const = default;
};

// The fewest nodes, ascending, that make up the ranks' stripes among 0 .. last.
std::vector<StripeNode> Cover(const Stripes& stripes, RankSpan ranks, int64_t last);

}  // namespace reprise::parallel

#endif  // REPRISE_WORKER_PARALLEL_CONTEXT_STRIPE_TREE_H_
