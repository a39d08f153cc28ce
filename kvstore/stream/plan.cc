#include "kvstore/stream/plan.h"

#include <algorithm>

namespace reprise::kv {
namespace {

Status CheckSplit(const StreamShape& shape, const GroupSplit& split) {
  if (split.pipeline == 0 || split.pipeline > shape.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat(split.pipeline, " pipeline stages for ", shape.layers, " layers"));
  }
  const bool fits = split.tensor > 0 && shape.heads > 0 &&
                    (shape.heads % split.tensor == 0 || split.tensor % shape.heads == 0);
  if (!fits) {
    return absl::InvalidArgumentError(
        absl::StrCat(split.tensor, " tensor ranks for ", shape.heads, " KV heads"));
  }
  return absl::OkStatus();
}

Range LayersOf(const StreamShape& shape, const GroupSplit& split, uint32_t stage) {
  const uint32_t base = shape.layers / split.pipeline;
  const uint32_t longer = shape.layers % split.pipeline;  // stages with one layer more
  const uint32_t begin = stage * base + std::min(stage, longer);
  return {begin, begin + base + (stage < longer ? 1 : 0)};
}

uint32_t ReplicasOf(const StreamShape& shape, const GroupSplit& split) {
  return std::max(1u, split.tensor / shape.heads);
}

Range HeadsOf(const StreamShape& shape, const GroupSplit& split, uint32_t tensor_rank) {
  const uint32_t share = std::max(1u, shape.heads / split.tensor);
  const uint32_t begin = tensor_rank / ReplicasOf(shape, split) * share;
  return {begin, begin + share};
}

Range Common(const Range& a, const Range& b) {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

}  // namespace

StatusOr<std::vector<StreamTransfer>> PlanStream(const StreamShape& shape, const GroupSplit& from,
                                                 const GroupSplit& to) {
  RETURN_IF_ERROR(CheckSplit(shape, from));
  RETURN_IF_ERROR(CheckSplit(shape, to));
  const uint32_t replicas = ReplicasOf(shape, from);
  std::vector<StreamTransfer> plan;
  for (uint32_t rank = 0; rank < to.pipeline * to.tensor; ++rank) {
    const Range layers = LayersOf(shape, to, rank / to.tensor);
    const Range heads = HeadsOf(shape, to, rank % to.tensor);
    for (uint32_t stage = 0; stage < from.pipeline; ++stage) {
      const Range shared_layers = Common(layers, LayersOf(shape, from, stage));
      if (shared_layers.begin >= shared_layers.end) continue;
      // One of the sender's ranks that hold the same heads, in turn.
      for (uint32_t tensor = rank % replicas; tensor < from.tensor; tensor += replicas) {
        const Range shared_heads = Common(heads, HeadsOf(shape, from, tensor));
        if (shared_heads.begin >= shared_heads.end) continue;
        plan.push_back({stage * from.tensor + tensor, rank, shared_layers, shared_heads});
      }
    }
  }
  return plan;
}

}  // namespace reprise::kv
