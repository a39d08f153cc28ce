#include "worker/parallel/context/stripe_tree.h"

namespace reprise::parallel {
namespace {

// Joins the last node with what it completes.
void Climb(std::vector<StripeNode>& nodes, int64_t last) {
  while (!IsRoot(nodes.back(), last)) {
    const StripeNode node = nodes.back();
    if (!IsAlone(node, last)) {
      if (nodes.size() < 2 || node.IsLeft() || nodes[nodes.size() - 2] != node.Sibling()) return;
      nodes.pop_back();
    }
    nodes.back() = node.Parent();
  }
}

}  // namespace

std::vector<StripeNode> Cover(const Stripes& stripes, RankSpan ranks, int64_t last) {
  std::vector<StripeNode> nodes;
  for (int64_t stripe = 0; stripe <= last; ++stripe) {
    if (!ranks.Has(stripes.OwnerOf(stripe))) continue;
    nodes.push_back({0, stripe});
    Climb(nodes, last);
  }
  return nodes;
}

}  // namespace reprise::parallel
