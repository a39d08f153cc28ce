#include "worker/parallel/context/partials.h"

#include <algorithm>
#include <utility>

namespace reprise::parallel {

StatusOr<Partial> PartialPool::Take(int64_t rows, ContextCompute::Use use) {
  ASSIGN_OR_RETURN(uint8_t* const memory, compute_.Take(Bytes(rows), use));
  live_bytes_ += static_cast<int64_t>(Bytes(rows));
  peak_bytes_ = std::max(peak_bytes_, live_bytes_);
  auto* const out = reinterpret_cast<float*>(memory);
  return Partial{rows, out, out + rows * heads_ * value_dim_};
}

void PartialPool::Give(const Partial& partial) {
  live_bytes_ -= static_cast<int64_t>(Bytes(partial.rows));
  compute_.Give(reinterpret_cast<uint8_t*>(partial.out));
}

Status StripePartials::Add(PartialPool& pool, StripeNode node, Partial partial) {
  while (!IsRoot(node, last_)) {
    if (!IsAlone(node, last_)) {
      const StripeNode sibling = node.Sibling();
      const auto found = kept_.find(sibling.first());
      if (found == kept_.end() || found->second.node != sibling) break;
      Partial other = found->second.partial;
      kept_.erase(found);
      if (!node.IsLeft()) std::swap(partial, other);
      RETURN_IF_ERROR(pool.Merge(partial, other));
      pool.Give(other);
    }
    node = node.Parent();
  }
  kept_.emplace(node.first(), Kept{node, partial});
  return absl::OkStatus();
}

Partial StripePartials::Remove(const StripeNode& node) {
  const auto found = kept_.find(node.first());
  const Partial partial = found->second.partial;
  kept_.erase(found);
  return partial;
}

Partial StripePartials::RemoveRoot() { return Remove(kept_.begin()->second.node); }

}  // namespace reprise::parallel
